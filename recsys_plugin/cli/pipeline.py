"""``recsys apply | train | materialize | export``: the steps between the tables and the servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.cli.select import models_table
from recsys_plugin.export.options import GRAPHS, PRECISIONS, TARGETS, ExportOptions
from recsys_plugin.pipeline import online, steps
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import (
    CTR_MODELS,
    FINE_TUNING_MODES,
    LEAVE_OUT,
    SOFTMAXES,
    TrackingOptions,
    TrainingOptions,
)
from recsys_plugin.training.tracking import TRACKERS

__all__ = [
    "apply",
    "export",
    "materialize",
    "metrics_table",
    "precision_table",
    "train",
    "training_flags",
    "training_options",
]

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
            help="Text encoder: 'minilm' or 'e5' (multilingual) from packages, a folder, or a Hugging Face name.",
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
@click.option(
    "--tracker",
    type=click.Choice(TRACKERS),
    default="tensorboard",
    show_default=True,
    help="Where curves are shown: below .recsys/training/runs/ (tensorboard), or as WANDB_MODE and MLFLOW_TRACKING_URI "
    "say.",
)
@click.option(
    "--model",
    "models",
    type=click.Choice(["all", *CTR_MODELS]),
    multiple=True,
    default=["split_mlp"],
    show_default=True,
    help="CTR models to train and compare; may be repeated. split_mlp is always among them.",
)
@click.option(
    "--fine-tune",
    type=click.Choice(FINE_TUNING_MODES),
    default="frozen",
    show_default=True,
    help="What of the text encoder is trained on the shop's baskets and queries: nothing, low-rank changes, or all.",
)
@click.option(
    "--softmax",
    type=click.Choice(SOFTMAXES),
    default="sampled",
    show_default=True,
    help="Of the two-tower: over the batch with logQ correction, or over the whole catalogue.",
)
@click.option(
    "--leave-out",
    type=click.Choice(LEAVE_OUT),
    multiple=True,
    help="Train without the items' texts, or without the users' behaviour, to see what they are worth.",
)
@click.option("--run-name", help="The run's name in the tracker; the time in UTC without it.")
@_force
@json_option
def train(
    encoder: str,
    seed: int,
    two_tower_steps: int | None,
    ranker_epochs: int | None,
    tracker: str,
    models: tuple[str, ...],
    fine_tune: str,
    softmax: str,
    leave_out: tuple[str, ...],
    run_name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train the two-tower and the CTR models, and compare them with baselines on a temporal split.

    \b
    Examples:
      recsys train
      recsys train --model all
      recsys train --model lightgbm --model dcn
      recsys train --seed 1 --json > report.json
      recsys train --encoder e5 --fine-tune lora
      recsys train --encoder sentence-transformers/all-mpnet-base-v2
    """
    options = training_options(encoder, seed, two_tower_steps, ranker_epochs)
    asked = {"split_mlp", *(CTR_MODELS if "all" in models else models)}
    options = replace(options, ctr_models=tuple(name for name in CTR_MODELS if name in asked))
    options = replace(
        options,
        fine_tuning=replace(options.fine_tuning, mode=fine_tune, seed=seed),
        two_tower=replace(options.two_tower, softmax=softmax),
        leave_out=tuple(dict.fromkeys(leave_out)),
    )
    with reporter() as progress:
        tracking = TrackingOptions(tracker, run_name or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))
        done = steps.train(Settings.from_environment(), options, progress, force=force, tracking=tracking)
    if as_json:
        emit_json(done.info)
    else:
        console.print(metrics_table(done.info))
        console.print(models_table(done.info["ctr_models"]["models"]))
        console.print(f"  {done.info['protocol']}\n  labels {done.info['labels']}", style="dim", soft_wrap=True)
    following = "recsys select" if len(asked) > 1 else "recsys materialize"
    finish("trained models are current" if done.current else "models trained", then=following)


