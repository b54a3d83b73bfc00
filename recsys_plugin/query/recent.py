"""What was worked out lately, kept for the next who asks the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Recent"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Recent(Generic[_Key, _Value]):
    """At most so many values, of which the one asked for least recently goes first; safe to share between threads.

    Args:
        most: how many; 0 keeps none.
    """

    __slots__ = ("_lock", "_most", "_values", "asked", "found")

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._lock = threading.Lock()
        self.asked = 0
        """How often a value was asked for."""
        self.found = 0
        """How often it was there."""

    def get(self, key: _Key) -> _Value | None:
        """The value; ``None`` if it is not there."""
        with self._lock:
            self.asked += 1
            value = self._values.get(key)
            if value is not None:
                self.found += 1
                self._values.move_to_end(key)
            return value

    def put(self, key: _Key, value: _Value) -> None:
        """Keep a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._values)
