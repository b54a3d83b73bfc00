"""The further shelves of a shop, for the awaiting client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from recsys_plugin.client.base import AskUsers, ClientBase, repeatable
from recsys_plugin.client.categories import cross_category
from recsys_plugin.client.complements import cross_sell
from recsys_plugin.client.results import Page
from recsys_plugin.identifiers import checked_id

__all__ = ["AsyncShelves"]


class AsyncShelves(ClientBase):
    """:class:`~recsys_plugin.client.shelves.Shelves` for asyncio: same arguments, same methods, same pages."""

    async def cross_sell(
        self,
        basket: Iterable[object],
        k: int = 10,
        *,
        exclude: Iterable[object] = (),
        candidates: int = 500,
        timeout: float | None = None,
    ) -> Page:
        """See :meth:`Shelves.cross_sell`."""
        asked, excluded = repeatable(basket), repeatable(exclude)
        return (
            await self._ask(
                lambda context, _: cross_sell(context, asked, k, exclude=excluded, candidates=candidates),
                timeout,
            )
        )[0]

    async def cross_category(
        self,
        user_id: object,
        k: int = 10,
        *,
        per_category: int = 2,
        exclude: Iterable[object] = (),
        candidates: int = 500,
        timeout: float | None = None,
    ) -> Page:
        """See :meth:`Shelves.cross_category`."""
        excluded, users = repeatable(exclude), [checked_id(user_id, "user_id")]
        return (
            await self._ask(
                lambda context, _: cross_category(
                    context, user_id, k, per_category=per_category, exclude=excluded, candidates=candidates
                ),
                timeout,
                users,
            )
        )[0]

    @abstractmethod
    async def _ask(self, ask: AskUsers, timeout: float | None, user_ids: Iterable[object] = ()) -> list[Page]:
        """Answer a request on the release that serves."""
