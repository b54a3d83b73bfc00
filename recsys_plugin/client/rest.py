"""Work beside the requests, in portions with a rest after each.

Python lets one thread run at a time, and changes threads every 5 ms only: a request that comes back from a server would
wait so long, several times, for a thread that is busy. On an event loop it would wait for the whole of the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

__all__ = ["REST", "Rest", "portions"]

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Rest:
    """A call of a flow: let so many seconds pass. Answer: ``None``."""

    seconds: float


#: After each portion of work beside the requests.
REST = Rest(0.001)


def portions(values: Iterable[_Value], size: int) -> Iterator[list[_Value]]:
    """So many values at a time, the last time what is left."""
    left = iter(values)
    while portion := list(islice(left, size)):
        yield portion
