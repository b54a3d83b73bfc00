"""The back-test as files for people: tables in Markdown, every figure as JSON, and one plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys_plugin.forecasting.backtest import CHOSEN
from recsys_plugin.forecasting.models import SEASONAL_NAIVE, YEAR_NAIVE
from recsys_plugin.forecasting.series import CLASSES
from recsys_plugin.pipeline.workspace import atomic_text

__all__ = ["demand_lines", "timing_lines", "write_backtest"]

#: Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = {"demand": "#24303e", CHOSEN: "#D55E00", SEASONAL_NAIVE: "#0072B2", YEAR_NAIVE: "#56B4E9"}


def demand_lines(found: Mapping[str, Any], *, all_models: bool = True) -> list[tuple[str, ...]]:
    """A row for each class and model: class, forecasts, model, MASE, RMSSE, WAPE and bias, as texts.

    Args:
        found: of :func:`~recsys_plugin.forecasting.backtest.backtest_demand`; no rows if empty.
        all_models: if not, only what is served and the seasonal naive forecasts.
    """
    rows = []
    for name, group in found.get("classes", {}).items():
        models = sorted(group["models"].items(), key=lambda pair: pair[0] != CHOSEN)
        shown = [pair for pair in models if all_models or pair[0] in _COLOURS]
        for place, (model, figures) in enumerate(shown):
            numbers = [figures[key] for key in ("mase", "rmsse", "wape", "bias")]
            texts = ("–" if number is None else f"{number:.3f}" for number in numbers)
            rows.append((*((name, f"{group['forecasts']:,}") if place == 0 else ("", "")), model, *texts))
    return rows


def timing_lines(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each way to tell when users buy: log loss, Brier score, mean chance, mean error of days, as texts."""
    chances, days = found.get("chances", {}), found.get("days", {})
    rows = []
    for name in dict.fromkeys((*chances, *days)):
        figures = {**chances.get(name, {}), **days.get(name, {})}
        numbers = [figures.get(key) for key in ("log_loss", "brier", "mean", "days_mae")]
        rows.append((name, *("–" if number is None else f"{number:.4f}" for number in numbers)))
    return rows


def write_backtest(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write ``backtest.json``, ``backtest.png`` and ``backtest.md``, which shows the plot; return the last's path.

    Args:
        folder: made if missing. found: of :func:`~recsys_plugin.forecasting.backtest.backtest`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    atomic_text(folder / "backtest.json", json.dumps(found, indent=2, allow_nan=False))
    _plot(folder / "backtest.png", found)
    parts = [
        "# Back-test of the forecasts",
        f"The {found['weeks']} whole weeks before {found['as_of']}, each forecast from what was known before it.",
        "![Demand by week, forecasts and chances](backtest.png)",
    ]
    for name in ("items", "categories"):
        if rows := demand_lines(found[name]):
            parts.append(f"## Demand of {found[name]['series']:,} {name}, one week ahead")
            parts.append(_table(("class", "forecasts", "model", "MASE", "RMSSE", "WAPE", "bias"), rows))
    if rows := timing_lines(found["users"]):
        users = found["users"]
        parts.append("## When users buy")
        parts.append(
            f"{users['forecasts']:,} forecasts over {users['used_weeks']} weeks; {users['bought']:.2%} bought within 7 "
            "days. Days until the next purchase are compared within 28."
        )
        parts.append(_table(("", "log loss", "Brier", "mean chance", "days, mean error"), rows))
    path = folder / "backtest.md"
    atomic_text(path, "\n\n".join(parts) + "\n")
    return path


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def _plot(path: Path, found: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    drawn = [name for name in ("items", "categories") if found[name]]
    count = 2 * len(drawn) + bool(found["users"])
    figure = Figure(figsize=(9.0, 3.2 * max(count, 1)), layout="constrained")
    axes = figure.subplots(max(count, 1), squeeze=False)[:, 0]
    place = 0
    for name in drawn:
        weekly, (above, below) = found[name]["weekly"], axes[place : place + 2]
        for series, colour in _COLOURS.items():
            if series in weekly:
                above.plot(weekly[series], marker=".", color=colour, label=series)
        above.set(title=f"Demand of all {name} by week, and what was forecast", xlabel="week", ylabel="purchases")
        above.set_ylim(bottom=0)
        above.legend(frameon=False)
        classes = [group for group in (*CLASSES, "all") if group in found[name]["classes"]]
        for shift, model in enumerate((CHOSEN, SEASONAL_NAIVE, YEAR_NAIVE)):
            figures = [found[name]["classes"][group]["models"].get(model, {}).get("rmsse") for group in classes]
            below.bar(
                [index + 0.27 * (shift - 1) for index in range(len(classes))],
                [value or 0.0 for value in figures],
                width=0.25,
                color=_COLOURS[model],
                label=model,
            )
        below.set_xticks(range(len(classes)), classes)
        below.set(title=f"RMSSE by class of {name} (less is better)", ylabel="RMSSE")
        below.legend(frameon=False)
        place += 2
    if found["users"]:
        bins = found["users"]["calibration"]
        chances, shares = [part["chance"] for part in bins], [part["bought"] for part in bins]
        most = max(*chances, *shares, 0.01)
        axes[place].plot([0, most], [0, most], color="#9aa5b1", linewidth=1)
        axes[place].plot(chances, shares, marker="o", color=_COLOURS[CHOSEN])
        axes[place].set(
            title="Purchase within 7 days: tenths of the users by their chance",
            xlabel="mean chance",
            ylabel="share that bought",
        )
    figure.savefig(path, dpi=110, metadata={"Software": None})
