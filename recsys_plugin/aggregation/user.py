"""User features as of the moment just after each of a user's events.

A row stamped ``t`` holds what was known once the event at ``t`` had happened. A point-in-time join for a decision at
``t`` must therefore ask for a moment before ``t``; training asks one microsecond earlier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.acts import Acts, in_user_order
from recsys_plugin.aggregation.arrays import list_column, moment_column, second_column

__all__ = [
    "FAVOURITES_LENGTH",
    "FAVOURITE_HALF_LIFE_DAYS",
    "user_statistics",
]

#: Items kept in ``user_statistics:favourite_items``.
FAVOURITES_LENGTH = 100
#: A purchase counts half as much towards the favourites after this many days.
FAVOURITE_HALF_LIFE_DAYS = 90.0

_DAY = 86_400_000_000  # microseconds
_WINDOWS = {"7d": 7 * _DAY, "30d": 30 * _DAY, "90d": 90 * _DAY}
_Array = np.ndarray[Any, np.dtype[Any]]


def user_statistics(events: pd.DataFrame) -> pa.Table:
    """Purchase statistics of each user after each of his purchase (or return) moments.

    Args:
        events: columns ``user_id``, ``item_id``, ``event_type``, ``event_id`` (str), ``timestamp`` (UTC), ``quantity``
            and ``price`` (float64; a missing price counts as no spend).

    Returns:
        One row per user and distinct moment, with the schema of the ``user_statistics`` view.
    """
    events = in_user_order(events[events["event_type"].isin(("purchase", "return"))])
    acts = Acts.of_ordered(events)
    moments = acts.times
    # Sorted, so that favourites of equal weight come in the order of their ids, whatever the data of other users.
    item_codes, item_ids = acts.items, acts.item_ids
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

    columns = _keys(acts)
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


def _keys(acts: Acts) -> dict[str, pa.Array]:
    names = pa.array(acts.user_ids, pa.string())
    return {
        "user_id": names.take(pa.array(acts.users[acts.ends])),
        "event_timestamp": moment_column(acts.times[acts.ends]),
    }
