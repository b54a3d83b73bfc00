"""The zoo's metrics against scikit-learn and by hand; what cannot be told is NaN, what is wrong is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.zoo.metrics import (
    auc,
    binary_metrics,
    expected_calibration_error,
    group_auc,
    list_ndcg,
    log_loss,
)

_lines = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 20), st.sampled_from([0.5, 1.0, 3.0])),
    min_size=2,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(_lines)
def test_auc_is_the_area_under_the_curve(lines: list[tuple[float, int, float]]) -> None:
    labels, scores, weights = (np.array(column, np.float64) for column in zip(*lines, strict=True))
    if len(set(labels)) == 1:
        assert math.isnan(auc(labels, scores, weights))
    else:
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
        assert auc(labels, scores, weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))


def test_log_loss_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    labels, chances = (generator.random(200) < 0.3).astype(float), generator.random(200)
    assert log_loss(labels, chances) == pytest.approx(sklearn_log_loss(labels, chances))
    assert math.isfinite(log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    assert math.isnan(log_loss(np.array([np.nan]), np.array([0.5])))


def test_group_auc_weighs_users_by_impressions_and_leaves_out_users_of_one_class() -> None:
    labels = np.array([1, 0, 1, 0, 0, 0, 1, 1], float)
    scores = np.array([2, 1, 1, 2, 0, 3, 5, 6], float)
    group = np.array([7, 7, 3, 3, 3, 3, 9, 9])
    # User 7: 1.0 over two lines; user 3: one of three negatives is below, 1/3 over four lines; user 9: positives only.
    assert group_auc(labels, scores, group) == pytest.approx((2 * 1.0 + 4 / 3) / 6)
    assert math.isnan(group_auc(labels[:1], scores[:1], group[:1]))
    assert math.isnan(group_auc(labels[:0], scores[:0], group[:0]))


def test_calibration_error() -> None:
    generator = np.random.default_rng(1)
    chances = generator.random(20_000)
    labels = (generator.random(20_000) < chances).astype(float)
    curve = expected_calibration_error(labels, chances, bins=10)
    assert curve.error < 0.015
    assert len(curve.mass) == 10
    assert curve.mass == pytest.approx([0.1] * 10, abs=0.001)
    assert expected_calibration_error(labels, np.full(20_000, 0.9)).error == pytest.approx(
        0.9 - labels.mean(), abs=1e-9
    )
    # A weight of two is the same as the line twice.
    doubled = expected_calibration_error(np.r_[labels, labels], np.r_[chances, chances])
    weighted = expected_calibration_error(labels, chances, np.full(20_000, 2.0))
    assert weighted.error == pytest.approx(doubled.error, abs=1e-3)
    assert math.isnan(expected_calibration_error(labels[:0], chances[:0]).error)


def test_ndcg_of_lists() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0], float)
    scores = np.array([3, 2, 1, 1, 2, 3], float)
    lists = np.array([0, 0, 0, 1, 1, 1])
    discount = 1 / np.log2(np.array([2, 3, 4]))
    assert list_ndcg(labels, scores, lists) == pytest.approx((discount[1] + discount[2]) / 2)
    assert list_ndcg(labels, scores, lists, k=2) == pytest.approx(discount[1] / 2)
    assert math.isnan(list_ndcg(labels * 0, scores, lists))


def test_unknown_labels_are_left_out() -> None:
    labels = np.array([1, 0, np.nan, 1, 0], float)
    chances = np.array([0.9, 0.1, 0.5, 0.2, 0.4])
    some = binary_metrics(
        labels, chances, weights=np.array([1, 1, 1, 1, 0.0]), group=np.zeros(5, int), lists=np.zeros(5, int)
    )
    known = np.array([0, 1, 3])
    assert some["auc"] == auc(labels[known], chances[known]) == 1.0
    assert some["examples"] == 3
    assert some["positives"] == pytest.approx(2 / 3)
    assert some["ndcg@20"] > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        auc(np.array([0.0, 1.0]), np.array([0.5, bad]))
    with pytest.raises(InvalidInput, match="must be the same"):
        auc(np.array([0.0, 1.0]), np.array([0.5]))
