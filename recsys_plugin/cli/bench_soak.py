"""``recsys bench soak``: whether time or memory creeps up over half an hour of load."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.errors import CheckFailed
from recsys_plugin.settings import Settings

__all__ = ["soak"]


@click.command()
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.2),
    default=30.0,
    show_default=True,
    help="For how long; 2 is the short form.",
)
@click.option(
    "--share", type=click.FloatRange(0.01, 1.0), default=0.5, show_default=True, help="Of what the servers can do."
)
@click.option("--rate", type=click.FloatRange(min=1.0), help="Calls per second, instead of a share of peak.")
@click.option("--clients", type=click.IntRange(2, 256), default=16, show_default=True, help="Clients asking at once.")
@click.option(
    "--timeout", type=click.FloatRange(min=0.001), default=0.5, show_default=True, help="Seconds allowed for a call."
)
@click.option(
    "--tolerance", type=click.FloatRange(min=0.0), default=0.05, show_default=True, help="Growth that is let pass."
)
@click.option(
    "--control",
    type=click.FloatRange(min=0.0),
    metavar="MINUTES",
    show_default="a third of --minutes, 0.4 at least",
    help="For how long fresh servers and clients take turns with the soaked ones afterwards; 0 for not at all.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes who is asked for.")
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
def soak(
    minutes: float,
    share: float,
    rate: float | None,
    clients: int,
    timeout: float,
    tolerance: float,
    control: float | None,
    seed: int,
    target: str | None,
) -> None:
    """Ask the running servers at half of peak for half an hour: is the end like the beginning?

    Peak is found first, by asking without pause. Then p99 and memory (of the clients, of Redis and of Triton) of the
    last sixth of the time are held against those of the first. A machine that others use, too, changes more than that
    from minute to minute, so the soaked clients and servers then take turns with fresh ones, of a copy of the home,
    and p99 is judged by them. Exit code 3 if p99 or memory grew by more than the tolerance, or a call was not answered.

    \b
    Examples:
      recsys bench soak --json soak.json
      recsys bench soak --minutes 2
      recsys bench soak --rate 100 --control 0
    """
    from recsys_plugin.bench.soak import SoakOptions, measure_soak, soak_failures
    from recsys_plugin.bench.soak_control import LEAST_SECONDS
    from recsys_plugin.chaos.experiment import told
    from recsys_plugin.cli.bench import check_target, request_time, write_report

    check_target(target)
    settings = Settings.from_environment()
    seconds = minutes * 60
    options = SoakOptions(
        seconds,
        share,
        clients,
        timeout,
        rate,
        seed,
        max(LEAST_SECONDS, seconds / 3) if control is None else control * 60,
    )
    with reporter() as tell:
        report = measure_soak(settings, options, now=request_time(settings), tell=tell)
    write_report(report, target)
    if failed := soak_failures(report, tolerance):
        raise CheckFailed(told(failed))
