"""``recsys chaos``: break servers under load and see what callers see."""

from __future__ import annotations

from pathlib import Path

import click

from recsys_plugin.chaos.driver_plan import CLIENTS, ClientKind
from recsys_plugin.chaos.scenarios import SCENARIOS
from recsys_plugin.cli._output import reporter
from recsys_plugin.errors import CheckFailed
from recsys_plugin.settings import Settings

__all__ = ["chaos"]


@click.command()
@click.option(
    "--fault",
    "faults",
    type=click.Choice(list(SCENARIOS)),
    multiple=True,
    default=("kill", "stop", "latency"),
    show_default=True,
    help="What goes wrong; may be given several times.",
)
@click.option("--seconds", type=click.FloatRange(min=1.0), default=60.0, show_default=True, help="For each fault.")
@click.option(
    "--rate", type=click.FloatRange(min=1.0), default=100.0, show_default=True, help="Calls per second, all clients."
)
@click.option("--clients", type=click.IntRange(1, 256), default=16, show_default=True, help="Clients asking at once.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes they are in.")
@click.option(
    "--client",
    "kind",
    type=click.Choice(CLIENTS),
    default="blocking",
    show_default=True,
    help="Recommender, each in a thread; or AsyncRecommender, all of a process in one event loop.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0.001), default=0.05, show_default=True, help="Seconds allowed for a call."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes who is asked for.")
@click.option(
    "--in-place", is_flag=True, help="Break this home's own servers; by default others, on a copy of the home."
)
@click.option(
    "--scratch", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where the copy is made."
)
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw times and levels over time: .png, .svg or .pdf.",
)
def chaos(
    faults: tuple[str, ...],
    seconds: float,
    rate: float,
    clients: int,
    processes: int,
    kind: ClientKind,
    timeout: float,
    seed: int,
    in_place: bool,
    scratch: Path | None,
    target: str | None,
    plot: Path | None,
) -> None:
    """Break Redis and Triton while clients ask, and hold what they saw against what they were promised.

    kill, stop (SIGSTOP), latency (500 ms), half-open, reset, truncate, bandwidth and restart strike Redis, then Triton,
    then both; memory and disk are those of Redis, unload and corrupt are of a model, registry and clock are what
    the names say. Servers are started on a copy of the home; a shop's running ones are not touched unless you say
    --in-place. Exit code 3 if a call was not answered, if more than 1 in 1,000 returned later than 5 ms after its
    deadline, if service was not full 2 s after the servers answered again, or if sockets, threads or memory were left.

    \b
    Examples:
      recsys chaos
      recsys chaos --fault kill --seconds 20 --json chaos.json --plot chaos.png
      recsys chaos --fault half-open --fault disk --clients 4 --rate 50
      recsys chaos --client async --fault stop
    """
    from recsys_plugin.bench.plot import check_plot
    from recsys_plugin.chaos.experiment import Expectations, told
    from recsys_plugin.chaos.plot import draw_chaos
    from recsys_plugin.chaos.run import ChaosOptions, run_chaos
    from recsys_plugin.cli.ask import request_moment
    from recsys_plugin.cli.bench import check_target, write_report

    check_target(target)
    if plot is not None:
        check_plot(plot)
    settings = Settings.from_environment()
    moment = request_moment(settings)
    options = ChaosOptions(
        tuple(dict.fromkeys(faults)),
        seconds,
        rate,
        clients,
        processes,
        timeout,
        seed=seed,
        in_place=in_place,
        kind=kind,
    )
    with reporter() as tell:
        report, played, failed = run_chaos(
            settings,
            options,
            now=None if moment is None else moment.timestamp(),
            expected=Expectations(),
            scratch=scratch,
            tell=tell,
        )
    if plot is not None:
        draw_chaos(
            plot, played, subtitle=f"{clients} {kind} clients, {rate:g} calls a second, {timeout * 1000:g} ms for each"
        )
    write_report(report, target)
    if failed:
        raise CheckFailed(told(failed))
