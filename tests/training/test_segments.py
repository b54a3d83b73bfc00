"""Segments on cases worked out by hand, and against the plain metrics on random rankings."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import event_table

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.metrics import ranking_metrics, top_rows
from recsys_plugin.training.segments import (
    Segments,
    earlier_purchases,
    head_items,
    mask_earlier,
    new_items_only,
    segment_metrics,
    without_earlier,
)

NOW = pd.Timestamp("2024-06-01", tz="UTC")
ITEMS = pd.Index(["p", "q", "r", "s", "t", "u"], dtype=object)


def contexts(*positives: list[int]) -> Contexts:
    entities = pd.DataFrame({"user_id": [f"user {n}" for n in range(len(positives))], "event_timestamp": NOW})
    offsets = np.r_[0, np.cumsum([len(rows) for rows in positives])].astype(np.int64)
    return Contexts(entities, offsets, np.array([row for rows in positives for row in rows], np.int64))


def bought(user: int, item: str, days: float, kind: str = "purchase") -> dict[str, object]:
    moment = NOW + pd.Timedelta(days=days)
    return {"user_id": f"user {user}", "item_id": item, "event_type": kind, "timestamp": moment, "event_id": ""}


@pytest.fixture
def events() -> pd.DataFrame:
    """User 0 has bought once, user 1 three times, user 2 five times, user 3 never."""
    rows = [bought(0, "p", -3), bought(0, "q", -3), bought(0, "t", 1), bought(0, "u", -2, "click")]
    rows += [bought(1, item, day) for item, day in (("p", -9), ("p", -8), ("r", -7), ("gone", -7))]
    rows += [bought(2, "p", -day) for day in range(1, 6)]
    return event_table([*rows, bought(3, "s", 2), bought(4, "s", -1)])


def test_segments_of_a_split(events: pd.DataFrame) -> None:
    truth = contexts([0], [1], [2], [3])
    segments = Segments.of(events, ITEMS, truth, before=NOW)
    assert segments.baskets.tolist() == [1, 3, 5, 0]
    # p, q, r and s were sold; a fifth of four is one item.
    assert segments.head.tolist() == [True, False, False, False, False, False]
    assert [segments.earlier.positives(line).tolist() for line in range(4)] == [[0, 1], [0, 2], [0], []]


def test_metrics_of_each_segment_by_hand(events: pd.DataFrame) -> None:
    truth = contexts([0, 4], [2, 3], [5], [0])
    segments = Segments.of(events, ITEMS, truth, before=NOW)
    ranked = np.array([[0, 1, 2], [4, 3, -1], [0, 1, 2], [3, 0, -1]])
    found = segment_metrics(ranked, truth, segments, k=3)
    second = 1 / math.log2(3)
    two = 1 + second
    figures = {
        name: (part["recall@3"], part["ndcg@3"], part["users"], part["purchases"]) for name, part in found.items()
    }
    assert figures == {
        "users, 0-1 earlier baskets": (pytest.approx(0.75), pytest.approx((1 / two + second) / 2), 2, 3),
        "users, 2-4 earlier baskets": (0.5, pytest.approx(second / two), 1, 2),
        "users, 5+ earlier baskets": (0.0, 0.0, 1, 1),
        "head items": (1.0, pytest.approx((1 + second) / 2), 2, 2),
        "tail items": (pytest.approx((0 + 0.5 + 0) / 3), pytest.approx(second / two / 3), 3, 4),
        "repeat purchases": (0.5, 0.5, 2, 2),
        "new purchases": (pytest.approx((0 + 1 + 0 + 1) / 4), pytest.approx((second + second) / 4), 4, 4),
    }


@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_a_segment_agrees_with_the_plain_metrics(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    users, items = 6, 30
    ranked = np.stack([generator.permutation(items) for _ in range(users)])
    ranked[:, generator.integers(1, items) :] = -1
    truth = contexts(*(sorted(generator.choice(items, generator.integers(0, 9), replace=False)) for _ in range(users)))
    earlier = contexts(*(sorted(generator.choice(items, 12, replace=False)) for _ in range(users)))
    segments = Segments(generator.integers(0, 7, users), generator.random(items) < 0.3, earlier)
    found = segment_metrics(ranked, truth, segments, k=k)
    wanted = {
        "new purchases": new_items_only(truth, earlier),
        "head items": contexts(
            *(truth.positives(line)[segments.head[truth.positives(line)]].tolist() for line in range(users))
        ),
    }
    for name, part in wanted.items():
        plain = ranking_metrics(ranked, part, k=k)
        if not plain["users"]:
            assert name not in found
            continue
        assert {key: found[name][key] for key in plain} == {key: pytest.approx(value) for key, value in plain.items()}
    pairs = [found.get(name, {"purchases": 0})["purchases"] for name in found if name.startswith("users")]
    assert sum(pairs) == len(truth.rows)


def test_rankings_without_earlier_purchases() -> None:
    earlier = contexts([0, 3], [], [0, 1, 2, 3])
    ranked = np.array([[3, 2, 0, 1], [1, 0, 3, 2], [0, 1, 2, 3]])
    assert without_earlier(ranked, earlier, k=3).tolist() == [[2, 1, -1], [1, 0, 3], [-1, -1, -1]]
    assert without_earlier(np.array([[-1, 2]] * 3), earlier, k=2).tolist() == [[2, -1], [2, -1], [-1, -1]]
    scores = np.array([[1.0, 2.0, 3.0, 4.0]] * 2, np.float32)
    masked = mask_earlier(scores, earlier, np.array([2, 0]))
    assert masked.tolist() == [[-np.inf] * 4, [-np.inf, 2.0, 3.0, -np.inf]]
    assert np.isfinite(scores).all()
    # Both ways lead to the same list where enough is left.
    assert top_rows(mask_earlier(scores[:1], earlier), 2).tolist() == without_earlier(ranked[:1], earlier, k=2).tolist()


def test_truth_new_to_the_user() -> None:
    kept = new_items_only(contexts([0, 1], [2], []), contexts([1], [2], [5]))
    assert [kept.positives(line).tolist() for line in range(3)] == [[0], [], []]
    assert ranking_metrics(np.array([[0]] * 3), kept)["users"] == 1


def test_nothing_to_tell_of() -> None:
    none = contexts()
    segments = Segments(np.empty(0, np.int64), np.zeros(6, bool), none)
    assert segment_metrics(np.empty((0, 20), np.int64), none, segments) == {}
    empty = contexts([], [])
    assert (
        segment_metrics(np.zeros((2, 20), np.int64), empty, Segments(np.zeros(2, np.int64), np.zeros(6, bool), empty))
        == {}
    )
    assert without_earlier(np.empty((0, 5), np.int64), none).shape == (0, 5)
    assert not head_items(np.zeros(4, np.int64)).any()


def test_other_users_are_refused(events: pd.DataFrame) -> None:
    segments = Segments.of(events, ITEMS, contexts([0], [1]), before=NOW)
    with pytest.raises(InvalidInput, match="3 rankings, 2 contexts"):
        segment_metrics(np.zeros((3, 5), np.int64), contexts([0], [1]), segments)
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        head_items(np.ones(3, np.int64), 1.0)
    twice = contexts([0], [1])
    twice.entities["user_id"] = "one"
    with pytest.raises(InvalidInput, match="more than one context"):
        earlier_purchases(events, ITEMS, twice, before=NOW)
