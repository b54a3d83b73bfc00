"""One HTML file for each check of skew or drift: what failed, every figure, and the distributions side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recsys_plugin.report.figures import importance_figure, reliability_figure, shares_figure
from recsys_plugin.report.tables import Table, record_table

__all__ = ["drift_page", "skew_page"]

#: Features whose distributions are drawn, those furthest apart first.
_DRAWN = 8
_BARS = 15


@dataclass(frozen=True, slots=True)
class _Section:
    heading: str
    note: str = ""
    table: Table | None = None
    figures: Sequence[tuple[str, Markup]] = ()
    marked: Collection[str] = field(default_factory=tuple)


def skew_page(document: Mapping[str, Any]) -> str:
    """The page for what ``recsys check skew`` found; every text of the data is escaped."""
    features = document["features"]
    failed = document["failed"]
    lines = [f"{feature}: {reason}" for feature, reason in failed.items()]
    if not document["compared"]:
        lines = ["Nothing could be compared."]
    differing = [
        (found["feature"], 100.0 * found["different"] / found["compared"], 0.0)
        for found in features
        if found["different"]
    ]
    sections = [
        _Section(
            "Features",
            "A value is missing where the model saw the contract's default. Differences of times are in seconds.",
            _skew_table(features),
            [("requests that differ", importance_figure(sorted(differing, key=_second)[-_BARS:], across="per cent"))]
            if differing
            else [],
            marked=failed,
        )
    ]
    apart = sorted((f for f in features if f["different"] and f["served"]), key=lambda f: -(f["psi"] or 0.0))
    if apart:
        drawn = [_side_by_side(found, "served", "history", found["offline"]) for found in apart[:_DRAWN]]
        sections.append(_Section("Distributions of the features that differ", figures=drawn))
        examples = {found["feature"]: {"first difference": found["example"]} for found in apart}
        sections.append(_Section("Examples", table=record_table(examples, "Feature")))
    sections += _skipped(document["skipped"])
    compared = f"{document['compared']:,} of {document['requests']:,} requests compared; {document['source']}"
    passed = not failed and document["compared"]
    return _page(
        "Skew: features as served against history",
        compared,
        "pass" if passed else "fail",
        lines or ["Every feature is as history says."],
        sections,
    )


def drift_page(document: Mapping[str, Any]) -> str:
    """The page for what ``recsys check drift`` found; every text of the data is escaped."""
    failed, warned = document["failed"], document["warned"]
    told = [f"{what}: {reason}" for found in (failed, warned) for what, reason in found.items()]
    features = document["features"]
    known = [found for found in features if found["psi"] is not None]
    bars = sorted(((found["feature"], found["psi"], 0.0) for found in known), key=_second)[-_BARS:]
    columns = ("psi", "psi_noise", "jensen_shannon", "missing_then", "missing_now", "new_categories")
    table = record_table({f["feature"]: {name: f[name] for name in columns} for f in features}, "Feature")
    sections = [
        _Section(
            "Features",
            "PSI against training, in training's quantile bins; below its noise it may be chance.",
            table,
            [("PSI", importance_figure(bars, across="PSI"))] if bars else [],
            marked=[*failed, *warned],
        )
    ]
    apart = sorted((found for found in known if found["today"]), key=lambda found: -found["psi"])
    drawn = [_side_by_side(found, "today", "training", found["training"]) for found in apart[:_DRAWN]]
    if drawn:
        sections.append(_Section("Distributions that moved most", figures=drawn))
    scores = document["scores"]
    if scores.get("today"):
        figure = shares_figure(scores["bins"], {"training": scores["training"], "today": scores["today"]})
        figures = {name: value for name, value in scores.items() if isinstance(value, int | float)}
        sections.append(
            _Section("Scores as served", scores["note"], record_table({"scores": figures}, ""), [("scores", figure)])
        )
    calibration = document["calibration"]
    curve = calibration.get("reliability")
    if curve:
        figures = {name: value for name, value in calibration.items() if isinstance(value, int | float)}
        drawn = [("reliability of served scores", reliability_figure({"served": curve}, what="outcome"))]
        sections.append(
            _Section("Calibration", calibration["note"], record_table({"served scores": figures}, ""), drawn)
        )
    sections.append(_Section("Growth", table=record_table(document["growth"], "")))
    sections += _skipped(document["skipped"])
    verdict = "fail" if failed else "warn" if warned else "pass"
    lines = told or ["Nothing moved further than allowed."]
    return _page("Drift: today against training", document["source"], verdict, lines, sections)


def _second(row: tuple[str, float, float]) -> float:
    return row[1]


def _skew_table(features: Sequence[Mapping[str, Any]]) -> Table | None:
    columns = (
        *("compared", "different", "only_online_missing", "only_offline_missing", "both_missing"),
        *("largest_difference", "psi", "psi_noise"),
    )
    return record_table({found["feature"]: {name: found[name] for name in columns} for found in features}, "Feature")


def _side_by_side(found: Mapping[str, Any], now: str, then: str, shares: Sequence[float]) -> tuple[str, Markup]:
    caption = f"{found['feature']}, PSI {found['psi']:.3g}"
    return caption, shares_figure(found["bins"], {then: shares, now: found["served" if now == "served" else "today"]})


def _skipped(skipped: Mapping[str, int]) -> list[_Section]:
    if not skipped:
        return []
    table = record_table({reason: {"times": count} for reason, count in skipped.items()}, "Why")
    return [_Section("Not compared", table=table)]


def _page(title: str, subtitle: str, verdict: str, lines: Sequence[str], sections: Sequence[_Section]) -> str:
    # All texts are escaped but the figures, which escape their own.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("recsys_plugin.report").joinpath("checks.html").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        subtitle=subtitle,
        verdict=verdict,
        lines=lines,
        sections=sections,
        version=metadata.version("recsys-plugin"),
    )
