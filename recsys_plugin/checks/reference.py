"""What a model version was trained on, in a few kilobytes beside it: bins and shares of features, scores, calibration.

Export writes one for each version to ``.recsys/export/references/<version>.json``; ``recsys check drift`` compares
today with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.checks.distributions import Bins, Sample
from recsys_plugin.checks.features import feature_samples
from recsys_plugin.errors import ConfigurationError

if TYPE_CHECKING:  # torch takes seconds to import, and reading a reference does not need it
    from recsys_plugin.training.run import TrainingRun

__all__ = ["POSITIONS", "calibration_of", "read_reference", "reference_path", "score_shares", "training_reference"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Positions of a page whose scores are told apart; further ones are left out.
POSITIONS = 20
_REQUESTS, _USERS = 20_000, 1_000
_SCORE_BINS = 20


def reference_path(state: Path, version: int) -> Path:
    """Where the reference of a version is."""
    return state / "export" / "references" / f"{version}.json"


def read_reference(state: Path, version: int) -> Mapping[str, Any]:
    """What :func:`training_reference` told of a version.

    Raises:
        ConfigurationError: if it was exported without one.
    """
    path = reference_path(state, version)
    if not path.exists():
        raise ConfigurationError(
            f"version {version} has no reference of its training, {path}; run `recsys export --force`"
        )
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def training_reference(run: TrainingRun, ctr_model: str, *, users: int) -> dict[str, Any]:
    """Describe what a trained model has learned from and how it scored the validation, as plain JSON values.

    Args:
        run: the training run. ctr_model: the CTR model that is exported. users: how many users the shop has.

    Features are those of the moments of acts before the validation, which are what requests look like. Scores are those
    of the best :data:`POSITIONS` candidates of each user of the validation, position by position.
    """
    frames, models = run.frames(), run.models_at(ctr_model, -3)
    generator = np.random.default_rng(run.options.seed)
    lines = np.arange(len(frames.train.users))
    if len(lines) > _REQUESTS:
        lines = np.sort(generator.choice(lines, _REQUESTS, replace=False))
    stamps = microseconds(frames.train.contexts.entities["event_timestamp"])[lines]
    features = {}
    for spec, sample in feature_samples(models.contract, frames.train.users.take(lines), stamps / 1e6):
        bins = Bins.of(sample)
        features[spec.reference] = {"bins": bins.to_dict(), "shares": bins.shares(sample).tolist()}
    return {
        "contract": models.contract.fingerprint,
        "requests": len(lines),
        "from": int(stamps.min()),
        "until": int(stamps.max()),
        "features": features,
        **_validation(run, models.ranker, models.heads),
        "horizon_hours": frames.horizon.total_seconds() / 3600,
        "items": len(run.item_ids),
        "users": users,
    }


def _validation(run: TrainingRun, ranker: Any, heads: Sequence[str]) -> dict[str, Any]:
    """Scores and calibration on the validation; None where it has no user."""
    from recsys_plugin.export.torch_graphs import SCORE_WEIGHTS
    from recsys_plugin.training.evaluation import score_candidates
    from recsys_plugin.training.ranker import HEADS

    weights = {head: SCORE_WEIGHTS[head] for head in heads}
    towers, offered = run.offered("validation")
    offered = offered.first(_USERS, run.options.seed)
    if not len(offered.users):
        return {"score_weights": weights, "scores": None, "calibration": None}
    logits = score_candidates(ranker, towers, offered.items, offered.users, offered.rows).astype(np.float64)
    chance = 1.0 / (1.0 + np.exp(-logits))
    scores, labels = np.zeros(offered.rows.shape), np.zeros(offered.rows.shape)
    for head, weight in weights.items():
        scores += weight * chance[..., HEADS.index(head)]
        labels += weight * offered.labels[..., HEADS.index(head)]
    scores[offered.rows < 0] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :POSITIONS]
    best, came = (np.take_along_axis(values, order, axis=1) for values in (scores, labels))
    there = np.isfinite(best)
    bins = Bins.of(Sample.of(best, there), most=_SCORE_BINS)
    told = [bins.shares(Sample.of(best[:, [place]], there[:, [place]])).tolist() for place in range(best.shape[1])]
    total = sum(weights.values())
    return {
        "score_weights": weights,
        "scores": {"bins": bins.to_dict(), "positions": told, "users": len(best)},
        "calibration": calibration_of(best[there] / total, came[there] / total),
    }


def score_shares(scores: Mapping[str, Any], counts: Sequence[int] | _Array) -> _Array:
    """The shares that training's scores would have on pages with so many items at each position, float64 [bins].

    Args:
        scores: of a reference. counts: how many scores there are of each position, first position first.
    """
    positions = np.array(scores["positions"], np.float64)
    positions[:, -1] = 0.0  # users without so many candidates
    weight = np.asarray(counts, np.float64)[: len(positions)]
    found = weight @ positions[: len(weight)]
    return np.asarray(found / found.sum(), np.float64)


def calibration_of(predicted: _Array, observed: _Array) -> dict[str, Any]:
    """How probabilities fit what came: ECE over 15 bins of equal mass, and observed over predicted mean.

    Args:
        predicted: float [n] in 0 … 1. observed: float [n] in 0 … 1, NaN where it is not known.
    """
    from recsys_plugin.training.zoo.metrics import expected_calibration_error

    known = ~np.isnan(observed)
    curve = expected_calibration_error(observed, predicted)
    mean = float(predicted[known].mean()) if known.any() else 0.0
    seen = float(observed[known].mean()) if known.any() else 0.0
    return {
        "ece": curve.error if known.any() else None,
        "ratio": seen / mean if mean > 0 else None,
        "mean_prediction": mean,
        "mean_outcome": seen,
        "items": int(known.sum()),
        "positive": int((observed[known] > 0).sum()),
        "reliability": {"predicted": list(curve.predicted), "observed": list(curve.observed)},
    }
