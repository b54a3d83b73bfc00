"""Further shelves of a shop, of the blocking client: each a method beside those of :class:`Recommender`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable, Mapping
from typing import Any, TypeVar, cast

from recsys_plugin.ads.serving import click_ad
from recsys_plugin.ads.store import AdClick
from recsys_plugin.client import ads as ad_flows
from recsys_plugin.client.ad_pages import AdsPage
from recsys_plugin.client.base import AskUsers, ClientBase, repeatable
from recsys_plugin.client.results import Page
from recsys_plugin.identifiers import checked_id

__all__ = ["Shelves"]

_Result = TypeVar("_Result")
_NO_CONTEXT: Mapping[str, str] = {}


class Shelves(ClientBase):
    """What the blocking client answers besides products."""

    def ads(
        self,
        user_id: object,
        slots: int = 1,
        *,
        context: Mapping[str, str] = _NO_CONTEXT,
        exclude: Iterable[object] = (),
        timeout: float | None = None,
    ) -> AdsPage:
        """Up to so many ads for a user: an auction between the campaigns that may be shown to him now.

        An ad counts as shown when this returns, so ask for as many as you show. Campaigns that were paused, changed or
        ran out since the last request are taken as they are now. Without any that fits, the page is empty.

        Args:
            user_id: as for :meth:`Recommender.recommend`; a user who is not known sees the campaigns that have no
                conditions on the user's features, priced with the contract's defaults.
            slots: how many; 0 gives an empty page and asks no server.
            context: what campaigns may be targeted by: ``{"page": "home", "category": "tea"}``.
            exclude: item ids that must not be advertised.
            timeout: seconds for this call.

        Raises:
            InvalidInput, FeatureContractError, ServiceUnavailable: as :meth:`Recommender.recommend`. Where a call fails
            after its ads were noted as shown, they stay so; nothing is charged without a click.
        """
        users, excluded = [checked_id(user_id, "user_id")], repeatable(exclude)
        pages = self._ask(
            lambda request, _: ad_flows.ads(request, self._campaigns, user_id, slots, about=context, exclude=excluded),
            timeout,
            users,
            repeats=False,
        )
        return cast(AdsPage, pages[0])

    def record_ad_click(self, impression_id: object, *, timeout: float | None = None) -> AdClick:
        """Charge a click on an ad: once, however often it is told, and never more than is left of the budget.

        That is all it does: what the user's click says about his taste goes to :meth:`Recommender.record`, as with
        any item.

        Args:
            impression_id: of the :class:`~recsys_plugin.client.ad_pages.AdItem`.

        Raises:
            InvalidInput: if it is no id; one that was never given out, or too long ago, is ``unknown``.
            StoreUnavailable, DeadlineExceeded: if Redis does not answer; calling again is safe.
        """
        clicked = checked_id(impression_id, "impression_id")
        return self._run(click_ad(self._campaigns, clicked, now=self._clock()), self._seconds(timeout))

    @abstractmethod
    def _ask(
        self, ask: AskUsers, timeout: float | None, user_ids: Iterable[object] = (), *, repeats: bool = True
    ) -> list[Page]:
        """Answer a request."""

    @abstractmethod
    def _run(self, flow: Generator[Any, Any, _Result], timeout: float) -> _Result:
        """Drive a flow to its end."""
