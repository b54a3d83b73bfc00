"""``recsys bench search``: what understanding a query costs."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.errors import CheckFailed
from recsys_plugin.settings import Settings

__all__ = ["search"]


@click.command()
@click.option("--users", type=click.IntRange(min=1), default=100, show_default=True, help="How many users take turns.")
@click.option("--calls", type=click.IntRange(min=1), default=500, show_default=True, help="Calls of each way.")
@click.option("--candidates", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Items ranked.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes what is asked.")
@click.option("--freeze-gc", is_flag=True, help="Keep the garbage collector from objects made before timing.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
@click.option("--check", is_flag=True, help="Exit code 3 if understanding takes more than twice the time at p50.")
def search(
    users: int, calls: int, candidates: int, seed: int, freeze_gc: bool, target: str | None, check: bool
) -> None:
    """Search by words, meaning and intent against search by meaning alone, in turn on the running servers.

    Also what keeping the vectors of queries saves, and how long the client takes to read a query and to look it up.

    \b
    Examples:
      recsys bench search
      recsys bench search --calls 2000 --check --json search.json
    """
    from recsys_plugin.bench.search import MOST_TIMES_PLAIN, measure_search
    from recsys_plugin.cli.bench import check_target, request_time, write_report

    check_target(target)
    settings = Settings.from_environment()
    with reporter() as tell:
        report = measure_search(
            settings,
            now=request_time(settings),
            users=users,
            calls=calls,
            candidates=candidates,
            seed=seed,
            freeze=freeze_gc,
            tell=tell,
        )
    write_report(report, target)
    ratio = report.figures["search.understood_to_plain.ratio_p50"]
    if check and ratio > MOST_TIMES_PLAIN:
        raise CheckFailed(f"understood search takes {ratio:.2f} times as long as plain search, at most 2 are allowed")
