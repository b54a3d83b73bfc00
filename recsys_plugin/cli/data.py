"""``recsys data``: a shop's tables, or a public data set, become validated canonical tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recsys_plugin.cli._output import console, emit_json, finish, json_option, progress_bar, reporter
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.data.merge import Merged
    from recsys_plugin.data.store import Dataset

__all__ = ["data", "merged_counts", "merged_line"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_ANY = click.Path(exists=True, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  recsys data                                    the built-in grocery shop (simulated)
  recsys data --source online_retail             UCI Online Retail II, from RECSYS_DATA or downloaded
  recsys data --source online_retail --data FILE the same from a file
  recsys data --from shop/                       your own users, items, events and texts
  recsys data --merge-live                       add what `recsys events archive` has kept, each event once
  recsys data --schema                           what those files must hold"""
)
@click.option("--source", type=click.Choice(["complete_journey", "online_retail"]), help="A public data set.")
@click.option("--from", "folder", type=_FOLDER, help="A folder of your own tables, Parquet or CSV.")
@click.option("--data", "path", type=_ANY, help="File, or folder with data sets, for --source; default RECSYS_DATA.")
@click.option(
    "--held-out-days",
    "held_out",
    type=click.IntRange(1, 3650),
    help="Length of the test time, which ends with the last event, and of the validation time before it; by default "
    "what the public data set says, else a tenth of the time each.",
)
@click.option("--schema", is_flag=True, help="Show the tables and their rules, and do nothing else.")
@click.option("--merge-live", is_flag=True, help="Add the archived live events to the tables that there are.")
@click.option("--force", is_flag=True, help="Read and write again even if nothing changed.")
@json_option
def data(
    source: str | None,
    folder: Path | None,
    path: Path | None,
    held_out: int | None,
    schema: bool,
    merge_live: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Turn tables of users, items and events into validated tables for the steps that follow.

    Without --source or --from it takes complete_journey. Whatever is malformed is refused with file, column, row and
    reason, and the tables made earlier stay as they were. An unchanged source is recognised and not read again.
    """
    if schema:
        _show_schema(as_json)
        return
    if folder is not None and (source is not None or path is not None):
        raise click.UsageError("--from excludes --source and --data")
    if merge_live:
        if force or any(given is not None for given in (source, folder, path, held_out)):
            raise click.UsageError("--merge-live adds to the tables that there are; give it alone")
        _merge_live(as_json)
        return
    from recsys_plugin.data.prepare import prepare

    with progress_bar() as progress:
        task = progress.add_task("data", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        prepared = prepare(
            Settings.from_environment(),
            source=source,
            folder=folder,
            path=path,
            now=datetime.now(UTC),
            held_out=None if held_out is None else timedelta(days=held_out),
            progress=report,
            force=force,
        )
    dataset = prepared.dataset
    if as_json:
        emit_json(dataset.manifest())
    _show(dataset)
    if prepared.reused:
        finish(f"the tables in {dataset.folder} are current", then="recsys apply")
    else:
        finish(f"wrote {len(dataset.counts)} tables to {dataset.folder}", then="recsys apply")


def _merge_live(as_json: bool) -> None:
    from recsys_plugin.data.merge import merge_live_events

    with reporter() as progress:
        merged = merge_live_events(Settings.from_environment(), now=datetime.now(UTC), progress=progress)
    if as_json:
        emit_json({**merged_counts(merged), "dataset": merged.dataset.manifest()})
    _show(merged.dataset)
    finish(merged_line(merged), then="recsys retrain")


def merged_counts(merged: Merged) -> dict[str, Any]:
    """The counts of a merge as plain JSON values."""
    names = ("added", "repeated", "unknown_items", "unknown_item_ids", "ahead", "new_users")
    return {name: getattr(merged, name) for name in names}


def merged_line(merged: Merged) -> str:
    """A merge in one line."""
    said = f"{merged.added:,} live events added, {merged.repeated:,} were there; {merged.new_users:,} new users"
    if merged.unknown_items:
        some = ", ".join(merged.unknown_item_ids)
        said += f"; {merged.unknown_items:,} left out, their items are not in the catalogue ({some})"
    return said + (f"; {merged.ahead:,} left for later, their time has not come" if merged.ahead else "")


def _show(dataset: Dataset) -> None:
    from rich.markup import escape
    from rich.table import Table

    known = dataset.description
    grid = Table(
        title=escape(f"{known.name}: {known.description}"), show_header=False, title_justify="left", title_style=""
    )
    grid.add_column(style="bold")
    grid.add_column()
    for name, rows in dataset.counts.items():
        grid.add_row(name, f"{rows:,} rows")
    grid.add_row("period", f"{dataset.first_event:%Y-%m-%d} to {dataset.last_event:%Y-%m-%d}")
    grid.add_row("validation, test", f"from {known.validation_start:%Y-%m-%d}, from {known.test_start:%Y-%m-%d}")
    grid.add_row("events", ", ".join(f"{rows:,} {kind}" for kind, rows in dataset.event_types.items()))
    for number, note in enumerate(known.notes):
        grid.add_row("" if number else "notes", escape(note))
    console.print(grid)


def _show_schema(as_json: bool) -> None:
    from recsys_plugin.data.schema import describe

    tables: dict[str, Any] = describe()
    if as_json:
        emit_json(tables)
        return
    from rich.console import Console
    from rich.table import Table

    # The schema is the answer, so it goes to standard output.
    answer = Console()
    for name, table in tables.items():
        need = "required" if table["required"] else f"optional: {table['if_absent']}"
        grid = Table(title=f"{name} ({need}). {table['meaning']}", title_justify="left", title_style="bold")
        for heading in ("column", "type", "meaning", "rules"):
            grid.add_column(heading)
        for column in table["columns"]:
            marked = f"{column['name']} *" if column["required"] else column["name"]
            grid.add_row(marked, column["type"], column["meaning"], "; ".join(column["rules"]))
        answer.print(grid)
    answer.print(
        "* required, never empty. Files: users, items, events, texts, each as .parquet or .csv (UTF-8, commas)."
    )
