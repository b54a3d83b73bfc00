"""Live events into the canonical tables: each once, with the users that are new; all of it or nothing.

The event stream archives what it took as ``.recsys/live_events/day=YYYY-MM-DD/*.parquet``. The archive is never changed
here, and which of its events the tables hold is told by their ids alone. So a merge that was killed is simply done
again, and so is one after ``recsys data`` has read another source.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from recsys_plugin.data.coerce import coerce_column
from recsys_plugin.data.events import ordered_events
from recsys_plugin.data.prepare import LIVE_FOR
from recsys_plugin.data.schema import TABLES
from recsys_plugin.data.store import Dataset, Description, load_dataset, locked, write_dataset
from recsys_plugin.errors import DataError
from recsys_plugin.privacy.rows import LeftOut
from recsys_plugin.privacy.tombstones import Tombstones
from recsys_plugin.settings import Settings

__all__ = ["LIVE_EVENTS", "Merged", "merge_live_events"]

#: The folder of archived live events, below the state folder.
LIVE_EVENTS = "live_events"
#: Events that are too many for memory go here while they are sorted; what a killed run left is removed by the next.
_SCRATCH = ".events-merging-"
#: The data set's note about the merge begins with this.
_NOTE = "live events: "

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge made.

    Attributes:
        dataset: the tables as they are now.
        added: events that the tables did not hold. repeated: rows of the archive whose event id the tables, or an
            earlier row, have.
        unknown_items: events left out, since their items are not in the items table; a later merge takes them once they
            are. unknown_item_ids: some of those items, for a message.
        ahead: events left out, since their time has not come; a later merge takes them.
        new_users: users that the tables did not hold; their profiles are empty.
    """

    dataset: Dataset
    added: int = 0
    repeated: int = 0
    unknown_items: int = 0
    unknown_item_ids: tuple[str, ...] = ()
    ahead: int = 0
    new_users: int = 0


def merge_live_events(
    settings: Settings, *, now: datetime, progress: Progress = lambda what, done, total: None
) -> Merged:
    """Bring the archived live events into the tables; the tables stay as they are if there is nothing new.

    Validation and test keep their lengths and move to the newest days. A data set whose newest event is then not older
    than a week is live: its ``as_of`` is ``now``.

    Args:
        settings: the home. now: aware.
        progress: told what is under way, how much is done, and of how much.

    Raises:
        ConfigurationError: if there are no tables. DataError: for a malformed archive, naming file, column and row; the
            tables stay as they were. StepFailed: if another process is writing them.
    """
    with locked(settings):
        dataset = load_dataset(settings)
        live, repeated = _archived(settings.state / LIVE_EVENTS, now, progress)
        live = LeftOut(Tombstones.read(settings)).of("events", live)
        if not live.num_rows:
            return Merged(dataset, repeated=repeated)
        ahead = pc.greater(live["timestamp"], pa.scalar(now, live["timestamp"].type))
        known = pc.is_in(live["item_id"], dataset.table("items", ["item_id"])["item_id"].combine_chunks())
        unknown = live.filter(pc.and_(pc.invert(known), pc.invert(ahead)))
        found = Merged(
            dataset,
            unknown_items=unknown.num_rows,
            unknown_item_ids=tuple(sorted(pc.unique(unknown["item_id"]).to_pylist())[:5]),
            ahead=int(pc.sum(ahead).as_py()),
        )
        fit = live.filter(pc.and_(known, pc.invert(ahead)))
        fresh = _not_held(dataset, fit, progress)
        found = replace(found, repeated=repeated + fit.num_rows - fresh.num_rows)
        if not fresh.num_rows:
            return found
        tables = {name: dataset.table(name) for name in dataset.counts if name != "events"}
        users = _with_users(tables["users"], fresh)
        new_users = users.num_rows - tables["users"].num_rows
        total, done = dataset.counts["events"] + fresh.num_rows, 0

        def pieces() -> Iterator[pa.Table]:
            nonlocal done
            for piece in (*dataset.batches("events"), fresh):
                progress("merging events", done, total)
                yield piece.select(TABLES["events"].column_names)
                done += piece.num_rows
            progress("merging events", done, total)

        for left in settings.state.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left)
        with TemporaryDirectory(prefix=_SCRATCH, dir=settings.state) as scratch:
            events = ordered_events(pieces(), "events and live_events", Path(scratch))
            progress("writing tables", 0, 1)
            written = write_dataset(
                settings,
                {**tables, "users": users},
                events,
                _moved(dataset, events.first, events.last, fresh.num_rows, now),
            )
            progress("writing tables", 1, 1)
        return replace(found, dataset=written, added=fresh.num_rows, new_users=new_users)


