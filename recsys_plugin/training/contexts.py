"""The moments that models learn from: one context per act, asked just before it, with what was chosen as its positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

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

    The microsecond keeps the act itself out of its own features: feature rows are stamped with the event that made them.
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
    within: pd.Timedelta = pd.Timedelta(hours=24),
    before: pd.Timestamp | None = None,
) -> Contexts:
    """The same moments, with what the user did of ``event_type`` in the time ``within`` after each as positives.

    Nothing at or after ``before`` counts, so that a training label never looks past its split.
    """
    chosen = events[events["event_type"] == event_type]
    if before is not None:
        chosen = chosen[chosen["timestamp"] < before]
    asked = contexts.entities.assign(context=np.arange(len(contexts)))
    acts = pd.DataFrame(
        {
            "user_id": chosen["user_id"],
            "timestamp": chosen["timestamp"],
            "row": item_ids.get_indexer(pd.Index(chosen["item_id"])),
        }
    )
    users = pd.Index(asked["user_id"].unique())
    asked_key = _keys(users, asked["user_id"], asked["event_timestamp"])
    acts = acts[acts["user_id"].isin(users) & (acts["row"] >= 0)]
    order = np.argsort(acts_key := _keys(users, acts["user_id"], acts["timestamp"]), kind="stable")
    low = np.searchsorted(acts_key[order], asked_key, side="right")
    high = np.searchsorted(acts_key[order], asked_key + within.value // 1000, side="right")
    rows = acts["row"].to_numpy(np.int64)[order]
    parts = [np.unique(rows[start:stop]) for start, stop in zip(low, high, strict=True)]
    offsets = np.r_[0, np.cumsum([len(part) for part in parts])].astype(np.int64)
    return Contexts(contexts.entities, offsets, np.concatenate(parts) if parts else np.empty(0, np.int64))


def _keys(users: pd.Index[str], who: pd.Series[str], when: pd.Series[pd.Timestamp]) -> _Array:
    """One sortable integer per (user, moment): users lie further apart than any two moments."""
    moments = when.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    return users.get_indexer(pd.Index(who)).astype(np.int64) * (1 << 53) + moments


def future_contexts(
    events: pd.DataFrame, item_ids: pd.Index[str], *, start: pd.Timestamp, end: pd.Timestamp | None = None
) -> Contexts:
    """One context per user at ``start``, whose positives are all he buys in [start, end), for users and items seen before.

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
    return _grouped(pd.DataFrame({"user_id": after["user_id"], "event_timestamp": moment, "row": rows}))
