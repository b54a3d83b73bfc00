"""Which connections to Redis there are, whether one more is to be made, and why none could be: nothing here waits."""

from __future__ import annotations

import random
import time
from typing import Generic, TypeVar

from recsys_plugin.errors import Overloaded, StoreUnavailable
from recsys_plugin.features.wire import AsyncWire, Wire
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.values import Limits, Retry

__all__ = ["Stock"]

_Wire = TypeVar("_Wire", Wire, AsyncWire)

#: How much the ages at which connections are replaced differ, lest all are replaced at once.
_SPREAD = 0.2


class Stock(Generic[_Wire]):
    """The connections of one client to one server.

    Args:
        server: names it in messages.
        limits, retry: see there.
    """

    def __init__(self, server: str, limits: Limits, retry: Retry) -> None:
        self.limits, self.retry = limits, retry
        self.breaker = CircuitBreaker(backoff=retry.backoff)
        self.idle: list[_Wire] = []
        self.count = 0
        """Connections that are open."""
        self.waiting = 0
        """Requests that wait for one."""
        self.closed = False
        self._server = server
        self._reason: BaseException | None = None
        self._failed_in_a_row = 0
        self._due = 0.0

    def lifetime_ends(self) -> float:
        """The moment until which a connection that is made now is used."""
        spread = 1.0 - _SPREAD * random.random()
        return time.monotonic() + self.limits.connection_seconds * spread

    def pop(self) -> tuple[_Wire | None, list[_Wire]]:
        """A sound connection, the one used last; and those that are to be closed."""
        broken: list[_Wire] = []
        while self.idle:
            wire = self.idle.pop()
            if wire.is_sound():
                return wire, broken
            self.count -= 1
            broken.append(wire)
        return None, broken

    def put(self, wire: _Wire) -> list[_Wire]:
        """Take a connection back that is sound; those that are to be closed."""
        now = time.monotonic()
        if self.closed or self.breaker.state != "closed" or (now >= wire.until and self.idle):
            self.count -= 1
            return [wire]
        self.idle.append(wire)
        if len(self.idle) > 1 and now >= self.idle[0].until:
            self.count -= 1
            return [self.idle.pop(0)]
        return []

    def drop_idle(self) -> list[_Wire]:
        """Give up all that are not in use; those that are to be closed."""
        dropped, self.idle = self.idle, []
        self.count -= len(dropped)
        return dropped

    def needs_another(self) -> bool:
        """Whether a connection is to be made now."""
        if self.closed:
            return False
        if self.breaker.state != "closed":
            return True
        if self.count >= self.limits.connections:
            return False
        if self.waiting > len(self.idle) or self.count < self.limits.ready:
            return True
        return len(self.idle) == 1 and time.monotonic() >= self.idle[0].until

    def pause(self) -> float:
        """Seconds until the next one may be made, after the last could not."""
        if self.breaker.state != "closed":
            return self.breaker.retry_after()
        return max(0.0, self._due - time.monotonic())

    def may_try(self) -> bool:
        """Whether to make one now; of a server that is away, one caller in all is told so."""
        return self.breaker.state == "closed" or self.breaker.allows()

    def made(self, wire: _Wire) -> None:
        """A connection was made, and the server answers."""
        self.breaker.succeeded()
        self._failed_in_a_row = 0
        self.count += 1
        self.idle.append(wire)

    def could_not(self, error: BaseException) -> None:
        """No connection could be made. If there is no other, nobody need wait for one.

        But for the first that took too long: a machine that is held up for a moment is no server that is away, and who
        has the time (a client that is opened, say) may wait for the next.
        """
        again = self._failed_in_a_row == 0 and _took_too_long(error)
        self._reason = error
        self._due = time.monotonic() + self.retry.backoff.pause(self._failed_in_a_row, random.random)
        self._failed_in_a_row += 1
        self.breaker.failed(at_once=self.count == 0 and not again)

    def broke(self, error: BaseException, *, counts: bool) -> bool:
        """A call over a connection failed. Returns whether the server now counts as away.

        Args:
            counts: whether the server is to blame, rather than a caller who had hardly any time.
        """
        self.count -= 1
        if not counts:
            return False
        if self.breaker.state == "closed":
            self._reason = error
        return self.breaker.failed()

    def refusal(self) -> StoreUnavailable:
        """Why no request is sent at present."""
        if self.closed:
            return StoreUnavailable(f"{self._server}: this client is closed")
        reason = self._reason
        told = "" if reason is None else f": {str(reason) or type(reason).__name__}"
        return StoreUnavailable(f"{self._server} is away{told}")

    def in_vain(self, seconds: float, counts: bool) -> Overloaded | TimeoutError:
        """What a request comes to that waited so long for a connection: all are in use, or none could be made."""
        if self.count < self.limits.connections:
            error = TimeoutError("no connection could be made in time")
            if counts:
                if self.breaker.state == "closed":
                    self._reason = error
                self.breaker.failed()
            return error
        return Overloaded(
            f"{self._server}: none of {self.count} connections became free in time. Raise Limits(connections=...)",
            retry_after=max(0.001, seconds),
        )


def _took_too_long(error: BaseException) -> bool:
    from redis.exceptions import TimeoutError as RedisTimeoutError

    return isinstance(error, TimeoutError | RedisTimeoutError)
