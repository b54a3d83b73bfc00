"""The further shelves of a shop, for the awaiting client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeVar, cast

from recsys_plugin.ads.serving import click_ad
from recsys_plugin.ads.store import AdClick
from recsys_plugin.client import ladder
from recsys_plugin.client.ad_pages import AdsPage
from recsys_plugin.client.arguments import checked_stock
from recsys_plugin.client.base import AskUsers, ClientBase, beside_these, repeatable, under
from recsys_plugin.client.consents import state_consent
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.following import written
from recsys_plugin.client.people import Community, SimilarUsers, community, similar_users
from recsys_plugin.client.results import Page
from recsys_plugin.consent.consent import Consent
from recsys_plugin.events.recorder import AsyncEventRecorder
from recsys_plugin.features.item_stock import stock_commands
from recsys_plugin.identifiers import checked_id
from recsys_plugin.policy.rules import ShelfRules
from recsys_plugin.resilience.values import Timeout

__all__ = ["AsyncShelves"]

_Result = TypeVar("_Result")
_NO_CONTEXT: Mapping[str, str] = {}


class AsyncShelves(ClientBase):
    """:class:`~recsys_plugin.client.shelves.Shelves` for asyncio: same arguments, same methods, same pages."""

    _recorder: AsyncEventRecorder

    async def similar_items(
        self,
        item_id: object,
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Recommender.similar_items`."""
        excluded = beside_these(exclude, beside)
        pages = await self._ask(
            under(
                rules,
                sponsored,
                lambda context, _: ladder.similar_items(context, item_id, k, exclude=excluded, candidates=candidates),
            ),
            timeout,
            strict=strict,
        )
        return pages[0]

    async def popular(
        self,
        k: int = 20,
        *,
        segment: Mapping[str, str] | None = None,
        category: str | None = None,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Shelves.popular`."""
        excluded = beside_these(exclude, beside)
        pages = await self._ask(
            under(
                rules,
                (),
                lambda context, _: ladder.popular(context, k, segment=segment, category=category, exclude=excluded),
            ),
            timeout,
            strict=strict,
        )
        return pages[0]

    async def onboard(
        self,
        chosen: Iterable[object],
        k: int = 20,
        *,
        user_id: object | None = None,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Shelves.onboard`."""
        asked, excluded = repeatable(chosen), beside_these(exclude, beside)
        pages = await self._ask(
            under(
                rules,
                (),
                lambda context, _: ladder.onboard(context, user_id, asked, k, exclude=excluded, candidates=candidates),
            ),
            timeout,
            () if user_id is None else [checked_id(user_id, "user_id")],
            strict=strict,
        )
        return pages[0]

    async def cross_sell(
        self,
        basket: Iterable[object],
        k: int = 10,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Shelves.cross_sell`."""
        asked, excluded = repeatable(basket), beside_these(exclude, beside)
        return (
            await self._ask(
                under(
                    rules,
                    (),
                    lambda context, _: ladder.cross_sell(context, asked, k, exclude=excluded, candidates=candidates),
                ),
                timeout,
                strict=strict,
            )
        )[0]

    async def cross_category(
        self,
        user_id: object,
        k: int = 10,
        *,
        per_category: int = 2,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Shelves.cross_category`."""
        excluded, users = beside_these(exclude, beside), [checked_id(user_id, "user_id")]
        return (
            await self._ask(
                under(
                    rules,
                    (),
                    lambda context, _: ladder.cross_category(
                        context, user_id, k, per_category=per_category, exclude=excluded, candidates=candidates
                    ),
                ),
                timeout,
                users,
                strict=strict,
            )
        )[0]

    async def similar_users(
        self, user_id: object, k: int = 10, *, timeout: float | Timeout | None = None
    ) -> SimilarUsers:
        """See :meth:`Shelves.similar_users`."""
        return await self._answer(lambda context: similar_users(context, self._pseudonyms, user_id, k), timeout)

    async def community(self, user_id: object, *, timeout: float | Timeout | None = None) -> Community | None:
        """See :meth:`Shelves.community`."""
        return await self._answer(lambda context: community(context, self._pseudonyms, user_id), timeout)

    async def set_consent(
        self,
        user_id: object,
        *,
        personalised: bool = True,
        tracking: bool = True,
        timeout: float | Timeout | None = None,
    ) -> None:
        """See :meth:`Shelves.set_consent`."""
        consent = Consent(personalised, tracking)
        await self._answer(lambda context: state_consent(context, user_id, consent), timeout)

    async def set_stock(self, stock: Mapping[Any, int], *, timeout: float | Timeout | None = None) -> None:
        """See :meth:`Shelves.set_stock`."""
        commands = stock_commands(self._project, checked_stock(stock), now=self._clock())
        if commands:
            await self._run(written(commands), self._writing_time(timeout))

    async def ads(
        self,
        user_id: object,
        slots: int = 1,
        *,
        context: Mapping[str, str] = _NO_CONTEXT,
        exclude: Iterable[object] = (),
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> AdsPage:
        """See :meth:`Shelves.ads`."""
        users, excluded = [checked_id(user_id, "user_id")], repeatable(exclude)
        pages = await self._ask(
            lambda request, _: ladder.ads(request, self._campaigns, user_id, slots, about=context, exclude=excluded),
            timeout,
            users,
            strict=strict,
            repeats=False,
        )
        return cast(AdsPage, pages[0])

    async def record_ad_click(self, impression_id: object, *, timeout: float | Timeout | None = None) -> AdClick:
        """See :meth:`Shelves.record_ad_click`."""
        clicked = checked_id(impression_id, "impression_id")
        return await self._run(click_ad(self._campaigns, clicked, now=self._clock()), self._writing_time(timeout))

    async def _ask(
        self,
        ask: AskUsers,
        timeout: float | Timeout | None,
        user_ids: Iterable[object] = (),
        *,
        strict: bool | None = None,
        repeats: bool = True,
    ) -> list[Page]:
        """See :meth:`Shelves._ask`."""
        if self._observer is None:
            return await self._ask_releases(ask, timeout, user_ids, strict=strict, repeats=repeats)
        with self._watched(self._observer, timeout) as watch:
            pages = await self._ask_releases(watch.over(ask), timeout, user_ids, strict=strict, repeats=repeats)
            watch.pages = pages
        return pages

    async def _answer(
        self, ask: Callable[[RequestContext], Generator[Any, Any, _Result]], timeout: float | Timeout | None
    ) -> _Result:
        """See :meth:`Shelves._answer`."""
        if self._observer is None:
            return await self._answer_on_release(ask, timeout)
        with self._watched(self._observer, timeout) as watch:
            watched = watch.over(lambda context, _: ask(context))
            return await self._answer_on_release(lambda context: watched(context, ()), timeout)

    @property
    def _recorded(self) -> tuple[Mapping[str, int], bool]:
        return self._recorder.counts, self._recorder.spooling

    @abstractmethod
    async def _answer_on_release(
        self, ask: Callable[[RequestContext], Generator[Any, Any, _Result]], timeout: float | Timeout | None
    ) -> _Result:
        """Answer on the release that serves what has no page."""

    @abstractmethod
    async def _ask_releases(
        self,
        ask: AskUsers,
        timeout: float | Timeout | None,
        user_ids: Iterable[object] = (),
        *,
        strict: bool | None = None,
        repeats: bool = True,
    ) -> list[Page]:
        """Answer a request."""

    @abstractmethod
    async def _run(self, flow: Generator[Any, Any, _Result], timeout: float) -> _Result:
        """Drive a flow to its end."""
