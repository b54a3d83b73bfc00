"""Metrics of predicted probabilities; labels that are NaN (not known) are left out of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_plugin.errors import InvalidInput

__all__ = [
    "Reliability",
    "auc",
    "binary_metrics",
    "expected_calibration_error",
    "group_auc",
    "list_ndcg",
    "list_ndcg_values",
    "log_loss",
]

_Array = np.ndarray[Any, np.dtype[Any]]
_LEAST = 1e-7


def _known(labels: _Array, scores: _Array, weights: _Array | None) -> tuple[_Array, _Array, _Array]:
    if not labels.shape == scores.shape:
        raise InvalidInput(f"labels have shape {labels.shape} and scores {scores.shape}; they must be the same")
    known = ~np.isnan(labels)
    scores = scores[known].astype(np.float64)
    if not np.isfinite(scores).all():
        raise InvalidInput("a score is NaN or infinite; metrics of such a model would mean nothing")
    weighted = np.ones(len(scores)) if weights is None else weights[known].astype(np.float64)
    return labels[known].astype(np.float64), scores, weighted


def auc(labels: _Array, scores: _Array, weights: _Array | None = None) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting half.

    Args:
        labels: [n], 1, 0 or NaN. scores: float [n]. weights: [n] or None for ones.

    Returns:
        The area, or NaN where one of the classes is missing.
    """
    labels, scores, weights = _known(labels, scores, weights)
    positive, negative = weights * (labels == 1.0), weights * (labels == 0.0)
    if positive.sum() == 0.0 or negative.sum() == 0.0:
        return float("nan")
    values, place = np.unique(scores, return_inverse=True)
    positives = np.bincount(place, positive, minlength=len(values))
    negatives = np.bincount(place, negative, minlength=len(values))
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + 0.5 * negatives)).sum() / (positive.sum() * negative.sum()))


def group_auc(labels: _Array, scores: _Array, group: _Array, weights: _Array | None = None) -> float:
    """GAUC (Zhou et al. 2018, "Deep Interest Network"): the AUC within each user, weighted by his impressions.

    Users with one class only are left out; NaN if nobody is left.
    """
    known = ~np.isnan(labels)
    labels, scores, group = labels[known], scores[known], group[known]
    weights = None if weights is None else weights[known]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0]) if len(order) else np.empty(0, np.int64)
    total = weight = 0.0
    for lines in np.split(order, starts[1:]):
        own = None if weights is None else weights[lines]
        area = auc(labels[lines], scores[lines], own)
        if not np.isnan(area):
            impressions = len(lines) if own is None else float(own.sum())
            total, weight = total + area * impressions, weight + impressions
    return float(total / weight) if weight else float("nan")


def log_loss(labels: _Array, probabilities: _Array, weights: _Array | None = None) -> float:
    """Weighted mean of -log P(label), natural logarithm; probabilities are kept 1e-7 from 0 and 1; NaN for no label."""
    labels, chances, weights = _known(labels, probabilities, weights)
    if weights.sum() == 0.0:
        return float("nan")
    chances = np.clip(chances, _LEAST, 1.0 - _LEAST)
    losses = -(labels * np.log(chances) + (1.0 - labels) * np.log1p(-chances))
    return float(np.average(losses, weights=weights))


@dataclass(frozen=True, slots=True)
class Reliability:
    """The reliability curve: for each bin the mean prediction, the observed share and its part of the mass."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    mass: tuple[float, ...]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of both, weighted by mass; NaN without bins."""
        if not self.mass:
            return float("nan")
        return float(np.average(np.abs(np.subtract(self.predicted, self.observed)), weights=self.mass))


def expected_calibration_error(
    labels: _Array, probabilities: _Array, weights: _Array | None = None, *, bins: int = 15
) -> Reliability:
    """Reliability over bins of equal mass (Nixon et al. 2019, "Measuring Calibration in Deep Learning").

    Args:
        labels: [n], 1, 0 or NaN. probabilities: float [n]. weights: [n] or None. bins: how many bins, at most.

    Returns:
        The curve; its ``error`` is the expected calibration error.
    """
    labels, chances, weights = _known(labels, probabilities, weights)
    order = np.argsort(chances, kind="stable")
    labels, chances, weights = labels[order], chances[order], weights[order]
    if weights.sum() == 0.0:
        return Reliability((), (), ())
    middle = np.cumsum(weights) - 0.5 * weights
    place = np.minimum((middle / weights.sum() * bins).astype(np.int64), bins - 1)
    mass = np.bincount(place, weights, minlength=bins)
    used = mass > 0
    predicted = np.bincount(place, weights * chances, minlength=bins)[used] / mass[used]
    observed = np.bincount(place, weights * labels, minlength=bins)[used] / mass[used]
    return Reliability(tuple(predicted.tolist()), tuple(observed.tolist()), tuple((mass[used] / mass.sum()).tolist()))


def list_ndcg(labels: _Array, scores: _Array, lists: _Array, *, k: int = 20) -> float:
    """The mean of :func:`list_ndcg_values`; NaN if no list holds a positive."""
    values = list_ndcg_values(labels, scores, lists, k=k)
    return float(values.mean()) if len(values) else float("nan")


def list_ndcg_values(labels: _Array, scores: _Array, lists: _Array, *, k: int = 20) -> _Array:
    """NDCG at ``k`` with binary gains of each list that holds a positive, float64; equal scores keep their order."""
    known = ~np.isnan(labels)
    labels, scores, lists = labels[known], scores[known], lists[known]
    order = np.lexsort((-scores, lists))
    starts = np.flatnonzero(np.r_[True, np.diff(lists[order]) != 0]) if len(order) else np.empty(0, np.int64)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gains: list[float] = []
    for lines in np.split(order, starts[1:]):
        relevant = labels[lines]
        positives = int(relevant.sum())
        if positives:
            top = relevant[:k]
            gains.append(float((top * discounts[: len(top)]).sum() / discounts[: min(k, positives)].sum()))
    return np.array(gains, np.float64)


def binary_metrics(
    labels: _Array, probabilities: _Array, *, weights: _Array, group: _Array, lists: _Array, k: int = 20
) -> dict[str, Any]:
    """Every metric of one head.

    Returns:
        ``auc``, ``gauc``, ``log_loss``, ``ece`` and ``reliability`` (the curve), ``ndcg@k`` if there are lists,
        ``examples`` (known labels) and ``positives`` (their weighted share). What cannot be told is NaN.
    """
    known = ~np.isnan(labels) & (weights > 0)
    labels, probabilities, weights, group = labels[known], probabilities[known], weights[known], group[known]
    curve = expected_calibration_error(labels, probabilities, weights)
    result: dict[str, Any] = {
        "auc": auc(labels, probabilities, weights),
        "gauc": group_auc(labels, probabilities, group, weights),
        "log_loss": log_loss(labels, probabilities, weights),
        "ece": curve.error,
        "reliability": {"predicted": curve.predicted, "observed": curve.observed, "mass": curve.mass},
        "examples": int(known.sum()),
        "positives": float(np.average(labels, weights=weights)) if len(labels) else float("nan"),
    }
    if lists.size:
        result[f"ndcg@{k}"] = list_ndcg(labels, probabilities, lists[known], k=k)
    return result
