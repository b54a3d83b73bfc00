"""Further shelves of a shop, of the awaiting client."""

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

__all__ = ["AsyncShelves"]

_Result = TypeVar("_Result")
_NO_CONTEXT: Mapping[str, str] = {}


class AsyncShelves(ClientBase):
    """What the awaiting client answers besides products."""

    async def ads(
        self,
        user_id: object,
        slots: int = 1,
        *,
        context: Mapping[str, str] = _NO_CONTEXT,
        exclude: Iterable[object] = (),
        timeout: float | None = None,
    ) -> AdsPage:
        """See :meth:`Shelves.ads`."""
        users, excluded = [checked_id(user_id, "user_id")], repeatable(exclude)
        pages = await self._ask(
            lambda request, _: ad_flows.ads(request, self._campaigns, user_id, slots, about=context, exclude=excluded),
            timeout,
            users,
            repeats=False,
        )
        return cast(AdsPage, pages[0])

    async def record_ad_click(self, impression_id: object, *, timeout: float | None = None) -> AdClick:
        """See :meth:`Shelves.record_ad_click`."""
        clicked = checked_id(impression_id, "impression_id")
        return await self._run(click_ad(self._campaigns, clicked, now=self._clock()), self._seconds(timeout))

    @abstractmethod
    async def _ask(
        self, ask: AskUsers, timeout: float | None, user_ids: Iterable[object] = (), *, repeats: bool = True
    ) -> list[Page]:
        """Answer a request."""

    @abstractmethod
    async def _run(self, flow: Generator[Any, Any, _Result], timeout: float) -> _Result:
        """Drive a flow to its end."""
