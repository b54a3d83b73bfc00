"""The live activity views against a slow recomputation from their definitions, and live rows against history."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from histories import ORIGIN, Row, histories, table
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.aggregation.acts import ACT_TYPES, LOOKBACK, Acts, rows_of, table_of
from recsys_plugin.aggregation.item_activity import ITEM_ACTS, ItemCounts, activity_columns, item_activity
from recsys_plugin.aggregation.live import LIVE_USER_VIEWS, Categories, user_activity, user_sessions
from recsys_plugin.events.event import EVENT_TYPE_CODES, microseconds_of

CATEGORIES = {"x": "tea", "y": "mugs", "z": ""}
WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}
NAMES = {"click": "clicks", "cart": "carts", "purchase": "purchases"}
MICROSECOND = timedelta(microseconds=1)


def expected_activity(known: list[Row], now: datetime) -> Row:
    row: Row = {}
    for window, width in WINDOWS.items():
        for kind, name in NAMES.items():
            ages = [now - act["timestamp"] for act in known if act["event_type"] == kind]
            inside = [age for age in ages if age < width]
            row[f"{name}_{window}"] = len(inside)
            decayed = sum(1 - Fraction(age // MICROSECOND, width // MICROSECOND) for age in inside)
            row[f"decayed_{name}_{window}"] = float(np.float32(float(decayed)))
    taste: Counter[str] = Counter()
    width = timedelta(days=30)
    for act in known:
        worth = {"click": 1, "cart": 3, "purchase": 5, "return": 0}[act["event_type"]]
        category, age = CATEGORIES.get(act["item_id"], ""), now - act["timestamp"]
        if category and worth and age < width:
            taste[category] += worth * ((width - age) // MICROSECOND)
    best = sorted(taste.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
    row["categories"] = [name for name, _ in best]
    row["category_weights"] = [pytest.approx(weight / (width // MICROSECOND), rel=1e-6) for _, weight in best]
    return row


def acts_of(rows: list[Row]) -> list[Row]:
    chosen = [row for row in rows if row["event_type"] in ACT_TYPES]
    return sorted(chosen, key=lambda row: (row["timestamp"], row["event_id"]))


@settings(deadline=None)
@given(histories(), st.integers(0, 3))
def test_user_activity(rows: list[Row], seed: int) -> None:
    found = user_activity(table(rows, seed), CATEGORIES).to_pylist()
    chosen = acts_of(rows)
    moments = {(row["user_id"], row["timestamp"]) for row in chosen}
    assert {(row["user_id"], row["event_timestamp"]) for row in found} == moments
    for row in found:
        user, now = row.pop("user_id"), row.pop("event_timestamp")
        known = [act for act in chosen if act["user_id"] == user and act["timestamp"] <= now]
        assert row == expected_activity(known, now)


@settings(deadline=None)
@given(histories(), st.integers(0, 25))
def test_the_latest_row_of_some_acts_is_the_row_of_all_history(rows: list[Row], count: int) -> None:
    frame = table(rows)
    history = Acts.of(frame)
    before = Acts.of(table(rows[:count])).latest()
    for name, columns in LIVE_USER_VIEWS.items():
        whole = table_of(history, columns(history, Categories.of(history.item_ids, CATEGORIES))).to_pylist()
        live = table_of(before, columns(before, Categories.of(before.item_ids, CATEGORIES))).to_pylist()
        for row in live:
            later = [event for event in rows[count:] if event["timestamp"] == row["event_timestamp"]]
            if not any(event["user_id"] == row["user_id"] and event["event_type"] in ACT_TYPES for event in later):
                assert row in whole, name


def many_acts(count: int) -> pd.DataFrame:
    rows = [
        {"user_id": "a", "item_id": f"item {number}", "event_type": "click", "event_id": f"{number:06d}",
         "timestamp": ORIGIN + number * timedelta(seconds=1)}
        for number in range(count)
    ]  # fmt: skip
    return table(rows)


def test_live_features_look_back_over_so_many_acts_and_no_further() -> None:
    frame = many_acts(LOOKBACK + 500)
    for row in (user_sessions(frame).to_pylist()[-1], user_activity(frame, {}).to_pylist()[-1]):
        assert row.get("session_clicks", row.get("clicks_24h")) == LOOKBACK
    newest = frame.nlargest(LOOKBACK, "timestamp")
    for name, columns in LIVE_USER_VIEWS.items():
        whole, kept = Acts.of(frame).latest(), Acts.of(newest).latest()
        nothing = [Categories.of(acts.item_ids, {}) for acts in (whole, kept)]
        assert rows_of(columns(whole, nothing[0])) == rows_of(columns(kept, nothing[1])), name


def expected_counts(known: list[Row], now: datetime) -> Row:
    row: Row = {}
    for window, width in WINDOWS.items():
        step = (width // MICROSECOND) // 12
        start = (microseconds_of(now) // step - 11) * step
        inside = Counter(act["event_type"] for act in known if microseconds_of(act["timestamp"]) >= start)
        row |= {f"{name}_{window}": inside[kind] for kind, name in NAMES.items()}
        rate = inside["purchase"] / inside["click"] if inside["click"] else 0.0
        row[f"conversion_{window}"] = float(np.float32(rate))
    return row


@settings(deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_item_activity(rows: list[Row], random: object) -> None:
    found = item_activity(table(rows)).to_pylist()
    chosen = [row for row in rows if row["event_type"] in ITEM_ACTS]
    assert {(row["item_id"], row["event_timestamp"]) for row in found} == {
        (row["item_id"], row["timestamp"]) for row in chosen
    }
    newest: dict[str, Row] = {}
    for row in found:
        item, now = row.pop("item_id"), row.pop("event_timestamp")
        known = [act for act in chosen if act["item_id"] == item and act["timestamp"] <= now]
        assert row == expected_counts(known, now)
        newest[item] = row
    # Counted one by one, in any order, the last row is the same.
    shuffled = list(chosen)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    counts: dict[str, ItemCounts] = {}
    for act in shuffled:
        counts.setdefault(act["item_id"], ItemCounts()).add(
            microseconds_of(act["timestamp"]), EVENT_TYPE_CODES[act["event_type"]]
        )
    for item, counted in counts.items():
        assert rows_of(activity_columns(counted.counts()[np.newaxis])) == [newest[item]]
