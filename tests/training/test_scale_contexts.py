"""Contexts and outcomes of events that come piece by piece: those that the whole gives, and a fair draw of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import event_table

from recsys_plugin.training.contexts import (
    Contexts,
    act_contexts,
    drawn_contexts,
    future_contexts,
    future_contexts_of,
    joined_contexts,
    outcomes,
    relevant_events,
)

ITEMS: pd.Index[str] = pd.Index(["x", "y", "z"], dtype=object)
START = datetime(2024, 5, 1, tzinfo=UTC)
END = pd.Timestamp(START + timedelta(days=20))
ACTS = ("click", "purchase")
Row = dict[str, Any]


@st.composite
def pieces(draw: st.DrawFn) -> list[pd.DataFrame]:
    """Events in order of time, cut between moments, as categories."""
    now, rows, cuts = START, [], [0]
    for number in range(draw(st.integers(1, 25))):
        gap = draw(st.sampled_from([0, 0, 1, 20, 24, 48]))
        if gap and draw(st.booleans()):
            cuts.append(number)
        now += timedelta(hours=gap)
        rows.append(
            {
                "user_id": draw(st.sampled_from("abc")),
                "item_id": draw(st.sampled_from(["x", "y", "z", "unknown"])),
                "event_type": draw(st.sampled_from(["impression", "click", "purchase"])),
                "timestamp": now,
                "event_id": str(number),
            }
        )
    whole = event_table(rows)[["user_id", "item_id", "event_type", "timestamp"]]
    parts = [whole.iloc[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(rows)], strict=True)]
    texts = ["user_id", "item_id", "event_type"]
    return [part.astype(dict.fromkeys(texts, "category")).reset_index(drop=True) for part in parts if len(part)]


def together(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([part.astype({"user_id": object, "item_id": object, "event_type": object}) for part in parts])


def same(one: Contexts, other: Contexts) -> None:
    assert one.entities["user_id"].tolist() == other.entities["user_id"].tolist()
    assert one.entities["event_timestamp"].tolist() == other.entities["event_timestamp"].tolist()
    assert one.offsets.tolist() == other.offsets.tolist()
    assert one.rows.tolist() == other.rows.tolist()


@given(pieces(), st.integers(1, 30), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_draw_is_that_of_the_whole(parts: list[pd.DataFrame], most: int, seed: int) -> None:
    whole = act_contexts(together(parts), ITEMS, types=ACTS, start=None, end=END)
    found, total = drawn_contexts(lambda: parts, ITEMS, types=ACTS, end=END, most=most, seed=seed)
    assert total == len(whole)
    if total <= most:
        same(found, whole)
        return
    chosen = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    same(found, whole.take(chosen))


@given(pieces(), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_outcomes_and_futures_of_pieces(parts: list[pd.DataFrame], days: int) -> None:
    events, split = together(parts), pd.Timestamp(START + timedelta(days=days))
    asked = act_contexts(events, ITEMS, types=ACTS, start=None, end=split)
    kept = relevant_events(parts, asked.entities["user_id"], "purchase", before=split)
    assert set(kept["user_id"]) <= set(asked.entities["user_id"])
    same(
        outcomes(asked, kept, ITEMS, "purchase", before=split), outcomes(asked, events, ITEMS, "purchase", before=split)
    )
    bought = [part[part["event_type"] == "purchase"] for part in parts]
    for end in (None, split + pd.Timedelta(days=2)):
        same(
            future_contexts_of(bought[::-1], ITEMS, start=split, end=end),
            future_contexts(events, ITEMS, start=split, end=end),
        )


def test_every_context_is_drawn_as_often() -> None:
    rows = [
        {"user_id": "a", "item_id": "x", "event_type": "click", "timestamp": START + timedelta(hours=hour)}
        for hour in range(20)
    ]
    whole = event_table([{**row, "event_id": str(number)} for number, row in enumerate(rows)])
    parts = [whole.iloc[:1], whole.iloc[1:15], whole.iloc[15:]]
    counts = np.zeros(20)
    for seed in range(400):
        found, _ = drawn_contexts(lambda: parts, ITEMS, types=ACTS, end=END, most=5, seed=seed)
        moments = found.entities["event_timestamp"] + pd.Timedelta(microseconds=1)
        counts[((moments - pd.Timestamp(START)) // pd.Timedelta(hours=1)).to_numpy()] += 1
    # 100 expected of each; the standard deviation is 8.7.
    assert counts.sum() == 2000
    assert 60 < counts.min() <= counts.max() < 140


@pytest.mark.parametrize("parts", [[], [event_table([])]])
def test_nothing_gives_no_contexts(parts: list[pd.DataFrame]) -> None:
    found, total = drawn_contexts(lambda: parts, ITEMS, types=ACTS, end=END, most=3, seed=0)
    assert total == len(found) == len(joined_contexts([])) == len(future_contexts_of(parts, ITEMS, start=END)) == 0
    assert str(found.entities["event_timestamp"].dtype) == "datetime64[us, UTC]"
    kept = relevant_events(parts, found.entities["user_id"], "click", before=END)
    assert len(outcomes(found, kept, ITEMS, "click")) == 0
