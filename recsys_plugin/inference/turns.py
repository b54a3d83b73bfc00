"""Whose turn it is among several servers, and how one call goes from one to the next."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from recsys_plugin.errors import DeadlineExceeded, ReleaseChanged, ServiceUnavailable
from recsys_plugin.inference.lines import TritonUnreachable

__all__ = ["LOOK", "Attempts", "Found", "Turns", "common_versions"]

#: What a call asks for: model and version.
_Wanted = tuple[str, int]

#: Seconds from one question to a server that was away, whether it is back, to the next.
_ASK_AGAIN = 0.1
#: Seconds for which a server is taken at its word that it lacks a version.
_LACKS = 1.0
#: Seconds for a server to say which versions it has, or that it is back; others are asked meanwhile or after it.
LOOK = 1.0


class Turns:
    """Whose turn it is among some servers; safe to share between threads.

    A server that could not be reached, or let a deadline pass, is away until it says that it is ready. A server that
    lacks a version is not asked for it for a second. Both come last: where no other is left, they are tried.

    Args:
        count: how many servers there are.
        clock: seconds that only run forward.
    """

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._servers = range(count)
        self._clock = clock
        self._turn = itertools.count()
        self._lock = threading.Lock()
        #: Server → when to ask next whether it is back.
        self._away: dict[int, float] = {}
        #: Server and what it lacks → until when.
        self._lacking: dict[tuple[int, _Wanted], float] = {}

    def order(self, wanted: _Wanted | None = None) -> list[int]:
        """The servers in the order in which to try them for one call."""
        turn, now = next(self._turn), self._clock()
        with self._lock:
            first = [server for server in self._servers if server not in self._away]
            if wanted is not None and self._lacking:
                self._lacking = {key: until for key, until in self._lacking.items() if until > now}
                first = [server for server in first if (server, wanted) not in self._lacking]
        start = turn % len(first) if first else 0
        return [*first[start:], *first[:start], *(server for server in self._servers if server not in first)]

    def reachable(self) -> list[int]:
        """The servers that are not away; all if every one is."""
        with self._lock:
            return [server for server in self._servers if server not in self._away] or list(self._servers)

    def to_ask(self) -> list[int]:
        """The servers to ask now whether they are back; each is named again only after a pause."""
        if not self._away:
            return []
        now = self._clock()
        with self._lock:
            due = [server for server, moment in self._away.items() if moment <= now]
            self._away.update(dict.fromkeys(due, now + LOOK + _ASK_AGAIN))
        return due

    def went(self, server: int) -> None:
        """A server is away."""
        with self._lock:
            self._away[server] = self._clock() + _ASK_AGAIN

    def came(self, server: int) -> None:
        """A server answers."""
        if server in self._away:
            with self._lock:
                self._away.pop(server, None)

    def says(self, server: int, ready: bool) -> None:
        """A server that was asked is ready, or is not or cannot be reached."""
        if ready:
            self.came(server)
        else:
            self.went(server)

    def lacks(self, server: int, wanted: _Wanted) -> None:
        """A server does not have what was wanted."""
        with self._lock:
            self._lacking[server, wanted] = self._clock() + _LACKS


class Attempts:
    """One call's way through the servers within its time: iterate, and say of each server how it went."""

    def __init__(self, turns: Turns, wanted: _Wanted, timeout: float) -> None:
        self._turns = turns
        self._wanted = wanted
        self._deadline = time.monotonic() + timeout
        self._error: ServiceUnavailable | None = None

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Each server to try, and the seconds that are left."""
        for server in self._turns.order(self._wanted):
            yield server, self._deadline - time.monotonic()

    def error(self) -> ServiceUnavailable:
        """Why none of them answered: that the version is gone, if one said so."""
        assert self._error is not None
        return self._error

    def worked(self, server: int) -> None:
        """The server answered."""
        self._turns.came(server)

    def slow(self, server: int, error: ServiceUnavailable) -> None:
        """The server took too long for the call to wait for it; the next one is asked."""
        self._error = self._error or error

    def failed(self, server: int, error: ServiceUnavailable) -> None:
        """Go on to the next server, or raise the error if that would not help."""
        if isinstance(error, ReleaseChanged):
            self._turns.lacks(server, self._wanted)
            self._error = error
        elif isinstance(error, TritonUnreachable):
            self._turns.went(server)
            self._error = self._error or error
        elif isinstance(error, DeadlineExceeded):
            self._turns.went(server)
            raise error
        else:
            raise error


class Found:
    """Which versions of a model the servers have, as they are asked one after the other."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._found: list[tuple[int, ...]] = []
        self._error: ServiceUnavailable | None = None

    def has(self, server: int, versions: tuple[int, ...]) -> None:
        """What a server says that it has."""
        self._turns.came(server)
        self._found.append(versions)

    def failed(self, server: int, error: ServiceUnavailable) -> None:
        """A server that does not know the model has no say in its versions, and neither has one that is away."""
        if not isinstance(error, ReleaseChanged):
            self._turns.went(server)
        self._error = self._error or error

    def versions(self) -> tuple[int, ...]:
        """See :func:`common_versions`; the first error if no server said anything."""
        if not self._found and self._error is not None:
            raise self._error
        return common_versions(self._found)


def common_versions(found: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The versions that every server has, ascending; where there is none, those that any has."""
    each = [set(versions) for versions in found]
    return tuple(sorted(set.intersection(*each) or set.union(*each)))
