"""Counts of numbers in buckets that are the same everywhere, so that processes need only add theirs up.

Source: DDSketch (Masson, Rim and Lee, PVLDB 2019): buckets grow geometrically, so that a quantile is right within a
relative error, whatever the scale of the numbers, and merging loses nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["RELATIVE_ERROR", "Sketch", "bucket_middle", "bucket_of"]

#: A bucket's bounds differ from its middle by so much.
RELATIVE_ERROR = 0.01
_LOG_GAMMA = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
#: Absolute numbers below it count as 0.
_SMALLEST = 1e-9
#: Set apart from 0, so that buckets of negative and of positive numbers do not meet.
_OFFSET = 1 - math.ceil(math.log(_SMALLEST) / _LOG_GAMMA)


def bucket_of(value: float) -> int:
    """The number of a finite value's bucket; ascending with the value, 0 for 0."""
    size = abs(value)
    if size < _SMALLEST:
        return 0
    number = math.ceil(math.log(size) / _LOG_GAMMA) + _OFFSET
    return number if value > 0 else -number


def bucket_middle(bucket: int) -> float:
    """The value that stands for a bucket: within :data:`RELATIVE_ERROR` of all in it."""
    if bucket == 0:
        return 0.0
    size = math.exp((abs(bucket) - _OFFSET) * _LOG_GAMMA) * 2 / (1 + math.exp(_LOG_GAMMA))
    return math.copysign(size, bucket)


class Sketch:
    """How many numbers fell into which bucket.

    Args:
        counts: bucket → how many.
    """

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def add(self, value: float) -> None:
        """Count one finite number."""
        self.counts[bucket_of(value)] += 1

    def merge(self, others: Iterable[Sketch]) -> Sketch:
        """This and others in one."""
        merged = Sketch(self.counts)
        for other in others:
            merged.counts.update(other.counts)
        return merged

    @property
    def total(self) -> int:
        """How many numbers there are."""
        return self.counts.total()

    def cumulative(self) -> list[tuple[int, int]]:
        """Bucket → how many numbers are in it or below, ascending."""
        below, found = 0, []
        for bucket in sorted(self.counts):
            below += self.counts[bucket]
            found.append((bucket, below))
        return found

    def quantile(self, level: float) -> float | None:
        """The number below which a share ``level`` of all lies, within :data:`RELATIVE_ERROR`; ``None`` for none."""
        wanted = level * self.total
        for bucket, below in self.cumulative():
            if below >= wanted and below:
                return bucket_middle(bucket)
        return None

    def binned(self, edges: Sequence[int]) -> tuple[int, ...]:
        """Counts between bucket numbers: bin i ends with ``edges[i]``, itself included; the last takes the rest."""
        bins = [0] * (len(edges) + 1)
        for bucket, count in self.counts.items():
            bins[bisect_left(edges, bucket)] += count
        return tuple(bins)

    def deciles(self) -> tuple[int, ...]:
        """Edges for :meth:`binned` that split these numbers in ten, and set apart what is outside their range."""
        cumulative, total = self.cumulative(), self.total
        edges = {cumulative[0][0] - 1, cumulative[-1][0]}
        for tenth in range(1, 10):
            edges.add(next(bucket for bucket, below in cumulative if 10 * below >= tenth * total))
        return tuple(sorted(edges))
