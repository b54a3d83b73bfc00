"""Which moments the rankers learn from."""

from __future__ import annotations

import numpy as np
import pandas as pd
from synthetic import event_table

from recsys_plugin.training.pages import page_contexts

START = pd.Timestamp("2024-01-01", tz="UTC")
MONDAYS = [START + pd.Timedelta(weeks=week) for week in range(6)]
END = START + pd.Timedelta(weeks=6)


def act(user: str, days: float, kind: str = "purchase") -> dict[str, object]:
    moment = START + pd.Timedelta(days=days)
    return {"user_id": user, "item_id": "x", "event_type": kind, "timestamp": moment, "event_id": f"{user}{days}{kind}"}


def pages(events: list[dict[str, object]], *, most: int = 100, seed: int = 0) -> list[tuple[str, float, int]]:
    contexts, weeks = page_contexts(
        [event_table(events[:1]), event_table(events[1:])] if len(events) > 1 else [event_table(events)],
        MONDAYS,
        types=("click", "purchase"),
        horizon=pd.Timedelta(days=14),
        end=END,
        most=most,
        seed=seed,
    )
    asked = contexts.entities["event_timestamp"] + pd.Timedelta(microseconds=1)
    assert len(contexts.rows) == 0
    days = (asked - START) / pd.Timedelta(days=1)
    return list(zip(contexts.entities["user_id"], days, weeks.tolist(), strict=True))


def test_one_page_a_week_for_each_user_who_comes_back_within_the_horizon() -> None:
    # Day 10 is within 14 days of days 0 and 7. Day 25 is, of days 14 and 21; the last Monday's horizon passes the end.
    assert pages([act("a", 10), act("b", 25)]) == [("a", 0, 0), ("a", 7, 1), ("b", 14, 2), ("b", 21, 3)]


def test_an_act_at_the_very_moment_counts_as_coming_back() -> None:
    assert pages([act("a", 7)]) == [("a", 0, 0), ("a", 7, 1)]


def test_clicks_are_asked_in_the_middle_of_visits() -> None:
    found = pages([act("a", 8.5, "click"), act("a", 8.6)])
    assert found == [("a", 0, 0), ("a", 7, 1), ("a", 8.5, 1)]


def test_types_that_are_not_asked_for_and_acts_after_the_end_count_nothing() -> None:
    assert pages([act("a", 3, "impression"), act("a", 43)]) == []


def test_no_more_than_asked_for_and_the_same_for_the_same_seed() -> None:
    events = [act(f"u{n}", n % 28) for n in range(60)]
    assert len(pages(events, most=10)) == 10
    assert pages(events, most=10) == pages(events, most=10)
    assert pages(events, most=10) != pages(events, most=10, seed=1)


def test_little_time_leaves_the_last_moment() -> None:
    contexts, weeks = page_contexts(
        [event_table([act("a", 1)])],
        MONDAYS[:1],
        types=("purchase",),
        horizon=pd.Timedelta(days=30),
        end=START + pd.Timedelta(days=3),
        most=5,
        seed=0,
    )
    assert contexts.entities["user_id"].tolist() == ["a"]
    assert weeks.tolist() == [0]
    none, weeks = page_contexts([], [], types=("purchase",), horizon=pd.Timedelta(days=1), end=END, most=5, seed=0)
    assert len(none) == 0
    assert weeks.dtype == np.int64
