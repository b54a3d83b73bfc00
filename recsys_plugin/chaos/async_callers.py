"""The same with clients that are awaited: all of a process in one event loop, as a web server's handlers are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from multiprocessing.sharedctypes import Synchronized
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

from recsys_plugin.chaos.driver_plan import WARM_TIMEOUT, WARM_UP, DriverPlan, ask, clock_of, turn_of
from recsys_plugin.chaos.seen import Log
from recsys_plugin.client.async_recommender import AsyncRecommender

__all__ = ["AsyncCallers"]

_Result = TypeVar("_Result")


class AsyncCallers:
    """:class:`~recsys_plugin.chaos.callers.Callers` in one event loop, which a thread of its own runs."""

    def __init__(self, plan: DriverPlan, clock_offset: Synchronized[float], turn: Synchronized[int] | None) -> None:
        self._plan, self._clock = plan, clock_of(plan, clock_offset)
        self._may_ask = turn_of(plan, turn)
        self._stack = AsyncExitStack()
        self._clients: list[AsyncRecommender] = []
        self._asking: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run_loop)

    def __enter__(self) -> Self:
        """Itself, ready to ask."""
        self._thread.start()
        try:
            self._await(self._open())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._await(self._stack.aclose())
        finally:
            self._clients.clear()
            self._end_loop()

    def begin(self, begins: float, logs: Sequence[Log]) -> None:
        """See :meth:`Callers.begin <recsys_plugin.chaos.callers.Callers.begin>`."""
        self._await(self._begin(begins, logs))

    def end(self) -> None:
        """See :meth:`Callers.end <recsys_plugin.chaos.callers.Callers.end>`."""
        self._await(self._end())

    async def _open(self) -> None:
        plan = self._plan
        async with AsyncExitStack() as stack:
            for _ in range(plan.clients):
                client = AsyncRecommender(
                    plan.redis_url, plan.triton_url, timeout=plan.timeout, clock=self._clock, **plan.options
                )
                self._clients.append(await stack.enter_async_context(client))
            for first, client in enumerate(self._clients):
                for number in range(WARM_UP):
                    await ask(client, plan, first + number, WARM_TIMEOUT)
            self._stack = stack.pop_all()

    async def _begin(self, begins: float, logs: Sequence[Log]) -> None:
        self._asking = [
            asyncio.create_task(self._ask_on(client, self._plan.first + number, begins, logs[number]))
            for number, client in enumerate(self._clients)
        ]

    async def _end(self) -> None:
        self._over.set()
        await asyncio.gather(*self._asking)
        self._asking = []

    async def _ask_on(self, client: AsyncRecommender, place: int, begins: float, log: Log) -> None:
        """Ask every so many seconds, at moments fixed in advance; a late call does not move those after it."""
        plan, number = self._plan, place
        while True:
            intended = begins + number / plan.rate
            if await self._is_over(intended):
                return
            if self._may_ask():
                asked, began = number % len(plan.asks), time.monotonic()
                try:
                    page = await ask(client, plan, number, plan.timeout)
                except Exception as error:  # whatever callers would see is to be counted
                    log.raised(intended, began, asked, error)
                else:
                    log.answered(intended, began, asked, page.fallback)
            number += plan.of

    async def _is_over(self, moment: float) -> bool:
        """Whether to ask no more; the answer waits until a moment of ``time.monotonic``, or for the end."""
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                return await self._over.wait()
        except TimeoutError:
            return False

    def _await(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """What is awaited in the event loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
