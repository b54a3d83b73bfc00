"""``recsys evaluate``: judge policies by what was logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from recsys_plugin.cli._output import console, finish, reporter
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.off_policy.evaluate import Evaluation

__all__ = ["evaluate", "off_policy"]


@click.group()
def evaluate() -> None:
    """Judge exploration policies by what was logged, without serving them."""


@evaluate.command("off-policy")
@click.argument("log", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--window", default="24h", show_default=True, help="Attribution window of the shop's own log.")
@click.option(
    "--policy",
    "texts",
    multiple=True,
    required=True,
    help="none, epsilon:E, gumbel:T or thompson:FILE; may be repeated.",
)
@click.option("--reward", type=click.Choice(("click", "cart", "purchase")), default="click", show_default=True)
@click.option(
    "--model",
    type=click.Choice(("item-position", "cascade", "page")),
    default="item-position",
    show_default=True,
    help="What a reward depends on: item and position; the items above as well; the whole page.",
)
@click.option(
    "--estimator",
    "estimators",
    type=click.Choice(("ips", "snips", "dr", "sndr", "switch", "dm")),
    multiple=True,
    help="May be repeated.  [default: ips, snips; under item-position dr and sndr as well]",
)
@click.option(
    "--feature", "features", multiple=True, help="A column that the reward model learns from; may be repeated."
)
@click.option("--clip", type=click.FloatRange(min=0.0, min_open=True), help="The largest importance weight.")
@click.option("--switch", type=click.FloatRange(min=0.0, min_open=True), help="With switch: the model alone above it.")
@click.option("--bootstrap", is_flag=True, help="Intervals by drawing pages anew instead of by the normal law.")
@click.option("--level", type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True), default=0.95, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "target", metavar="FILE", help="Write the figures as JSON; - is standard output.")
def off_policy(
    log: Path | None,
    window: str,
    texts: tuple[str, ...],
    reward: str,
    model: str,
    estimators: tuple[str, ...],
    features: tuple[str, ...],
    clip: float | None,
    switch: float | None,
    bootstrap: bool,
    level: float,
    seed: int,
    target: str | None,
) -> None:
    """What other exploration policies would have earned on the pages of LOG, a Parquet file or folder.

    Without LOG, on the shop's own pages: those logged with their candidates (`ImpressionLog(candidates_sample=...)`),
    archived by `recsys events archive` and joined by `recsys events join`.

    The log has one row for each candidate of each page with its position, propensity, score and outcome. Exit code 3
    if a policy would have shown nothing of what was shown.

    \b
    Examples:
      recsys evaluate off-policy --policy none --policy gumbel:0.3
      recsys evaluate off-policy log.parquet --policy epsilon:0.05 --reward purchase --json report.json
      recsys evaluate off-policy log.parquet --policy none --model cascade --clip 20
    """
    from recsys_plugin.cli.bench import check_target
    from recsys_plugin.cli.events import outcome_window
    from recsys_plugin.impressions.join import outcomes_folder
    from recsys_plugin.off_policy.evaluate import EvaluationOptions, evaluate_policy
    from recsys_plugin.off_policy.log import ImpressionLog, read_log
    from recsys_plugin.off_policy.served import served_log
    from recsys_plugin.pipeline.workspace import atomic_text
    from recsys_plugin.policy.exploration_settings import parse_exploration

    check_target(target)
    policies = [parse_exploration(text) for text in texts]
    usual = ("ips", "snips", "dr", "sndr") if model == "item-position" else ("ips", "snips")
    options = EvaluationOptions(
        model=model,  # type: ignore[arg-type]
        estimators=estimators or usual,  # type: ignore[arg-type]
        clip=clip,
        switch=switch,
        interval="bootstrap" if bootstrap else "normal",
        level=level,
        features=features,
        seed=seed,
    )
    with reporter() as tell:
        tell("reading the log", 0, 0)
        if log is None:
            settings = Settings.from_environment()
            outcomes = outcomes_folder(settings.state, outcome_window(window))
            table = served_log(settings.state / "impressions", outcomes)
            pages = ImpressionLog.of_table(table, reward, file="the shop's pages")
        else:
            pages = read_log(log, reward)
        found = [evaluate_policy(pages, policy, options, tell=tell) for policy in policies]
    document = json.dumps(
        {"log": pages.file, "evaluations": [one.document() for one in found]}, indent=2, allow_nan=False
    )
    if target == "-":
        click.echo(document)
    elif target is not None:
        atomic_text(Path(target), document + "\n")
    printer = console if target == "-" else Console()
    printer.print(_table(found))
    for note in dict.fromkeys(note for one in found for note in one.notes):
        printer.print(f"• {note}", highlight=False)
    finish(f"{len(found)} policies on {found[0].pages:,} pages of {found[0].decisions:,} items shown")


def _table(found: list[Evaluation]) -> Table:
    first = found[0]
    table = Table(
        title=f"{first.reward} for each item shown; logged {first.logged_value:.5f}; model {first.model}",
        title_justify="left",
    )
    for name in ("policy", "estimator"):
        table.add_column(name)
    for name in ("value", f"{first.estimates[0].level:.0%} from", "to", "effective sample", "mean weight", "largest"):
        table.add_column(name, justify="right")
    for one in found:
        for each in one.estimates:
            table.add_row(
                one.policy,
                each.estimator,
                *(f"{value:.5f}" for value in (each.value, each.low, each.high)),
                f"{each.effective_sample_size:,.0f}",
                f"{each.mean_weight:.3f}",
                f"{each.largest_weight:.1f}",
            )
    return table
