"""Requests per second under load: ours and the usual way in turn, in slices of a few seconds, by several processes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import numpy as np

from recsys_plugin.bench.load_driver import WAYS, DriverPlan, Slice, SliceResult, drive
from recsys_plugin.bench.processes import answer_of, started
from recsys_plugin.bench.shop import Tell
from recsys_plugin.bench.timing import LoadSamples

__all__ = ["LOAD_NOTE", "LoadOptions", "LoadSubject", "best_of", "load_subjects", "measure_load"]

#: Seconds between an order and its beginning, so that all processes begin together.
_AHEAD = 0.05
#: Seconds that a driver may take to become ready (Feast alone takes many), and to answer after a slice's end.
_PATIENCE = 180.0
_PROCESSES = 2
_WHAT = "a process that asks under load"


LOAD_NOTE = (
    "under load: each caller asks again as soon as it is answered. threads_1x16 are 16 threads on the blocking client "
    "in one process, tasks_2x8 two processes of 8 tasks each on the awaiting client; usual asks for the user's and the "
    "candidates' features with Feast's SDK and for scores with tritonclient, in threads. Slices of all subjects in "
    "turn, in rounds of random order; the ratio compares the best of ours with the best of the usual way at the same "
    "concurrency, its interval is a bootstrap over the rounds; client_cpu_ms is the asking side's processor time for "
    "each request"
)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How load is made.

    Attributes:
        concurrency: how many callers at once, each a measurement of its own.
        seconds: how long a slice lasts.
        rounds: how many slices of each subject count.
    """

    concurrency: tuple[int, ...] = (1, 4, 16)
    seconds: float = 2.0
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class LoadSubject:
    """One way to ask: ``callers`` at once, evenly over ``processes``."""

    way: str
    callers: int
    processes: int

    @property
    def name(self) -> str:
        """As it stands in figures: ``concurrency_16.threads_2x8``."""
        return f"concurrency_{self.callers}.{self.way}_{self.processes}x{self.callers // self.processes}"


def load_subjects(concurrency: Sequence[int]) -> list[LoadSubject]:
    """Our two clients and the usual way at each concurrency; from two callers on, one process and two."""
    return [
        LoadSubject(way, callers, processes)
        for callers in concurrency
        for way in WAYS
        for processes in (1, _PROCESSES)
        if processes == 1 or callers % processes == 0
    ]


def best_of(
    samples: Mapping[LoadSubject, LoadSamples], callers: int, ways: Collection[str]
) -> tuple[LoadSubject, LoadSamples]:
    """Of the subjects with so many callers that ask in one of the ways, the one with most requests per second."""
    among = [subject for subject in samples if subject.callers == callers and subject.way in ways]
    best = max(among, key=lambda subject: samples[subject].per_second)
    return best, samples[best]


def measure_load(
    plan: DriverPlan,
    usual_items: Mapping[str, tuple[str, ...]],
    subjects: Sequence[LoadSubject],
    *,
    seconds: float,
    rounds: int,
    tell: Tell,
) -> dict[LoadSubject, LoadSamples]:
    """Measure all subjects in turn, each round in an order of its own.

    Args:
        plan: what our clients ask for. usual_items: user → what the usual way ranks.
        subjects: see :func:`load_subjects`.
        seconds: how long each slice lasts; a first one of each subject, not counted, warms up.
        rounds: how many slices of each subject count.
        tell: told what is under way, how much is done, and of how much.

    Raises:
        RecsysError: whatever a request failed with: a failed request is no request.
        StepFailed: if a driver process ends or does not answer.
    """
    most = max(subject.processes for subject in subjects)
    order = np.random.default_rng(plan.seed)
    results: dict[LoadSubject, list[tuple[float, list[SliceResult]]]] = {subject: [] for subject in subjects}
    tell("starting the processes that ask", 0, 0)
    plans = {False: plan, True: replace(plan, usual_items=usual_items)}
    needed = {subject.way == "usual" for subject in subjects}
    with _drivers([plans[kind] for kind in sorted(needed) for _ in range(most)]) as connections:
        drivers = {kind: connections[place * most :][:most] for place, kind in enumerate(sorted(needed))}
        done, total = 0, (rounds + 1) * len(subjects)
        for number in range(rounds + 1):
            for position in order.permutation(len(subjects)):
                subject = subjects[position]
                chosen = drivers[subject.way == "usual"][: subject.processes]
                result = _run_slice(chosen, subject, seconds)
                if number:
                    results[subject].append(result)
                done += 1
                tell("asking under load, in turn", done, total)
    return {subject: _samples(slices) for subject, slices in results.items()}


def _samples(slices: Sequence[tuple[float, list[SliceResult]]]) -> LoadSamples:
    return LoadSamples(
        np.array([taken for _, results in slices for result in results for taken in result.milliseconds]),
        np.array([sum(len(result.milliseconds) for result in results) for _, results in slices], dtype=np.int64),
        np.array([max(result.finished for result in results) - began for began, results in slices]),
        sum(result.cpu_seconds for _, results in slices for result in results),
    )


def _run_slice(
    connections: Sequence[Connection], subject: LoadSubject, seconds: float
) -> tuple[float, list[SliceResult]]:
    begins = time.monotonic() + _AHEAD
    order = Slice(subject.way, subject.callers // subject.processes, begins, begins + seconds)
    for connection in connections:
        connection.send(order)
    patience = seconds + _PATIENCE
    return begins, [answer_of(each, SliceResult, what=_WHAT, patience=patience) for each in connections]


@contextmanager
def _drivers(plans: Sequence[DriverPlan]) -> Iterator[list[Connection]]:
    elsewhere = [(replace(plan, first=number * max(1, plan.users // len(plans))),) for number, plan in enumerate(plans)]
    with started(drive, elsewhere, what=_WHAT, patience=_PATIENCE) as connections:
        yield connections
