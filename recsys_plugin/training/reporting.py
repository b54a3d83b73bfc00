"""The report of a training run: every model and baseline on validation and test, importance, options and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from recsys_plugin.bench.machine import describe_machine, package_versions
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.training.ctr import (
    without_nan,
)
from recsys_plugin.training.evaluation import baseline_metrics, ranker_metrics, retrieval_metrics
from recsys_plugin.training.frames import Split
from recsys_plugin.training.importance import permutation_importance
from recsys_plugin.training.run import TrainingRun
from recsys_plugin.training.segments import Segments

__all__ = ["training_report"]


def training_report(
    run: TrainingRun, members: Mapping[str, Mapping[str, Any]], *, fine_tuning: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Judge everything that was trained, write ``report.json`` and return it.

    Args:
        run: the training run, its parts done.
        members: what was told of the training of each CTR model. fine_tuning: of the text encoder's, if any.
    """
    frames = run.frames()
    columns = ["user_id", "item_id", "event_type", "timestamp"]
    events = run.dataset.frame("events", columns, event_types=["purchase"], dictionary=True)
    report: dict[str, Any] = {
        "dataset": run.dataset.name,
        "protocol": "one ranking per user at the split, of items and users seen before it; "
        "recall@20 = hits / min(20, purchases); features joined as of the split",
        "labels": "constructed: a retrieved candidate that nothing came of within "
        f"{frames.horizon.days} days counts as a negative",
    }
    if shown := len(run.shown_pages()[0]):
        report["labels"] += f"; the rankers learned from {shown:,} pages as they were shown, too"
    if fine_tuning is not None:
        report["fine_tuning"] = dict(fine_tuning)
    for name, position, moment, split in (
        ("validation", -3, frames.moments[-3], frames.validation),
        ("test", -2, frames.moments[-2], frames.test),
    ):
        run.progress(f"evaluation, {name}", 0, 1)
        segments = run.segments(split, moment)
        report[name] = {
            "from": moment.isoformat(),
            "baselines": baseline_metrics(events, run.item_ids, split.contexts, segments, before=moment),
            "models": _models_metrics(run, list(members), position, split, segments),
        }
        if not len(split.contexts):
            report[name]["note"] = f"nobody known bought anything known in the {name} time: nothing is judged on it"
            if name == "validation":
                report[name]["note"] += ", and training ran to its last epoch without early stopping"
        run.progress(f"evaluation, {name}", 1, 1)
        _track_figures(run, name, report[name])
    models = run.models_at(_best(members), -2)
    report["importance"] = permutation_importance(
        models,
        frames.test,
        models.items,
        candidates=run.options.candidates,
        seed=run.options.seed,
        progress=lambda done, total: run.progress("feature importance", done, total),
    )
    report["run"] = {
        "made": datetime.fromtimestamp(run.clock(), UTC).isoformat(timespec="seconds"),
        "options": asdict(run.options),
        "versions": package_versions("torch", "transformers", "feast", "lightgbm", "onnxruntime"),
        "machine": describe_machine(),
    }
    report["ctr_models"] = {
        "labels": "constructed: a retrieved candidate that nothing came of counts as a negative; AUC, GAUC, "
        "log loss and ECE are over the retrieved candidates, recall and NDCG over all purchases",
        "calibration": "Platt scaling on the validation weeks: the probability of the event within as long a time",
        "models": dict(members),
    }
    report = without_nan(report)
    atomic_text(run.folder / "report.json", json.dumps(report, indent=2, allow_nan=False))
    return report


def _models_metrics(
    run: TrainingRun, members: Sequence[str], position: int, split: Split, segments: Segments
) -> dict[str, Any]:
    """The two-tower, and it with each CTR model, on one split."""
    candidates = run.options.candidates
    found: dict[str, Any] = {}
    for name in members:
        models = run.models_at(name, position)
        found = found or retrieval_metrics(models.towers, split, candidates, segments)
        found[f"two-tower + {name}"] = ranker_metrics(models, split, models.items, candidates, segments)
    return found


def _track_figures(run: TrainingRun, name: str, figures: Mapping[str, Any]) -> None:
    """Tell the tracker every figure of every system; segments are the report's matter."""
    for key, value in figures.items():
        if isinstance(value, Mapping) and key != "segments":
            _track_figures(run, f"{name}/{key}", value)
        elif isinstance(value, (int, float)):
            run.tracker.scalar(f"{name}/{key}", value, 0)


def _best(members: Mapping[str, Mapping[str, Any]]) -> str:
    """The CTR model with the best NDCG on the validation; the first if there is none."""
    return max(members, key=lambda name: float(members[name].get("validation", {}).get("ndcg@20") or 0.0))
