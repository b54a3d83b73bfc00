"""``recsys bench training``: memory and time of the steps up to the trained models, as a shop grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from recsys_plugin.bench.report import Report

__all__ = ["cost_table", "training"]

_MILLION = 1_000_000


@click.command()
@click.option(
    "--events",
    "sizes",
    type=click.IntRange(min=1_000),
    multiple=True,
    default=(_MILLION, 3 * _MILLION, 10 * _MILLION),
    show_default=True,
    help="Events of the generated shop; may be given several times.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the shop and the training.")
@click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where the temporary homes are made; about 1 GB for every million events.",
)
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def training(sizes: tuple[int, ...], seed: int, scratch: Path | None, target: str | None) -> None:
    """From a generated shop's tables to trained models: seconds, events per second and peak memory of every step.

    Needs no server. Each step runs in a process of its own, in a temporary home that is removed in the end.

    \b
    Examples:
      recsys bench training
      recsys bench training --events 100000
      recsys bench training --events 1000000 --events 10000000 --json report.json
    """
    from rich.console import Console

    from recsys_plugin.bench.scale import measure_training
    from recsys_plugin.cli.bench import write_report
    from recsys_plugin.settings import Settings

    if target not in (None, "-") and not Path(target).resolve().parent.is_dir():
        raise InvalidInput(f"--json {target}: the folder {Path(target).resolve().parent} does not exist")
    with reporter() as tell:
        report = measure_training(Settings.from_environment(), sizes=sizes, seed=seed, scratch=scratch, tell=tell)
    Console(stderr=target == "-").print(cost_table(report, sizes))
    write_report(report, target)


def cost_table(report: Report, sizes: tuple[int, ...]) -> Table:
    """One line for each size and step."""
    from rich.table import Table

    from recsys_plugin.bench.scale import STEPS

    table = Table(title="From tables to trained models", title_justify="left")
    table.add_column("events", justify="right")
    table.add_column("step")
    for head in ("seconds", "events a second", "peak GiB"):
        table.add_column(head, justify="right")
    for size in sizes:
        for step in (*STEPS, "total"):
            name = f"events_{size}.{step}"
            seconds, rate, peak = (report.figures[f"{name}.{last}"] for last in _SHOWN)
            style = "bold" if step == "total" else None
            table.add_row(f"{size:,}", step, f"{seconds:,.1f}", f"{rate:,.0f}", f"{peak:.2f}", style=style)
        table.add_section()
    return table


_SHOWN = ("seconds", "events_per_second", "peak_gib")
