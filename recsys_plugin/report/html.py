"""One HTML file of a training run that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.report.document import training_document
from recsys_plugin.report.figures import (
    curve_figure,
    histogram_figure,
    importance_figure,
    reliability_figure,
    segment_figure,
)
from recsys_plugin.report.tables import (
    Table,
    comparison_table,
    ctr_table,
    flat,
    number,
    record_table,
    segment_table,
    systems_of,
)

__all__ = ["render_report", "write_report"]

#: The parts of a training run, in their order, and what people call them.
_PARTS = {
    "text": "text vectors",
    "frames": "features, point in time",
    "two_tower": "two-tower",
    "ranker": "ranker",
    "vectors": "vectors to Feast",
}
_MOST_FEATURES = 12


def write_report(state: Path, output: Path | None = None) -> Path:
    """Render the report of the last training run in ``state`` (``.recsys``).

    Args:
        state: the state folder.
        output: where to; ``training/report.html`` below ``state`` if None.

    Returns:
        The file.

    Raises:
        ConfigurationError: if nothing is trained.
    """
    path = output or state / "training" / "report.html"
    atomic_text(path, render_report(training_document(state)))
    return path


def render_report(document: Mapping[str, Any]) -> str:
    """The page for what :func:`~recsys_plugin.report.document.training_document` gathered.

    A section whose figures are missing is left out or says so; every text from the data is escaped.
    """
    report = document["report"]
    strong = _best(report, "models", "validation", "test")
    # All texts are escaped but the figures, which escape their own.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    template = environment.from_string(
        resources.files("recsys_plugin.report").joinpath("training.html").read_text(encoding="utf-8")
    )
    run = report.get("run", {})
    return template.render(
        version=metadata.version("recsys-plugin"),
        dataset=str(report.get("dataset", "unnamed data")),
        protocol=report.get("protocol"),
        labels=report.get("labels"),
        made=run.get("made"),
        cards=_cards(report, strong),
        comparison=comparison_table(report, strong),
        strong=strong,
        segments=_segments(report, strong),
        curves=_curves(document.get("curves", {}), report),
        calibration=_calibration(report),
        importance=_importance(report),
        ctr={
            split: table
            for split in ("test", "validation")
            if (table := ctr_table(report.get("ctr_models", {}).get("models", {}), split)) is not None
        },
        ctr_labels=report.get("ctr_models", {}).get("labels"),
        fine_tuning=list(flat(report.get("fine_tuning", {}))),
        parts=_parts(document.get("parts", {})),
        splits=[(name, report[name]["from"]) for name in ("validation", "test") if "from" in report.get(name, {})],
        options=list(flat(run.get("options", {}))),
        versions=list(run.get("versions", {}).items()),
        machine=list(flat(run.get("machine", {}))),
    )


def _best(report: Mapping[str, Any], kind: str, *splits: str, scope: str = "") -> str:
    """The system of a kind with the highest recall on the first split that tells; empty if none does.

    ``scope`` names a mapping within a system's figures, such as ``new_items``.
    """
    for split in splits:
        found: dict[str, float] = {}
        for part, name, figures in systems_of(report.get(split, {})):
            value = (figures.get(scope, {}) if scope else figures).get("recall@20")
            if part == kind and value is not None and math.isfinite(value):
                found[name] = value
        if found:
            return max(found, key=lambda name: found[name])
    return ""


def _cards(report: Mapping[str, Any], strong: str) -> list[tuple[str, str, str]]:
    """The few figures that stand on top: label, figure, remark."""
    test = report.get("test", {})
    cards = []
    for label, scope in (("Recall@20, test", ""), ("Recall@20, items new to the user", "new_items")):
        ours = test.get("models", {}).get(strong, {})
        ours = ours.get(scope, {}) if scope else ours
        if "recall@20" not in ours:
            continue
        rival = _best(report, "baselines", "test", scope=scope)
        theirs = test["baselines"][rival] if rival else {}
        reached = (theirs.get(scope, {}) if scope else theirs).get("recall@20")
        remark = f"{strong}; best baseline {number(reached)} ({rival})" if rival else strong
        cards.append((label, number(ours["recall@20"]), remark))
    for name, value in test.get("models", {}).items():
        if isinstance(value, float):
            cards.append((name, number(value), "what the ranker could find at most"))
    if "users" in test.get("models", {}).get(strong, {}):
        remark = "ranked once each, at the start of the test"
        cards.append(("Users", number(test["models"][strong]["users"]), remark))
    return cards


def _or_nan(value: float | None) -> float:
    """JSON has no NaN: a figure that cannot be told is null there."""
    return math.nan if value is None else value


def _segments(report: Mapping[str, Any], strong: str) -> dict[str, Any] | None:
    """Both tables and the figure of our best system beside the best baseline."""
    test = report.get("test", {})
    table = segment_table(test, "recall@20", strong)
    if table is None:
        return None
    names = [segment for _, segment in table.columns]
    rival = _best(report, "baselines", "test")
    drawn = {
        name: [_or_nan(figures["segments"].get(segment, {}).get("recall@20")) for segment in names]
        for _, name, figures in systems_of(test)
        if name in (strong, rival) and figures.get("segments")
    }
    figure = segment_figure(names, drawn, across="Recall@20") if drawn else None
    return {"recall": table, "ndcg": segment_table(test, "ndcg@20", strong), "figure": figure}


def _curves(curves: Mapping[str, Any], report: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """A figure for each curve, losses over steps and validation over epochs; one of all CTR models; the encoder's."""
    drawn = []
    for name, points in sorted(curves.items(), key=lambda curve: not curve[0].startswith("two-tower")):
        part, _, what = name.partition("/")
        whole = "validation" in what
        figure = curve_figure({name: points}, across="epoch" if whole else "step", up=what or part, whole=whole)
        drawn.append((f"{part}: {what or 'value'}", figure))
    models = report.get("ctr_models", {}).get("models", {})
    tuned = report.get("fine_tuning", {})
    for said, up, losses in (
        ("CTR models", "validation log loss", {name: model.get("validation_loss") for name, model in models.items()}),
        (
            "text encoder",
            "loss",
            {key.removesuffix("_loss"): tuned.get(key) for key in ("training_loss", "validation_loss")},
        ),
    ):
        by_epoch = {name: list(enumerate(values, start=1)) for name, values in losses.items() if values}
        if by_epoch:
            drawn.append((f"{said}: {up}", curve_figure(by_epoch, across="epoch", up=up, whole=True)))
    return drawn


