"""User features as of the moment just after each of a user's events.

A row stamped ``t`` holds what was known once the event at ``t`` had happened. A point-in-time join for a decision at
``t`` must therefore ask for a moment before ``t``; training asks one microsecond earlier.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.arrays import list_column, microseconds, moment_column, second_column

__all__ = [
    "EVENT_TYPE_CODES",
    "FAVOURITES_LENGTH",
    "FAVOURITE_HALF_LIFE_DAYS",
    "RECENT_LENGTH",
    "SESSION_GAP_SECONDS",
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


def _per_user(events: pd.DataFrame) -> Iterator[tuple[str, slice, _Array]]:
    """Yield each user with his slice of ``events`` (sorted by user, then time) and the ends of his distinct moments."""
    users = events["user_id"].to_numpy()
    moments = microseconds(events["timestamp"])
    bounds = np.r_[0, np.flatnonzero(users[1:] != users[:-1]) + 1, len(users)] if len(users) else np.empty(0, np.int64)
    for start, stop in itertools.pairwise(bounds):
        times = moments[start:stop]
        yield users[start], slice(start, stop), np.flatnonzero(np.r_[times[1:] != times[:-1], True])


def _sorted(events: pd.DataFrame, types: tuple[str, ...]) -> pd.DataFrame:
    chosen = events[events["event_type"].isin(types)]
    return chosen.sort_values(["user_id", "timestamp", "event_id"], kind="stable", ignore_index=True)


def user_statistics(events: pd.DataFrame) -> pa.Table:
    """Purchase statistics of each user after each of his purchase (or return) moments.

    Args:
        events: columns ``user_id``, ``item_id``, ``event_type``, ``event_id`` (str), ``timestamp`` (UTC), ``quantity``
            and ``price`` (float64; a missing price counts as no spend).

    Returns:
        One row per user and distinct moment, with the schema of the ``user_statistics`` view.
    """
    events = _sorted(events, ("purchase", "return"))
    # Sorted, so that favourites of equal weight come in the order of their ids, whatever the data of other users.
    item_codes, item_ids = pd.factorize(events["item_id"], sort=True)
    moments = microseconds(events["timestamp"])
    bought = (events["event_type"] == "purchase").to_numpy()
    price = events["price"].fillna(0.0).to_numpy(np.float64)
    spend = price * events["quantity"].to_numpy(np.float64)
    half_life = FAVOURITE_HALF_LIFE_DAYS * _DAY
    origin = moments.min() if len(moments) else 0

    users: list[str] = []
    at: list[int] = []
    numbers: dict[str, list[_Array]] = {}
    favourites: list[_Array] = []
    weights: list[_Array] = []
    for user, part, ends in _per_user(events):
        times, is_purchase, codes = moments[part], bought[part], item_codes[part]
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
        users.extend([user] * len(ends))
        at.extend(stamps.tolist())

        # A purchase at t weighs 2^((t - origin) / half life): later ones weigh more, and nothing stored ever needs
        # decaying.
        own, local = np.unique(codes, return_inverse=True)
        grown = np.where(is_purchase, np.exp2((times - origin) / half_life), 0.0)
        weight = np.zeros(len(own))
        begin = 0
        for end in ends:
            np.add.at(weight, local[begin : end + 1], grown[begin : end + 1])
            begin = end + 1
            # In the order of the weights as they are stored, so that rounding decides no tie.
            now = (weight / np.exp2((times[end] - origin) / half_life)).astype(np.float32)
            top = np.argsort(-now, kind="stable")[:FAVOURITES_LENGTH]
            top = top[now[top] > 0]
            favourites.append(own[top])
            weights.append(now[top])

    columns: dict[str, pa.Array] = {
        "user_id": pa.array(users, pa.string()),
        "event_timestamp": moment_column(at),
    }
    for name in (
        *(f"purchases_{w}" for w in _WINDOWS), "baskets_90d", "spend_90d", "average_price_90d", "returns_90d",
    ):  # fmt: skip
        columns[name] = pa.array(_joined(numbers.get(name)).astype(np.float32))
    columns["lifetime_purchases"] = pa.array(_joined(numbers.get("lifetime_purchases")).astype(np.int64))
    for name in ("first_purchase_at", "last_purchase_at"):
        columns[name] = second_column(_joined(numbers.get(name)))
    columns["favourite_items"] = list_column(pa.array(item_ids.to_numpy(dtype=object), pa.string()), favourites)
    flat = pa.array(_joined(weights).astype(np.float32))
    columns["favourite_weights"] = pa.ListArray.from_arrays(columns["favourite_items"].offsets, flat)
    return pa.table(columns)


def _joined(chunks: list[_Array] | None) -> _Array:
    return np.concatenate(chunks) if chunks else np.empty(0)


def user_recent_items(events: pd.DataFrame) -> pa.Table:
    """The last :data:`RECENT_LENGTH` events of each user, newest first, after each moment at which he did something.

    Impressions are left out: being shown an item is not an act of the user.
    """
    events = _sorted(events, ("click", "cart", "purchase", "return"))
    item_codes, item_ids = pd.factorize(events["item_id"])
    users: list[str] = []
    at: list[int] = []
    chunks: list[_Array] = []
    moments = microseconds(events["timestamp"])
    for user, part, ends in _per_user(events):
        users.extend([user] * len(ends))
        at.extend(moments[part][ends].tolist())
        for end in ends + part.start:
            chunks.append(np.arange(end, max(end - RECENT_LENGTH, part.start - 1), -1))
    positions = _joined(chunks).astype(np.int64)
    ids = pa.array(item_ids.to_numpy(dtype=object), pa.string())
    items = list_column(ids, [item_codes[chunk] for chunk in chunks])
    codes = events["event_type"].map(EVENT_TYPE_CODES).to_numpy(np.int64)
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "event_timestamp": moment_column(at),
            "item_ids": items,
            "event_type_codes": pa.ListArray.from_arrays(items.offsets, pa.array(codes[positions])),
            "timestamps": pa.ListArray.from_arrays(items.offsets, second_column(moments[positions])),
        }
    )


def user_sessions(events: pd.DataFrame) -> pa.Table:
    """Counters of the visit that is under way after each moment.

    A visit ends :data:`SESSION_GAP_SECONDS` after its last event.
    """
    acts = _sorted(events, ("click", "cart", "purchase"))
    moments = microseconds(acts["timestamp"])
    types = acts["event_type"].to_numpy()
    queries = acts["query"].fillna("").to_numpy() if "query" in acts else np.full(len(acts), "", object)
    users: list[str] = []
    at: list[int] = []
    rows: dict[str, list[_Array]] = {}
    texts: list[str] = []
    for user, part, ends in _per_user(acts):
        times = moments[part]
        new = np.r_[True, np.diff(times) > SESSION_GAP_SECONDS * 1_000_000]
        start = np.maximum.accumulate(np.where(new, np.arange(len(times)), 0))
        for kind, name in (("click", "clicks"), ("cart", "carts"), ("purchase", "purchases")):
            total = np.r_[0, np.cumsum(types[part] == kind)]
            rows.setdefault(f"session_{name}", []).append(total[ends + 1] - total[start[ends]])
        rows.setdefault("session_started_at", []).append(times[start[ends]])
        last = ""
        spoken: list[str] = []
        for is_new, query in zip(new, queries[part], strict=True):
            last = query or ("" if is_new else last)
            spoken.append(last)
        texts.extend(spoken[end] for end in ends)
        users.extend([user] * len(ends))
        at.extend(times[ends].tolist())
    columns = {"user_id": pa.array(users, pa.string()), "event_timestamp": moment_column(at)}
    for name in ("session_clicks", "session_carts", "session_purchases"):
        columns[name] = pa.array(_joined(rows.get(name)).astype(np.int64))
    columns["session_started_at"] = second_column(_joined(rows.get("session_started_at")))
    columns["last_query"] = pa.array(texts, pa.string())
    return pa.table(columns)
