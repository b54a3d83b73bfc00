"""``recsys bench``: how fast it is against the usual way and the floor, how that grows, and how good it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from recsys_plugin.cli._output import console, finish, reporter
from recsys_plugin.cli.ask import request_moment
from recsys_plugin.cli.bench_ads import ads
from recsys_plugin.cli.bench_diversity import diversity
from recsys_plugin.cli.bench_explain import explain
from recsys_plugin.cli.bench_freshness import freshness
from recsys_plugin.cli.bench_gpu import gpu
from recsys_plugin.cli.bench_loop import loop
from recsys_plugin.cli.bench_materialize import materialize
from recsys_plugin.cli.bench_observing import observability
from recsys_plugin.cli.bench_search import search
from recsys_plugin.cli.bench_separation import separation
from recsys_plugin.cli.bench_soak import soak
from recsys_plugin.cli.bench_swap import swap
from recsys_plugin.cli.bench_sweep import memory, sweep
from recsys_plugin.cli.bench_training import training
from recsys_plugin.cli.quality import quality
from recsys_plugin.errors import InvalidInput
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.bench.report import Report

__all__ = ["bench", "check_target", "request_time", "requests", "serving", "store", "write_report"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(command: _Command) -> _Command:
    """What every benchmark takes."""
    for option in (
        click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output."),
        click.option("--freeze-gc", is_flag=True, help="Keep the garbage collector from objects made before timing."),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Fixes what is asked and in which order.",
        ),
        click.option(
            "--calls",
            type=click.IntRange(min=1),
            default=500,
            show_default=True,
            help="Calls of each subject; the usual way, which is slow, gets a tenth.",
        ),
        click.option(
            "--users", type=click.IntRange(min=1), default=100, show_default=True, help="How many users take turns."
        ),
    ):
        command = option(command)
    return command


@click.group()
def bench() -> None:
    """Measure: the speed of the running servers, and the quality of the models on public data.

    serving and store compare ours with the usual way and the floor. All ways are called in turn in one run, and must
    give the same answers first (exit code 3 if they do not), so the ratios hold on a busy machine as well. The servers
    must run: `recsys up`. sweep says how time grows, swap what clients see of a new version, soak whether time or
    memory creeps up, separation whether complements are something else than substitutes; requests feeds load tools
    from outside. ads, diversity, gpu, loop, memory, materialize, quality, training and `sweep catalogue` need no
    server.
    """


bench.add_command(ads)
bench.add_command(gpu)
bench.add_command(loop)
bench.add_command(quality)
bench.add_command(search)
bench.add_command(training)
bench.add_command(materialize)
bench.add_command(sweep)
bench.add_command(memory)
bench.add_command(soak)
bench.add_command(swap)
bench.add_command(separation)
bench.add_command(freshness)
bench.add_command(diversity)
bench.add_command(explain)
bench.add_command(observability)


@bench.command()
@_options
@click.option(
    "--candidates", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Items ranked per request."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    multiple=True,
    default=(1, 4, 16),
    show_default=True,
    help="Callers at once, under load; may be given several times.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="How long each way asks under load before the next takes its turn.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Turns of each way under load; 0 leaves load out.",
)
def serving(
    users: int,
    calls: int,
    candidates: int,
    concurrency: tuple[int, ...],
    seconds: float,
    rounds: int,
    seed: int,
    freeze_gc: bool,
    target: str | None,
) -> None:
    """Whole requests: recommend, rank, search, similar items; their stages; recommend under load.

    Ours, the client of this package; the usual way, Feast's SDK for the features of the user and of all candidates
    and tritonclient for their scores; and the floor, one bare round trip to each server and the same graphs in this
    process.

    \b
    Examples:
      recsys bench serving
      recsys bench serving --calls 2000 --json report.json
      recsys bench serving --concurrency 16 --concurrency 64
      recsys bench serving --rounds 0
      recsys bench serving --json - | jq '.figures["recommend.usual_to_ours.ratio_p50"]'
    """
    check_target(target)
    settings = Settings.from_environment()
    from recsys_plugin.bench.load import LoadOptions
    from recsys_plugin.bench.serving import measure_serving

    with reporter() as tell:
        report = measure_serving(
            settings,
            now=request_time(settings),
            users=users,
            calls=calls,
            candidates=candidates,
            seed=seed,
            freeze=freeze_gc,
            load=LoadOptions(tuple(dict.fromkeys(concurrency)), seconds, rounds) if rounds else None,
            tell=tell,
        )
    write_report(report, target)


@bench.command()
@_options
@click.option("--items", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Items per request.")
def store(users: int, calls: int, items: int, seed: int, freeze_gc: bool, target: str | None) -> None:
    """Features alone: from ids to tensors, ours against Feast's SDK.

    \b
    Examples:
      recsys bench store
      recsys bench store --items 1000 --json report.json
    """
    check_target(target)
    settings = Settings.from_environment()
    from recsys_plugin.bench.store import measure_store

    with reporter() as tell:
        report = measure_store(
            settings,
            now=request_time(settings),
            users=users,
            calls=calls,
            items=items,
            seed=seed,
            freeze=freeze_gc,
            tell=tell,
        )
    write_report(report, target)


@bench.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--users", type=click.IntRange(min=1), default=100, show_default=True, help="Users, one request each.")
@click.option("--candidates", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Items ranked.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes which users.")
def requests(folder: Path, users: int, candidates: int, seed: int) -> None:
    """Write real requests to the model recommend, for load tools from outside: ghz, perf_analyzer, k6 and the like.

    
    Examples:
      recsys bench requests recorded
      ghz --insecure --protoset recorded/triton.protoset --call inference.GRPCInferenceService/ModelInfer \
          --data-file recorded/recommend.grpc.json --concurrency 16 --duration 30s HOST:PORT
    """
    settings = Settings.from_environment()
    from recsys_plugin.bench.recorded import write_requests

    with reporter() as tell:
        files = write_requests(
            settings,
            folder,
            now=request_time(settings),
            users=users,
            candidates=candidates,
            seed=seed,
            tell=tell,
        )
    finish(f"{', '.join(path.name for path in files.values())} in {folder}")


def write_report(report: Report, target: str | None) -> None:
    """Write the JSON form where it is wanted, and show the tables: on standard error if JSON has standard output."""
    if target == "-":
        click.echo(report.to_json())
    elif target is not None:
        atomic_text(Path(target), report.to_json() + "\n")
    (console if target == "-" else Console()).print(report.renderable())
    written = f"; report in {target}" if target not in (None, "-") else ""
    finish(f"{len(report.figures)} figures{written}")


def check_target(target: str | None) -> None:
    """Make sure that the report can be written: now, not after minutes of measuring.

    Raises:
        InvalidInput: if ``target`` cannot be a file.
    """
    if target not in (None, "-") and not Path(target).resolve().parent.is_dir():
        raise InvalidInput(f"--json {target}: the folder {Path(target).resolve().parent} does not exist")


def request_time(settings: Settings) -> float:
    """The time of every request, unix seconds: that of the home's data, or now."""
    moment = request_moment(settings)
    return time.time() if moment is None else moment.timestamp()
