"""Counting requests: what metrics are made of. One lock and a few additions for each request."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.observability.request import FinishedRequest

__all__ = ["AGE_BUCKETS", "CANDIDATE_BUCKETS", "SECOND_BUCKETS", "Histogram", "RequestStatistics", "Totals"]

#: Upper ends of the classes of times, in seconds; fine where a healthy request is, from half a millisecond to a second.
SECOND_BUCKETS = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.004, 0.005, 0.0075),
    *(0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
#: Upper ends of the classes of numbers of candidates.
CANDIDATE_BUCKETS = (10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0)
#: Upper ends of the classes of ages, in seconds.
AGE_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 86_400.0)
#: Different sets of missing and expired features that are kept apart before they are added up.
_MOST_PATTERNS = 2_000


@dataclass(slots=True)
class Histogram:
    """How many values fell into which class; the last class has no upper end."""

    buckets: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0
    """The sum of all values."""

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.buckets) + 1)

    def add(self, value: float) -> None:
        """One more value; one at the upper end of a class belongs to it."""
        self.counts[bisect_left(self.buckets, value)] += 1
        self.total += value

    def copy(self) -> Histogram:
        """One that does not change any more."""
        other = Histogram(self.buckets, self.total)
        other.counts = self.counts.copy()
        return other


@dataclass(slots=True)
class Totals:
    """Everything counted so far."""

    requests: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Shelf, outcome and level → requests."""
    versions: dict[int, int] = field(default_factory=dict)
    """Model version → requests that it answered."""
    seconds: dict[str, Histogram] = field(default_factory=dict)
    """Shelf → seconds of whole requests."""
    stages: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    """Shelf and stage → seconds."""
    candidates: dict[str, Histogram] = field(default_factory=dict)
    """Shelf → candidates considered, of requests that say so."""
    ages: dict[str, Histogram] = field(default_factory=dict)
    """Level → seconds since what was fallen back on was got from the servers."""
    empty: dict[str, int] = field(default_factory=dict)
    """Shelf → requests whose pages hold nothing."""
    users: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Whether the store knew the user → how many were read."""
    features: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("present", "missing", "expired"), 0))
    """State → feature values that a model was to see."""
    defaults: dict[tuple[str, str], int] = field(default_factory=dict)
    """Feature and state (``missing`` or ``expired``) → how often the default stood in."""


class RequestStatistics:
    """Counts finished requests; safe to share between threads."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._lock = threading.Lock()
        # Most users lack the same features, and naming dozens of them for each request would cost more than all else.
        self._patterns: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}

    def add(self, request: FinishedRequest) -> None:
        """One more request."""
        totals, shelf = self._totals, request.shelf
        with self._lock:
            key = (shelf, request.outcome, request.level)
            totals.requests[key] = totals.requests.get(key, 0) + 1
            times = totals.seconds.get(shelf)
            if times is None:
                times = totals.seconds[shelf] = Histogram(SECOND_BUCKETS)
            times.add(request.seconds)
            for stage, seconds in request.stages.items():
                times = totals.stages.get((shelf, stage))
                if times is None:
                    times = totals.stages[shelf, stage] = Histogram(SECOND_BUCKETS)
                times.add(seconds)
            if request.error is None:
                totals.versions[request.version] = totals.versions.get(request.version, 0) + 1
                if not request.items:
                    totals.empty[shelf] = totals.empty.get(shelf, 0) + 1
            if request.candidates:
                numbers = totals.candidates.get(shelf)
                if numbers is None:
                    numbers = totals.candidates[shelf] = Histogram(CANDIDATE_BUCKETS)
                numbers.add(request.candidates)
            if request.fallback_age is not None:
                ages = totals.ages.get(request.level)
                if ages is None:
                    ages = totals.ages[request.level] = Histogram(AGE_BUCKETS)
                ages.add(request.fallback_age)
            for report in request.features:
                self._add_features(report)

    def totals(self) -> Totals:
        """A copy of everything so far."""
        with self._lock:
            self._add_patterns()
            now = self._totals
            return Totals(
                dict(now.requests),
                dict(now.versions),
                {shelf: times.copy() for shelf, times in now.seconds.items()},
                {key: times.copy() for key, times in now.stages.items()},
                {shelf: numbers.copy() for shelf, numbers in now.candidates.items()},
                {level: ages.copy() for level, ages in now.ages.items()},
                dict(now.empty),
                dict(now.users),
                dict(now.features),
                dict(now.defaults),
            )

    def _add_features(self, report: FeatureReport) -> None:
        totals, missing, expired = self._totals, len(report.missing), len(report.expired)
        totals.users[report.known] += 1
        totals.features["present"] += report.total - missing - expired
        totals.features["missing"] += missing
        totals.features["expired"] += expired
        if missing or expired:
            pattern = report.missing, report.expired
            self._patterns[pattern] = self._patterns.get(pattern, 0) + 1
            if len(self._patterns) > _MOST_PATTERNS:
                self._add_patterns()

    def _add_patterns(self) -> None:
        defaults = self._totals.defaults
        for (missing, expired), count in self._patterns.items():
            for state, references in (("missing", missing), ("expired", expired)):
                for reference in references:
                    defaults[reference, state] = defaults.get((reference, state), 0) + count
        self._patterns.clear()
