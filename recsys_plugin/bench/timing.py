"""Measuring several things in turn, so that what else the machine does meets all of them alike.

On a shared machine, two measurements made one after the other differ by more than most improvements. Here each
round calls every subject once, in an order drawn anew, and ratios compare calls of the same minutes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput

__all__ = ["PERCENTILES", "LoadSamples", "Ratio", "Samples", "Subject", "interleave", "p50_ratio", "throughput_ratio"]

#: The percentiles that are reported, always together and with the number of calls.
PERCENTILES = (50, 95, 99)

_Milliseconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to measure.

    Args:
        call: what is timed; it is given the number of the call, to choose its arguments by.
        calls: how many times it is called after warming up.
        stages: reads from what ``call`` returned how long its stages took, in milliseconds; not timed itself.
    """

    call: Callable[[int], Any]
    calls: int
    stages: Callable[[Any], Mapping[str, float]] | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """How long each call of a subject took, in milliseconds, ``[calls]``, and each of its stages, by name."""

    total: _Milliseconds
    stages: Mapping[str, _Milliseconds] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadSamples:
    """One subject's slices, in order.

    Attributes:
        milliseconds: how long each request took, over all slices. slice_calls: requests of each slice.
        slice_seconds: from a slice's beginning to its last answer. cpu_seconds: processor time of the asking processes.
    """

    milliseconds: NDArray[np.float64]
    slice_calls: NDArray[np.int64]
    slice_seconds: NDArray[np.float64]
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Requests per second over all slices."""
        return float(self.slice_calls.sum() / self.slice_seconds.sum())


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two medians, or of two rates of requests, with the interval that has it with 95 % confidence."""

    value: float
    low: float
    high: float


def interleave(
    subjects: Mapping[str, Subject],
    *,
    warm_up: int,
    seed: int,
    freeze: bool = False,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Samples]:
    """Call the subjects in turn, in rounds, and time each call.

    There are as many rounds as the most frequent subject has calls; one with fewer calls takes part in rounds spread
    evenly over the run. The order within each round is drawn at random.

    Args:
        subjects: what to measure, by name.
        warm_up: calls of each subject before the first round, not counted; no more than the subject has calls.
        seed: fixes the orders.
        freeze: move all objects made before the first round out of the garbage collector's sight. Its pauses belong
            to what users of a program see, so say so in the report when they are taken away.
        clock: nanoseconds that only run forward.
        progress: told how many calls are done and how many there will be.

    Raises:
        InvalidInput: if a subject has no calls.
    """
    if idle := [name for name, subject in subjects.items() if subject.calls < 1]:
        raise InvalidInput(f"calls: {', '.join(idle)} would not be called at all")
    for subject in subjects.values():
        for number in range(min(warm_up, subject.calls)):
            subject.call(number)
    order = np.random.default_rng(seed)
    rounds = max((subject.calls for subject in subjects.values()), default=0)
    total = sum(subject.calls for subject in subjects.values())
    taken: dict[str, list[int]] = {name: [] for name in subjects}
    stages: dict[str, list[Mapping[str, float]]] = {name: [] for name in subjects}
    done = 0
    with _frozen_heap(freeze):
        for number in range(rounds):
            due = [name for name, subject in subjects.items() if _is_due(number, subject.calls, rounds)]
            for position in order.permutation(len(due)):
                name = due[position]
                subject = subjects[name]
                started = clock()
                result = subject.call(number)
                taken[name].append(clock() - started)
                if subject.stages is not None:
                    stages[name].append(subject.stages(result))
            done += len(due)
            progress(done, total)
    return {name: Samples(np.array(taken[name]) / 1e6, _columns(stages[name])) for name in subjects}


def p50_ratio(numerator: Samples, denominator: Samples, *, seed: int, resamples: int = 2000) -> Ratio:
    """How many times the median of one subject is that of another.

    The interval is the percentile bootstrap's (Efron and Tibshirani 1993, chapter 13): the calls of each subject
    are drawn again with replacement, ``resamples`` times.
    """
    draw = np.random.default_rng(seed)

    def medians(samples: _Milliseconds) -> _Milliseconds:
        drawn = samples[draw.integers(len(samples), size=(resamples, len(samples)))]
        return np.asarray(np.median(drawn, axis=1))

    low, high = np.percentile(medians(numerator.total) / medians(denominator.total), [2.5, 97.5])
    value = np.median(numerator.total) / np.median(denominator.total)
    return Ratio(float(value), float(low), float(high))


def throughput_ratio(ours: LoadSamples, other: LoadSamples, *, seed: int, resamples: int = 2000) -> Ratio:
    """How many times the requests per second of another subject ours are.

    The interval is the percentile bootstrap's (Efron and Tibshirani 1993, chapter 13): rounds, each with a slice of
    both, are drawn again with replacement.
    """
    rounds = len(ours.slice_calls)
    drawn = np.random.default_rng(seed).integers(rounds, size=(resamples, rounds))

    def rates(samples: LoadSamples) -> NDArray[np.float64]:
        rate: NDArray[np.float64] = samples.slice_calls[drawn].sum(axis=1) / (samples.slice_seconds[drawn].sum(axis=1))
        return rate

    low, high = np.percentile(rates(ours) / rates(other), [2.5, 97.5])
    return Ratio(ours.per_second / other.per_second, float(low), float(high))


def _is_due(number: int, calls: int, rounds: int) -> bool:
    """Whether a subject with so many calls takes part in a round: true ``calls`` times, evenly spread."""
    return (number + 1) * calls // rounds > number * calls // rounds


def _columns(rows: list[Mapping[str, float]]) -> dict[str, _Milliseconds]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


@contextmanager
def _frozen_heap(freeze: bool) -> Iterator[None]:
    if not freeze:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
