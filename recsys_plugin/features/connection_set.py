"""The connections of one client to one Redis: made beside the requests, which only ever take one that is open.

Looking a name up, connecting, TLS and logging in can each take seconds when a server is away or hangs. So no request
does any of it: a worker that lives for as long as there is something to make makes connections, one at a time. It also
is the only one that asks a server that is away whether it is back; meanwhile requests are refused in microseconds.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable

from recsys_plugin.features.connection_stock import Stock
from recsys_plugin.features.wire import AsyncWire, Wire
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.values import Limits, Retry

__all__ = ["AsyncConnectionSet", "ConnectionSet"]

#: Seconds until a task that should have ended is told so again.
_CANCEL_SECONDS = 0.2


class ConnectionSet:
    """Connections for threads.

    Args:
        server: names it in messages.
        make: connects and logs in, and gives the wire; told until when it is to be used.
        check: asks the server something that it must answer as quickly as a request wants it.
        limits, retry: see there.
    """

    def __init__(
        self,
        server: str,
        make: Callable[[float], Wire],
        check: Callable[[Wire], None],
        limits: Limits,
        retry: Retry,
    ) -> None:
        self._stock: Stock[Wire] = Stock(server, limits, retry)
        self._make, self._check = make, check
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._worker: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        """The worker that had nothing more to do: it may not have ended yet."""
        self._in_use: set[Wire] = set()

    @property
    def breaker(self) -> CircuitBreaker:
        """Whether the server is known to be away."""
        return self._stock.breaker

    def begin(self) -> None:
        """Start making the connections that are to be there from the start."""
        with self._changed:
            self._make_if_needed()

    def take(self, deadline: float, *, counts: bool) -> Wire:
        """An open connection that nobody else uses.

        Args:
            deadline: a moment of ``time.monotonic``.
            counts: whether it says something of the server that none could be made until then.

        Raises:
            StoreUnavailable: if the server is known to be away, or cannot be connected to.
            TimeoutError: if none could be made until the deadline.
            Overloaded: if all there may be are in use until then.
        """
        stock = self._stock
        broken: list[Wire] = []
        began = time.monotonic()
        try:
            with self._changed:
                while True:
                    if stock.closed or stock.breaker.state != "closed":
                        self._make_if_needed()
                        raise stock.refusal()
                    wire, found = stock.pop()
                    broken += found
                    if wire is not None:
                        self._in_use.add(wire)
                        return wire
                    stock.waiting += 1
                    try:
                        self._make_if_needed()
                        left = deadline - time.monotonic()
                        if left <= 0 or not self._changed.wait(left):
                            self._changed.notify()  # if it was told just as it gave up, it is another's turn
                            raise stock.in_vain(time.monotonic() - began, counts)
                    finally:
                        stock.waiting -= 1
        finally:
            _close(broken)

    def give_back(self, wire: Wire) -> None:
        """Hand a connection back all of whose replies were read."""
        self._stock.breaker.succeeded()
        with self._changed:
            self._in_use.discard(wire)
            closing = self._stock.put(wire)
            self._changed.notify()
            self._make_if_needed()
        if closing:
            _close(closing)

    def give_up(self, wire: Wire, error: BaseException | None, counts: bool) -> None:
        """Close a connection whose replies were not all read, lest the next take them for theirs.

        Args:
            error: why; ``None`` if the server answered, but refused.
            counts: whether that says something of the server.
        """
        closing = [wire]
        with self._changed:
            self._in_use.discard(wire)
            if error is None:
                self._stock.breaker.succeeded()
                self._stock.count -= 1
            elif self._stock.broke(error, counts=counts):
                closing += self._stock.drop_idle()
                self._changed.notify_all()
            self._make_if_needed()
        _close(closing)

    def start_anew(self) -> None:
        """Close what is not in use: the connections lead to a server that is not the right one any more."""
        with self._changed:
            closing = self._stock.drop_idle()
            self._make_if_needed()
        _close(closing)

    def close(self) -> None:
        """Close all connections, those in use too, and end the worker."""
        with self._changed:
            self._stock.closed = True
            closing = self._stock.drop_idle()
            for wire in self._in_use:
                wire.abort()
            worker = self._worker or self._ending
            self._changed.notify_all()
        self._ended.set()
        _close(closing)
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def end(self) -> None:
        """Let the worker end by itself: for when whoever had the connections is gone, and did not close them."""
        self._stock.closed = True
        self._ended.set()

    def _make_if_needed(self) -> None:
        """Start the worker unless it is there; the lock is held."""
        if self._worker is None and self._stock.needs_another():
            self._worker = threading.Thread(target=self._work, name="recsys-connections", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._stock.needs_another():
                    self._worker, self._ending = None, self._worker
                    return
                pause = self._stock.pause()
            if pause > 0:
                self._ended.wait(pause)  # and look again: much may have changed
            elif self._stock.may_try():
                self._try()

    def _try(self) -> None:
        """Make a connection, and of a server that was away find out whether it answers in time."""
        stock = self._stock
        try:
            wire = self._make(stock.lifetime_ends())
            try:
                if stock.breaker.state != "closed":
                    self._check(wire)
            except BaseException:
                wire.close()
                raise
        except Exception as error:
            with self._changed:
                stock.could_not(error)
                self._changed.notify_all()
            return
        with self._changed:
            if stock.closed:
                wire.close()
                return
            stock.made(wire)
            self._changed.notify()


class AsyncConnectionSet:
    """:class:`ConnectionSet` for the tasks of one event loop."""

    def __init__(
        self,
        server: str,
        make: Callable[[float], Awaitable[AsyncWire]],
        check: Callable[[AsyncWire], Awaitable[None]],
        limits: Limits,
        retry: Retry,
    ) -> None:
        self._stock: Stock[AsyncWire] = Stock(server, limits, retry)
        self._make, self._check = make, check
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._worker: asyncio.Task[None] | None = None

    @property
    def breaker(self) -> CircuitBreaker:
        """See :attr:`ConnectionSet.breaker`."""
        return self._stock.breaker

    def begin(self) -> None:
        """See :meth:`ConnectionSet.begin`."""
        self._make_if_needed()

    async def take(self, deadline: float, *, counts: bool) -> AsyncWire:
        """See :meth:`ConnectionSet.take`."""
        stock = self._stock
        began = time.monotonic()
        while True:
            if stock.closed or stock.breaker.state != "closed":
                self._make_if_needed()
                raise stock.refusal()
            wire, broken = stock.pop()
            for other in broken:
                await other.close()
            if wire is not None:
                return wire
            turn = asyncio.get_running_loop().create_future()
            self._waiters.append(turn)
            stock.waiting += 1
            self._make_if_needed()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await turn
            except (TimeoutError, asyncio.CancelledError) as error:
                if turn.done() and not turn.cancelled():
                    self._tell_one()  # it was this one's turn, and is another's now
                if isinstance(error, TimeoutError):
                    raise stock.in_vain(time.monotonic() - began, counts) from None
                raise
            finally:
                stock.waiting -= 1
                if turn in self._waiters:
                    self._waiters.remove(turn)

    async def give_back(self, wire: AsyncWire) -> None:
        """See :meth:`ConnectionSet.give_back`."""
        self._stock.breaker.succeeded()
        closing = self._stock.put(wire)
        if self._waiters:
            self._tell_one()
        self._make_if_needed()
        for other in closing:
            await other.close()

    async def give_up(self, wire: AsyncWire, error: BaseException | None, counts: bool) -> None:
        """See :meth:`ConnectionSet.give_up`."""
        closing = [wire]
        if error is None:
            self._stock.breaker.succeeded()
            self._stock.count -= 1
        elif self._stock.broke(error, counts=counts):
            closing += self._stock.drop_idle()
            self._tell_all()
        self._make_if_needed()
        for other in closing:
            await other.close()

    async def start_anew(self) -> None:
        """See :meth:`ConnectionSet.start_anew`."""
        closing = self._stock.drop_idle()
        self._make_if_needed()
        for other in closing:
            await other.close()

    async def close(self) -> None:
        """See :meth:`ConnectionSet.close`."""
        self._stock.closed = True
        self._tell_all()
        while self._worker is not None and not self._worker.done():
            # A cancellation may meet a wait that ends that very moment, and is lost on it: so it is repeated.
            self._worker.cancel()
            await asyncio.wait([self._worker], timeout=_CANCEL_SECONDS)
        for other in self._stock.drop_idle():  # only now: the worker may have ended with one more
            await other.close()

    def _make_if_needed(self) -> None:
        if (self._worker is None or self._worker.done()) and self._stock.needs_another():
            self._worker = asyncio.create_task(self._work(), name="recsys-connections")

    async def _work(self) -> None:
        while self._stock.needs_another():
            pause = self._stock.pause()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self._stock.may_try():
                await self._try()

    async def _try(self) -> None:
        """See :meth:`ConnectionSet._try`."""
        stock = self._stock
        try:
            wire = await self._make(stock.lifetime_ends())
            try:
                if stock.breaker.state != "closed":
                    await self._check(wire)
            except BaseException:
                await wire.close()
                raise
        except Exception as error:
            stock.could_not(error)
            self._tell_all()
            return
        stock.made(wire)
        self._tell_one()

    def _tell_one(self) -> None:
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _tell_all(self) -> None:
        while self._waiters:
            self._tell_one()


def _close(wires: list[Wire]) -> None:
    for wire in wires:
        wire.close()
