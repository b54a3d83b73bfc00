"""A user's own texts (reviews, posts) as a feature: the mean of their vectors so far, in few dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.arrays import microseconds, moment_column

__all__ = ["TEXT_DIMENSIONS", "narrow", "own_texts", "user_text_table"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Width of ``user_text:vector``, as its view says: it travels with every request, so it is kept small.
TEXT_DIMENSIONS = 32


def narrow(vectors: _Array, dimensions: int = TEXT_DIMENSIONS) -> _Array:
    """The directions in which text vectors differ most: float32 [D, dimensions], the first principal axes.

    Args:
        vectors: float32 [N, D], of the catalogue's texts. dimensions: columns; those beyond the rank are zero.
    """
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred[: 20 * vectors.shape[1]], full_matrices=False)
    kept = axes[:dimensions]
    # The sign of an axis is arbitrary; this makes it the same on every machine.
    largest = np.take_along_axis(kept, np.abs(kept).argmax(1)[:, None], axis=1)
    result = np.zeros((vectors.shape[1], dimensions), np.float32)
    result[:, : len(kept)] = (kept * np.sign(largest)).T
    return result


def own_texts(texts: pd.DataFrame, first: pd.Timestamp) -> pd.DataFrame:
    """What users wrote, in order of user and time; a text without a time counts from ``first`` on."""
    written = texts[texts["entity"] == "user"]
    when = written["timestamp"].fillna(first) if len(written) else written["timestamp"]
    ordered = written.assign(timestamp=when).sort_values(["entity_id", "timestamp"], kind="stable")
    return ordered[ordered["text"].str.strip() != ""].reset_index(drop=True)


def user_text_table(written: pd.DataFrame, vectors: _Array, axes: _Array) -> pa.Table:
    """One row per user and moment of writing: the texts so far and the mean of their vectors along ``axes``.

    Args:
        written: what :func:`own_texts` returned. vectors: float32 [texts, D], of the same. axes: float32 [D, width].
    """
    moments = microseconds(written["timestamp"])
    users = written["entity_id"].to_numpy(object)
    start = np.r_[True, users[1:] != users[:-1]] if len(users) else np.empty(0, bool)
    first = np.maximum.accumulate(np.where(start, np.arange(len(users)), 0)) if len(users) else np.empty(0, np.int64)
    count = np.arange(len(users)) - first + 1
    total = np.concatenate([np.zeros((1, axes.shape[1])), np.cumsum(vectors @ axes, axis=0, dtype=np.float64)])
    mean = (total[1:] - total[first]) / np.maximum(count, 1)[:, None]
    last = np.r_[start[1:] | (moments[1:] != moments[:-1]), True] if len(users) else np.empty(0, bool)
    width = axes.shape[1]
    offsets = pa.array(np.arange(last.sum() + 1, dtype=np.int32) * width)
    return pa.table(
        {
            "user_id": pa.array(users[last], pa.string()),
            "event_timestamp": moment_column(moments[last]),
            "texts": pa.array(count[last].astype(np.int64)),
            "vector": pa.ListArray.from_arrays(offsets, pa.array(mean[last].astype(np.float32).ravel())),
        }
    )
