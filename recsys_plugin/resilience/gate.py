"""Bounded concurrency: so many requests at once, so many waiting, and a typed refusal for the rest.

A request that would wait for longer than it may is refused at once rather than kept: what cannot be answered in time
only takes the time of those that can.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

from recsys_plugin.errors import Overloaded
from recsys_plugin.resilience.values import Limits

__all__ = ["AsyncGate", "Gate"]

#: Weight of the newest request in the average of how long one takes.
_NEWEST = 0.05


class _Counts:
    """Who is inside, who waits, and how long a request takes."""

    def __init__(self, limits: Limits) -> None:
        self.most, self.most_waiting = limits.concurrency, limits.waiting
        self.inside = 0
        self.seconds = 0.0
        """How long a request took of late."""

    def took(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) * (_NEWEST if self.seconds else 1.0)

    def wait_for(self, waiting: int) -> float:
        """Seconds until it is the turn of somebody behind so many others."""
        return self.seconds * (waiting + 1) / self.most

    def overloaded(self, waiting: int, why: str) -> Overloaded:
        return Overloaded(
            f"{self.inside} requests are under way in this client and {waiting} wait: {why}. Ask again later, raise "
            "Limits(concurrency=..., waiting=...), or run more clients",
            retry_after=max(0.001, self.wait_for(waiting)),
        )


class Gate:
    """For threads: each request calls :meth:`enter` and, if that returned, :meth:`leave`."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts, self._clock = _Counts(limits), clock
        self._lock = threading.Lock()
        self._queue: deque[threading.Lock] = deque()

    def enter(self, deadline: float) -> None:
        """Go in, or wait for one's turn until ``deadline``, a moment of the clock.

        Raises:
            Overloaded: if the queue is full, or the turn would come or came too late.
        """
        counts = self._counts
        with self._lock:
            if counts.inside < counts.most:
                counts.inside += 1
                return
            waiting, left = len(self._queue), deadline - self._clock()
            if waiting >= counts.most_waiting:
                raise counts.overloaded(waiting, "the queue is full")
            if counts.wait_for(waiting) > left:
                raise counts.overloaded(waiting, "the turn would come too late")
            turn = threading.Lock()
            turn.acquire()
            self._queue.append(turn)
        if turn.acquire(timeout=max(0.0, left)):
            return
        with self._lock:
            if turn in self._queue:
                self._queue.remove(turn)
                raise counts.overloaded(len(self._queue), "the turn did not come in time")
        # The turn came that very moment; it is handed on.
        self.leave(None)
        raise counts.overloaded(waiting, "the turn came too late")

    def leave(self, seconds: float | None) -> None:
        """Go out after so many seconds inside; the first of those waiting goes in."""
        with self._lock:
            if seconds is not None:
                self._counts.took(seconds)
            if self._queue:
                self._queue.popleft().release()
            else:
                self._counts.inside -= 1


class AsyncGate:
    """:class:`Gate` for the tasks of one event loop."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts, self._clock = _Counts(limits), clock
        self._queue: deque[asyncio.Future[None]] = deque()

    async def enter(self, deadline: float) -> None:
        """See :meth:`Gate.enter`."""
        counts = self._counts
        if counts.inside < counts.most:
            counts.inside += 1
            return
        waiting, left = len(self._queue), deadline - self._clock()
        if waiting >= counts.most_waiting:
            raise counts.overloaded(waiting, "the queue is full")
        if counts.wait_for(waiting) > left:
            raise counts.overloaded(waiting, "the turn would come too late")
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(max(0.0, left)):
                await turn
        except BaseException as error:
            if turn in self._queue:
                self._queue.remove(turn)
            elif turn.done() and not turn.cancelled():
                self.leave(None)
            if isinstance(error, TimeoutError):
                raise counts.overloaded(len(self._queue), "the turn did not come in time") from error
            raise

    def leave(self, seconds: float | None) -> None:
        """See :meth:`Gate.leave`."""
        if seconds is not None:
            self._counts.took(seconds)
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._counts.inside -= 1
