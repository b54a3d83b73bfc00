"""The moments that models learn from: one context per act, asked just before it; what was chosen is its positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.aggregation.arrays import microseconds

__all__ = ["Contexts", "act_contexts", "future_contexts", "outcomes"]

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Contexts:
    """n moments of decision.

    Attributes:
        entities: columns ``user_id`` and ``event_timestamp`` (UTC), index 0 … n-1; what Feast joins features to.
        offsets: int64 [n+1]; the positives of context i are ``rows[offsets[i]:offsets[i+1]]``.
        rows: int64, catalogue rows bought, distinct within a context.
    """

    entities: pd.DataFrame
    offsets: _Array
    rows: _Array

    def __len__(self) -> int:
        return len(self.entities)

    def positives(self, index: int) -> _Array:
        """The catalogue rows bought in context ``index``."""
        return self.rows[self.offsets[index] : self.offsets[index + 1]]

    def take(self, chosen: _Array) -> Contexts:
        """The given contexts, in the given order."""
        parts = [self.positives(int(index)) for index in chosen]
        offsets = np.zeros(len(parts) + 1, np.int64)
        offsets[1:] = np.cumsum([len(part) for part in parts])
        rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return Contexts(self.entities.iloc[chosen].reset_index(drop=True), offsets, rows)


def _grouped(pairs: pd.DataFrame) -> Contexts:
    """Build contexts from distinct (user_id, event_timestamp, row) triples."""
    pairs = pairs.drop_duplicates().sort_values(["event_timestamp", "user_id", "row"], ignore_index=True)
    key = pairs[["user_id", "event_timestamp"]]
    first = ~key.duplicated().to_numpy()
    offsets = np.r_[np.flatnonzero(first), len(pairs)].astype(np.int64)
    return Contexts(key[first].reset_index(drop=True), offsets, pairs["row"].to_numpy(np.int64))


def act_contexts(
    events: pd.DataFrame,
    item_ids: pd.Index[str],
    *,
    types: Sequence[str],
    start: pd.Timestamp | None,
    end: pd.Timestamp,
) -> Contexts:
    """One context per user and moment of an act of ``types`` in [start, end), asked one microsecond before it.

    The microsecond keeps the act itself out of its own features: feature rows are stamped with the event that made
    them.
    """
    acts = events[events["event_type"].isin(types) & (events["timestamp"] < end)]
    if start is not None:
        acts = acts[acts["timestamp"] >= start]
    rows = item_ids.get_indexer(pd.Index(acts["item_id"]))
    moments = acts["timestamp"] - pd.Timedelta(microseconds=1)
    pairs = pd.DataFrame({"user_id": acts["user_id"], "event_timestamp": moments, "row": rows})
    return _grouped(pairs[pairs["row"] >= 0])


def outcomes(
    contexts: Contexts,
    events: pd.DataFrame,
    item_ids: pd.Index[str],
    event_type: str,
    *,
    hours: int = 24,
    before: pd.Timestamp | None = None,
) -> Contexts:
    """The same moments, with what the user did of ``event_type`` in the ``hours`` after each as positives.

    Nothing at or after ``before`` counts, so that a training label never looks past its split.
    """
    chosen = events[events["event_type"] == event_type]
    if before is not None:
        chosen = chosen[chosen["timestamp"] < before]
    asked = contexts.entities
    rows = item_ids.get_indexer(pd.Index(chosen["item_id"])).astype(np.int64)
    users = pd.Index(asked["user_id"].unique())
    who = users.get_indexer(pd.Index(chosen["user_id"]))
    when = microseconds(chosen["timestamp"])
    known = (who >= 0) & (rows >= 0)
    who, when, rows = who[known], when[known], rows[known]
    order = np.lexsort((when, who))
    who, when, rows = who[order], when[order], rows[order]
    # One sortable integer per user and moment. Moments become ranks, since users times microseconds would overflow.
    moments = np.unique(when)
    acts = who * (len(moments) + 1) + np.searchsorted(moments, when)
    asking = users.get_indexer(pd.Index(asked["user_id"])) * (len(moments) + 1)
    since = microseconds(asked["event_timestamp"])
    low, high = (
        np.searchsorted(acts, asking + np.searchsorted(moments, bound, side="right"))
        for bound in (since, since + hours * 3_600_000_000)
    )
    parts = [np.unique(rows[start:stop]) for start, stop in zip(low, high, strict=True)]
    offsets = np.r_[0, np.cumsum([len(part) for part in parts])].astype(np.int64)
    return Contexts(asked, offsets, np.concatenate(parts) if parts else np.empty(0, np.int64))


def future_contexts(
    events: pd.DataFrame, item_ids: pd.Index[str], *, start: pd.Timestamp, end: pd.Timestamp | None = None
) -> Contexts:
    """One context per user at ``start``: his positives are all he buys in [start, end), users and items being known.

    This is the protocol of the published reference figures: one ranking per user, made at the split.
    """
    bought = events[events["event_type"] == "purchase"]
    before, after = bought[bought["timestamp"] < start], bought[bought["timestamp"] >= start]
    if end is not None:
        after = after[after["timestamp"] < end]
    known = after["user_id"].isin(before["user_id"].unique()) & after["item_id"].isin(before["item_id"].unique())
    after = after[known]
    rows = item_ids.get_indexer(pd.Index(after["item_id"]))
    # The rows stamped exactly at the split belong to the future.
    moment = start - pd.Timedelta(microseconds=1)
    pairs = pd.DataFrame({"user_id": after["user_id"], "event_timestamp": moment, "row": rows})
    return _grouped(pairs[pairs["row"] >= 0])
