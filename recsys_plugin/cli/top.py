"""``recsys top``: how clients, workers and servers do, as it happens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
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
    from recsys_plugin.observability.live import Reading, View

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
    shelves = Table("shelf", "requests/s", "p50 ms", "p95 ms", "p99 ms", "features", "inference", "policy", "levels",
                    "failed", title="Clients", title_justify="left")  # fmt: skip
    for shelf in view.shelves:
        levels = " ".join(f"{level} {share:.1%}" for level, share in sorted(shelf.levels.items()))
        stages = (_number(shelf.stages.get(stage)) for stage in ("features", "inference", "policy"))
        times = (_number(value) for value in (shelf.p50_ms, shelf.p95_ms, shelf.p99_ms))
        degraded = any(level != "full" for level in shelf.levels)
        shelves.add_row(
            escape(shelf.shelf),
            f"{shelf.per_second:,.1f}",
            *times,
            *stages,
            f"[yellow]{escape(levels)}[/]" if degraded else escape(levels),
            f"[red]{shelf.failed:.1%}[/]" if shelf.failed else "",
        )
    parts.append(shelves)
    if view.models:
        models = Table("model", "version", "requests/s", "queue ms", "compute ms", "failed/s", title="Triton",
                       title_justify="left")  # fmt: skip
        for model in view.models:
            models.add_row(
                escape(model.model),
                escape(model.version),
                f"{model.per_second:,.1f}",
                _number(model.queue_ms),
                _number(model.compute_ms),
                f"{model.failed_per_second:,.1f}" if model.failed_per_second else "",
            )
        parts.append(models)
    return Group(*parts)


def _facts(view: View) -> Text:
    told = [f"of the last {view.seconds:.1f} s" if view.seconds else "since the processes began"]
    if view.versions:
        told.append("versions " + ", ".join(f"{version} ({count})" for version, count in sorted(view.versions.items())))
    if view.missing is not None and view.expired is not None:
        told.append(f"features missing {view.missing:.1%}, expired {view.expired:.1%}")
    if view.lag is not None:
        told.append(
            f"stream lag {view.lag:,} with {view.workers or 0} workers, {view.dead_letters or 0:,} dead letters"
        )
    text = Text(" · ".join(told))
    if view.spooling:
        text.append(f" · {view.spooling:.0f} clients spool events", "yellow")
    for server in view.open_breakers:
        text.append(f"\nrefused at present: {server}", "red")
    for address, error in view.unreachable.items():
        text.append(f"\n{address}: {error}", "red")
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"
