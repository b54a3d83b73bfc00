"""``recsys report``: the last training run as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from recsys_plugin.cli._output import emit_json, finish, json_option
from recsys_plugin.settings import Settings

__all__ = ["report"]


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it; .recsys/training/report.html without it.",
)
@click.option("--open", "show", is_flag=True, help="Show it in the browser.")
@json_option
def report(output: Path | None, show: bool, as_json: bool) -> None:
    """Write the last training run as one HTML file: baselines, segments, curves, calibration, importance.

    \b
    Examples:
      recsys report --open
      recsys report --output run-7.html
    """
    from recsys_plugin.report.html import write_report

    path = write_report(Settings.from_environment().state, output).resolve()
    if as_json:
        emit_json({"report": str(path), "bytes": path.stat().st_size})
    if show:
        click.launch(path.as_uri())
    finish(f"report written to {path}")