def _archived(folder: Path, now: datetime, progress: Progress) -> tuple[pa.Table, int]:
    """The archived events in the order of the files, canonical, each id once; and how many rows repeat one."""
    schema = TABLES["events"].arrow_schema
    files = sorted(folder.glob("day=*/*.parquet"))
    parts: list[pa.Table] = [schema.empty_table()]
    for number, path in enumerate(files):
        progress("live events", number, len(files))
        parts.append(_read(path, now))
    progress("live events", len(files), len(files))
    whole = pa.concat_tables(parts)
    numbered = whole.append_column("row", pa.array(range(whole.num_rows), pa.int64()))
    first = numbered.group_by("event_id", use_threads=False).aggregate([("row", "min")])["row_min"]
    once = whole.take(first.take(pc.sort_indices(first)))
    return once, whole.num_rows - once.num_rows


def _read(path: Path, now: datetime) -> pa.Table:
    """One file of the archive, its columns checked as those of ``recsys data`` are."""
    name = f"{path.parent.name}/{path.name}"
    try:
        content = parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet ({error}); move the file away", file=name) from error
    columns = []
    for column in TABLES["events"].columns:
        if column.name not in content.column_names:
            raise DataError(
                "the column is missing; archive the stream with this version", file=name, column=column.name
            )
        # A live event may be ahead of this clock, and must have an id, which is how repeats are told.
        expected = replace(column, past=False, required=column.required or column.name == "event_id")
        columns.append(coerce_column(content[column.name], expected, file=name, now=now))
    return pa.table(columns, schema=TABLES["events"].arrow_schema)


def _not_held(dataset: Dataset, live: pa.Table, progress: Progress) -> pa.Table:
    """The live events whose ids the tables do not hold; the tables' ids are read piece by piece."""
    held = pa.array([], pa.string())
    total, done = dataset.counts["events"], 0
    asked = live["event_id"].combine_chunks()
    for piece in dataset.batches("events", ["event_id"]):
        progress("event ids", done, total)
        ids = piece["event_id"].combine_chunks()
        held = pa.concat_arrays([held, ids.filter(pc.is_in(ids, asked))])
        done += piece.num_rows
    progress("event ids", total, total)
    return live.filter(pc.invert(pc.is_in(live["event_id"], held)))


def _with_users(users: pa.Table, events: pa.Table) -> pa.Table:
    """The users table, and a row with an empty profile for each user of ``events`` that it lacks."""
    acting = pc.unique(events["user_id"])
    new = sorted(acting.filter(pc.invert(pc.is_in(acting, users["user_id"].combine_chunks()))).to_pylist())
    rows = [pa.array(new, pa.string()) if f.name == "user_id" else pa.nulls(len(new), f.type) for f in users.schema]
    return pa.concat_tables([users, pa.table(rows, schema=users.schema)])


def _moved(dataset: Dataset, first: datetime, last: datetime, added: int, now: datetime) -> Description:
    """What is known of the data set after a merge: the same, with the splits moved to the newest days."""
    known = dataset.description
    historical = known.historical and last < now - LIVE_FOR
    test_start = last - (dataset.last_event - known.test_start)
    before = [int(note.removeprefix(_NOTE).split()[0]) for note in known.notes if note.startswith(_NOTE)]
    notes: Sequence[str] = [note for note in known.notes if not note.startswith(_NOTE)]
    return replace(
        known,
        historical=historical,
        as_of=last if historical else now,
        test_start=test_start,
        validation_start=max(first, test_start - (known.test_start - known.validation_start)),
        notes=(*notes, f"{_NOTE}{sum(before) + added} merged, the last of {last.isoformat(timespec='seconds')}"),
    )
