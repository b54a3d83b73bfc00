"""The further shelves of a shop, for the blocking client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from recsys_plugin.client.base import AskUsers, ClientBase, repeatable
from recsys_plugin.client.categories import cross_category
from recsys_plugin.client.complements import cross_sell
from recsys_plugin.client.results import Page
from recsys_plugin.identifiers import checked_id

__all__ = ["Shelves"]


class Shelves(ClientBase):
    """What a shop shows beside recommendations and search; a part of the blocking client."""

    def cross_sell(
        self,
        basket: Iterable[object],
        k: int = 10,
        *,
        exclude: Iterable[object] = (),
        candidates: int = 500,
        timeout: float | None = None,
    ) -> Page:
        """The items that go with a basket: bought together with its items, whereas :meth:`similar_items` are like them.

        Args:
            basket: item ids; of one given twice the first counts. Ids that are not known are listed in
                ``page.unknown_items``. Without a known item the page holds what is in many baskets of late.
            k: how many items; those of the basket are never among them.
            exclude: further item ids that must not be on the page.
            candidates: how many to consider, 1 to 10,000; at least ``k``.
            timeout: seconds for this call.

        Raises:
            InvalidInput: for a wrong argument, which the message names.
            InferenceUnavailable: if Triton fails, or the version that serves has no model for it.
            DeadlineExceeded: if it takes longer than the timeout.
        """
        asked, excluded = repeatable(basket), repeatable(exclude)
        return self._ask(
            lambda context, _: cross_sell(context, asked, k, exclude=excluded, candidates=candidates),
            timeout,
        )[0]

    def cross_category(
        self,
        user_id: object,
        k: int = 10,
        *,
        per_category: int = 2,
        exclude: Iterable[object] = (),
        candidates: int = 500,
        timeout: float | None = None,
    ) -> Page:
        """Recommended items of categories that are new to the user, at most ``per_category`` of each.

        New is a category of which neither what the user bought most nor his latest acts hold an item. Items without a
        category are left out. A user that the store has never heard of is served from the contract's defaults, all
        categories being new; for one who knows all of them the page is empty.
        Raises as :meth:`Recommender.recommend`.
        """
        excluded, users = repeatable(exclude), [checked_id(user_id, "user_id")]
        return self._ask(
            lambda context, _: cross_category(
                context, user_id, k, per_category=per_category, exclude=excluded, candidates=candidates
            ),
            timeout,
            users,
        )[0]

    @abstractmethod
    def _ask(self, ask: AskUsers, timeout: float | None, user_ids: Iterable[object] = ()) -> list[Page]:
        """Answer a request on the release that serves."""
