"""``recsys bench freshness``: from an event to the features that a request reads."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.settings import Settings

__all__ = ["freshness"]


@click.command()
@click.option("--rate", type=click.IntRange(1), default=1000, show_default=True, help="Events a second.")
@click.option("--seconds", type=click.FloatRange(1.0), default=20.0, show_default=True, help="For how long.")
@click.option("--visible-rate", type=click.IntRange(1), default=100, show_default=True,
              help="Events a second that wait until they are visible.")  # fmt: skip
@click.option("--backlog", type=click.IntRange(1), default=20_000, show_default=True,
              help="Events that a worker finds waiting, for its peak rate.")  # fmt: skip
@click.option("--users", type=click.IntRange(1), default=500, show_default=True, help="Users, in turn.")
@click.option("--pushes", type=click.IntRange(1), default=50, show_default=True,
              help="Single events through FeatureStore.push; ours get ten times as many.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes events and order.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def freshness(
    rate: int, seconds: float, visible_rate: int, backlog: int, users: int, pushes: int, seed: int, target: str | None
) -> None:
    """How soon an event is in the features that a request reads, how many a worker takes in, and what one costs.

    Against FeatureStore.push, in turn. It uses a Redis of its own; run `recsys apply` before.

    \b
    Examples:
      recsys bench freshness
      recsys bench freshness --rate 2000 --seconds 10 --json freshness.json
    """
    from recsys_plugin.bench.freshness import measure_freshness
    from recsys_plugin.cli.bench import check_target, write_report

    check_target(target)
    with reporter() as tell:
        report = measure_freshness(
            Settings.from_environment(), rate=rate, seconds=seconds, visible_rate=visible_rate, backlog=backlog,
            users=users, pushes=pushes, seed=seed, tell=tell,
        )  # fmt: skip
    write_report(report, target)
