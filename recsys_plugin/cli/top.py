"""``recsys top``: how clients, workers and servers do, as it happens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from recsys_plugin.cli._output import console, emit_json
from recsys_plugin.cli._signals import stop_event
from recsys_plugin.errors import ConfigurationError, ServiceUnavailable
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.observability.live import ModelLoad, Reading, ShelfLoad, View

__all__ = ["top"]


@click.command()
@click.option("--scrape", "addresses", metavar="HOST:PORT", multiple=True,
              help="Where a client or worker shows its metrics; may be repeated. RECSYS_METRICS_PORT.")  # fmt: skip
@click.option("--triton-metrics", metavar="URL", help="Triton's metrics; of the embedded one by default.")
@click.option("--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between readings.")
@click.option("--once", is_flag=True, help="Two readings, what happened between them, and no more.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document for each reading on standard output.")
def top(addresses: tuple[str, ...], triton_metrics: str | None, every: float, once: bool, as_json: bool) -> None:
    """Show requests a second, times, fallback levels, versions, event lag and Triton's queues, until Ctrl-C.

    Clients show their metrics where RECSYS_METRICS_PORT says, workers with `recsys stream --metrics-port`; Redis and
    Triton are asked themselves.

    \b
    Examples:
      recsys top
      recsys top --scrape 127.0.0.1:9464 --scrape 127.0.0.1:9465
      recsys top --once --json | jq '.shelves[] | {shelf, per_second, p99_ms}'
    """
    try:
        from recsys_plugin.observability.live import view
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"recsys top needs {error.name}: pip install 'recsys-plugin[metrics]'") from error
    read = _reader(addresses, triton_metrics)
    with stop_event() as stopping:
        before, now = None, read()
        if once:
            stopping.wait(every)
            seen = view(read(), now)
            if as_json:
                emit_json(seen.to_dict())
            else:
                console.print(_drawn(seen))
            return
        live = Live(console=console, auto_refresh=False, screen=console.is_terminal)
        with contextlib.nullcontext() if as_json else live:
            while not stopping.is_set():
                try:
                    seen = view(now, before)
                except ServiceUnavailable as error:
                    if as_json:
                        raise
                    live.update(Text(str(error), style="red"), refresh=True)
                else:
                    if as_json:
                        click.echo(json.dumps(seen.to_dict(), allow_nan=False))
                    else:
                        live.update(_drawn(seen), refresh=True)
                stopping.wait(every)
                before, now = now, read()


def _reader(addresses: tuple[str, ...], triton_metrics: str | None) -> Callable[[], Reading]:
    """Reads everything that is to be seen."""
    from recsys_plugin.features.connection import RedisAddress
    from recsys_plugin.observability.live import read
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.services import Services

    settings = Settings.from_environment()
    services = Services(settings)
    if triton_metrics is None and services.triton_is_embedded:
        triton_metrics = services.triton.metrics_url
    wanted = addresses or tuple(f"127.0.0.1:{port}" for port in settings.metrics_ports)
    redis = RedisAddress.parse(services.redis_url)

    def reading() -> Any:
        found = read(wanted, triton_metrics, redis, project=PROJECT)
        if addresses or len(wanted) == 1:
            return found
        # Of a range of ports those count that somebody listens on.
        return type(found)(
            tuple(one for one in found.clients if not one.error), found.triton, found.events, found.unanswered
        )

    return reading


def _drawn(view: View) -> RenderableType:
    parts: list[RenderableType] = [_facts(view)]
    if view.shelves:
        parts += [_clients(view.shelves), *_degraded(view.shelves)]
    elif view.versions:
        parts.append(Text("Clients: no request so far"))
    else:
        parts.append(
            Text("Clients: none shows its metrics; they do with RECSYS_METRICS_PORT, elsewhere see --scrape", "yellow")
        )
    if view.models:
        parts.append(_triton(view.models))
    return Group(*parts)


def _clients(shelves: Sequence[ShelfLoad]) -> Table:
    """One line for each shelf; it fits into a terminal of 80 columns."""
    table = _table("Clients (times in ms, those of stages at p50)", "shelf", "req/s", "p50", "p95", "p99", "features",
                   "inference", "policy", "full", "failed")  # fmt: skip
    for shelf in shelves:
        full = shelf.levels.get("full", 0.0) if shelf.levels else None
        table.add_row(
            escape(shelf.shelf),
            f"{shelf.per_second:,.1f}",
            *(_number(value) for value in (shelf.p50_ms, shelf.p95_ms, shelf.p99_ms)),
            *(_number(shelf.stages.get(stage)) for stage in ("features", "inference", "policy")),
            "" if full is None else f"{full:.1%}" if full == 1.0 else f"[yellow]{full:.1%}[/]",
            f"[red]{shelf.failed:.1%}[/]" if shelf.failed else "",
        )
    return table


def _degraded(shelves: Sequence[ShelfLoad]) -> Iterator[Text]:
    """What pages fell back on, where any did."""
    for shelf in shelves:
        fallen = {level: share for level, share in shelf.levels.items() if level != "full"}
        if fallen:
            told = ", ".join(f"{level} {share:.1%}" for level, share in sorted(fallen.items(), key=lambda one: -one[1]))
            yield Text(f"{shelf.shelf} fell back on: {told}", "yellow")


def _triton(models: Sequence[ModelLoad]) -> RenderableType:
    """The models that were asked anything."""
    asked = [model for model in models if model.per_second or model.failed_per_second]
    idle = len(models) - len(asked)
    others = f"{idle} others were not asked" if asked else f"none of {idle} models was asked"
    table = _table("Triton (times in ms)", "model", "version", "req/s", "queue", "compute", "failed/s")
    for model in asked:
        table.add_row(
            escape(model.model),
            escape(model.version),
            f"{model.per_second:,.1f}",
            _number(model.queue_ms),
            _number(model.compute_ms),
            f"[red]{model.failed_per_second:,.1f}[/]" if model.failed_per_second else "",
        )
    note = Text(f"{'' if asked else 'Triton: '}{others}", "dim") if idle else Text()
    return Group(table, note) if asked else note


def _table(title: str, *columns: str) -> Table:
    """One whose numbers stand below each other."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
                  show_edge=False)  # fmt: skip
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _facts(view: View) -> Text:
    told = [f"of the last {view.seconds:.1f} s" if view.seconds else "since the processes began"]
    if view.versions:
        told.append("versions " + ", ".join(f"{version} ({count})" for version, count in sorted(view.versions.items())))
    if view.missing is not None and view.expired is not None:
        told.append(f"features missing {view.missing:.1%}, expired {view.expired:.1%}")
    if view.lag is not None:
        workers = f"with {view.workers} workers" if view.workers else "and no worker (`recsys stream`)"
        told.append(f"stream lag {view.lag:,} {workers}, {view.dead_letters or 0:,} dead letters")
    text = Text(" · ".join(told))
    if view.spooling:
        text.append(f" · {view.spooling:.0f} clients spool events", "yellow")
    for server in view.open_breakers:
        text.append(f"\nnot asked by clients at present, as it did not answer: {server}", "red")
    for address, error in view.unreachable.items():
        text.append(f"\n{address}: {error}", "red")
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"
