"""Purchases as weekly series that end at a moment, and what class of series each is.

A week here is seven days that end at the moment of the forecast, so that the latest week is always whole and nothing
at or after the moment is known. Series are weekly because what is asked for is the demand of seven days: to add up
first and then to forecast suits intermittent demand (Nikolopoulos et al. 2011, "An aggregate–disaggregate intermittent
demand approach (ADIDA) to forecasting").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["CLASSES", "DORMANT", "DORMANT_WEEKS", "SHORT", "WEEK", "Sales", "demand_classes", "first_weeks"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Seven days in microseconds.
WEEK = 7 * 86_400_000_000

#: Classes of demand, by code. The first four are those of Syntetos, Boylan and Croston (2005), "On the categorization
#: of demand patterns"; the others have too little to tell.
CLASSES = ("smooth", "erratic", "intermittent", "lumpy", "short", "dormant")
SHORT, DORMANT = CLASSES.index("short"), CLASSES.index("dormant")
#: Their limits: weeks between demands, and the squared coefficient of variation of the demands that there were.
_INTERVAL, _VARIATION = 1.32, 0.49
#: A series with fewer weeks since its first demand, or with one demand only, is short.
SHORT_WEEKS = 8
#: A series without demand for so many weeks is dormant.
DORMANT_WEEKS = 26


@dataclass(frozen=True, slots=True)
class Sales:
    """n purchases in order of time.

    Attributes:
        series: int64 [n], the number of the item or category each belongs to. times: int64 [n], microseconds.
        names: object (str) [S], what the numbers stand for, ascending.
        first: microseconds of the shop's first event: before it nothing is known, rather than nothing sold.
    """

    series: _Array
    times: _Array
    names: _Array
    first: int

    def grouped(self, groups: _Array) -> Sales:
        """The same purchases by group.

        Args:
            groups: object [S], the group of each series as text; None or an empty text is in no group.
        """
        codes, names = pd.factorize(pd.Series(groups, dtype=object).replace("", None), sort=True)
        group = np.asarray(codes, np.int64)[self.series] if len(codes) else np.empty(0, np.int64)
        known = group >= 0
        return Sales(group[known], self.times[known], np.asarray(names, dtype=object), self.first)

    def weeks(self, end: pd.Timestamp) -> _Array:
        """Purchases by series and week, float32 [S, W], the last week ending just before ``end``; W may be 0.

        Only whole weeks after the shop's first event are there.
        """
        at = end.value // 1000
        count = max(0, (at - self.first) // WEEK)
        until = int(np.searchsorted(self.times, at, side="left"))
        age = (at - 1 - self.times[:until]) // WEEK
        known = age < count
        cell: _Array = self.series[:until][known] * count + (count - 1 - age[known])
        table: _Array = np.bincount(cell, minlength=len(self.names) * count).astype(np.float32)
        return table.reshape(len(self.names), count)


def first_weeks(table: _Array) -> _Array:
    """The first week with demand of each line of ``table`` [S, W], int64 [S]; W where there is none."""
    if not table.shape[1]:
        return np.zeros(len(table), np.int64)
    there = table > 0
    first: _Array = np.where(there.any(1), there.argmax(1), table.shape[1]).astype(np.int64)
    return first


def demand_classes(table: _Array) -> _Array:
    """The class of each series at each origin: positions in :data:`CLASSES`, int64 [S, W+1].

    Column o knows the weeks ``table[:, :o]``; a series without any demand so far is dormant.

    Args:
        table: float32 [S, W], demand by week.
    """
    lines, weeks = table.shape
    there = (table > 0).astype(np.float64)
    demands = _so_far(there)
    total, squares = _so_far(table.astype(np.float64)), _so_far(table.astype(np.float64) ** 2)
    origins = np.arange(weeks + 1)
    known = np.maximum(origins[None, :] - first_weeks(table)[:, None], 0)
    at_least_one = np.maximum(demands, 1)
    mean = total / at_least_one
    variation = np.maximum(squares / at_least_one - mean**2, 0.0) / np.maximum(mean, 1e-12) ** 2
    seldom, uneven = known / at_least_one >= _INTERVAL, variation >= _VARIATION
    found = np.where(seldom, 2, 0) + uneven
    found = np.where((known < SHORT_WEEKS) | (demands < 2), SHORT, found)
    lately = demands - demands[:, np.maximum(origins - DORMANT_WEEKS, 0)]
    return np.where(lately > 0, found, DORMANT).astype(np.int64).reshape(lines, weeks + 1)


def _so_far(table: _Array) -> _Array:
    """Running sums with a zero before them, float64 [S, W+1]."""
    return np.concatenate([np.zeros((len(table), 1)), np.cumsum(table, axis=1)], axis=1)
