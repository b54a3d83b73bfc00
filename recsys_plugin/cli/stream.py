"""``recsys stream``: the workers that turn events into fresh profiles."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from recsys_plugin.cli._output import console, emit_json, finish, json_option
from recsys_plugin.cli._signals import stop_event
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.features.connection import RedisAddress

__all__ = ["stream"]

_SHOW_SECONDS = 1.0


@click.command()
@click.option(
    "--workers", type=click.IntRange(1, 8), default=1, show_default=True, help="Processes that share the work."
)
@click.option("--until-idle", is_flag=True, help="End when every event has been taken in, rather than wait for more.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65_535), help="Show Prometheus metrics on this port of loopback; 0 is any."
)
@json_option
def stream(workers: int, until_idle: bool, metrics_port: int | None, as_json: bool) -> None:
    """Take in recorded events as they come and keep the live feature views up to date, until Ctrl-C.

    Users are shared out among the workers, of this and of other machines; the work of one that dies is taken over
    within seconds, and every event counts once.

    \b
    Examples:
      recsys stream
      recsys stream --workers 2
      recsys stream --metrics-port 9465
      recsys events import events.csv && recsys stream --until-idle
    """
    from recsys_plugin.events.keys import EventKeys
    from recsys_plugin.features.connection import RedisAddress
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.services import Services
    from recsys_plugin.stream.supervisor import run_workers, stored_schema

    services = Services(Settings.from_environment())
    with services.ensure_redis() as redis_url, stop_event() as stopping, ExitStack() as stack:
        address, keys = RedisAddress.parse(redis_url), EventKeys(PROJECT)
        stored_schema(address, PROJECT)
        client = address.connect(5.0)
        died = _no_metrics if metrics_port is None else _show_metrics(stack, address, metrics_port)
        before, shown = _counts(client, keys), time.monotonic()
        with console.status("waiting for events") as spinner:

            def look() -> None:
                nonlocal shown
                if time.monotonic() - shown >= _SHOW_SECONDS:
                    shown = time.monotonic()
                    spinner.update(_told(_since(before, _counts(client, keys))) or "waiting for events")

            run_workers(redis_url, PROJECT, workers, stopping=stopping, until_idle=until_idle, look=look, died=died)
        done = _since(before, _counts(client, keys))
        client.close()
    if as_json:
        emit_json(done)
    finish(_told(done) or "no events came", then="recsys events dead-letter" if _dead(done) else None)


def _no_metrics() -> None:
    """Nobody counts the workers that died."""


def _show_metrics(stack: ExitStack, address: RedisAddress, port: int) -> Callable[[], None]:
    """Serve the metrics of the streams until the stack is left; what to call when a worker died."""
    try:
        from recsys_plugin.observability.exposition import MetricsServer
        from recsys_plugin.observability.stream_metrics import StreamMetrics
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"--metrics-port needs {error.name}: pip install 'recsys-plugin[metrics]'") from error
    from recsys_plugin.pipeline.steps import PROJECT

    metrics = StreamMetrics(address, PROJECT)
    server = stack.enter_context(MetricsServer(metrics.registry, [port]))
    console.print(f"metrics at {server.url}", markup=False, highlight=False)
    return metrics.worker_died


def _counts(client: Any, keys: Any) -> dict[str, int]:
    import redis

    try:
        return {name.decode(): int(count) for name, count in client.hgetall(keys.counts).items()}
    except redis.RedisError:  # the workers say so, and wait
        return {}


def _since(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}


#: What is counted and is no dead letter.
_TAKEN = ("applied", "duplicate", "forgotten", "items_told", "unknown_users", "untracked")


def _dead(done: dict[str, int]) -> int:
    return sum(count for name, count in done.items() if name not in _TAKEN)


def _told(done: dict[str, int]) -> str:
    parts = [f"{done.get('applied', 0):,} events taken in"]
    if done.get("duplicate"):
        parts.append(f"{done['duplicate']:,} duplicates")
    if done.get("unknown_users"):
        parts.append(f"{done['unknown_users']:,} users seen for the first time")
    if dropped := done.get("forgotten", 0) + done.get("untracked", 0):
        parts.append(f"{dropped:,} dropped (of people who were forgotten, or refuse to be tracked)")
    if dead := _dead(done):
        reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(done.items()) if name not in _TAKEN)
        parts.append(f"{dead:,} dead letters ({reasons})")
    return ", ".join(parts) if done else ""
