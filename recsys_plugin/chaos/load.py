"""Load from several processes at a fixed rate, and what all callers together saw of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

from recsys_plugin.bench.processes import answer_of, started
from recsys_plugin.chaos.driver_plan import DriverPlan
from recsys_plugin.chaos.load_driver import Go, drive
from recsys_plugin.chaos.seen import Calls, Footprint, Seen, joined

__all__ = ["Load", "Observed", "load"]

#: Seconds between the order to begin and the first call, so that all processes begin together.
_AHEAD = 0.2
#: Seconds that a driver may take to make its clients, and to answer after the end.
_PATIENCE = 180.0
_WHAT = "a process that asks at a fixed rate"


@dataclass(frozen=True, slots=True)
class Observed:
    """What all callers saw, and what their processes held (added up) at the moments that :class:`Seen` names."""

    calls: Calls
    before: Footprint
    ready: Footprint
    end: Footprint
    closed: Footprint
    memory: tuple[tuple[tuple[float, int], ...], ...] = ()
    """Of each process, moments of ``time.monotonic`` under load and the resident bytes then."""


class Load:
    """Drivers that are ready to ask."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections

    def begin(self) -> float:
        """Let them begin; the moment of the first call, by ``time.monotonic``."""
        begins = time.monotonic() + _AHEAD
        for connection in self._connections:
            connection.send(Go(begins))
        return begins

    def end(self) -> Observed:
        """Let them stop and close their clients; what they saw."""
        for connection in self._connections:
            connection.send("stop")
        seen = [answer_of(each, Seen, what=_WHAT, patience=_PATIENCE) for each in self._connections]
        before, ready, end, closed = (
            _sum([getattr(each, moment) for each in seen]) for moment in ("before", "ready", "end", "closed")
        )
        calls = joined([each.calls for each in seen])
        return Observed(calls, before, ready, end, closed, tuple(each.memory for each in seen))


@contextmanager
def load(
    plan: DriverPlan, processes: int, clock_offset: Synchronized[float], turn: Synchronized[int] | None = None
) -> Iterator[Load]:
    """Start processes that share the clients of a plan, and wait until all of them are ready.

    Args:
        plan: what they do. processes: how many at most.
        clock_offset: seconds that the clients' clock is ahead. turn: of several loads, the place of the one that asks.

    Raises:
        RecsysError: if a client cannot be made. StepFailed: if a process ends.
    """
    count = min(processes, plan.clients)
    bounds = [number * plan.clients // count for number in range(count + 1)]
    plans = [replace(plan, clients=after - first, first=first, of=plan.clients) for first, after in pairwise(bounds)]
    with started(drive, [(each, clock_offset, turn) for each in plans], what=_WHAT, patience=_PATIENCE) as connections:
        yield Load(connections)


def _sum(footprints: Sequence[Footprint]) -> Footprint:
    return Footprint(
        sum(each.sockets for each in footprints),
        sum(each.threads for each in footprints),
        sum(each.resident_bytes for each in footprints),
    )
