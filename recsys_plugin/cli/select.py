"""``recsys select``: which CTR model is served."""

from __future__ import annotations

from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option
from recsys_plugin.pipeline import steps
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import CTR_MODELS

__all__ = ["models_table", "select"]


@click.command()
@click.option(
    "--rule",
    type=click.Choice(["ndcg", "recall", "auc", "gauc"]),
    default="ndcg",
    show_default=True,
    help="What to maximise on the validation weeks.",
)
@click.option(
    "--most-ece",
    type=click.FloatRange(0.0, 1.0),
    default=0.02,
    show_default=True,
    help="Leave out models whose expected calibration error is above this.",
)
@click.option("--model", type=click.Choice(CTR_MODELS), help="Serve this model, whatever the rule says.")
@json_option
def select(rule: str, most_ece: float, model: str | None, as_json: bool) -> None:
    """Choose the CTR model that `recsys export` exports, by the validation weeks alone.

    The best figure wins among the models that are calibrated well enough; of those within one standard error of it
    the fastest. The test weeks are shown, and decide nothing.

    \b
    Examples:
      recsys train --model all && recsys select && recsys export
      recsys select --rule auc --most-ece 0.01
      recsys select --model lightgbm
    """
    chosen = steps.select(Settings.from_environment(), rule=rule, most_ece=most_ece, model=model)
    if as_json:
        emit_json(chosen)
    else:
        console.print(models_table(chosen["models"], chosen["model"]))
    finish(f"{chosen['model']} is served: {chosen['rule']}", then="recsys export")


def models_table(models: Any, chosen: str | None = None) -> Table:
    """The CTR models side by side: their figures on the test, and what they cost."""
    # Eight figures fit into 80 columns without the room that a table usually leaves between them.
    table = Table(
        title="CTR models, test weeks (labels constructed)", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    for name in ("AUC", "GAUC", "log loss", "ECE", "recall", "NDCG", "train s", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, info in models.items():
        test = info["test"]
        if not test:
            continue
        head = test["heads"].get("purchase") or next(iter(test["heads"].values()))
        table.add_row(
            name,
            *(_figure(head[key]) for key in ("auc", "gauc", "log_loss", "ece")),
            *(_figure(test[key]) for key in ("recall@20", "ndcg@20")),
            f"{info['training_seconds']:.0f}",
            f"{test['milliseconds_per_user']:.2f}",
            style="bold" if name == chosen else None,
        )
    return table


def _figure(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"
