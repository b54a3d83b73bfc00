"""Two versions of the models on the same users and days: the difference of their rankings, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.evaluation import rank_candidates, score_candidates
from recsys_plugin.training.frames import Split
from recsys_plugin.training.metrics import ranking_values

__all__ = ["AS_SERVED", "FIGURE", "SAME_CANDIDATES", "Difference", "compare_models", "paired_difference", "verdict"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Each version ranks what its own two-tower finds in the catalogue, as it would when it serves.
AS_SERVED = "as served"
#: Both rank everything that either of them found.
SAME_CANDIDATES = "same candidates"
#: What decides.
FIGURE = "ndcg@20"


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two versions, means over the same users.

    Attributes:
        serving, new: the means. difference: new - serving.
        low, high: the 95 % confidence interval of the difference; NaN for no user.
        users: how many there are.
    """

    serving: float
    new: float
    difference: float
    low: float
    high: float
    users: int


def paired_difference(serving: _Array, new: _Array, *, draws: int = 4000, seed: int = 0) -> Difference:
    """The mean difference with its paired bootstrap interval over users (percentiles; Efron and Tibshirani 1993).

    Args:
        serving, new: float64 [users], the figure of each user; NaN where it is not defined for him.
        draws: bootstrap samples. seed: of the draws.
    """
    known = ~(np.isnan(serving) | np.isnan(new))
    pairs = new[known] - serving[known]
    if not len(pairs):
        nothing = float("nan")
        return Difference(nothing, nothing, nothing, nothing, nothing, 0)
    generator = np.random.default_rng(seed)
    means = np.array([pairs[generator.integers(0, len(pairs), len(pairs))].mean() for _ in range(draws)])
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(
        float(serving[known].mean()),
        float(new[known].mean()),
        float(pairs.mean()),
        float(low),
        float(high),
        len(pairs),
    )


def verdict(found: Difference, margin: float) -> str:
    """What a difference says, a loss of at most ``margin`` counting as none.

    Returns:
        ``"better"``: the interval lies above 0. ``"not worse"``: it lies above -margin (non-inferiority).
        ``"worse"``: it lies below 0, or the mean below -margin. ``"undecided"``: none of these.
    """
    if found.low > 0.0:
        return "better"
    if found.low >= -margin:
        return "not worse"
    if found.high < 0.0 or found.difference < -margin:
        return "worse"
    return "undecided"


def compare_models(
    serving: TrainedModels, new: TrainedModels, split: Split, *, candidates: int, seed: int = 0
) -> dict[str, dict[str, Difference]]:
    """Both versions on one split: pages as served, and the order of the same candidates.

    Args:
        serving, new: on the split's item snapshot and the same catalogue. split: one context per user.
        candidates: how many are retrieved. seed: of the bootstrap.

    Returns:
        For :data:`AS_SERVED` and :data:`SAME_CANDIDATES`: ``ndcg@20`` and ``recall@20``.
    """
    own = {name: candidate_rows(models.towers, split.users, candidates)[0] for name, models in _both(serving, new)}
    together = _union(own["serving"], own["new"])
    found: dict[str, dict[str, Difference]] = {}
    for what in (AS_SERVED, SAME_CANDIDATES):
        values = {
            name: ranking_values(_ranked(models, split, own[name] if what == AS_SERVED else together), split.contexts)
            for name, models in _both(serving, new)
        }
        found[what] = {
            figure: paired_difference(values["serving"][figure], values["new"][figure], seed=seed)
            for figure in (FIGURE, "recall@20")
        }
    return found


def _both(serving: TrainedModels, new: TrainedModels) -> tuple[tuple[str, TrainedModels], tuple[str, TrainedModels]]:
    return ("serving", serving), ("new", new)


def _ranked(models: TrainedModels, split: Split, rows: _Array) -> _Array:
    logits = score_candidates(models.ranker, models.towers, models.items, split.users, rows)
    logits[rows < 0] = -np.inf
    return rank_candidates(logits, rows, models.heads)


def _union(first: _Array, second: _Array) -> _Array:
    """For each line the distinct rows of both, ascending, -1 filling up: int64 [users, the longest]."""
    lines = [np.union1d(one[one >= 0], other[other >= 0]) for one, other in zip(first, second, strict=True)]
    made = np.full((len(lines), max((len(line) for line in lines), default=0)), -1, np.int64)
    for line, rows in enumerate(lines):
        made[line, : len(rows)] = rows
    return made
