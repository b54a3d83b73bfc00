"""Distributions in fixed bins, and how far two of them are apart: PSI and the Jensen-Shannon divergence.

The population stability index (Siddiqi 2006, "Credit Risk Scorecards") of shares p and q is Σ (p - q) ln(p / q), taken
to be stable below 0.1 and shifted from 0.25 on. Its logarithm has no value for an empty bin, whose share counts as
:data:`LEAST_SHARE` instead, or as half a line of a small sample. Without any drift the PSI of two samples is not 0
either: divided by 1/n + 1/m it follows a χ² distribution with one degree of freedom less than there are bins
(Yurdakul 2018), which says how much of a PSI may be the noise of small samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recsys_plugin.errors import InvalidInput

__all__ = [
    "LEAST_SHARE",
    "Bins",
    "Sample",
    "jensen_shannon",
    "least_share",
    "population_stability_index",
    "psi_noise",
]

_Array = np.ndarray[Any, np.dtype[Any]]

#: What an empty bin counts as in a PSI, at least.
LEAST_SHARE = 1e-4
#: A PSI above this quantile of its noise is more than noise.
_CONFIDENCE = 0.999


@dataclass(frozen=True, slots=True)
class Sample:
    """The values of one feature over n lines, such as requests.

    A list feature has several values a line, and each line counts once, however long its list is.

    Attributes:
        values: float64 or object (str) [v]: the values that are there. line: int64 [v]: the line of each.
        lines: n. A line without a value is missing.
    """

    values: _Array
    line: _Array
    lines: int

    @classmethod
    def of(cls, values: _Array, present: _Array) -> Sample:
        """A sample of columns.

        Args:
            values: [n, w] of numbers or str. present: bool [n, w], where there is a value; NaN is none.
        """
        if values.dtype != object:
            values = values.astype(np.float64)
            present = present & ~np.isnan(values)
        line, _ = np.nonzero(present)
        return cls(values[present], line, len(values))

    @property
    def missing(self) -> float:
        """Share of the lines without a value; NaN for no line."""
        return 1.0 - len(np.unique(self.line)) / self.lines if self.lines else math.nan

    @property
    def weights(self) -> _Array:
        """float64 [v]: 1 for each line, divided among its values."""
        return 1.0 / np.bincount(self.line, minlength=self.lines)[self.line]


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of numbers between edges, or of categories; the last one is for lines without a value.

    A number lies in the first bin whose edge it does not exceed, or above all edges. Categories are followed by a bin
    for all others.

    Attributes:
        edges: ascending; empty for categories. categories: most frequent first; empty for numbers.
        complete: whether the categories are all that there were, so that others are new.
    """

    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    numeric: bool = True
    complete: bool = True

    @classmethod
    def of(cls, sample: Sample, *, most: int = 10, most_categories: int = 50) -> Bins:
        """Quantile bins of numbers, or the most frequent categories.

        A number that fills a bin by itself, as 0 does among counts, gets one, and what is below it another.
        """
        if sample.values.dtype == object:
            names, places = np.unique(sample.values.astype(str), return_inverse=True)
            weight = np.bincount(places, sample.weights, minlength=len(names))
            chosen = np.argsort(-weight, kind="stable")[:most_categories]
            return cls((), tuple(names[chosen].tolist()), numeric=False, complete=len(names) <= most_categories)
        if not len(sample.values):
            return cls()
        order = np.argsort(sample.values, kind="stable")
        share = np.cumsum(sample.weights[order])
        share /= share[-1]
        steps = np.arange(1, most) / most
        quantiles = sample.values[order][np.minimum(np.searchsorted(share, steps), len(order) - 1)]
        edges, repeats = np.unique(quantiles, return_counts=True)
        masses = np.nextafter(edges[repeats > 1], -np.inf)
        return cls(tuple(np.unique(np.concatenate([edges, masses])).tolist()))

    def __len__(self) -> int:
        return (len(self.edges) if self.numeric else len(self.categories)) + 2

    @property
    def names(self) -> list[str]:
        """What to call each bin."""
        if not self.numeric:
            return [*self.categories, "other", "missing"]
        if not self.edges:
            return ["any", "missing"]
        inner = [f"≤ {edge:.6g}" for edge in self.edges]
        return [*inner, f"> {self.edges[-1]:.6g}", "missing"]

    def shares(self, sample: Sample) -> _Array:
        """float64 [bins], which sum to 1; NaN for a sample without a line.

        Raises:
            InvalidInput: if the sample holds texts and the bins numbers, or the other way round.
        """
        if len(sample.values) and (sample.values.dtype != object) != self.numeric:
            raise InvalidInput("a sample of texts has no place in bins of numbers, nor numbers in bins of texts")
        if self.numeric:
            place = np.searchsorted(np.array(self.edges), sample.values, side="left")
        else:
            known = {name: number for number, name in enumerate(self.categories)}
            place = np.array([known.get(str(value), len(known)) for value in sample.values], np.int64)
        weight = np.bincount(place.astype(np.int64), sample.weights, minlength=len(self))
        weight[-1] = sample.lines - len(np.unique(sample.line))
        return weight / sample.lines if sample.lines else np.full(len(self), math.nan)

    def new(self, sample: Sample) -> list[str]:
        """Values that were not there when the bins were made, if that is known; sorted."""
        if self.numeric or not self.complete:
            return []
        return sorted({str(value) for value in sample.values} - set(self.categories))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Bins:
        """Read what :meth:`to_dict` gave."""
        return cls(tuple(document["edges"]), tuple(document["categories"]), document["numeric"], document["complete"])


