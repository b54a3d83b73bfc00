"""The awaiting client: the flows of :mod:`recsys_plugin.client.flows` again, driven from an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from recsys_plugin.background import Warner
from recsys_plugin.client import flows, ladder
from recsys_plugin.client.arrivals import TakeUp, take_up, take_up_everything
from recsys_plugin.client.async_shelves import AsyncShelves
from recsys_plugin.client.base import LOADING_TIMEOUT, AskUsers, beside_these, repeatable, under
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.course import Course
from recsys_plugin.client.driving import drive_awaiting, perform_awaiting
from recsys_plugin.client.following import written
from recsys_plugin.client.release import Release, load_release, loaded, on_one_release
from recsys_plugin.client.results import Page
from recsys_plugin.client.shadowing import ShadowTask
from recsys_plugin.client.trying import follow_trial
from recsys_plugin.client.watching import GATHERED, LOOK, Listening
from recsys_plugin.errors import RecsysError
from recsys_plugin.events.event import Event
from recsys_plugin.events.recorder import AsyncEventRecorder
from recsys_plugin.events.recording import Recorded
from recsys_plugin.features.item_changes import AsyncItemChanges
from recsys_plugin.features.reader import AsyncFeatureReader
from recsys_plugin.identifiers import checked_id
from recsys_plugin.inference.replicas import AsyncReplicas, connect_async
from recsys_plugin.inference.triton import AsyncTritonClient
from recsys_plugin.policy.rules import ShelfRules
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.gate import AsyncGate
from recsys_plugin.resilience.values import Timeout
from recsys_plugin.trials.trial import SHADOW

__all__ = ["AsyncRecommender"]

_Result = TypeVar("_Result")

#: Seconds until a task that should have ended is told so again.
_CANCEL_SECONDS = 0.2


class AsyncRecommender(AsyncShelves):
    """:class:`~recsys_plugin.client.recommender.Recommender` for asyncio: same arguments, same methods, same pages.

    It belongs to one event loop. It connects and loads at ``async with``, or else at its first call.
    """

    def _open(self) -> None:
        self._loading = asyncio.Lock()
        self._gate = AsyncGate(self._limits)
        self._recorder = AsyncEventRecorder(**self._recording)
        self._watchers: list[asyncio.Task[None]] = []
        self._shadows: ShadowTask | None = None
        self._closing = asyncio.Event()
        self._release: Release | None = None
        self._servers: tuple[AsyncFeatureReader, AsyncTritonClient | AsyncReplicas] | None = None

    async def recommend(
        self,
        user_id: object,
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        explain: bool = False,
        segment: Mapping[str, str] | None = None,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Recommender.recommend`."""
        users = [checked_id(user_id, "user_id")]
        pages = await self.recommend_many(
            users, k, exclude=exclude, beside=beside, rules=rules, sponsored=sponsored,
            candidates=candidates, explain=explain, segment=segment, timeout=timeout, strict=strict,
        )  # fmt: skip
        return pages[0]

    async def recommend_many(
        self,
        user_ids: Iterable[object],
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        explain: bool = False,
        segment: Mapping[str, str] | None = None,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> list[Page]:
        """See :meth:`Recommender.recommend_many`."""
        users, excluded = repeatable(user_ids), beside_these(exclude, beside)
        return await self._ask(
            under(
                rules,
                sponsored,
                lambda context, users: ladder.recommend(
                    context, users, k, exclude=excluded, candidates=candidates, explain=explain, segment=segment
                ),
            ),
            timeout,
            users,
            strict=strict,
        )

    async def rank(
        self,
        user_id: object,
        item_ids: Iterable[object],
        *,
        rules: ShelfRules | Mapping[str, Any] | None = None,
        explain: bool = False,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Recommender.rank`."""
        asked, users = repeatable(item_ids), [checked_id(user_id, "user_id")]
        ask = under(rules, (), lambda context, _: ladder.rank(context, user_id, asked, explain=explain))
        return (await self._ask(ask, timeout, users, strict=strict))[0]

    async def search(
        self,
        user_id: object | None,
        query: str,
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        understand: bool = True,
        explain: bool = False,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """See :meth:`Recommender.search`."""
        excluded, blend = beside_these(exclude, beside), self._search_blend
        pages = await self._ask(
            under(
                rules,
                sponsored,
                lambda context, _: ladder.search(
                    context,
                    user_id,
                    query,
                    k,
                    exclude=excluded,
                    candidates=candidates,
                    blend=blend,
                    understand=understand,
                    explain=explain,
                ),
            ),
            timeout,
            () if user_id is None else [checked_id(user_id, "user_id")],
            strict=strict,
        )
        return pages[0]

    async def record(self, event: Event, *, visible: bool = False, timeout: float | None = None) -> Recorded:
        """See :meth:`EventRecorder.record`."""
        return await self._recorder.record(event, visible=visible, timeout=timeout)

    async def record_many(self, events: Iterable[Event], *, timeout: float | None = None) -> list[Recorded]:
        """See :meth:`EventRecorder.record_many`."""
        return await self._recorder.record_many(events, timeout=timeout)

    @property
    def version(self) -> int | None:
        """The version that serves at present; ``None`` before the first call."""
        return None if self._release is None else self._release.version

    async def refresh(self) -> int:
        """See :meth:`Recommender.refresh`."""
        async with self._loading:
            await self._follow_rules()
            current = None if self._release is None or self._release.is_snapshot else self._release
            self._release = release = await self._run(load_release(self._project, current), LOADING_TIMEOUT)
            await self._follow_trial(release)
            await self._run(self._snapshots.kept(release, self._rules), LOADING_TIMEOUT)
            self._refreshed = time.monotonic()
            return release.version

    async def close(self) -> None:
        """Close the connections to both servers."""
        self._closing.set()
        watchers: set[asyncio.Task[None]] = set(self._watchers)
        while watchers:
            # A cancellation may meet a wait that ends that very moment, and is lost on it: so it is repeated.
            for watcher in watchers:
                watcher.cancel()
            _, watchers = await asyncio.wait(watchers, timeout=_CANCEL_SECONDS)
        self._watchers = []
        await self._end_trial()
        await self._recorder.close()
        if self._impressions is not None:
            await asyncio.to_thread(self._impressions.close)
        if self._servers is not None:
            reader, triton = self._servers
            self._servers = self._release = None
            await reader.close()
            await triton.close()
        self._leave()

    @property
    def _breakers(self) -> Mapping[str, CircuitBreaker]:
        if self._servers is None:
            return {}
        reader, triton = self._servers
        return {str(self._redis_address): reader.breaker, **triton.breakers}

    async def __aenter__(self) -> Self:
        """The client, connected and loaded."""
        try:
            await self._loaded()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _loaded(self) -> Release:
        """The release; the first caller loads it and the others wait."""
        if self._release is None:
            async with self._loading:
                if self._release is None:
                    release, self._rules = await self._run(self._snapshots.opened(), LOADING_TIMEOUT)
                    self._release = release
                    if not release.is_snapshot:
                        await self._follow_trial(release)
                    await self._run(self._snapshots.kept(release, self._rules), LOADING_TIMEOUT)
                    self._watch(self._looks_every(release))
        return self._release

    def _watch(self, every: float | None) -> None:
        """Begin what goes on beside the requests."""
        self._closing.clear()
        self._recorder.begin()
        if every is not None:
            self._watchers.append(asyncio.create_task(self._watch_releases(every)))
        if self._follow_items:
            self._watchers.append(asyncio.create_task(self._watch_items()))

    async def _watch_items(self) -> None:
        """Take up items as they are written."""
        warner, listening = Warner("could not listen for written items"), Listening()
        while not self._closing.is_set():
            changes = AsyncItemChanges(self._redis_address, self._item_keys, timeout=self._beside_seconds)
            try:
                await changes.open()
                listening.began(polls=changes.polls)
                warner.worked()
                while not self._closing.is_set():
                    if listening.is_due():
                        await self._take_up(take_up_everything, await changes.everything())
                    if keys := await changes.wait(LOOK):
                        await self._take_up(take_up, [*keys, *(await changes.wait(GATHERED))])
            except RecsysError as error:
                warner.failed(error)
            finally:
                await changes.close()
            await asyncio.sleep(listening.failed())

    async def _take_up(self, take: TakeUp, keys: list[bytes]) -> None:
        item_ids = self._item_keys.item_ids
        async with self._loading:
            if self._release is None:
                return
            loaded(self._release)
            taken = None
            while taken is not self._release:  # a request may take up another version meanwhile
                taken = self._release
                made = await self._run(take(taken, self._item_plan, item_ids(keys)), LOADING_TIMEOUT)
            self._release = made
            trying = self._trying
            if trying is not None and trying.candidate is not None:
                release = await self._run(take(trying.candidate, self._item_plan, item_ids(keys)), LOADING_TIMEOUT)
                self._trying = replace(trying, candidate=release)

    async def _follow_rules(self) -> None:
        try:
            await self._run(self._followed(), LOADING_TIMEOUT)
            self._rules_warner.worked()
        except RecsysError as error:
            self._rules_warner.failed(error)

    async def _follow_trial(self, release: Release) -> None:
        """Take up how the trial of a version stands; requests never wait for it."""
        try:
            flow = follow_trial(self._project, release, self._trying, now=time.time(), token=self._name)
            self._trying = await self._run(flow, LOADING_TIMEOUT)
            self._trial_warner.worked()
        except RecsysError as error:
            self._follow_trial_failed(error)
        shadowed = self._trying is not None and self._trying.trial.mode == SHADOW
        if shadowed and self._shadows is None:
            self._shadows = ShadowTask(self._run_shadow)
        elif not shadowed and self._shadows is not None:
            await self._shadows.close()
            self._shadows = None

    async def _end_trial(self) -> None:
        """Stop taking part; what was counted is still written down."""
        if self._shadows is not None:
            await self._shadows.close()
            self._shadows = None
        trying, self._trying = self._trying, None
        if trying is not None and (commands := trying.tally.drain()):
            try:
                await self._run(written(commands), self._writing_seconds)
            except RecsysError as error:
                self._trial_warner.failed(error)

    async def _run_shadow(self, flow: flows.Flow) -> None:
        await self._run(flow, LOADING_TIMEOUT)

    async def _watch_releases(self, every: float) -> None:
        warner = Warner("could not look for a newer model version")
        while not self._closing.is_set():
            await asyncio.sleep(every)
            try:
                if self._refresh_every is not None or (self._release is not None and self._release.is_snapshot):
                    await self.refresh()
                warner.worked()
            except RecsysError as error:
                warner.failed(error)

    async def _ask_releases(
        self,
        ask: AskUsers,
        timeout: float | Timeout | None,
        user_ids: Iterable[object] = (),
        *,
        strict: bool | None = None,
        repeats: bool = True,
    ) -> list[Page]:
        """See :meth:`Recommender._ask_releases`."""
        allowed, exact, release = self._time(timeout), self._is_strict(strict), await self._loaded()
        seconds, trying = allowed.total, self._tried(release)
        if trying is None:
            return await self._run(self._on_control(ask, user_ids, release, exact), allowed, self._gate)
        pages = await self._run(self._on_trial(trying, ask, user_ids, release, seconds, exact), allowed, self._gate)
        if repeats and self._shadows is not None and (flow := self._in_shadow(trying, ask, pages, seconds)) is not None:
            self._shadows.offer(flow, trying.tally)
        return pages

    async def _answer_on_release(
        self, ask: Callable[[RequestContext], Generator[Any, Any, _Result]], timeout: float | Timeout | None
    ) -> _Result:
        """See :meth:`Recommender._answer_on_release`."""
        asked = on_one_release(
            self._project, await self._loaded(), lambda release: ask(self._context(release)), self._adopt
        )
        return await self._run(asked, self._time(timeout), self._gate)

    async def _run(
        self, flow: Generator[Any, Any, _Result], timeout: float | Timeout, gate: AsyncGate | None = None
    ) -> _Result:
        """See :meth:`Recommender._run`."""
        course = Course(Timeout.of(timeout, self._allowed), None if gate is None else self._adaptive)
        return await drive_awaiting(flow, course, gate, self._perform)

    async def _perform(self, call: object, timeout: float) -> object:
        if self._servers is None:
            # Not made sooner, because both belong to the event loop that runs now.
            options: dict[str, Any] = {"timeout": self._allowed, "limits": self._limits, "retry": self._retry}
            reader = AsyncFeatureReader(self._redis_address, **options)
            reader.begin()
            self._servers = reader, connect_async(self._triton_addresses, **options, hedging=self._hedging)
        reader, triton = self._servers
        return await perform_awaiting(call, timeout, reader, triton)
