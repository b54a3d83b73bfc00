"""Files of events into the streams: CSV, Parquet or JSON lines, bad rows to the dead letters, never an end."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from recsys_plugin.data.coerce import coerce_column
from recsys_plugin.data.schema import LATEST, TABLES, Column
from recsys_plugin.errors import DataError, InvalidInput
from recsys_plugin.events.calls import AppendEvents, Entry
from recsys_plugin.events.dead_letters import DeadLetters, dead_letter
from recsys_plugin.events.event import Event, EventRefused, microseconds_of
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.events.transport import EventTransport
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.limits import MOST_EVENT_BYTES

__all__ = ["Imported", "Progress", "import_events"]

#: Rows in one round trip.
_BATCH = 1_000
_TIMEOUT = 10.0

Progress = Callable[[str, int, int], None]

#: The canonical columns of events, and the page that an event belongs to.
_COLUMNS = (*TABLES["events"].columns, Column("request_id", "identifier", "The page it came from.", max_bytes=256))
_NAMES = tuple(column.name for column in _COLUMNS)

#: What makes two rows the same event, beside the time.
_CONTENT = tuple(name for name in _NAMES if name not in ("event_id", "timestamp"))

#: A row's number from 1, its event or why it is none, and the row as it was.
_Row = tuple[int, Event | EventRefused, Callable[[], bytes]]


@dataclass(slots=True)
class Imported:
    """What became of the rows of a file."""

    rows: int = 0
    recorded: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Reason → rows among the dead letters."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def import_events(
    path: Path,
    address: RedisAddress,
    *,
    project: str = "recsys",
    history: bool = False,
    clock: Callable[[], float] = time.time,
    progress: Progress = lambda what, done, total: None,
) -> Imported:
    """Record every row of a file.

    A row without ``event_id`` is named after its content and how often that came before in the file, so that a file
    imported twice counts once. In JSON lines a timestamp may also be whole microseconds since the epoch.

    Args:
        path: ``.csv``, ``.parquet``, ``.jsonl`` or ``.ndjson`` with the canonical columns of events and, if there is
            one, ``request_id``; other columns are left out.
        history: take each event as recorded at its own time, so that old ones are not refused.

    Raises:
        InvalidInput: if the file is of another kind; ``DataError`` if it cannot be read, or a required column is
            missing.
        StoreUnavailable, DeadlineExceeded: if Redis does not take the events; importing again is safe.
    """
    rows, total = _rows_of(path)
    keys, done, seen = EventKeys(project), Imported(), Counter[bytes]()
    transport, letters = EventTransport(address, timeout=_TIMEOUT), DeadLetters(address, project=project, clock=clock)
    try:
        for batch in _batches(rows):
            now = int(clock() * 1_000_000)
            entries: list[Entry] = []
            dead = []
            for number, event, raw in batch:
                refused = event if isinstance(event, EventRefused) else None
                if isinstance(event, Event):
                    try:
                        entries.append(_entry(keys, _named(event, seen), now, history))
                    except EventRefused as error:
                        refused = error
                if refused is not None:
                    done.refused[refused.reason] = done.refused.get(refused.reason, 0) + 1
                    where = {"source": path.name, "entry": str(number), "event": raw()[:MOST_EVENT_BYTES]}
                    dead.append(dead_letter(refused.reason, str(refused), recorded_at=now, at=now, **where))  # type: ignore[arg-type]
            if dead:
                letters.add(dead)
            if entries:
                transport.append(AppendEvents(entries), timeout=_TIMEOUT)
            done.rows += len(batch)
            done.recorded += len(entries)
            progress("events", done.rows, max(total, done.rows))
        for reason, number in done.refused.items():
            letters.count(reason, number)
    finally:
        transport.close()
        letters.close()
    return done


def _entry(keys: EventKeys, event: Event, now: int, history: bool) -> Entry:
    assert event.timestamp is not None
    recorded_at = min(microseconds_of(event.timestamp), now) if history else now
    event.check_age(recorded_at)
    return Entry(keys.events(keys.partition(event.user_id)), event.encode(), recorded_at)


_MICROSECOND = timedelta(microseconds=1)


def _named(event: Event, seen: Counter[bytes]) -> Event:
    """The event with an id; one that has none is named after its content."""
    if event.event_id is not None:
        return event
    assert event.timestamp is not None
    content = [getattr(event, name) for name in _CONTENT]
    content.append(microseconds_of(event.timestamp))
    digest = blake2b(json.dumps(content).encode(), digest_size=12).digest()
    repetition = seen[digest]
    seen[digest] += 1
    name = f"{digest.hex()}-{repetition}" if repetition else digest.hex()
    return replace(event, event_id=name)


def _batches(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows_of(path: Path) -> tuple[Iterator[_Row], int]:
    """The rows of a file in order, and how many there are (0 if that is not known)."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _json_rows(path), 0
    if suffix == ".csv":
        return _csv_rows(path, _csv_header(path)), 0
    if suffix == ".parquet":
        try:
            file = parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot be read as Parquet ({error}); write it again", file=path.name) from error
        names = [name for name in file.schema_arrow.names if name in _NAMES]
        _require(names, path)
        parts = (pa.Table.from_batches([batch]) for batch in file.iter_batches(_BATCH, columns=names))
        return _table_rows(parts, path.name), file.metadata.num_rows
    raise InvalidInput(f"{path.name} is no .csv, .parquet, .jsonl or .ndjson")


