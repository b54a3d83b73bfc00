"""On which level of the ladder a page was made, and what is kept in process for the levels below the full one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

from recsys_plugin.errors import InvalidInput

__all__ = ["DEFAULT_CACHE", "FULL", "Fallback", "FallbackCache", "Level", "Remembered"]

#: The levels, the best first; which of them a shelf has is told in :mod:`recsys_plugin.client.ladder`.
Level = Literal["full", "cached_features", "retrieval", "lexical", "popularity", "empty"]

#: What an entry takes beside its bytes: key, tuple and place in the order, about.
_OVERHEAD = 400


@dataclass(frozen=True, slots=True)
class Fallback:
    """How good a page is, and why not better."""

    level: Level
    """``full``: the models, with the features of now. ``cached_features``: the models, with features that the client
    read before, or the contract's defaults. ``retrieval``: what the models found for the same request before.
    ``lexical``: of a search, what has its words. ``popularity``: what is popular. ``empty``: nothing could be said."""
    reason: str = ""
    """What failed, and what stands in for it; empty for ``full``."""
    age: float | None = None
    """Seconds since what stands in was got from the servers; ``None`` where that does not matter."""

    @property
    def degraded(self) -> bool:
        """Whether it is any other level than ``full``."""
        return self.level != "full"


#: Nothing failed.
FULL = Fallback("full")


@dataclass(frozen=True, slots=True)
class FallbackCache:
    """How much a client keeps of recent answers, for pages while a server is away.

    Args:
        most_bytes: of user features and of what was found for users and items together, about; what was used least
            recently goes first. 0 keeps nothing. A user takes some 5 KB.
        longest: seconds after which something kept is not used any more.

    Raises:
        InvalidInput: if one is negative or no number.
    """

    most_bytes: int = 16 << 20
    longest: float = 900.0

    def __post_init__(self) -> None:
        for name in ("most_bytes", "longest"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InvalidInput(f"fallback_cache: {name} {value!r:.60} is not a number of 0 or more")


#: What a client keeps unless it is told otherwise.
DEFAULT_CACHE = FallbackCache()


class Remembered:
    """Values by key, bounded by their bytes and their age; safe to share between threads.

    A key's first part names what is kept and its second part whose it is.
    """

    __slots__ = ("_bytes", "_limits", "_lock", "_values")

    def __init__(self, limits: FallbackCache) -> None:
        self._limits = limits
        self._values: OrderedDict[tuple[Hashable, ...], tuple[Any, int, float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is kept takes, about."""
        return self._bytes

    def __len__(self) -> int:
        """How many values there are."""
        return len(self._values)

    def put(self, key: tuple[Hashable, ...], value: Any, size: int, now: float) -> None:
        """Keep a value of so many bytes, got at ``now``, a moment of a clock that only runs forward."""
        most = self._limits.most_bytes
        size += _OVERHEAD
        if size > most:
            return
        with self._lock:
            before = self._values.pop(key, None)
            if before is not None:
                self._bytes -= before[1]
            self._values[key] = value, size, now
            self._bytes += size
            while self._bytes > most:
                _, (_, gone, _) = self._values.popitem(last=False)
                self._bytes -= gone

    def get(self, key: tuple[Hashable, ...], now: float) -> tuple[Any, float] | None:
        """The value and its age in seconds; ``None`` if there is none, or it is too old."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            value, size, moment = found
            age = now - moment
            if age > self._limits.longest:
                del self._values[key]
                self._bytes -= size
                return None
            self._values.move_to_end(key)
            return value, age

    def forget(self, subject: Hashable) -> int:
        """Drop what is kept of a user or an item; how many values that were."""
        with self._lock:
            keys = [key for key in self._values if key[1] == subject]
            for key in keys:
                self._bytes -= self._values.pop(key)[1]
        return len(keys)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._values.clear()
            self._bytes = 0
