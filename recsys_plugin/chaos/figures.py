"""From what callers saw to figures: answered, late, by which level, and how soon all was well again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.bench.report import Report
from recsys_plugin.chaos.load import Observed
from recsys_plugin.chaos.seen import ERROR, Calls

__all__ = [
    "FULL",
    "GRACE",
    "Window",
    "add_figures",
    "is_error",
    "is_full",
    "levels_over_time",
    "overshoot",
    "seconds_until_full",
]

#: The level at which nothing is amiss.
FULL = "full"
#: Seconds after its deadline by which a call must have returned.
GRACE = 0.005
#: Percentiles of times, with the words that figures name them by.
_PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}
#: Full service is back at the first moment from which on so many seconds saw nothing else.
_STEADY = 1.0

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Window:
    """One fault's time; moments of ``time.monotonic``."""

    fault: str
    servers: tuple[str, ...]
    """What could not serve meanwhile; none if requests were not to notice."""
    began: float
    """When it began."""
    ended: float
    """When it was to be mended."""
    recovered: float
    """When the servers answered again."""
    until: float
    """When the next one began, or the load ended."""


def add_figures(report: Report, name: str, observed: Observed, windows: Sequence[Window], *, timeout: float) -> None:
    """Add all figures of a run to a report.

    Args:
        report: takes them, each named ``name`` and further words. observed: what the callers saw.
        windows: the faults, in the order of time.
        timeout: seconds that each call was allowed.
    """
    calls = observed.calls
    errors, full = is_error(calls), is_full(calls)
    everything = np.ones(len(errors), np.bool_)
    report.add(f"{name}.answered_share", _share(~errors, everything))
    report.add(f"{name}.errors", int(errors.sum()))
    for outcome, number in sorted(Counter(calls.outcomes[place] for place in calls.outcome.tolist()).items()):
        kind = "error" if outcome.startswith(ERROR) else "level"
        report.add(f"{name}.{kind}.{outcome.removeprefix(ERROR).lower()}", number)
    report.add(f"{name}.late", int((overshoot(calls, timeout) > GRACE).sum()))
    # Of the call itself, from the moment that it was meant for, and how much of that is the generator's own lateness.
    _add_times(report, f"{name}.call", calls.ended - calls.began)
    _add_times(report, f"{name}.from_intended", calls.ended - calls.intended)
    _add_times(report, f"{name}.generator_lateness", calls.began - calls.intended)
    _add_times(report, f"{name}.beyond_deadline", overshoot(calls, timeout))
    for number, window in enumerate(windows, start=1):
        fault = f"{name}.fault_{number}"
        during = (calls.intended >= window.began) & (calls.intended < window.ended)
        report.add(f"{fault}.seconds", window.ended - window.began)
        report.add(f"{fault}.answered_share", _share(~errors, during))
        report.add(f"{fault}.full_share", _share(full, during))
        _add_times(report, f"{fault}.call", (calls.ended - calls.began)[during])
        report.add(f"{fault}.mending_seconds", window.recovered - window.ended)
        report.add(f"{fault}.full_after_seconds", seconds_until_full(calls, window.recovered, window.until))
    well = _undisturbed(calls, windows)
    report.add(f"{name}.undisturbed.calls", int(well.sum()))
    report.add(f"{name}.undisturbed.full_share", _share(full, well))
    for moment in ("before", "ready", "end", "closed"):
        held = getattr(observed, moment)
        report.add(f"{name}.held.{moment}.sockets", held.sockets)
        report.add(f"{name}.held.{moment}.threads", held.threads)
        report.add(f"{name}.held.{moment}.memory_mib", held.resident_bytes / _MIB)


def is_error(calls: Calls) -> NDArray[np.bool_]:
    """Which calls raised, ``[calls]``."""
    wrong = np.array([name.startswith(ERROR) for name in calls.outcomes], np.bool_)
    found: NDArray[np.bool_] = wrong[calls.outcome] if len(wrong) else np.zeros(0, np.bool_)
    return found


def is_full(calls: Calls) -> NDArray[np.bool_]:
    """Which calls were answered as if nothing were amiss, ``[calls]``."""
    right = np.array([name == FULL for name in calls.outcomes], np.bool_)
    found: NDArray[np.bool_] = right[calls.outcome] if len(right) else np.zeros(0, np.bool_)
    return found


def overshoot(calls: Calls, timeout: float) -> NDArray[np.float64]:
    """By how many seconds each call outstayed its deadline, ``[calls]``; 0 for those that kept it."""
    return np.maximum(calls.ended - calls.began - timeout, 0.0)


def seconds_until_full(calls: Calls, recovered: float, until: float) -> float:
    """Seconds from the servers' recovery to the answer after which a whole second brought nothing but full ones.

    Calls that were begun before the recovery do not count. If that never came, the seconds to ``until``.
    """
    after = (calls.intended >= recovered) & (calls.intended < until)
    ended, full = calls.ended[after], is_full(calls)[after]
    order = np.argsort(ended, kind="stable")
    bad = np.concatenate([[recovered], ended[order][~full[order]]])
    following = np.concatenate([bad[1:], [np.inf if not len(bad) or until - bad[-1] >= _STEADY else -np.inf]])
    steady = np.flatnonzero(following - bad >= _STEADY)
    return float(bad[steady[0]] - recovered) if len(steady) else max(0.0, until - recovered)


def levels_over_time(calls: Calls, *, width: float) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """How many calls each outcome had in each stretch of time.

    Returns:
        the stretches' beginnings in seconds since the first call ``[stretches]``, and outcome → calls ``[stretches]``.
    """
    since = calls.intended - calls.intended[0]
    edges = np.arange(0.0, since[-1] + 2 * width, width)
    counted = {
        name: np.histogram(since[calls.outcome == number], edges)[0].astype(np.float64)
        for number, name in enumerate(calls.outcomes)
    }
    return edges[:-1], counted


def _undisturbed(calls: Calls, windows: Sequence[Window]) -> NDArray[np.bool_]:
    """Which calls were meant for a time without a fault, two seconds after the last one's recovery."""
    well = np.ones(len(calls.intended), np.bool_)
    for window in windows:
        well &= (calls.ended < window.began) | (calls.intended >= window.recovered + 2.0)
    return well


def _share(which: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    """The share of calls of a kind; 1 if there were none."""
    return float(np.mean(which[among])) if among.any() else 1.0


def _add_times(report: Report, name: str, seconds: NDArray[np.float64]) -> None:
    report.add(f"{name}.calls", len(seconds))
    for word, percentile in _PERCENTILES.items():
        report.add(f"{name}.{word}_ms", float(np.percentile(seconds, percentile)) * 1000 if len(seconds) else 0.0)
