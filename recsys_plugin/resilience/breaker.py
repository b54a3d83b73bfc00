"""A circuit breaker: a server that is known to be away is not asked, but for one probe at a time.

After Nygard, "Release It!" (2007): closed while calls succeed, open after so many failures in a row, half open while
one probe finds out whether the server is back.
"""

from __future__ import annotations

import random as _random
import threading
import time
from collections.abc import Callable

from recsys_plugin.errors import InvalidInput
from recsys_plugin.resilience.values import Backoff

__all__ = ["CircuitBreaker"]

#: Seconds after which a probe that said nothing counts as lost, and another may be made.
_PROBE_LOST = 5.0


class CircuitBreaker:
    """The state of one server as its callers find it; safe to share between threads.

    Whoever calls the server asks :meth:`allows` first and says :meth:`succeeded` or :meth:`failed` afterwards. While
    it is closed, that costs less than a microsecond.

    Args:
        failures: so many in a row open it.
        backoff: how long it stays open before the next probe.
        clock: seconds that only run forward.
        random: gives numbers evenly from 0 to 1, for the jitter of the pauses.

    Raises:
        InvalidInput: if ``failures`` is no whole number of 1 or more.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise InvalidInput(f"circuit breaker: failures {failures!r:.60} is not a whole number of 1 or more")
        self._most = failures
        self._backoff = Backoff() if backoff is None else backoff
        self._clock, self._random = clock, random
        self._lock = threading.Lock()
        self._state = "closed"
        self._failures = 0
        self._probes = 0
        """Probes in a row that failed."""
        self._due = 0.0
        """When the next probe may be made."""

    @property
    def state(self) -> str:
        """``closed``: all may call; ``open``: nobody may; ``half_open``: one does, to find out."""
        return self._state

    def allows(self) -> bool:
        """Whether the caller may call; while it is not closed, whether the caller is the one that makes the probe."""
        if self._state == "closed":
            return True
        with self._lock:
            if self._state == "closed":
                return True
            now = self._clock()
            if now < self._due:
                return False
            self._state, self._due = "half_open", now + _PROBE_LOST
            return True

    def retry_after(self) -> float:
        """Seconds until it is worth while to call again; 0 while it is closed."""
        return 0.0 if self._state == "closed" else max(0.0, self._due - self._clock())

    def succeeded(self) -> bool:
        """The server answered. Returns whether that closed it."""
        if self._state == "closed":
            self._failures = 0
            return False
        with self._lock:
            was, self._state = self._state, "closed"
            self._failures = self._probes = 0
            return was != "closed"

    def failed(self, *, at_once: bool = False) -> bool:
        """The server did not answer as it should. Returns whether that opened it.

        Args:
            at_once: whether this failure alone opens it: nothing listens there, say.
        """
        with self._lock:
            if self._state == "closed":
                self._failures += 1
                if self._failures < self._most and not at_once:
                    return False
                self._open()
                return True
            if self._state == "half_open":
                self._probes += 1
                self._open()
            return False  # what was asked before it opened says nothing new

    def _open(self) -> None:
        self._state = "open"
        self._due = self._clock() + self._backoff.pause(self._probes, self._random)
