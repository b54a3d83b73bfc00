"""``recsys up``, ``down``, ``status``, ``doctor`` and ``env``: the servers and what is around them."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict

import click
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option
from recsys_plugin.errors import CheckFailed
from recsys_plugin.runtime.environment import environment_variables
from recsys_plugin.runtime.services import Services, public_url
from recsys_plugin.settings import Settings

__all__ = ["doctor", "down", "env", "status", "up"]

_COLOURS = {
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
    "running": "green",
    "stopped": "yellow",
    "not answering": "red",
}


def _services() -> Services:
    return Services(Settings.from_environment())


@click.command()
@json_option
def up(as_json: bool) -> None:
    """Start Redis and Triton, load what was exported, and check known answers.

    Returns when the models answer rightly, never before; with both running already, in about a second.
    A server given by RECSYS_REDIS_URL or RECSYS_TRITON_URL is checked instead of started.

    \b
    Examples:
      recsys up
      recsys up --json | jq -r .triton_url
    """
    began = time.monotonic()
    with console.status("starting the servers") as spinner:

        def note(text: str) -> None:
            if console.is_terminal:
                spinner.update(escape(text))
            else:
                console.print(text, markup=False, highlight=False)

        services = _services()
        endpoints = services.up(note)
        serving = _serving(services)
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        emit_json({**asdict(endpoints), "seconds": seconds})
    if endpoints.without_gpu:
        names = ", ".join(endpoints.without_gpu)
        console.print(f"A GPU was asked for and not obtained; on the CPU run {names}", style="yellow", soft_wrap=True)
    started = " and ".join(endpoints.started) or "nothing to start"
    finish(
        f"{started}; Redis {public_url(endpoints.redis_url)}, Triton {endpoints.triton_url}, "
        f"{endpoints.known_answers} known answers of version {endpoints.version} right, in {seconds:.1f} s"
        + ("" if serving == endpoints.version else f"; promoted is version {serving}, which goes on serving"),
        then="recsys recommend USER" if serving == endpoints.version else "recsys models promote",
    )


def _serving(services: Services) -> int | None:
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.versions import ModelVersions

    return next((version.version for version in ModelVersions(services, PROJECT).list() if version.serves), None)


@click.command()
@json_option
def down(as_json: bool) -> None:
    """Stop the embedded servers; the features stay on disk and nothing is left running.

    \b
    Example:
      recsys down
    """
    with console.status("stopping the servers"):
        stopped = _services().down()
    if as_json:
        emit_json({"stopped": stopped})
    finish(f"stopped {' and '.join(stopped)}" if stopped else "nothing was running", then="recsys up")


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Show which servers run, where, and what they hold.

    \b
    Examples:
      recsys status
      recsys status --json
    """
    rows = _services().status()
    if as_json:
        emit_json({"services": [asdict(row) for row in rows]})
        return
    table = _table("server", "state", "address", "pid", "up for", "detail")
    for row in rows:
        table.add_row(
            row.name + ("" if row.embedded else " (external)"),
            f"[{_COLOURS[row.state]}]{row.state}[/]",
            escape(row.url),
            "" if row.pid is None else str(row.pid),
            "" if row.uptime_seconds is None else _duration(row.uptime_seconds),
            escape(row.detail),
        )
    console.print(table)
    stopped = any(row.state == "stopped" for row in rows)
    finish("status read", then="recsys up" if stopped else "recsys recommend USER")


@click.command()
@click.argument("request_id", required=False)
@click.option("--request-log", "request_log", metavar="FILE", help="The log that clients write; RECSYS_REQUEST_LOG.")
@json_option
def doctor(request_id: str | None, request_log: str | None, as_json: bool) -> None:
    """Find what is missing or mismatched, and say how to mend it; exit code 3 when a check fails.

    With REQUEST_ID, the request_id of a page, say why that page was slow or not a full one. Clients write such requests
    into the file RECSYS_REQUEST_LOG.

    \b
    Examples:
      recsys doctor
      recsys doctor --json | jq '.checks[] | select(.status != "ok")'
      recsys doctor 3f1c7a2b9d5e4c60a1b2c3d4e5f60718
      recsys doctor 3f1c7a2b9d5e4c60a1b2c3d4e5f60718 --request-log requests.jsonl --json
    """
    if request_id is not None:
        from recsys_plugin.cli.observability import show_request

        show_request(request_id, request_log, as_json=as_json)
        return
    from recsys_plugin.runtime.doctor import diagnose

    with console.status("checking") as spinner:
        results = diagnose(_services(), lambda name: spinner.update(f"checking {escape(name)}"))
    failed = [result.name for result in results if result.status == "fail"]
    if as_json:
        emit_json({"healthy": not failed, "checks": [asdict(result) for result in results]})
    else:
        table = _table("check", "", "found", "how to mend it")
        for result in results:
            colour = _COLOURS[result.status]
            table.add_row(
                escape(result.name),
                f"[{colour}]{result.status}[/]",
                escape(result.found),
                escape(result.mend),
            )
        console.print(table)
    if failed:
        raise CheckFailed(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")
    finish(f"{len(results)} checks, none failed")


@click.command()
@json_option
def env(as_json: bool) -> None:
    """Print the variables under which Feast's own command line and your backend find the servers.

    \b
    Examples:
      eval "$(recsys env)"
      feast -c feature_repo feature-views list
    """
    services = _services()
    variables = environment_variables(services)
    if services.redis_is_embedded and not services.redis.process.running:
        console.print("the servers are stopped; `recsys up` starts them at these addresses")
    if as_json:
        emit_json(variables)
        return
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")  # addresses and paths must stay whole
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