def _calibration(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """A reliability figure of all CTR models for each head, their errors, and the spread of the probabilities."""
    told = report.get("ctr_models", {})
    heads: dict[str, dict[str, Any]] = {}
    for name, model in told.get("models", {}).items():
        for head, figures in model.get("test", {}).get("heads", {}).items():
            if figures.get("reliability", {}).get("predicted"):
                heads.setdefault(head, {})[name] = figures
    if not heads:
        return None
    spread = report.get("importance", {}).get("probabilities", {})
    figures = []
    for head, models in heads.items():
        curves = {name: found["reliability"] for name, found in models.items()}
        errors = ", ".join(f"{name} {number(found['ece'])}" for name, found in models.items())
        figures.append((f"{head.capitalize()}: reliability", reliability_figure(curves, what=head), f"ECE: {errors}"))
    if spread:
        across = f"probability of a {spread['head']}"
        drawn = histogram_figure(spread["edges"], spread["counts"], across=across)
        figures.append(("Predicted probabilities of the ranker", drawn, report["importance"].get("note", "")))
    return {"note": told.get("calibration", ""), "figures": figures}


def _importance(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """A figure of the drop of NDCG@20 for each kind of group, and all figures as a table."""
    found = report.get("importance", {})
    figures = []
    for kind, groups in found.get("groups", {}).items():
        drops = {name: group["ndcg@20"] for name, group in groups.items() if group["ndcg@20"]["mean"] is not None}
        rows = [(name, drop["mean"], drop["deviation"]) for name, drop in drops.items()]
        rows = sorted(rows, key=lambda row: -abs(row[1]))[:_MOST_FEATURES]
        if rows:
            figures.append((kind, importance_figure(rows, across="drop of NDCG@20")))
    if not figures:
        return None
    every = {f"{kind} · {name}": group for kind, groups in found["groups"].items() for name, group in groups.items()}
    return {"note": found.get("note", ""), "figures": figures, "table": record_table(every, "Shuffled")}


def _parts(parts: Mapping[str, Any]) -> Table | None:
    """What each part of the training remembered, as a table of name, seconds and the rest."""
    lines: dict[str, Any] = {}
    for name in sorted(parts, key=lambda part: [*_PARTS, part].index(part)):
        if name in ("report", "html"):
            continue
        rest: dict[str, Any] = {}
        for key, value in parts[name].items():
            if not isinstance(value, Mapping):
                rest[key] = value
            elif all(isinstance(count, int) for count in value.values()):
                rest |= {f"{key}, {what}": count for what, count in value.items()}
        seconds = rest.pop("seconds", None)
        said = "; ".join(f"{key.replace('_', ' ')} {number(value)}" for key, value in rest.items())
        lines[_PARTS.get(name, name)] = {"seconds": seconds, "what": said}
    return record_table(lines, "Part")
