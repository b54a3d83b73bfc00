"""``recsys bench separation``: whether complements are something else than substitutes."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.settings import Settings

__all__ = ["separation"]


@click.command()
@click.option("--items", type=click.IntRange(1), default=200, show_default=True, help="Items of each kind asked about.")
@click.option("--users", type=click.IntRange(1), default=200, show_default=True, help="Users asked for.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes which they are.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def separation(items: int, users: int, seed: int, target: str | None) -> None:
    """The share of the same category in similar_items and in cross_sell, and how new cross_category's categories are.

    The servers must run (`recsys up`), and the shop's items have categories.

    \b
    Examples:
      recsys bench separation
      recsys bench separation --items 50 --users 50 --json separation.json
    """
    from recsys_plugin.bench.separation import measure_separation
    from recsys_plugin.cli.bench import check_target, request_time, write_report

    check_target(target)
    settings = Settings.from_environment()
    now = request_time(settings)
    with reporter() as tell:
        report = measure_separation(settings, now=now, items=items, users=users, seed=seed, tell=tell)
    write_report(report, target)
