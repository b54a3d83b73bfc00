"""User features as of the moment just after each of a user's events.

A row stamped ``t`` holds what was known once the event at ``t`` had happened. A point-in-time join for a decision at
``t`` must therefore ask for a moment before ``t``; training asks one microsecond earlier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.aggregation.arrays import list_column, microseconds, moment_column, second_column, sorted_codes

__all__ = [
    "EVENT_TYPE_CODES",
    "FAVOURITES_LENGTH",
    "FAVOURITE_HALF_LIFE_DAYS",
    "RECENT_LENGTH",
    "SESSION_GAP_SECONDS",
    "in_user_order",
    "user_recent_items",
    "user_sessions",
    "user_statistics",
]

#: Codes of event types in ``user_recent_items:event_type_codes``; 0 pads.
EVENT_TYPE_CODES = {"impression": 1, "click": 2, "cart": 3, "purchase": 4, "return": 5}
#: Items kept in ``user_recent_items``.
RECENT_LENGTH = 50
#: Items kept in ``user_statistics:favourite_items``.
FAVOURITES_LENGTH = 100
#: A purchase counts half as much towards the favourites after this many days.
FAVOURITE_HALF_LIFE_DAYS = 90.0
#: A visit ends after this long without an event.
SESSION_GAP_SECONDS = 1800

_DAY = 86_400_000_000  # microseconds
_WINDOWS = {"7d": 7 * _DAY, "30d": 30 * _DAY, "90d": 90 * _DAY}
_Array = np.ndarray[Any, np.dtype[Any]]


def in_user_order(events: pd.DataFrame) -> pd.DataFrame:
    """The events by user, then time, then id: the order in which the functions of this module need them.

    They bring events into it themselves; events that are in it already are sorted no more.
    """
    users, ids = (sorted_codes(events[name])[0] for name in ("user_id", "event_id"))
    order = np.lexsort((ids, microseconds(events["timestamp"]), users))
    if (np.diff(order) > 0).all():
        return events.reset_index(drop=True)
    return events.take(order).reset_index(drop=True)


@dataclass(frozen=True, slots=True)
class _Acts:
    """Events of some types in user order, and where each user's rows and moments end.

    Attributes:
        events: the rows.
        names: users by code, object (str). users: int64 [n], code of each row. times: int64 [n], microseconds.
        starts: int64 [n], position of the first row of each row's user.
        ends: int64 [m], position of the last row of each moment of each user.
    """

    events: pd.DataFrame
    names: _Array
    users: _Array
    times: _Array
    starts: _Array
    ends: _Array

    @classmethod
    def of(cls, events: pd.DataFrame, types: tuple[str, ...]) -> _Acts:
        chosen = in_user_order(events[events["event_type"].isin(types)])
        users, names = sorted_codes(chosen["user_id"])
        times = microseconds(chosen["timestamp"])
        positions = np.arange(len(users))
        last = np.flatnonzero(np.r_[users[1:] != users[:-1], True][: len(users)])
        first = np.r_[0, last[:-1] + 1][: len(last)]
        starts = np.repeat(first, np.diff(np.r_[first, len(users)]))
        moves = np.r_[(users[1:] != users[:-1]) | (times[1:] != times[:-1]), True][: len(users)]
        return cls(chosen, names, users, times, starts, positions[moves])

    def keys(self) -> dict[str, pa.Array]:
        """The columns ``user_id`` and ``event_timestamp`` of one row for each moment."""
        names = pa.array(self.names, pa.string())
        return {
            "user_id": names.take(pa.array(self.users[self.ends])),
            "event_timestamp": moment_column(self.times[self.ends]),
        }


def user_statistics(events: pd.DataFrame) -> pa.Table:
    """Purchase statistics of each user after each of his purchase (or return) moments.

    Args:
        events: columns ``user_id``, ``item_id``, ``event_type``, ``event_id`` (str), ``timestamp`` (UTC), ``quantity``
            and ``price`` (float64; a missing price counts as no spend).

    Returns:
        One row per user and distinct moment, with the schema of the ``user_statistics`` view.
    """
    acts = _Acts.of(events, ("purchase", "return"))
    events, moments = acts.events, acts.times
    # Sorted, so that favourites of equal weight come in the order of their ids, whatever the data of other users.
    item_codes, item_ids = sorted_codes(events["item_id"])
    bought = (events["event_type"] == "purchase").to_numpy()
    price = events["price"].fillna(0.0).to_numpy(np.float64)
    spend = price * events["quantity"].to_numpy(np.float64)
    half_life = FAVOURITE_HALF_LIFE_DAYS * _DAY

    numbers: dict[str, list[_Array]] = {}
    favourites: list[_Array] = []
    weights: list[_Array] = []
    bounds = np.r_[np.unique(acts.starts), len(moments)]
    for part in map(slice, bounds, bounds[1:]):
        times, is_purchase, codes = moments[part], bought[part], item_codes[part]
        ends = np.flatnonzero(np.r_[times[1:] != times[:-1], True])
        stamps = times[ends]
        lines = np.r_[0, np.cumsum(is_purchase)]
        returned = np.r_[0, np.cumsum(~is_purchase)]
        spent = np.r_[0.0, np.cumsum(np.where(is_purchase, spend[part], 0.0))]
        priced = np.r_[0.0, np.cumsum(np.where(is_purchase, price[part], 0.0))]
        # A basket is a moment with a purchase, counted at its first line: a return at the same moment may come before
        # it.
        opening = np.maximum.accumulate(np.where(np.r_[True, times[1:] != times[:-1]], np.arange(len(times)), 0))
        baskets = np.r_[0, np.cumsum(is_purchase & (lines[:-1] == lines[opening]))]
        after = ends + 1
        before = {name: np.searchsorted(times, stamps - width, side="right") for name, width in _WINDOWS.items()}
        window_lines = {name: lines[after] - lines[start] for name, start in before.items()}
        start = before["90d"]
        first = times[np.argmax(is_purchase)] if is_purchase.any() else 0
        last = np.maximum.accumulate(np.where(is_purchase, times, 0))[ends]
        row = {
            **{f"purchases_{name}": count for name, count in window_lines.items()},
            "baskets_90d": baskets[after] - baskets[start],
            "spend_90d": spent[after] - spent[start],
            "average_price_90d": (priced[after] - priced[start]) / np.maximum(window_lines["90d"], 1),
            "returns_90d": returned[after] - returned[start],
            "lifetime_purchases": lines[after],
            "first_purchase_at": np.where(last > 0, first, 0),
            "last_purchase_at": last,
        }
        for name, column in row.items():
            numbers.setdefault(name, []).append(column)

        # A purchase at t weighs 2^((t - first event) / half life): later ones weigh more, and nothing stored ever needs
        # decaying.
        own, local = np.unique(codes, return_inverse=True)
        grown = np.where(is_purchase, np.exp2((times - times[0]) / half_life), 0.0)
        weight = np.zeros(len(own))
        begin = 0
        for end in ends.tolist():
            np.add.at(weight, local[begin : end + 1], grown[begin : end + 1])
            begin = end + 1
            # In the order of the weights as they are stored, so that rounding decides no tie.
            now = (weight / np.exp2((times[end] - times[0]) / half_life)).astype(np.float32)
            top = np.argsort(-now, kind="stable")[:FAVOURITES_LENGTH]
            top = top[now[top] > 0]
            favourites.append(own[top])
            weights.append(now[top])

    columns = acts.keys()
    for name in (
        *(f"purchases_{w}" for w in _WINDOWS), "baskets_90d", "spend_90d", "average_price_90d", "returns_90d",
    ):  # fmt: skip
        columns[name] = pa.array(_joined(numbers.get(name)).astype(np.float32))
    columns["lifetime_purchases"] = pa.array(_joined(numbers.get("lifetime_purchases")).astype(np.int64))
    for name in ("first_purchase_at", "last_purchase_at"):
        columns[name] = second_column(_joined(numbers.get(name)))
    lengths = np.array([len(part) for part in favourites], np.int64)
    flat_items = _joined(favourites).astype(np.int64)
    columns["favourite_items"] = list_column(pa.array(item_ids, pa.string()), flat_items, lengths)
    flat = pa.array(_joined(weights).astype(np.float32))
    columns["favourite_weights"] = pa.ListArray.from_arrays(columns["favourite_items"].offsets, flat)
    return pa.table(columns)


def _joined(chunks: list[_Array] | None) -> _Array:
    return np.concatenate(chunks) if chunks else np.empty(0)


def user_recent_items(events: pd.DataFrame) -> pa.Table:
    """The last :data:`RECENT_LENGTH` events of each user, newest first, after each moment at which he did something.

    Impressions are left out: being shown an item is not an act of the user.
    """
    acts = _Acts.of(events, ("click", "cart", "purchase", "return"))
    lengths = np.minimum(acts.ends - acts.starts[acts.ends] + 1, RECENT_LENGTH)
    back = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = np.repeat(acts.ends, lengths) - back
    item_codes, item_ids = sorted_codes(acts.events["item_id"])
    items = list_column(pa.array(item_ids, pa.string()), item_codes[positions], lengths)
    types, type_names = sorted_codes(acts.events["event_type"])
    codes = np.array([EVENT_TYPE_CODES[name] for name in type_names], np.int64)[types]
    return pa.table(
        {
            **acts.keys(),
            "item_ids": items,
            "event_type_codes": pa.ListArray.from_arrays(items.offsets, pa.array(codes[positions])),
            "timestamps": pa.ListArray.from_arrays(items.offsets, second_column(acts.times[positions])),
        }
    )


def user_sessions(events: pd.DataFrame) -> pa.Table:
    """Counters of the visit that is under way after each moment.

    A visit ends :data:`SESSION_GAP_SECONDS` after its last event.
    """
    acts = _Acts.of(events, ("click", "cart", "purchase"))
    positions = np.arange(len(acts.times))
    pause = np.diff(acts.times, prepend=0) > SESSION_GAP_SECONDS * 1_000_000
    start = np.maximum.accumulate(np.where((positions == acts.starts) | pause, positions, 0))
    begun, ends = start[acts.ends], acts.ends
    columns = acts.keys()
    types = acts.events["event_type"]
    for kind, name in (("click", "clicks"), ("cart", "carts"), ("purchase", "purchases")):
        total = np.r_[0, np.cumsum((types == kind).to_numpy())]
        columns[f"session_{name}"] = pa.array(total[ends + 1] - total[begun])
    columns["session_started_at"] = second_column(acts.times[begun])
    columns["last_query"] = _last_queries(acts.events, begun, ends)
    return pa.table(columns)


def _last_queries(acts: pd.DataFrame, begun: _Array, ends: _Array) -> pa.Array:
    """The newest search text within the rows from ``begun`` to ``ends``, both included; empty if there is none."""
    if "query" not in acts:
        return pa.array([""] * len(ends), pa.string())
    texts = pa.Array.from_pandas(acts["query"].astype(object), type=pa.string())
    spoken = pc.fill_null(pc.greater(pc.binary_length(texts), 0), False).to_numpy(zero_copy_only=False)
    newest = np.maximum.accumulate(np.where(spoken, np.arange(len(acts)), -1))[ends]
    return pc.fill_null(texts.take(pa.array(newest, mask=newest < begun)), "")
