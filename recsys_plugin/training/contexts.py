"""The moments that models learn from: one context per act, asked just before it; what was chosen is its positives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.aggregation.arrays import microseconds, sorted_codes

__all__ = [
    "Contexts",
    "act_contexts",
    "drawn_contexts",
    "future_contexts",
    "future_contexts_of",
    "joined_contexts",
    "moments_of",
    "outcomes",
    "relevant_events",
]

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


def joined_contexts(parts: Sequence[Contexts]) -> Contexts:
    """The contexts of all parts, one part after the other."""
    if not parts:
        entities = pd.DataFrame({"user_id": pd.Series([], dtype=object), "event_timestamp": moments_of([])})
        return Contexts(entities, np.zeros(1, np.int64), np.empty(0, np.int64))
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    return Contexts(
        pd.concat([part.entities for part in parts], ignore_index=True),
        np.r_[0, np.cumsum(sizes)].astype(np.int64),
        np.concatenate([part.rows for part in parts]),
    )


def _grouped(users: pd.Series[str], moments: _Array, rows: _Array) -> Contexts:
    """Contexts in order of time, then user, from triples in any order; a row that is negative or repeated is left out.

    Args:
        users: n user ids. moments: int64 [n], microseconds. rows: int64 [n], catalogue rows.
    """
    who, names = sorted_codes(users)
    known = rows >= 0
    who, moments, rows = who[known], moments[known], rows[known].astype(np.int64)
    order = np.lexsort((rows, who, moments))
    who, moments, rows = who[order], moments[order], rows[order]
    other = np.r_[True, (who[1:] != who[:-1]) | (moments[1:] != moments[:-1])][: len(who)]
    kept = other | np.r_[True, rows[1:] != rows[:-1]][: len(who)]
    first = np.flatnonzero(other[kept])
    who, moments, rows = who[kept], moments[kept], rows[kept]
    entities = pd.DataFrame({"user_id": names[who[first]], "event_timestamp": moments_of(moments[first])})
    return Contexts(entities, np.r_[first, len(rows)].astype(np.int64), rows)


def moments_of(microseconds: Sequence[int] | _Array) -> pd.Series[pd.Timestamp]:
    """Microseconds since the epoch as aware moments (UTC)."""
    stamps = np.asarray(microseconds, np.int64).view("datetime64[us]")
    return pd.Series(pd.DatetimeIndex(stamps).tz_localize("UTC"))


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
    return _grouped(acts["user_id"], microseconds(acts["timestamp"]) - 1, rows)


def drawn_contexts(
    events: Callable[[], Iterable[pd.DataFrame]],
    item_ids: pd.Index[str],
    *,
    types: Sequence[str],
    end: pd.Timestamp,
    most: int,
    seed: int,
) -> tuple[Contexts, int]:
    """At most ``most`` of the contexts of :func:`act_contexts`, each as likely as the others, in order of time.

    Args:
        events: gives the events from the beginning, piece by piece in order of time, each time it is called; no moment
            may be split between two pieces.
        item_ids: the catalogue in row order. types: the acts. end: acts from then on are left out.
        most: how many are kept. seed: of the draw.

    Returns:
        the contexts, and how many there were to draw from.
    """
    sizes = [len(act_contexts(piece, item_ids, types=types, start=None, end=end)) for piece in events()]
    total = sum(sizes)
    chosen = np.arange(total)
    if total > most:
        chosen = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    firsts = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    bounds = np.searchsorted(chosen, firsts)
    parts = [
        act_contexts(piece, item_ids, types=types, start=None, end=end).take(chosen[start:stop] - first)
        for piece, first, start, stop in zip(events(), firsts, bounds, bounds[1:], strict=False)
        if stop > start
    ]
    return joined_contexts(parts), total


def relevant_events(
    events: Iterable[pd.DataFrame], users: pd.Series[str], event_type: str, *, before: pd.Timestamp
) -> pd.DataFrame:
    """What the given users did of one type before a moment: all that :func:`outcomes` needs of a large table."""
    known = pd.Index(users.unique())
    nothing = {name: pd.Series([], dtype=object) for name in ("user_id", "item_id", "event_type")}
    kept = [pd.DataFrame({**nothing, "timestamp": moments_of([])})]
    for piece in events:
        chosen = piece[(piece["event_type"] == event_type) & (piece["timestamp"] < before)]
        chosen = chosen[known.get_indexer(pd.Index(chosen["user_id"])) >= 0]
        kept.append(chosen.astype({"user_id": object, "item_id": object, "event_type": object}))
    return pd.concat([part for part in kept if len(part)] or kept[:1], ignore_index=True)


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
    columns = ["user_id", "item_id", "timestamp"]
    bought = events.loc[events["event_type"] == "purchase", columns]
    return future_contexts_of([bought], item_ids, start=start, end=end)


def future_contexts_of(
    purchases: Iterable[pd.DataFrame], item_ids: pd.Index[str], *, start: pd.Timestamp, end: pd.Timestamp | None = None
) -> Contexts:
    """:func:`future_contexts` of purchases given piece by piece, in any order; read once.

    Args:
        purchases: columns ``user_id``, ``item_id`` and ``timestamp``.
        item_ids: the catalogue in row order. start: the moment of decision. end: when the future ends, if it does.
    """
    users: set[str] = set()
    items: set[str] = set()
    later: list[pd.DataFrame] = []
    for piece in purchases:
        before = piece["timestamp"] < start
        users.update(piece.loc[before, "user_id"].unique())
        items.update(piece.loc[before, "item_id"].unique())
        inside = ~before if end is None else ~before & (piece["timestamp"] < end)
        later.append(piece.loc[inside, ["user_id", "item_id"]].astype(object))
    after = pd.concat(later, ignore_index=True) if later else pd.DataFrame({"user_id": [], "item_id": []}, dtype=object)
    after = after[after["user_id"].isin(users) & after["item_id"].isin(items)]
    rows = item_ids.get_indexer(pd.Index(after["item_id"]))
    # The rows stamped exactly at the split belong to the future.
    return _grouped(after["user_id"], np.full(len(after), start.value // 1000 - 1), rows)
