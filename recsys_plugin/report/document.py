"""Everything that a training run left behind as one plain document, which the report is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recsys_plugin.errors import ConfigurationError, StepFailed
from recsys_plugin.training.tracking import read_curves

__all__ = ["training_document"]


def training_document(state: Path) -> dict[str, Any]:
    """Gather the figures, the curves and the records of the parts of the last training run.

    Args:
        state: the state folder, ``.recsys``.

    Returns:
        ``report`` (what ``report.json`` holds), ``curves`` (by name, points ``[step, value]``) and ``parts`` (by name,
        what each step of the training remembered). Plain JSON, except that a value that was not finite is NaN.

    Raises:
        ConfigurationError: if nothing is trained.
        StepFailed: if ``report.json`` is no JSON object.
    """
    folder = state / "training"
    path = folder / "report.json"
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist: nothing is trained here; run `recsys train`")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StepFailed(f"{path} is no JSON ({error}); run `recsys train --force`") from error
    if not isinstance(report, dict):
        raise StepFailed(f"{path} holds no JSON object; run `recsys train --force`")
    curves: dict[str, list[tuple[int, float]]] = {}
    for log in sorted(folder.glob("*/curves.jsonl")):
        curves |= read_curves(log)
    parts: dict[str, Any] = {}
    for record in sorted((state / "steps").glob("train.*.json")):
        parts[record.stem.removeprefix("train.")] = json.loads(record.read_text(encoding="utf-8"))["info"]
    return {"report": report, "curves": curves, "parts": parts}
