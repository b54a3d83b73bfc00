"""Conversions that the aggregations share: pandas moments to integers, integers to Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

__all__ = ["list_column", "microseconds", "moment_column", "second_column"]

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


def list_column(values: pa.Array, chunks: Sequence[_Array]) -> pa.Array:
    """A list column with one list per chunk of indices into ``values``."""
    offsets = np.zeros(len(chunks) + 1, np.int32)
    offsets[1:] = np.cumsum([len(chunk) for chunk in chunks])
    indices = np.concatenate(chunks) if chunks else np.empty(0, np.int64)
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(pa.array(indices)))
