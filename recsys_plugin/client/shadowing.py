"""Beside the requests: asking the candidate what was answered already, from a queue that never makes anybody wait."""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import Awaitable, Callable

from recsys_plugin.background import Warner, Watcher
from recsys_plugin.client.flows import Flow
from recsys_plugin.errors import RecsysError
from recsys_plugin.trials.tally import Tally

__all__ = ["ShadowTask", "ShadowThread"]

#: Requests that may wait; the next ones are dropped, and counted.
_MOST_WAITING = 64
#: Seconds after which a waiting thread looks whether it is still wanted.
_LOOK = 0.2
_WHAT = "could not ask the candidate in the control's shadow"


class ShadowThread:
    """Runs flows one after another in a thread.

    Args:
        run: a method of the client.
    """

    def __init__(self, run: Callable[[Flow], object]) -> None:
        self._waiting: queue.Queue[Flow] = queue.Queue(_MOST_WAITING)
        self._method = weakref.WeakMethod(run)
        self._watcher = Watcher("recsys-shadow", self._work)

    def offer(self, flow: Flow, tally: Tally) -> None:
        """Take a flow if there is room, else count it as dropped; never waits."""
        try:
            self._waiting.put_nowait(flow)
        except queue.Full:
            tally.dropped()

    def close(self) -> None:
        """End the thread after the flow that it runs; what waits is dropped."""
        self._watcher.close()

    def _work(self, closed: threading.Event) -> None:
        warner = Warner(_WHAT)
        while not closed.is_set():
            try:
                flow = self._waiting.get(timeout=_LOOK)
            except queue.Empty:
                if self._method() is None:
                    return
                continue
            run = self._method()
            if run is None:
                return
            try:
                run(flow)
                warner.worked()
            except RecsysError as error:
                warner.failed(error)
            del run, flow


class ShadowTask:
    """The same as a task; belongs to the event loop that it was made in."""

    def __init__(self, run: Callable[[Flow], Awaitable[object]]) -> None:
        self._waiting: asyncio.Queue[Flow] = asyncio.Queue(_MOST_WAITING)
        self._task = asyncio.create_task(self._work(run))

    def offer(self, flow: Flow, tally: Tally) -> None:
        """See :meth:`ShadowThread.offer`."""
        try:
            self._waiting.put_nowait(flow)
        except asyncio.QueueFull:
            tally.dropped()

    async def close(self) -> None:
        """End the task; what waits is dropped."""
        while not self._task.done():
            # A cancellation may meet a wait that ends that very moment, and is lost on it: so it is repeated.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_LOOK)

    async def _work(self, run: Callable[[Flow], Awaitable[object]]) -> None:
        warner = Warner(_WHAT)
        while True:
            flow = await self._waiting.get()
            try:
                await run(flow)
                warner.worked()
            except RecsysError as error:
                warner.failed(error)
