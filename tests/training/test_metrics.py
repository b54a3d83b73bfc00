"""Metrics on cases worked out by hand; baselines against dense numpy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.metrics import (
    item_knn_scores,
    ranking_metrics,
    top_rows,
)

NOW = pd.Timestamp("2024-06-01", tz="UTC")


def truths(*positives: list[int]) -> Contexts:
    entities = pd.DataFrame({"user_id": [str(n) for n in range(len(positives))], "event_timestamp": NOW})
    offsets = np.r_[0, np.cumsum([len(rows) for rows in positives])].astype(np.int64)
    return Contexts(entities, offsets, np.array([row for rows in positives for row in rows], np.int64))


def test_recall_and_ndcg_by_hand() -> None:
    ranked = np.array([[5, 1, 2], [9, 8, 7], [3, 4, -1]])
    # The first user bought 2 and 6: one hit of two, in third place. The second bought nothing that was shown.
    found = ranking_metrics(ranked, truths([2, 6], [0], [3, 4, 5, 6]), k=3)
    ideal_two, ideal_three = 1 + 1 / math.log2(3), 1 + 1 / math.log2(3) + 1 / 2
    assert found == {
        "recall@3": pytest.approx((1 / 2 + 0 + 2 / 3) / 3),
        "ndcg@3": pytest.approx(((1 / 2) / ideal_two + 0 + (1 + 1 / math.log2(3)) / ideal_three) / 3),
        "users": 3,
    }


def test_perfect_rankings_and_users_without_truth() -> None:
    found = ranking_metrics(np.array([[1, 2], [3, 4]]), truths([2, 1], []), k=2)
    assert found == {"recall@2": 1.0, "ndcg@2": 1.0, "users": 1}
    nothing = ranking_metrics(np.empty((0, 2), np.int64), truths(), k=2)
    assert nothing["users"] == 0
    assert math.isnan(nothing["recall@2"])


def test_lists_shorter_than_the_cut() -> None:
    found = ranking_metrics(np.array([[1, 0]]), truths([0]), k=20)
    assert found["recall@20"] == 1.0
    assert found["ndcg@20"] == pytest.approx(1 / math.log2(3))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, -1.5])),
    st.integers(1, 12),
)
def test_top_rows_are_in_order_and_ties_go_to_the_lower_row(scores: np.ndarray, k: int) -> None:
    wanted = [sorted(range(scores.shape[1]), key=lambda row: (-line[row], row))[:k] for line in scores]
    assert top_rows(scores, k).tolist() == wanted


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(2, 7)), elements=st.sampled_from([0, 1])),
    st.one_of(st.none(), st.integers(1, 3)),
    st.sampled_from([0.0, 1.0, 50.0]),
)
def test_item_knn_against_dense_numpy(matrix: np.ndarray, neighbours: int | None, shrinkage: float) -> None:
    sizes = matrix.sum(0)
    together = matrix.T @ matrix
    with np.errstate(invalid="ignore"):
        similar = np.nan_to_num(together / (np.sqrt(np.outer(sizes, sizes)) + shrinkage))
    np.fill_diagonal(similar, 0.0)
    scored = item_knn_scores(sp.csr_matrix(matrix), shrinkage=shrinkage, neighbours=neighbours)(np.arange(len(matrix)))
    if neighbours is None:
        np.testing.assert_allclose(scored, matrix @ similar.T, rtol=1e-5, atol=1e-6)
        return
    # With ties at the cut any choice of neighbours is right: bound the score by the best and the worst choice.
    for user, line in enumerate(matrix):
        for item, row in enumerate(similar):
            cut = np.sort(row)[::-1][min(neighbours, len(row)) - 1]
            surely = row * (row > cut)
            assert scored[user, item] >= line @ surely - 1e-5
            assert scored[user, item] <= line @ (row * (row >= cut)) + 1e-5


def test_item_knn_with_an_item_that_nobody_bought() -> None:
    scores = item_knn_scores(sp.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.float32)))(np.array([1]))
    assert np.isfinite(scores).all()
    assert scores[0, 1] > scores[0, 2] == 0.0
