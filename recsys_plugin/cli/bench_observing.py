"""``recsys bench observability``: what metrics, traces and the request log cost a request."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.settings import Settings

__all__ = ["observability"]


@click.command()
@click.option("--users", type=click.IntRange(1), default=100, show_default=True, help="Users, in turn.")
@click.option("--calls", type=click.IntRange(1), default=2000, show_default=True, help="Calls in each way.")
@click.option("--items", type=click.IntRange(1), default=20, show_default=True, help="Items of a page.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes users and orders.")
@click.option("--freeze-gc", is_flag=True, help="Keep the garbage collector from objects made before timing.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def observability(users: int, calls: int, items: int, seed: int, freeze_gc: bool, target: str | None) -> None:
    """What metrics, traces and the request log cost a recommend; exit code 3 if all together cost more than 3 %,
    be it with traces of some requests or of every one.

    One client, observed and not, in turn. The servers must run: `recsys up`. Needs the extras metrics and tracing.

    \b
    Examples:
      recsys bench observability
      recsys bench observability --calls 5000 --json observability.json
    """
    from recsys_plugin.bench.observing import measure_observing, require_cheap
    from recsys_plugin.bench.shop import open_shop
    from recsys_plugin.cli.bench import check_target, request_time, write_report

    check_target(target)
    settings = Settings.from_environment()
    now = request_time(settings)
    with reporter() as tell, open_shop(settings, now=now, users=users, seed=seed) as shop:
        report = measure_observing(
            shop.redis_url, shop.triton_url, shop.users, now=now, calls=calls, k=items, seed=seed, freeze=freeze_gc,
            tell=tell,
        )  # fmt: skip
    write_report(report, target)
    require_cheap(report)
