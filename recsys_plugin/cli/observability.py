"""``recsys observability``: dashboards and alerts as files; and what `recsys doctor REQUEST_ID` shows."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.settings import Settings

__all__ = ["dashboards", "observability", "show_request"]


@click.group()
def observability() -> None:
    """Dashboards for Grafana and alert rules for Prometheus, as files."""


@observability.command()
@click.option(
    "--to", "folder", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where to put them."
)
@click.option("--force", is_flag=True, help="Replace files that are there and differ.")
@json_option
def dashboards(folder: Path, force: bool, as_json: bool) -> None:
    """Write the dashboards (JSON, for Grafana) and the alert rules (YAML, for Prometheus) into a folder.

    \b
    Examples:
      recsys observability dashboards --to grafana
      recsys observability dashboards --to grafana --force
    """
    from recsys_plugin.observability.files import write_files

    written = write_files(folder, force=force)
    if as_json:
        emit_json({"written": [str(path) for path in written]})
    finish(f"{len(written)} files in {folder}")


def show_request(request_id: str, request_log: str | None, *, as_json: bool) -> None:
    """Explain one request from the log that clients write.

    Raises:
        ConfigurationError: if no log is named.
        InvalidInput: if it does not exist, or has no such request.
    """
    from recsys_plugin.observability.diagnosis import explain_request
    from recsys_plugin.observability.request_log import find_request

    path = Settings.from_environment().request_log if request_log is None else Path(request_log)
    if path is None:
        raise ConfigurationError(
            "RECSYS_REQUEST_LOG not set: name the file that clients write slow and degraded requests into, there or "
            "with --request-log"
        )
    found = explain_request(find_request(path, request_id))
    record = found.record
    if as_json:
        emit_json({"request": asdict(record), **{k: v for k, v in found.to_dict().items() if k != "record"}})
        return
    table = Table("stage", "ms", "usual p50", "p95", "p99")
    for stage in found.stages:
        usual = (stage.usual_p50, stage.usual_p95, stage.usual_p99)
        ms = f"[red]{stage.ms:.2f}[/]" if stage.stands_out else f"{stage.ms:.2f}"
        table.add_row(escape(stage.stage), ms, *("" if value is None else f"{value:.2f}" for value in usual))
    moment = datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds")
    console.print(
        f"{record.shelf} at {moment}, {record.why}: {record.outcome}, level {record.level}, version {record.version}, "
        f"{record.items} items of {record.candidates or 'no'} candidates",
        markup=False,
        highlight=False,
    )
    if record.trace_id:
        console.print(f"trace {record.trace_id}", markup=False, highlight=False)
    console.print(table)
    for finding in found.findings:
        console.print(f"[bold]{escape(finding.what)}[/]\n  {escape(finding.why)}\n  → {escape(finding.mend)}")
    finish(f"{len(found.findings)} findings; usual is by {record.usual_requests} requests of this shelf before it")
