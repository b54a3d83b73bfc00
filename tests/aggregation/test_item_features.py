"""Item features against a slow recomputation from the definitions."""

from __future__ import annotations

from datetime import datetime, timedelta

import pandas as pd
import pytest
from histories import ORIGIN, WINDOW_EDGES, Row, histories, table
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.aggregation.item import item_statistics, weekly_moments


def statistics(rows: list[Row], item: str, now: datetime) -> Row | None:
    known = [row for row in rows if row["item_id"] == item and row["timestamp"] < now]

    def window(days: int, kind: str) -> list[Row]:
        since = now - timedelta(days=days)
        return [row for row in known if row["event_type"] == kind and row["timestamp"] >= since]

    times = [row["timestamp"].replace(microsecond=0) for row in known if row["event_type"] == "purchase"]
    if not times:
        return None
    paid = [row["price"] or 0.0 for row in window(90, "purchase")]
    return {
        **{f"purchases_{days}d": len(window(days, "purchase")) for days in (7, 30, 90)},
        **{f"buyers_{days}d": len({row["user_id"] for row in window(days, "purchase")}) for days in (30, 90)},
        "returns_90d": len(window(90, "return")),
        "average_price_90d": sum(paid) / max(len(paid), 1),
        "lifetime_purchases": len(times),
        "first_sold_at": min(times),
        "last_sold_at": max(times),
    }


@settings(deadline=None)
@given(histories(), st.lists(st.sampled_from(WINDOW_EDGES), max_size=3), st.integers(0, 3))
def test_item_statistics(rows: list[Row], after: list[timedelta], seed: int) -> None:
    last = max((row["timestamp"] for row in rows), default=ORIGIN)
    asked = list(dict.fromkeys([last + gap for gap in after] + [row["timestamp"] for row in rows[:2]] + [ORIGIN]))
    found = item_statistics(table(rows, seed), [pd.Timestamp(moment) for moment in asked]).to_pylist()
    wanted = {
        (item, moment): expected
        for moment in asked
        for item in {row["item_id"] for row in rows}
        if (expected := statistics(rows, item, moment))
    }
    assert {(row["item_id"], row["event_timestamp"]) for row in found} == wanted.keys()
    assert len(found) == len(wanted)
    for row in found:
        expected = wanted[row.pop("item_id"), row.pop("event_timestamp")]
        average = expected.pop("average_price_90d")
        assert row.pop("average_price_90d") == pytest.approx(average)
        assert row == expected


@settings(deadline=None)
@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2024, 2, 1)),
    st.timedeltas(timedelta(0), timedelta(days=40)),
)
def test_weekly_moments(first: datetime, span: timedelta) -> None:
    start = pd.Timestamp(first, tz="UTC")
    end = start + span
    moments = weekly_moments(start, end)
    assert moments[-1] == end
    assert moments == sorted(set(moments))
    mondays = moments[:-1]
    assert all(moment.dayofweek == 0 and moment == moment.normalize() for moment in mondays)
    day = start.normalize() + pd.Timedelta(days=1)
    while day < end:
        assert (day in mondays) == (day.dayofweek == 0)
        day += pd.Timedelta(days=1)
