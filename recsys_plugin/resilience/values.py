"""Timeouts, retries, pauses and limits: frozen values that check themselves."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from recsys_plugin.errors import InvalidInput

__all__ = ["Backoff", "Limits", "Retry", "Timeout"]


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long a call may take.

    Args:
        total: seconds for the whole call.
        features: the share of them that reading features may take, so that a slow store leaves time for the rest;
            above 0, at most 1.
        connect: seconds for making one connection, which happens beside the requests.

    Raises:
        InvalidInput: if one of them makes no sense.
    """

    total: float = 0.05
    features: float = 0.5
    connect: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", _above_zero(self.total, "timeout"))
        object.__setattr__(self, "connect", _above_zero(self.connect, "timeout: connect"))
        object.__setattr__(self, "features", _share(self.features, "timeout: features"))

    @classmethod
    def of(cls, value: object, default: Timeout | None = None) -> Timeout:
        """A timeout from a timeout, or from seconds; what seconds leave open is as in ``default``.

        Raises:
            InvalidInput: if it is neither.
        """
        if isinstance(value, Timeout):
            return value
        total = _above_zero(value, "timeout")
        return cls(total) if default is None else replace(default, total=total)

    @property
    def features_seconds(self) -> float:
        """Seconds that reading features may take."""
        return self.total * self.features


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that grow exponentially up to a limit, with full jitter (Brooker, "Exponential Backoff and Jitter", 2015):
    each is drawn evenly from 0 to the limit, so that clients that failed together do not come back together.

    Args:
        first: seconds that the first pause lasts at most.
        most: seconds that any pause lasts at most.
        factor: by how much the limit grows from one pause to the next; at least 1.

    Raises:
        InvalidInput: if one of them makes no sense.
    """

    first: float = 0.05
    most: float = 0.5
    factor: float = 2.0

    def __post_init__(self) -> None:
        _above_zero(self.first, "backoff: first")
        _above_zero(self.most, "backoff: most")
        if self.most < self.first:
            raise InvalidInput(f"backoff: most {self.most!r} is less than first {self.first!r}")
        if _above_zero(self.factor, "backoff: factor", "number") < 1:
            raise InvalidInput(f"backoff: factor {self.factor!r} is less than 1")

    def limit(self, attempt: int) -> float:
        """Seconds that the pause after so many earlier ones lasts at most."""
        if attempt * math.log(self.factor) >= math.log(self.most / self.first):
            return self.most
        return min(self.most, self.first * self.factor**attempt)

    def pause(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds of the pause after so many earlier ones.

        Args:
            random: gives numbers evenly from 0 to 1.
        """
        return self.limit(attempt) * random()


@dataclass(frozen=True, slots=True)
class Retry:
    """When something is tried again.

    Args:
        attempts: how often a call that may be repeated is made anew, within its time, once its connection broke.
        backoff: the pauses between looks whether a server that is away is back; nobody's request waits for them.

    Raises:
        InvalidInput: if attempts is no whole number of 0 or more.
    """

    attempts: int = 1
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        _whole(self.attempts, "retry: attempts", least=0)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of everything one client takes at most.

    Args:
        concurrency: requests under way at once.
        waiting: requests that wait for their turn; one more is refused at once.
        connections: connections to Redis.
        ready: connections to Redis that are made at the start, so that no request has to wait for them.
        connection_seconds: age at which a connection is replaced, beside the requests: names are then resolved anew,
            and servers that were added get their part of the calls.

    Raises:
        InvalidInput: if one of them makes no sense.
    """

    concurrency: int = 64
    waiting: int = 1024
    connections: int = 64
    ready: int = 2
    connection_seconds: float = 300.0

    def __post_init__(self) -> None:
        _whole(self.concurrency, "limits: concurrency", least=1)
        _whole(self.waiting, "limits: waiting", least=0)
        _whole(self.connections, "limits: connections", least=1)
        _whole(self.ready, "limits: ready", least=0)
        _above_zero(self.connection_seconds, "limits: connection_seconds")
        if self.ready > self.connections:
            raise InvalidInput(f"limits: {self.ready} connections ready at the start, {self.connections} at most")


def _above_zero(value: object, name: str, what: str = "number of seconds") -> float:
    # By comparison, since a whole number can be too large for a float; it is as good as infinite.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise InvalidInput(f"{name}: {value!r:.60} is not a {what} above 0")
    return float(value)


def _share(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InvalidInput(f"{name}: {value!r:.60} is not a share above 0 and at most 1")
    return float(value)


def _whole(value: object, name: str, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{name}: {value!r:.60} is not a whole number of {least} or more")
