"""User features against a slow recomputation from the definitions, event by event."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from histories import ORIGIN, Row, histories, table
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.aggregation.live import RECENT_LENGTH, SESSION_GAP_SECONDS, user_recent_items, user_sessions
from recsys_plugin.aggregation.user import FAVOURITE_HALF_LIFE_DAYS, FAVOURITES_LENGTH, user_statistics
from recsys_plugin.events.event import EVENT_TYPE_CODES

EPOCH = datetime.fromtimestamp(0, tz=ORIGIN.tzinfo)


def by_key(found: pa.Table) -> dict[tuple[str, datetime], Row]:
    """Rows by user and moment, of which there must be one each."""
    rows = found.to_pylist()
    keyed = {(row.pop("user_id"), row.pop("event_timestamp")): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def moments(rows: list[Row], *types: str) -> dict[tuple[str, datetime], list[Row]]:
    """User and moment → all his events of the types up to it and no later, oldest first."""
    chosen = sorted((row for row in rows if row["event_type"] in types), key=lambda row: row["event_id"])
    chosen.sort(key=lambda row: row["timestamp"])
    return {
        (row["user_id"], row["timestamp"]): [
            other for other in chosen if other["user_id"] == row["user_id"] and other["timestamp"] <= row["timestamp"]
        ]
        for row in chosen
    }


def statistics(known: list[Row], now: datetime) -> Row:
    def window(days: int, kind: str) -> list[Row]:
        since = now - timedelta(days=days)
        return [row for row in known if row["event_type"] == kind and row["timestamp"] > since]

    bought = [row for row in known if row["event_type"] == "purchase"]
    recent = window(90, "purchase")
    paid = [row["price"] or 0.0 for row in recent]
    weights: Counter[str] = Counter()
    for row in bought:
        weights[row["item_id"]] += 0.5 ** ((now - row["timestamp"]) / timedelta(days=FAVOURITE_HALF_LIFE_DAYS))
    times = [row["timestamp"].replace(microsecond=0) for row in bought]
    return {
        **{f"purchases_{days}d": len(window(days, "purchase")) for days in (7, 30, 90)},
        "baskets_90d": len({row["timestamp"] for row in recent}),
        "spend_90d": sum((row["price"] or 0.0) * row["quantity"] for row in recent),
        "average_price_90d": sum(paid) / max(len(paid), 1),
        "returns_90d": len(window(90, "return")),
        "lifetime_purchases": len(bought),
        "first_purchase_at": min(times, default=EPOCH),
        "last_purchase_at": max(times, default=EPOCH),
        "favourites": dict(weights),
    }


@settings(deadline=None)
@given(histories(), st.integers(0, 3))
def test_statistics(rows: list[Row], seed: int) -> None:
    found = by_key(user_statistics(table(rows, seed)))
    wanted = moments(rows, "purchase", "return")
    assert found.keys() == wanted.keys()
    for (user, now), row in found.items():
        expected = statistics(wanted[user, now], now)
        weights = expected.pop("favourites")
        items, got = row.pop("favourite_items"), row.pop("favourite_weights")
        assert dict(zip(items, got, strict=True)) == pytest.approx(weights, rel=1e-6)
        pairs = list(zip(got, items, strict=True))
        assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        for name in ("spend_90d", "average_price_90d"):
            assert row.pop(name) == pytest.approx(expected.pop(name))
        assert row == expected


@settings(deadline=None)
@given(histories(), st.integers(0, 3))
def test_recent_items(rows: list[Row], seed: int) -> None:
    found = by_key(user_recent_items(table(rows, seed)))
    wanted = moments(rows, "click", "cart", "purchase", "return")
    assert found.keys() == wanted.keys()
    for key, row in found.items():
        newest_first = wanted[key][::-1][:RECENT_LENGTH]
        assert row["item_ids"] == [event["item_id"] for event in newest_first]
        assert row["event_type_codes"] == [EVENT_TYPE_CODES[event["event_type"]] for event in newest_first]
        assert row["timestamps"] == [event["timestamp"].replace(microsecond=0) for event in newest_first]


@settings(deadline=None)
@given(histories(), st.integers(0, 3))
def test_sessions(rows: list[Row], seed: int) -> None:
    found = by_key(user_sessions(table(rows, seed)))
    wanted = moments(rows, "click", "cart", "purchase", "return")
    assert found.keys() == wanted.keys()
    gap = timedelta(seconds=SESSION_GAP_SECONDS)
    for key, row in found.items():
        visit: list[Row] = []
        for event in wanted[key]:
            if visit and event["timestamp"] - visit[-1]["timestamp"] > gap:
                visit = []
            visit.append(event)
        counts = Counter(event["event_type"] for event in visit)
        assert row == {
            "session_clicks": counts["click"],
            "session_carts": counts["cart"],
            "session_purchases": counts["purchase"],
            "session_started_at": visit[0]["timestamp"].replace(microsecond=0),
            "last_query": next((event["query"] for event in reversed(visit) if event["query"]), ""),
        }


@pytest.mark.parametrize("function", [user_statistics, user_recent_items, user_sessions])
def test_no_events(function: Any) -> None:
    empty = function(table([]))
    assert empty.num_rows == 0
    full = function(table([{**EVENT, "event_type": "purchase"}]))
    assert empty.schema == full.schema


EVENT: Row = {"user_id": "a", "item_id": "x", "timestamp": ORIGIN, "event_id": "1", "event_type": "purchase"}


def purchases(count: int, *, apart: timedelta) -> list[Row]:
    return [
        {**EVENT, "item_id": f"item {number}", "timestamp": ORIGIN + number * apart, "event_id": f"{number:04d}"}
        for number in range(count)
    ]


def test_long_lists_keep_the_newest_and_the_weightiest() -> None:
    rows = purchases(FAVOURITES_LENGTH + 5, apart=timedelta(hours=1))
    rows += [{**row, "event_id": f"again {row['event_id']}"} for row in rows[:2]]
    recent = user_recent_items(table(rows)).to_pylist()[-1]
    assert recent["item_ids"] == [f"item {number}" for number in range(104, 104 - RECENT_LENGTH, -1)]
    favourites = user_statistics(table(rows)).to_pylist()[-1]["favourite_items"]
    assert favourites == [*("item 1", "item 0"), *(f"item {number}" for number in range(104, 6, -1))]


def test_a_purchase_weighs_half_after_its_half_life() -> None:
    rows = purchases(2, apart=timedelta(days=FAVOURITE_HALF_LIFE_DAYS))
    last = user_statistics(table(rows)).to_pylist()[-1]
    assert dict(zip(last["favourite_items"], last["favourite_weights"], strict=True)) == {"item 1": 1.0, "item 0": 0.5}


def test_a_basket_counts_though_a_return_comes_first_at_its_moment() -> None:
    rows = [{**EVENT, "event_type": "return", "event_id": "1"}, {**EVENT, "event_id": "2"}, {**EVENT, "event_id": "3"}]
    (row,) = user_statistics(table(rows)).to_pylist()
    assert (row["baskets_90d"], row["purchases_90d"], row["returns_90d"]) == (1, 2, 1)


def test_weights_of_centuries_stay_finite() -> None:
    rows = [EVENT | {"timestamp": datetime(1970, 1, 2, tzinfo=ORIGIN.tzinfo)}]
    rows += [EVENT | {"timestamp": datetime(2199, 12, 31, tzinfo=ORIGIN.tzinfo), "event_id": "2"}]
    assert user_statistics(table(rows)).to_pylist()[-1]["favourite_weights"] == [1.0]
