"""``recsys bench explain``: what explanations cost, and whether they add up."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.settings import Settings

__all__ = ["explain"]


@click.command()
@click.option("--users", type=click.IntRange(min=1), default=100, show_default=True, help="How many users take turns.")
@click.option("--calls", type=click.IntRange(min=1), default=300, show_default=True, help="Timed calls of each kind.")
@click.option("--k", "-k", type=click.IntRange(1, 1000), default=20, show_default=True, help="Items of a page.")
@click.option(
    "--pages",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Pages whose explanations are added up.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes users and orders.")
@click.option("--freeze-gc", is_flag=True, help="Keep the garbage collector from objects made before timing.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def explain(users: int, calls: int, k: int, pages: int, seed: int, freeze_gc: bool, target: str | None) -> None:
    """Pages with and without explanations in turn; exit code 3 if an explanation does not add up.

    \b
    Examples:
      recsys bench explain
      recsys bench explain --calls 1000 --json explain.json
    """
    from recsys_plugin.bench.explaining import measure_explaining
    from recsys_plugin.cli.bench import check_target, request_time, write_report

    check_target(target)
    settings = Settings.from_environment()
    now = request_time(settings)
    with reporter() as tell:
        report = measure_explaining(
            settings, now=now, users=users, calls=calls, k=k, pages=pages, seed=seed, freeze=freeze_gc, tell=tell
        )
    write_report(report, target)
