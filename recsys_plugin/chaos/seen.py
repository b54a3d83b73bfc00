"""What callers saw of their calls, and what their processes held: written down under load, and joined afterwards."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.bench.thin_client import resident_bytes
from recsys_plugin.client.fallback import Fallback

__all__ = ["ERROR", "Calls", "Footprint", "Log", "Seen", "between", "joined"]

#: How the outcome of a call begins that raised; the name of the type follows.
ERROR = "error: "
#: Of what is written down of a call; see :class:`Calls`.
_COLUMNS = ("intended", "began", "ended", "asked", "outcome")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds."""

    sockets: int
    threads: int
    resident_bytes: int

    @classmethod
    def now(cls) -> Footprint:
        """Of this process, garbage collected."""
        gc.collect()
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
        return cls(sum(map(_is_socket, os.listdir("/proc/self/fd"))), threads, resident_bytes())


def _is_socket(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except FileNotFoundError:  # that of the listing itself
        return False


@dataclass(frozen=True, slots=True)
class Calls:
    """What became of calls, each array ``[calls]``; moments are of ``time.monotonic``.

    Attributes:
        intended: when each was meant to begin. began, ended: when it did, and when it returned.
        asked: what, as an index into the plan's ``asks``.
        outcome: an index into ``outcomes``: the level that answered, or :data:`ERROR` and the type of what was raised.
        outcomes: the names.
        messages: the first message of each type of error, and the first reason of each level below the full one.
    """

    intended: NDArray[np.float64]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    asked: NDArray[np.int64]
    outcome: NDArray[np.int64]
    outcomes: tuple[str, ...]
    messages: dict[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one process saw: its calls, and what it held at four moments.

    ``before`` its clients were made, ``ready`` to begin, at the ``end`` of the load, and with its clients ``closed``.
    ``memory`` has, every so often under load, a moment of ``time.monotonic`` and the resident bytes then.
    """

    calls: Calls
    before: Footprint
    ready: Footprint
    end: Footprint
    closed: Footprint
    memory: tuple[tuple[float, int], ...]


class Log:
    """What one client saw, call by call.

    Args:
        expected: how many calls it is likely to be: room for them is taken at once, so that it does not count as
            growth.
    """

    def __init__(self, expected: float) -> None:
        # Filled, not only reserved: untouched memory would be taken as it is written.
        self._rows = np.full((max(16, math.ceil(expected)), len(_COLUMNS)), np.nan)
        self._count = 0
        self._outcomes: dict[str, int] = {}
        self.messages: dict[str, str] = {}

    def answered(self, intended: float, began: float, asked: int, found: Fallback) -> None:
        """A call that was meant to begin at one moment and did at another was answered just now."""
        if found.degraded and found.level not in self.messages:
            self.messages[found.level] = found.reason
        self._add(intended, began, asked, found.level)

    def raised(self, intended: float, began: float, asked: int, error: Exception) -> None:
        """Likewise of one that raised."""
        self.messages.setdefault(type(error).__name__, str(error))
        self._add(intended, began, asked, f"{ERROR}{type(error).__name__}")

    def _add(self, intended: float, began: float, asked: int, outcome: str) -> None:
        ended = time.monotonic()
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.full_like(self._rows, np.nan)])
        number = self._outcomes.setdefault(outcome, len(self._outcomes))
        self._rows[self._count] = intended, began, ended, asked, number
        self._count += 1

    def calls(self) -> Calls:
        """All of them."""
        intended, began, ended, asked, outcome = self._rows[: self._count].T.copy()
        names = tuple(self._outcomes)
        return Calls(intended, began, ended, asked.astype(np.int64), outcome.astype(np.int64), names, self.messages)


def between(calls: Calls, after: float, before: float) -> Calls:
    """Those that were meant to begin from one moment until another."""
    within = (calls.intended >= after) & (calls.intended < before)
    columns = {name: getattr(calls, name)[within] for name in _COLUMNS}
    return Calls(**columns, outcomes=calls.outcomes, messages=calls.messages)


def joined(parts: Sequence[Calls]) -> Calls:
    """Calls of several clients or processes as those of one, in the order in which they were meant to begin."""
    names = tuple(sorted({name for part in parts for name in part.outcomes}))
    messages: dict[str, str] = {}
    for part in parts:
        messages = {**part.messages, **messages}
    renamed = [
        np.array([names.index(name) for name in part.outcomes], np.int64)[part.outcome]
        if part.outcomes
        else part.outcome
        for part in parts
    ]
    order = np.argsort(np.concatenate([part.intended for part in parts]), kind="stable")
    return Calls(
        np.concatenate([part.intended for part in parts])[order],
        np.concatenate([part.began for part in parts])[order],
        np.concatenate([part.ended for part in parts])[order],
        np.concatenate([part.asked for part in parts])[order],
        np.concatenate(renamed)[order],
        names,
        messages,
    )
