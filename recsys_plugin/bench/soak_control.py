"""Tells what was soaked and became slow from a machine that did: the soaked takes turns with the same, made anew.

On a machine that others use, too, p99 of one and the same software differs twofold from one minute to the next. So
after the soak fresh clients ask fresh servers (of a copied home, from the same models and data) for some seconds, then
the soaked ones theirs, and so on: whatever else the machine does meets both alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.bench.processes import SPAWN
from recsys_plugin.bench.report import Report
from recsys_plugin.bench.shop import Tell
from recsys_plugin.bench.timing import Ratio, Samples
from recsys_plugin.chaos.driver_plan import DriverPlan
from recsys_plugin.chaos.figures import is_error
from recsys_plugin.chaos.load import load
from recsys_plugin.chaos.seen import Calls, between
from recsys_plugin.chaos.target import copied_home, started
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["LEAST_SECONDS", "Control", "Taken", "Turns", "add_control", "p99_ratio", "take_turns"]

_SOAKED, _FRESH, _NOBODY = 0, 1, -1
#: Seconds of a turn; and turns of each that are left out, since what is fresh has to warm up.
_TURN_SECONDS, _WARM_UP = 2.0, 2
LEAST_SECONDS = 2 * _TURN_SECONDS * (_WARM_UP + 4)
"""A control that is shorter says nothing."""

Turns = Sequence[NDArray[np.float64]]
"""Of each turn, how long its calls took, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Control:
    """What both saw in turn.

    Attributes:
        soaked, fresh: as many turns of each. errors: calls of both that were not answered.
        servers: whether the servers were fresh, too, and not the clients alone.
    """

    soaked: Turns
    fresh: Turns
    errors: int
    servers: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """The turns that were taken.

    Attributes:
        soaked, fresh: from when until when each asked. calls: what the fresh saw. servers: see :class:`Control`.
    """

    soaked: Sequence[tuple[float, float]]
    fresh: Sequence[tuple[float, float]]
    calls: Calls
    servers: bool

    def control(self, soaked: Calls) -> Control:
        """What both saw in turn, given all that the soaked saw."""
        ours = [between(soaked, *span) for span in self.soaked[_WARM_UP:]]
        theirs = [between(self.calls, *span) for span in self.fresh[_WARM_UP:]]
        errors = sum(int(is_error(part).sum()) for part in (*ours, *theirs))
        return Control(_milliseconds(ours), _milliseconds(theirs), errors, self.servers)


def take_turns(
    settings: Settings, plan: DriverPlan, turn: Synchronized[int], *, seconds: float, processes: int, tell: Tell
) -> Taken:
    """Make the same anew, and let both ask in turn; in the end nobody asks, and the fresh is gone.

    Args:
        settings: name the home that was soaked. plan: of the load that was, whose place is 0.
        turn: whose turn it is. seconds: for how long both ask, together; at least :data:`LEAST_SECONDS`.
        processes: how many processes ask.
        tell: told what is under way.

    Raises:
        RecsysError: if servers or clients cannot be made anew.
    """
    turn.value = _NOBODY
    with _fresh_servers(settings, plan, tell) as again, load(again, processes, SPAWN.Value("d", 0.0), turn) as fresh:
        fresh.begin()
        spans: dict[int, list[tuple[float, float]]] = {_SOAKED: [], _FRESH: []}
        count = int(seconds / (2 * _TURN_SECONDS))
        for number in range(count):
            tell("soaked and fresh in turn", int(2 * number * _TURN_SECONDS), int(seconds))
            # The order changes, so that a machine that becomes slower meets both alike.
            for place in (_SOAKED, _FRESH) if number % 2 else (_FRESH, _SOAKED):
                turn.value, began = place, time.monotonic()
                time.sleep(_TURN_SECONDS)
                spans[place].append((began, time.monotonic()))
        turn.value = _NOBODY
        calls = fresh.end().calls
    return Taken(spans[_SOAKED], spans[_FRESH], calls, servers=again.redis_url != plan.redis_url)


def add_control(report: Report, control: Control, *, seed: int) -> None:
    """Add the figures of both, and how many times p99 of the fresh that of the soaked is."""
    report.add_samples("control.soaked", Samples(np.concatenate(control.soaked)))
    report.add_samples("control.fresh", Samples(np.concatenate(control.fresh)))
    report.add("control.errors", control.errors)
    ratio = p99_ratio(control.soaked, control.fresh, seed=seed)
    for name, value in (("", ratio.value), ("_low", ratio.low), ("_high", ratio.high)):
        report.add(f"control.p99_soaked_to_fresh{name}", value)


def p99_ratio(numerator: Turns, denominator: Turns, *, seed: int, resamples: int = 500) -> Ratio:
    """How many times p99 of one that of the other is, over all turns.

    The interval is the percentile bootstrap's (Efron and Tibshirani 1993, chapter 13): pairs of turns are drawn again
    with replacement, since calls of one turn met the same machine.
    """
    draw, count = np.random.default_rng(seed), len(numerator)

    def of(numbers: Sequence[int]) -> float:
        above, below = (
            np.percentile(np.concatenate([side[n] for n in numbers]), 99) for side in (numerator, denominator)
        )
        return float(above / below)

    low, high = np.percentile([of(draw.integers(count, size=count).tolist()) for _ in range(resamples)], [2.5, 97.5])
    return Ratio(of(range(count)), float(low), float(high))


@contextmanager
def _fresh_servers(settings: Settings, plan: DriverPlan, tell: Tell) -> Iterator[DriverPlan]:
    """The plan on servers made for it; on the same where they are not ours to start."""
    services = Services(settings)
    if not (services.redis_is_embedded and services.triton_is_embedded):
        yield replace(plan, place=_FRESH)
        return
    tell("copying the home", 0, 0)
    with copied_home(settings) as own, started(own, tell=tell) as target:
        yield replace(plan, redis_url=target.redis.url, triton_url=target.triton.url, place=_FRESH)


def _milliseconds(turns: Sequence[Calls]) -> Turns:
    return [(calls.ended - calls.intended) * 1000 for calls in turns]
