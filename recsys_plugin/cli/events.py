"""``recsys events``: files into the streams, what was refused, how the streams stand, and the log as tables."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from recsys_plugin.events.dead_letters import DeadLetter
    from recsys_plugin.events.status import EventStatus
    from recsys_plugin.features.connection import RedisAddress
    from recsys_plugin.impressions.archive import Archived

__all__ = [
    "archive",
    "dead_letter",
    "events",
    "import_file",
    "join",
    "outcome_window",
    "status",
]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def events() -> None:
    """Record events from files, look after what was refused, and turn the log into tables for training.

    \b
    Examples:
      recsys events import clicks.csv
      recsys events status
      recsys events dead-letter
      recsys events archive --follow
      recsys events join --window 24h
    """


@events.command("import")
@click.argument("path", metavar="FILE", type=_FILE)
@click.option("--history", is_flag=True, help="Take events as recorded at their own time: old ones pass.")
@json_option
def import_file(path: Path, history: bool, as_json: bool) -> None:
    """Record every event of FILE: .csv, .parquet, .jsonl or .ndjson with the columns of `recsys data --schema`.

    A column request_id joins events to their pages. Rows that are no events become dead letters and stop nothing.
    Importing a file twice counts once: rows without event_id are named after their content.

    \b
    Examples:
      recsys events import clicks.csv
      recsys events import last-year.parquet --history
    """
    from recsys_plugin.event_import import import_events

    with reporter() as progress:
        done = import_events(path, _address(), history=history, progress=progress)
    if as_json:
        emit_json(done.to_dict())
    refused = sum(done.refused.values())
    why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.refused.items()))
    finish(
        f"recorded {done.recorded:,} of {done.rows:,} events" + (f"; dead letters: {why}" if refused else ""),
        then="recsys events dead-letter" if refused else "recsys events status",
    )


@events.command("dead-letter")
@click.option("--reason", help="Only those refused for this reason, such as malformed or future.")
@click.option("--limit", type=click.IntRange(1), help="At most so many, oldest first; a list shows 50 otherwise.")
@click.option("--replay", is_flag=True, help="Send them again as recorded now; what is accepted is taken out.")
@click.option("--from", "mended", type=_FILE, help="With --replay: what --json printed, each event mended.")
@click.option("--delete", is_flag=True, help="Take them out for good.")
@json_option
def dead_letter(
    reason: str | None, limit: int | None, replay: bool, mended: Path | None, delete: bool, as_json: bool
) -> None:
    """List what could not be taken as an event, send it again, or delete it.

    \b
    Examples:
      recsys events dead-letter
      recsys events dead-letter --reason malformed --json > letters.json
      recsys events dead-letter --replay --from letters.json
      recsys events dead-letter --reason too_old --delete
    """
    if replay and delete:
        raise click.UsageError("--replay excludes --delete")
    if mended is not None and not replay:
        raise click.UsageError("--from goes with --replay")
    from itertools import islice

    from recsys_plugin.events.dead_letters import DeadLetters, corrections_of

    letters = DeadLetters(_address())
    try:
        corrected = None if mended is None else corrections_of(mended.read_text(encoding="utf-8"))
        most = limit if limit is not None or replay or delete or as_json else 50
        found = (letter for letter in letters.list(reason=reason) if corrected is None or letter.id in corrected)
        chosen = list(islice(found, most))
        if replay:
            with reporter() as progress:
                done = letters.replay(chosen, corrected=corrected, progress=progress)
            if as_json:
                emit_json(asdict(done))
            for name, why in done.refused[:20]:
                console.print(f"  {name}: {why}", markup=False, highlight=False, soft_wrap=True)
            finish(f"sent {done.sent:,} again, {len(done.refused):,} are still refused")
            return
        if delete:
            deleted = letters.delete([letter.id for letter in chosen])
            if as_json:
                emit_json({"deleted": deleted})
            finish(f"deleted {deleted:,} dead letters")
            return
        if as_json:
            emit_json({"letters": [letter.to_dict() for letter in chosen]})
        else:
            _print(_letters_table(chosen))
        finish(f"{len(chosen):,} of {len(letters):,} dead letters")
    finally:
        letters.close()


@events.command()
@json_option
def status(as_json: bool) -> None:
    """Show what waits in the streams, who works on them, and what became of events.

    \b
    Examples:
      recsys events status
      recsys events status --json | jq .lag
    """
    from recsys_plugin.events.status import event_status

    found = event_status(_address())
    if as_json:
        emit_json(found.to_dict())
    else:
        _print(_status_table(found))
    counted = ", ".join(f"{name} {count:,}" for name, count in found.counts.items()) or "nothing yet"
    finish(f"events so far: {counted}")
    if found.lag and not found.workers:
        console.print("  no worker makes them visible", highlight=False)


@events.command()
@click.option("--follow", is_flag=True, help="Go on until it is stopped.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=60.0, show_default=True, help="With --follow: seconds between runs."
)
@json_option
def archive(follow: bool, every: float, as_json: bool) -> None:
    """Write pages and events from the streams to Parquet by day, each once, and free what all have read.

    Files go to .recsys/impressions/day=YYYY-MM-DD/ and .recsys/live_events/day=YYYY-MM-DD/.

    \b
    Examples:
      recsys events archive
      recsys events archive --follow --every 300
    """
    from recsys_plugin.background import Warner
    from recsys_plugin.errors import ServiceUnavailable
    from recsys_plugin.impressions.archive import Archiver
    from recsys_plugin.pseudonyms import Pseudonyms

    settings = Settings.from_environment()
    names = None if settings.pseudonym_key is None else Pseudonyms(settings.pseudonym_key)
    archiver = Archiver(_address(), settings.state, names=names)
    warner = Warner("could not archive")
    while True:
        try:
            with reporter() as progress:
                done = archiver.run(progress)
            warner.worked()
            if not follow or done.files:
                _report(done, settings.state, as_json)
        except ServiceUnavailable as error:
            if not follow:
                raise
            warner.failed(error)
        if not follow:
            return
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            finish("stopped; nothing is half done")
            return


@events.command()
@click.option(
    "--window", default="24h", show_default=True, help="An event so long after its impression counts: 24h, 7d."
)
@json_option
def join(window: str, as_json: bool) -> None:
    """Join pages with the clicks, carts and purchases that came of them: a table for training, by day.

    Files go to .recsys/outcomes/window=WINDOW/day=YYYY-MM-DD/. Days whose window is over are final; others are
    written again when something came.

    \b
    Examples:
      recsys events join
      recsys events join --window 7d
    """
    from recsys_plugin.impressions.join import join_outcomes, outcomes_folder

    settings, length = Settings.from_environment(), outcome_window(window)
    output = outcomes_folder(settings.state, length)
    with reporter() as progress:
        done = join_outcomes(settings.state, output, window=length, now=datetime.now(UTC), progress=progress)
    if as_json:
        emit_json({**asdict(done), "folder": str(output)})
    finish(
        f"wrote {done.written} days ({done.rows:,} items shown, {done.clicked:,} clicked, {done.carted:,} put into the "
        f"cart, {done.purchased:,} bought), {done.unchanged} unchanged, {done.final} final, to {output}"
    )


def _address() -> RedisAddress:
    """Where Redis is; the embedded one, if it does not run, runs for as long as the command does."""
    from recsys_plugin.features.connection import RedisAddress
    from recsys_plugin.runtime.services import Services

    services = Services(Settings.from_environment())
    return RedisAddress.parse(click.get_current_context().with_resource(services.ensure_redis()))


def outcome_window(text: str) -> timedelta:
    """An attribution window such as ``24h`` or ``7d``."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isdigit() or len(number) > 6:
        raise click.BadParameter(f"{text!r} is no length of time such as 30m, 24h or 7d", param_hint="--window")
    return timedelta(**{units[unit]: int(number)})


