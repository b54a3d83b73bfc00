"""Moments of decision and what came of them, against a slow recomputation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from synthetic import event_table

from recsys_plugin.training.contexts import Contexts, act_contexts, future_contexts, outcomes

ITEMS: pd.Index[str] = pd.Index(["x", "y", "z"], dtype=object)
START = datetime(2024, 5, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
Row = dict[str, Any]

GAPS = [timedelta(0), TICK, timedelta(hours=24) - TICK, timedelta(hours=24), timedelta(hours=24) + TICK]


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    now, rows = START, []
    for number in range(draw(st.integers(0, 20))):
        now += draw(st.one_of(st.sampled_from(GAPS), st.integers(0, 72).map(lambda hours: timedelta(hours=hours))))
        rows.append(
            {
                "user_id": draw(st.sampled_from("abc")),
                "item_id": draw(st.sampled_from(["x", "y", "z", "not in the catalogue"])),
                "event_type": draw(st.sampled_from(["impression", "click", "purchase"])),
                "timestamp": now,
                "event_id": str(number),
            }
        )
    return rows


def listed(contexts: Contexts) -> list[tuple[str, datetime, list[int]]]:
    moments = contexts.entities["event_timestamp"]
    assert list(contexts.entities.index) == list(range(len(contexts)))
    return [
        (user, moment.to_pydatetime(), contexts.positives(index).tolist())
        for index, (user, moment) in enumerate(zip(contexts.entities["user_id"], moments, strict=True))
    ]


def rows_of(rows: list[Row]) -> list[int]:
    return sorted({list(ITEMS).index(row["item_id"]) for row in rows if row["item_id"] in ITEMS})


@given(histories())
def test_acts_are_asked_just_before_they_happen(rows: list[Row]) -> None:
    end = START + timedelta(days=10)
    found = listed(
        act_contexts(event_table(rows), ITEMS, types=("click", "purchase"), start=None, end=pd.Timestamp(end))
    )
    acts = [
        row for row in rows if row["event_type"] != "impression" and row["timestamp"] < end and row["item_id"] in ITEMS
    ]
    keys = sorted({(row["timestamp"], row["user_id"]) for row in acts})
    assert found == [
        (user, moment - TICK, rows_of([row for row in acts if (row["timestamp"], row["user_id"]) == (moment, user)]))
        for moment, user in keys
    ]


@given(histories(), st.one_of(st.none(), st.integers(0, 10)))
def test_outcomes_are_of_the_day_after(rows: list[Row], days: int | None) -> None:
    events = event_table(rows)
    before = None if days is None else pd.Timestamp(START + timedelta(days=days))
    asked = act_contexts(
        events, ITEMS, types=("click", "purchase"), start=None, end=pd.Timestamp(START + timedelta(days=999))
    )
    found = outcomes(asked, events, ITEMS, "purchase", before=before)
    for user, moment, positives in listed(found):
        came = [
            row
            for row in rows
            if row["user_id"] == user
            and row["event_type"] == "purchase"
            and moment < row["timestamp"] <= moment + timedelta(hours=24)
            and (before is None or row["timestamp"] < before)
        ]
        assert positives == rows_of(came)


def test_outcomes_keep_thousands_of_users_apart() -> None:
    # User numbers times microseconds once ran past 64 bits: users 2,048 apart were given each other's purchases.
    users = [f"user {number:04d}" for number in range(4200)]
    events = event_table(
        [
            {
                "user_id": user,
                "item_id": "xyz"[number % 3],
                "event_type": "purchase",
                "timestamp": START,
                "event_id": user,
            }
            for number, user in enumerate(users)
        ]
    )
    asked = act_contexts(events, ITEMS, types=("purchase",), start=None, end=pd.Timestamp(START + TICK))
    found = listed(outcomes(asked, events, ITEMS, "purchase"))
    assert [positives for _, _, positives in found] == [[number % 3] for number in range(len(users))]


@given(histories(), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 6)))
def test_the_future_of_known_users_and_items(rows: list[Row], day: int, span: int | None) -> None:
    start = START + timedelta(days=day)
    end = None if span is None else start + timedelta(days=span)
    found = listed(
        future_contexts(
            event_table(rows), ITEMS, start=pd.Timestamp(start), end=None if end is None else pd.Timestamp(end)
        )
    )
    bought = [row for row in rows if row["event_type"] == "purchase"]
    users, items = ({row[name] for row in bought if row["timestamp"] < start} for name in ("user_id", "item_id"))
    after = [
        row
        for row in bought
        if row["timestamp"] >= start and (end is None or row["timestamp"] < end) and row["item_id"] in items
    ]
    wanted = {user: rows_of([row for row in after if row["user_id"] == user]) for user in users}
    assert found == [(user, start - TICK, positives) for user, positives in sorted(wanted.items()) if positives]


def test_take_keeps_each_contexts_positives() -> None:
    entities = pd.DataFrame({"user_id": ["a", "b", "c"], "event_timestamp": pd.Timestamp(START)})
    contexts = Contexts(entities, np.array([0, 2, 2, 3]), np.array([4, 5, 6]))
    taken = contexts.take(np.array([2, 0, 1]))
    assert [positives for _, _, positives in listed(taken)] == [[6], [4, 5], []]
    assert list(taken.entities["user_id"]) == ["c", "a", "b"]
    assert len(contexts.take(np.array([], np.int64))) == 0
