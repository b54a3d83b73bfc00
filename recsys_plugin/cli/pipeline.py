"""``recsys apply | train | materialize | export``: the steps between the tables and the servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.pipeline import steps
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import TrainingOptions

__all__ = ["apply", "export", "materialize", "metrics_table", "train", "training_flags", "training_options"]

_force = click.option("--force", is_flag=True, help="Run even if everything is current.")


def training_options(
    encoder: str = "minilm", seed: int = 0, two_tower_steps: int | None = None, ranker_epochs: int | None = None
) -> TrainingOptions:
    """Options of a training run; what is None keeps its default."""
    options = TrainingOptions(encoder=encoder, seed=seed)
    two_tower = replace(options.two_tower, seed=seed)
    ranker = replace(options.ranker, seed=seed)
    if two_tower_steps is not None:
        two_tower = replace(two_tower, steps=two_tower_steps)
    if ranker_epochs is not None:
        ranker = replace(ranker, epochs=ranker_epochs)
    return replace(options, two_tower=two_tower, ranker=ranker)


def training_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The flags that choose a training run; ``export`` needs the same ones to find it."""
    for option in (
        click.option("--ranker-epochs", type=click.IntRange(1), help="Passes over the ranker's examples."),
        click.option("--two-tower-steps", type=click.IntRange(1), help="Optimisation steps of the two-tower."),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of every random choice."),
        click.option(
            "--encoder",
            default="minilm",
            show_default=True,
            help="Text encoder: 'minilm' (comes in a package), a folder, or a Hugging Face name.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_force
@json_option
def apply(force: bool, as_json: bool) -> None:
    """Compute the feature tables and apply the Feast repository.

    \b
    Example:
      recsys apply
    """
    with reporter() as progress:
        done = steps.apply(Settings.from_environment(), progress, force=force)
    if as_json:
        emit_json({"current": done.current, **done.info})
    rows = sum(done.info["rows"].values())
    said = "feature tables and registry are current" if done.current else f"{rows:,} feature rows; feast applied"
    finish(f"{said} ({done.info['features']} features)", then="recsys train")


@click.command()
@training_flags
@_force
@json_option
def train(
    encoder: str, seed: int, two_tower_steps: int | None, ranker_epochs: int | None, force: bool, as_json: bool
) -> None:
    """Train the two-tower and the CTR ranker, and compare them with baselines on a temporal split.

    \b
    Examples:
      recsys train
      recsys train --seed 1 --json > report.json
      recsys train --encoder sentence-transformers/all-mpnet-base-v2
    """
    options = training_options(encoder, seed, two_tower_steps, ranker_epochs)
    with reporter() as progress:
        done = steps.train(Settings.from_environment(), options, progress, force=force)
    if as_json:
        emit_json(done.info)
    else:
        console.print(metrics_table(done.info))
        console.print(f"  {done.info['protocol']}\n  labels {done.info['labels']}", style="dim", soft_wrap=True)
    finish("trained models are current" if done.current else "models trained", then="recsys materialize")


def metrics_table(report: Any) -> Table:
    """Recall and NDCG of baselines and models on the test period."""
    test = report["test"]
    table = Table(title=f"{report['dataset']}: test from {test['from'][:10]}", title_justify="left")
    for name, justify in (("", "left"), ("recall@20", "right"), ("NDCG@20", "right"), ("users", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for part in ("baselines", "models"):
        for name, figures in test[part].items():
            if isinstance(figures, dict):
                row = (f"{figures['recall@20']:.4f}", f"{figures['ndcg@20']:.4f}", f"{figures['users']:,}")
                table.add_row(name, *row, style="bold" if name == "two-tower + ranker" else None)
        table.add_section()
    return table


@click.command()
@_force
@json_option
def materialize(force: bool, as_json: bool) -> None:
    """Load the newest feature values into Redis; starts the embedded Redis for the step if none runs.

    \b
    Example:
      recsys materialize
    """
    with reporter() as progress:
        views = steps.materialize(Settings.from_environment(), progress, force=force)
    if as_json:
        emit_json(views)
    made = sum(state == "materialised" for state in views.values())
    finish(
        f"{made} of {len(views)} views materialised, the others were current" if made else "all views are current",
        then="recsys export",
    )


@click.command()
@training_flags
@_force
@json_option
def export(
    encoder: str, seed: int, two_tower_steps: int | None, ranker_epochs: int | None, force: bool, as_json: bool
) -> None:
    """Write the trained models as a new version of the Triton model repository, after checking parity.

    \b
    Example:
      recsys export
    """
    options = training_options(encoder, seed, two_tower_steps, ranker_epochs)
    with reporter() as progress:
        done = steps.export(Settings.from_environment(), options, progress, force=force)
    if as_json:
        emit_json(done.info)
    largest = max(done.info["parity"]["largest_difference"].values())
    said = "is current" if done.current else "exported"
    finish(
        f"version {done.info['version']} {said}: {done.info['items']:,} items, largest difference from the trained "
        f"models {largest:.1g}",
        then="recsys up",
    )
