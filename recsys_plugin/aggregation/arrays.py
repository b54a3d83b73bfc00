"""Conversions that the aggregations share: pandas moments to integers, integers to Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

__all__ = ["first_after", "list_column", "microseconds", "moment_column", "second_column", "sorted_codes"]

_Array = np.ndarray[Any, np.dtype[Any]]


def microseconds(moments: pd.Series[pd.Timestamp]) -> _Array:
    """UTC microseconds since the epoch, int64 [n]."""
    return moments.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)


def moment_column(values: Sequence[int] | _Array) -> pa.Array:
    """Microseconds since the epoch as ``timestamp[us, UTC]``, the type of event timestamps."""
    return pa.array(np.asarray(values, np.int64)).cast(pa.timestamp("us", tz="UTC"))


def second_column(values: Sequence[int] | _Array) -> pa.Array:
    """Microseconds since the epoch as ``timestamp[s, UTC]``: Feast's UnixTimestamp holds whole seconds."""
    return pa.array(np.asarray(values, np.int64) // 1_000_000).cast(pa.timestamp("s", tz="UTC"))


def list_column(values: pa.Array, indices: _Array, lengths: _Array) -> pa.Array:
    """A list column whose lists, of the given lengths, follow one another in ``values.take(indices)``."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    offsets[1:] = np.cumsum(lengths)
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(pa.array(indices)))


def sorted_codes(column: pd.Series[str]) -> tuple[_Array, _Array]:
    """A text column without nulls as numbers that sort as its texts do, by code point.

    Returns:
        codes int64 [n], and the texts that they stand for: object (str), ascending; of a categorical column all
        categories, whether they occur or not.
    """
    if not isinstance(column.dtype, pd.CategoricalDtype):
        codes, names = pd.factorize(column.to_numpy(object), sort=True)
        return codes.astype(np.int64), np.asarray(names, dtype=object)
    names = column.cat.categories.to_numpy(object)
    order = np.argsort(names, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[column.cat.codes.to_numpy()], names[order]


def first_after(times: _Array, low: _Array, high: _Array, moment: _Array) -> _Array:
    """Where a window begins: the first position from ``low`` to ``high``, both included, that is after ``moment``.

    Args:
        times: int64 [n], ascending from each ``low`` to its ``high``.
        low, high: int64 [m]. moment: int64 [m], each before the time at ``high``.
    """
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        later = times[middle] > moment
        high = np.where(open_ & later, middle, high)
        low = np.where(open_ & ~later, middle + 1, low)
    return low