def _require(names: Sequence[str], path: Path) -> None:
    for column in _COLUMNS:
        if column.required and column.name not in names:
            reason = f"the required column is missing (known columns: {', '.join(names) or 'none'})"
            raise DataError(reason, file=path.name, column=column.name)


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        header = next((record for record in csv.reader(text) if record), [])
    _require(header, path)
    for name in _NAMES:
        if header.count(name) > 1:
            raise DataError("two columns have this name; keep one", file=path.name, column=name)
    return header


def _csv_rows(path: Path, header: list[str]) -> Iterator[_Row]:
    """Rows of comma-separated text; unlike ``recsys data``, a row that is torn or no UTF-8 ends nothing."""
    kept = {name: header.index(name) for name in _NAMES if name in header}
    good: list[list[str]] = []
    first = number = 1
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        records = csv.reader(text)
        next(record for record in records if record)
        while True:
            try:
                record = next(records)
            except StopIteration:
                yield from _piece_rows(_text_table(good, kept), path.name, first)
                return
            except csv.Error as error:
                record, fault = [], str(error)
            else:
                if not record:
                    continue
                fault = _torn(record, header)
            if not fault:
                good.append(record)
            if fault or len(good) == _BATCH:
                yield from _piece_rows(_text_table(good, kept), path.name, first)
                good = []
            if fault:
                raw = ",".join(record).encode(errors="surrogateescape")
                yield number, EventRefused("malformed", f"{path.name}, row {number}: {fault}"), partial(bytes, raw)
            number += 1
            if not good:
                first = number


def _torn(record: list[str], header: list[str]) -> str:
    """What is wrong with the shape of a record; empty if nothing is."""
    if len(record) != len(header):
        return f"{len(record)} fields where the header has {len(header)}; put values with a comma in quotation marks"
    try:
        "".join(record).encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return ""


def _text_table(records: list[list[str]], kept: Mapping[str, int]) -> pa.Table:
    return pa.table(
        {name: pa.array([record[at] or None for record in records], pa.string()) for name, at in kept.items()}
    )


def _json_rows(path: Path) -> Iterator[_Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _json_event(line), partial(bytes, line.rstrip(b"\n"))


def _json_event(line: bytes) -> Event | EventRefused:
    if len(line) > MOST_EVENT_BYTES:
        return EventRefused("oversized", f"event: {len(line)} bytes, at most {MOST_EVENT_BYTES} are allowed")
    try:
        values = json.loads(line)
        if not isinstance(values, dict):
            return EventRefused("malformed", f"event: JSON {type(values).__name__}, expected an object")
        known = {name: values[name] for name in _NAMES if values.get(name) is not None}
        moment = known.get("timestamp")
        if isinstance(moment, str):
            read = datetime.fromisoformat(moment)
            known["timestamp"] = read if read.tzinfo else read.replace(tzinfo=UTC)
        elif type(moment) is int:
            known["timestamp"] = datetime(1970, 1, 1, tzinfo=UTC) + moment * _MICROSECOND
        else:
            return EventRefused("malformed", "event: no timestamp, as ISO 8601 text or whole microseconds")
        return Event(**known)
    except EventRefused as error:
        return error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        return EventRefused("malformed", f"event: {error}")


def _table_rows(pieces: Iterator[pa.Table], file: str) -> Iterator[_Row]:
    first = 1
    for piece in pieces:
        yield from _piece_rows(piece, file, first)
        first += piece.num_rows


def _piece_rows(piece: pa.Table, file: str, first: int) -> Iterator[_Row]:
    """The rows of a piece by the rules of ``recsys data``; where one breaks them the piece is halved, down to it."""
    if not piece.num_rows:
        return
    try:
        columns = {
            column.name: coerce_column(piece[column.name], column, file=file, now=LATEST, first_row=first, whole=False)
            for column in _COLUMNS
            if column.name in piece.column_names
        }
    except DataError as error:
        if piece.num_rows > 1:
            half = piece.num_rows // 2
            yield from _piece_rows(piece.slice(0, half), file, first)
            yield from _piece_rows(piece.slice(half), file, first + half)
            return
        yield first, EventRefused("malformed", str(error)), partial(_raw_at, piece, 0)
        return
    for place, values in enumerate(pa.table(columns).to_pylist()):
        values["quantity"] = values.get("quantity") or 1.0
        try:
            event: Event | EventRefused = Event(**values)
        except EventRefused as error:
            event = error
        yield first + place, event, partial(_raw_at, piece, place)


def _raw_at(piece: pa.Table, place: int) -> bytes:
    (values,) = piece.slice(place, 1).to_pylist()
    return json.dumps(values, ensure_ascii=False, default=str).encode(errors="replace")
