"""``recsys bench swap``: changing versions under load."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.settings import Settings

__all__ = ["swap"]


@click.command()
@click.option("--clients", type=click.IntRange(1, 256), default=16, show_default=True, help="Clients asking at once.")
@click.option("--seconds", type=click.FloatRange(4.0), default=60.0, show_default=True, help="For how long.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes which users are asked for."
)
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def swap(clients: int, seconds: float, seed: int, target: str | None) -> None:
    """Load, promote, roll back and promote versions while many clients ask; exit code 3 if any of them noticed.

    Needs two versions on disk, of which the newest need not be loaded: export once more, and do not run `recsys up`.

    \b
    Examples:
      recsys export --force && recsys bench swap
      recsys bench swap --clients 4 --seconds 20 --json swap.json
    """
    from recsys_plugin.bench.swap import measure_swap
    from recsys_plugin.cli.bench import check_target, request_time, write_report

    check_target(target)
    settings = Settings.from_environment()
    now = request_time(settings)
    with reporter() as tell:
        report = measure_swap(settings, now=now, clients=clients, seconds=seconds, seed=seed, tell=tell)
    write_report(report, target)