def _paired(one: Sequence[float] | _Array, other: Sequence[float] | _Array) -> tuple[_Array, _Array]:
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise InvalidInput(f"shares of shape {first.shape} and {second.shape} cannot be compared")
    return first, second


def least_share(one: int, other: int) -> float:
    """What an empty bin counts as between samples of so many lines: half a line of the smaller, at least 0.0001."""
    return max(LEAST_SHARE, 0.5 / max(min(one, other), 1))


def population_stability_index(
    one: Sequence[float] | _Array, other: Sequence[float] | _Array, *, least: float = LEAST_SHARE
) -> float:
    """PSI of two lists of shares [bins]: 0 for equal ones, symmetric, finite; NaN if one of them is not known.

    ``least`` is what smaller shares count as, see :func:`least_share`.

    Raises:
        InvalidInput: if they differ in length.
    """
    first, second = _paired(one, other)
    if np.isnan(first).any() or np.isnan(second).any():
        return math.nan
    first, second = np.maximum(first, least), np.maximum(second, least)
    return float(((first - second) * (np.log(first) - np.log(second))).sum())


def jensen_shannon(one: Sequence[float] | _Array, other: Sequence[float] | _Array) -> float:
    """The Jensen-Shannon divergence (Lin 1991) of two lists of shares [bins], in bits: 0 for equal, 1 for disjoint.

    NaN if one of them is not known.

    Raises:
        InvalidInput: if they differ in length.
    """
    first, second = _paired(one, other)
    middle = (first + second) / 2
    total = 0.0
    for shares in (first, second):
        there = ~(shares <= 0)  # NaN stays, and makes the sum NaN
        total += float((shares[there] * np.log2(shares[there] / middle[there])).sum()) / 2
    return min(max(total, 0.0), 1.0) if not math.isnan(total) else math.nan


def psi_noise(bins: int, one: int, other: int) -> float:
    """What the PSI of two samples of these sizes without drift stays below, 999 times in a thousand.

    Args:
        bins: those that are not empty in both. one, other: lines in the samples; NaN if one of them is 0.
    """
    if not one or not other:
        return math.nan
    if bins < 2:
        return 0.0
    from scipy.special import chdtri

    return float(chdtri(bins - 1, 1.0 - _CONFIDENCE)) * (1.0 / one + 1.0 / other)