def _report(done: Archived, folder: Path, as_json: bool) -> None:
    if as_json:
        emit_json({**asdict(done), "folder": str(folder)})
    finish(
        f"archived {done.impressions:,} pages and {done.events:,} events in {done.files} files; {done.malformed:,} "
        f"malformed, {done.trimmed:,} entries freed",
        then="recsys events join",
    )


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def _letters_table(letters: list[DeadLetter]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for name in ("id", "reason", "from", "message", "event"):
        table.add_column(name, overflow="fold")
    for letter in letters:
        event = letter.event.decode(errors="replace")
        shown = event if len(event) <= 120 else event[:120] + "…"
        cells = (letter.id, letter.reason, f"{letter.source} {letter.entry}", letter.message, shown)
        table.add_row(*map(escape, cells))
    return table


def _status_table(found: EventStatus) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("stream")
    for name in ("entries", "not yet visible", "not archived"):
        table.add_column(name, justify="right")
    table.add_column("worker")
    rows: list[tuple[Any, ...]] = [
        (f"events {one.partition}", one.length, one.lag, one.not_archived, one.owner or "–") for one in found.partitions
    ]
    rows.append(("impressions", found.impressions, "", found.impressions_not_archived, ""))
    rows.append(("dead letters", found.dead_letters, "", "", ""))
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    return table
