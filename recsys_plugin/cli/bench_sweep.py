"""``recsys bench sweep`` and ``recsys bench memory``: how time and memory grow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.errors import InvalidInput
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.bench.generated_catalogue import CataloguePlan
    from recsys_plugin.bench.timing import Samples

__all__ = ["memory", "sweep"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _generated(command: _Command) -> _Command:
    """What may be said about a generated catalogue."""
    for option in (
        click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output."),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes everything drawn."
        ),
        click.option(
            "--scratch",
            type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
            help="Where generated catalogues are kept while they are served; 6 GB for a million items.",
        ),
        click.option(
            "--text-width",
            type=click.IntRange(8, 4096),
            default=384,
            show_default=True,
            help="Width of generated text vectors; 384 uses the packaged text encoder, others a random one.",
        ),
        click.option(
            "--neighbours",
            type=click.IntRange(1, 100),
            default=100,
            show_default=True,
            help="Neighbours of each generated item; trained shops have up to 100.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("what", nargs=-1, type=click.Choice(("candidates", "users", "catalogue")))
@_generated
@click.option(
    "--candidates",
    type=click.IntRange(1, 10_000),
    multiple=True,
    default=(128, 500, 1000, 2048),
    show_default=True,
    help="Candidates per request; may be given several times, as the next two.",
)
@click.option(
    "--users",
    type=click.IntRange(1, 1000),
    multiple=True,
    default=(1, 2, 4, 8, 16, 32),
    show_default=True,
    help="Users per call.",
)
@click.option(
    "--items",
    type=click.IntRange(min=50),
    multiple=True,
    default=(5_000, 50_000),
    show_default=True,
    help="Items of a catalogue.",
)
@click.option("--calls", type=click.IntRange(min=1), default=200, show_default=True, help="Calls of each.")
@click.option("--freeze-gc", is_flag=True, help="Keep the garbage collector from objects made before timing.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw p50 and p95: a PNG, SVG or PDF file."
)
def sweep(
    what: tuple[str, ...],
    candidates: tuple[int, ...],
    users: tuple[int, ...],
    items: tuple[int, ...],
    calls: int,
    neighbours: int,
    text_width: int,
    scratch: Path | None,
    seed: int,
    freeze_gc: bool,
    plot: Path | None,
    target: str | None,
) -> None:
    """How the time of recommend grows with the candidates ranked, the users in one call, and the catalogue.

    Candidates and users are swept on the running servers (`recsys up`). Catalogues are generated with random weights of
    the trained models' shapes and served one after the other in a temporary home, which needs no running server;
    memory of servers and client, and whether the index is exact, are told as well. All three without a name.

    A file of model weights ends at 2 GB: 100 neighbours and 384-wide texts fit up to 500,000 items. 2,000,000 go with
    --neighbours 10 --text-width 64.

    \b
    Examples:
      recsys bench sweep candidates users --plot latency.png
      recsys bench sweep catalogue --items 5000 --items 50000 --items 500000 --json report.json
      recsys bench sweep catalogue --items 2000000 --neighbours 10 --text-width 64
    """
    from recsys_plugin.bench.plot import check_plot, write_plot
    from recsys_plugin.cli.bench import check_target, request_time, write_report

    check_target(target)
    if plot is not None:
        check_plot(plot)
    chosen = tuple(dict.fromkeys(what)) or ("candidates", "users", "catalogue")
    # Before anything is measured, since it refuses what cannot be generated.
    plan = [_plan(size, neighbours, text_width, seed) for size in _ascending(items)][-1]
    settings = Settings.from_environment()
    found: dict[str, dict[int, Samples]] = {}
    from recsys_plugin.bench.sweep import CATALOGUE_NOTE, begin_sweep, sweep_candidates, sweep_catalogue, sweep_users

    report = begin_sweep()
    with reporter() as tell:
        if served := [name for name in chosen if name != "catalogue"]:
            from recsys_plugin.bench.shop import open_shop
            from recsys_plugin.bench.usual_way import open_usual_way

            with ExitStack() as stack:
                now = request_time(settings)
                shop = stack.enter_context(open_shop(settings, now=now, users=max(100, *users), seed=seed))
                options: dict[str, Any] = {"calls": calls, "seed": seed, "freeze": freeze_gc, "tell": tell}
                if "candidates" in served:
                    tell("opening Feast's store", 0, 0)
                    usual = stack.enter_context(open_usual_way(shop))
                    found["candidates"] = sweep_candidates(report, shop, usual, _ascending(candidates), **options)
                if "users" in served:
                    found["users"] = sweep_users(report, shop, _ascending(users), **options)
        if "catalogue" in chosen:
            found["catalogue"] = sweep_catalogue(
                report,
                settings,
                _ascending(items),
                plan,
                calls=calls,
                freeze=freeze_gc,
                scratch=scratch,
                tell=tell,
            )
    notes = [f"seed {seed}; pages of 20; one call at a time"]
    if "catalogue" in chosen:
        notes.append(CATALOGUE_NOTE)
        notes.append(f"generated with {neighbours} neighbours of each item and texts {text_width} wide")
    report.finish(*notes, frozen=freeze_gc)
    if plot is not None:
        write_plot(
            plot, found, subtitle=f"{report.machine['cpu']}, {report.machine['cores']} cores, {calls} calls each"
        )
    write_report(report, target)


@click.command()
@_generated
@click.option("--items", type=click.IntRange(min=50), default=50_000, show_default=True, help="Items of the catalogue.")
@click.option("--calls", type=click.IntRange(min=100), default=100_000, show_default=True, help="Calls of all kinds.")
@click.option("--candidates", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Items ranked.")
def memory(
    items: int,
    calls: int,
    candidates: int,
    neighbours: int,
    text_width: int,
    scratch: Path | None,
    seed: int,
    target: str | None,
) -> None:
    """What the client takes of a backend's memory, and whether that grows with calls.

    A fresh process with only the thin client loads a generated catalogue and makes calls of all kinds. Needs no running
    server.

    \b
    Examples:
      recsys bench memory
      recsys bench memory --items 500000 --calls 10000 --json report.json
    """
    from recsys_plugin.bench.memory import measure_memory
    from recsys_plugin.cli.bench import check_target, write_report

    check_target(target)
    with reporter() as tell:
        report = measure_memory(
            Settings.from_environment(),
            plan=_plan(items, neighbours, text_width, seed),
            calls=calls,
            every=max(1, calls // 10),
            candidates=candidates,
            scratch=scratch,
            tell=tell,
        )
    write_report(report, target)


def _plan(items: int, neighbours: int, text_width: int, seed: int) -> CataloguePlan:
    from recsys_plugin.bench.generated_catalogue import CataloguePlan

    if neighbours >= items:
        raise InvalidInput(f"--neighbours {neighbours}: a catalogue of {items} items has fewer")
    return CataloguePlan(items, seed=seed, neighbours=neighbours, text_width=text_width)


def _ascending(values: tuple[int, ...]) -> list[int]:
    return sorted(set(values))