def metrics_table(report: Any) -> Table:
    """Recall and NDCG of baselines and models on the test period, and recall of new and of tail items alone."""
    test = report["test"]
    table = Table(title=f"{report['dataset']}: test from {test['from'][:10]}", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("recall@20", "NDCG@20", "new items", "tail items"):
        table.add_column(name, justify="right")
    for part in ("baselines", "models"):
        for name, figures in test[part].items():
            if isinstance(figures, dict):
                new, tail = figures["new_items"], figures["segments"].get("tail items", {})
                recalls = (figures["recall@20"], figures["ndcg@20"], new.get("recall@20"), tail.get("recall@20"))
                row = ("–" if value is None else f"{value:.4f}" for value in recalls)
                table.add_row(name, *row, style="bold" if name.startswith("two-tower +") else None)
        table.add_section()
    return table


@click.command()
@_force
@json_option
def materialize(force: bool, as_json: bool) -> None:
    """Load the newest feature values into Redis, and what the event stream goes on from.

    Starts the embedded Redis for the step if none runs.

    \b
    Example:
      recsys materialize
    """
    with reporter() as progress:
        views = online.materialize(Settings.from_environment(), progress, force=force)
    if as_json:
        emit_json(views)
    states = [state for name, state in views.items() if name != online.LIVE_STATE]
    made = states.count("materialised")
    finish(
        f"{made} of {len(states)} views materialised, the others were current" if made else "all views are current",
        then="recsys export",
    )


@click.command()
@training_flags
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="How the ranker's catalogue and the text encoder are stored: int8 is quicker on a CPU, fp16 is for GPUs.",
)
@click.option(
    "--most-loss",
    type=click.FloatRange(0.0, 1.0),
    default=ExportOptions().most_loss,
    show_default=True,
    help="Largest allowed fall of NDCG@20, AUC and the texts' cosine in a lower precision.",
)
@click.option(
    "--graphs",
    type=click.Choice(GRAPHS),
    default=ExportOptions().graphs,
    show_default=True,
    help="merged: one graph for each request, the quickest. ensembles: steps that share one catalogue in memory.",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default=ExportOptions().target,
    show_default=True,
    help="What Triton is to run the models on; cuda and tensorrt need NVIDIA's container and a GPU, and fall back to "
    "the CPU where there is none.",
)
@click.option(
    "--least-group",
    type=click.IntRange(2),
    default=ExportOptions().least_group,
    show_default=True,
    help="The fewest users that a community has, and that whatever is told of one is true of.",
)
@click.option(
    "--epsilon",
    type=click.FloatRange(0.0, min_open=True),
    help="Differential privacy for what is told of communities: noise on every count; less hides better. Needs the "
    "extra `private`. Exact counts otherwise.",
)
@click.option(
    "--contributions",
    type=click.IntRange(1),
    default=ExportOptions().contributions,
    show_default=True,
    help="With --epsilon: items, and categories, that a user counts for.",
)
@click.option(
    "--privacy-budget",
    type=click.FloatRange(0.0, min_open=True),
    help="Epsilon that all exports may spend together; one that would spend more is refused.",
)
@_force
@json_option
def export(
    encoder: str,
    seed: int,
    two_tower_steps: int | None,
    ranker_epochs: int | None,
    precision: str,
    most_loss: float,
    graphs: str,
    target: str,
    least_group: int,
    epsilon: float | None,
    contributions: int,
    privacy_budget: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the trained models as a new version of the Triton model repository, after checking parity.

    \b
    Examples:
      recsys export
      recsys export --precision int8
      recsys export --graphs ensembles
      recsys export --target tensorrt --precision fp16
      recsys export --epsilon 1 --privacy-budget 10
    """
    options = training_options(encoder, seed, two_tower_steps, ranker_epochs)
    with reporter() as progress:
        laid_out = ExportOptions(
            precision, most_loss, graphs, target, least_group, epsilon, contributions, privacy_budget
        )
        done = steps.export(Settings.from_environment(), options, progress, force=force, laid_out=laid_out)
    if as_json:
        emit_json(done.info)
    elif precision != "fp32":
        console.print(precision_table(done.info["precision"]))
    largest = max(done.info["parity"]["largest_difference"].values())
    said = "is current" if done.current else "exported"
    finish(
        f"version {done.info['version']} {said}: {done.info['items']:,} items, largest difference from the trained "
        f"models {largest:.1g}",
        then="recsys up",
    )


def precision_table(reduced: Any) -> Table:
    """What a lower precision costs and saves, by model."""
    named = reduced["precision"]
    table = Table(title=f"{named} against fp32", title_justify="left")
    for name in ("", "figure", "fp32", named):
        table.add_column(name, justify="left" if name in ("", "figure") else "right")
    for model, found in reduced.items():
        if not isinstance(found, dict):
            continue
        if "note" in found:
            table.add_row(model, found["note"], "", "")
            continue
        size = found["bytes"]
        table.add_row(model, "MB", f"{size['fp32'] / 1e6:.1f}", f"{size[named] / 1e6:.1f}")
        table.add_row("", "CPU time", "1.00", f"{found['cpu_time_ratio']:.2f}")
        for metric in ("ndcg@20", "auc"):
            if isinstance(found.get(metric), list):
                whole, less = found[metric]
                table.add_row("", metric, f"{whole:.4f}", f"{less:.4f}")
        if "cosine" in found:
            table.add_row("", "cosine to fp32, mean", "1.0000", f"{found['cosine']['mean']:.4f}")
        if isinstance(found.get("ndcg@20"), float):
            table.add_row("", "ndcg@20 of neighbours", "1.0000", f"{found['ndcg@20']:.4f}")
    return table
