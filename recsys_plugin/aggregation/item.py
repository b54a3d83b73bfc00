"""Item features as of given moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.arrays import microseconds, second_column, sorted_codes

__all__ = ["item_statistics", "weekly_moments"]

_DAY = 86_400_000_000  # microseconds
_FLOATS = (
    "purchases_7d", "purchases_30d", "purchases_90d", "buyers_30d", "buyers_90d", "returns_90d", "average_price_90d",
)  # fmt: skip
_Array = np.ndarray[Any, np.dtype[Any]]


def weekly_moments(first: pd.Timestamp, as_of: pd.Timestamp) -> list[pd.Timestamp]:
    """Mondays 00:00 UTC after ``first`` up to ``as_of``, and ``as_of`` itself."""
    mondays = pd.date_range(first.normalize(), as_of, freq="W-MON", inclusive="right")
    return [*(moment for moment in mondays if moment < as_of), as_of]


def item_statistics(events: pd.DataFrame, moments: Sequence[pd.Timestamp]) -> pa.Table:
    """Sales statistics of every item that had sold by each of ``moments``; only events strictly before a moment count.

    Args:
        events: columns ``user_id``, ``item_id``, ``event_type``, ``timestamp`` (UTC) and ``price``.
        moments: the moments to look back from, in any order.

    Returns:
        One row per item and moment, with the schema of the ``item_statistics`` view.
    """
    events = events[events["event_type"].isin(("purchase", "return"))].sort_values("timestamp", kind="stable")
    times = microseconds(events["timestamp"])
    items, item_ids = sorted_codes(events["item_id"])
    users, _ = sorted_codes(events["user_id"])
    is_purchase = (events["event_type"] == "purchase").to_numpy()
    price = events["price"].fillna(0.0).to_numpy(np.float64)
    size = len(item_ids)
    bought, bought_times = items[is_purchase], times[is_purchase]
    first = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(first, bought, bought_times)

    tables: list[pa.Table] = []
    ids = pa.array(item_ids, pa.string())
    for moment in sorted(moments):
        at = moment.value // 1000
        end = int(np.searchsorted(times, at, side="left"))
        columns: dict[str, _Array] = {}
        for days in (7, 30, 90):
            part = slice(int(np.searchsorted(times, at - days * _DAY, side="left")), end)
            chosen = is_purchase[part]
            window, buyers = items[part][chosen], users[part][chosen]
            columns[f"purchases_{days}d"] = np.bincount(window, minlength=size)
            if days >= 30:
                pairs = np.unique(window.astype(np.int64) * (users.max(initial=0) + 1) + buyers)
                columns[f"buyers_{days}d"] = np.bincount(pairs // (users.max(initial=0) + 1), minlength=size)
            if days == 90:
                columns["returns_90d"] = np.bincount(items[part][~chosen], minlength=size)
                paid = np.bincount(window, weights=price[part][chosen], minlength=size)
                columns["average_price_90d"] = paid / np.maximum(columns["purchases_90d"], 1)
        so_far = int(np.searchsorted(bought_times, at, side="left"))
        lifetime = np.bincount(bought[:so_far], minlength=size)
        last = np.zeros(size, np.int64)
        last[bought[:so_far]] = bought_times[:so_far]  # in time order, so the last write wins
        sold = np.flatnonzero(lifetime)
        tables.append(
            pa.table(
                {
                    "item_id": ids.take(pa.array(sold)),
                    "event_timestamp": pa.array(np.full(len(sold), at)).cast(pa.timestamp("us", tz="UTC")),
                    **{name: pa.array(columns[name][sold].astype(np.float32)) for name in _FLOATS},
                    "lifetime_purchases": pa.array(lifetime[sold].astype(np.int64)),
                    "first_sold_at": second_column(first[sold]),
                    "last_sold_at": second_column(last[sold]),
                }
            )
        )
    return pa.concat_tables(tables)
