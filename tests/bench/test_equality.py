"""Different answers are never timed side by side."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_plugin import Page, ScoredItem, ServedBy, Timings
from recsys_plugin.bench.equality import by_item, require_equal, require_same_scores
from recsys_plugin.client.results import RankedItems
from recsys_plugin.errors import CheckFailed


def page(**scores: float) -> Page:
    items = tuple(
        ScoredItem(item_id, score, position, "", "", None, relevance=-score)
        for position, (item_id, score) in enumerate(scores.items(), start=1)
    )
    ranked = RankedItems(len(items), lambda: (item.item_id for item in items), items.__getitem__)
    return Page("r", "u", ranked, ServedBy("rank", 1, None, 1, 3), None, Timings(0, 0, 0, 0))


def test_scores_within_the_tolerance_are_the_same() -> None:
    others = by_item(["b", "a", "c"], np.array([0.25, 0.50005, 9.0], dtype=np.float32))
    require_same_scores("x", page(a=0.5, b=0.25), others)
    require_same_scores("x", page(a=0.5), by_item(["a"], [-0.5]), relevance=True)


@pytest.mark.parametrize(
    "ours, others, message",
    [
        ({"a": 0.5}, {"a": 0.5002}, "item 'a' has 0.5 in our answer and 0.5002"),
        ({"a": 0.5}, {"a": float("nan")}, "nan"),
        ({"a": 0.5}, {"b": 0.5}, "1 items of our page are not in the other answer, 'a' first"),
        ({}, {"a": 0.5}, "empty"),
    ],
)
def test_other_scores_are_named(ours: dict[str, float], others: dict[str, float], message: str) -> None:
    with pytest.raises(CheckFailed, match=rf"user 'u', rank.*{message}"):
        require_same_scores("user 'u', rank", page(**ours), others)


def test_tensors_must_be_equal_to_the_last_bit() -> None:
    ours = {"user_float": np.ones((1, 3), dtype=np.float32), "user_string": np.array([[b"a"]], dtype=object)}
    require_equal("x", ours, {name: array.copy() for name, array in ours.items()})
    other = ours["user_float"].copy()
    other[0, 2] = np.nextafter(np.float32(1), np.float32(2))
    with pytest.raises(CheckFailed, match=r"user_float\[0, 2\]"):
        require_equal("x", ours, {**ours, "user_float": other})
    with pytest.raises(CheckFailed, match=r"user_string\[0, 0\]"):
        require_equal("x", ours, {**ours, "user_string": np.array([[b"b"]], dtype=object)})
    with pytest.raises(CheckFailed, match=r"shape \(1, 3\) in one and \(1, 2\)"):
        require_equal("x", ours, {**ours, "user_float": other[:, :2]})
