"""Materialising a view: the newest row of each entity from its Parquet table into Redis, resumable, in bounded memory.

What is written is what Feast's own ``materialize(start, end)`` picks: of each entity's rows in the interval, both ends
included, the one with the latest event time, then the latest created time. Where even these are equal, Feast takes any;
here it is the last in the file, so that a second run picks the same rows in the same order.

**Resuming.** A cursor in Redis says how many of these rows the server has acknowledged. It is valid for the same table,
definitions, moment and code only (the digest that it carries), which fix the rows and their order. It lies in the same
Redis as the rows and is written after their acknowledgement, so whatever a crashed server loses it loses the cursor
first: append-only files and replicas keep a beginning of what was written. In a cluster that does not hold, as the
cursor's node may survive the loss of another, so there an interrupted view starts anew.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.features.writer import BulkWriter

__all__ = [
    "Cursor",
    "NewestRows",
    "ViewSource",
    "materialize_rows",
    "materialize_view",
    "open_newest_rows",
    "view_source",
]

#: Tables of so many rows at most have their keys and times in memory; larger ones are DuckDB's, for so many at a time.
_GROUPED_ROWS = 1_000_000
#: What DuckDB may use for finding the newest rows before it writes to disk.
MEMORY = "512MB"
#: Rows of the table that are in memory at a time.
_BATCH_ROWS = 16_384
#: Feast's own store of this layout, and that of ours that writes by the same lanes.
_STORES = ("redis", "recsys_plugin.feast_store.BulkRedisOnlineStore")
#: Where there is no limit of age.
_EVER = timedelta(days=36_500)
_CURSOR_SECONDS = 0.5
#: More rows than any table has.
_ROWS = 1 << 40
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: Before every time, in whatever unit.
_LEAST = -(1 << 63)
#: Row numbers and the like, int64 [n].
_Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ViewSource:
    """What a view's rows are read from.

    Attributes:
        layout: where they go.
        path: a Parquet file.
        created: the column of creation times, which decides between rows with the same event time.
        ttl: how old a row may be; ``None`` for any age.
    """

    layout: ViewLayout
    path: Path
    created: str | None = None
    ttl: timedelta | None = None

    def interval(self, as_of: datetime) -> tuple[datetime, datetime]:
        """The first and the last event time that count as of a moment."""
        return as_of - (self.ttl or _EVER), as_of


def view_source(store: Any, name: str) -> ViewSource:
    """Read a view's definition from Feast.

    Raises:
        ConfigurationError: if the view is one that only Feast's own ``feast materialize`` can serve, or its table lacks
            a column.
    """
    return _source_of(store, store.get_feature_view(name))


def _source_of(store: Any, view: Any) -> ViewSource:
    from feast.infra.online_stores.helpers import compute_versioned_name

    name = view.name
    source = view.batch_source
    path = Path(getattr(source, "path", ""))
    for found, what in (
        (
            store.config.online_store.type not in _STORES,
            f"the online store is {store.config.online_store.type}, not {' or '.join(_STORES)}",
        ),
        (store.config.entity_key_serialization_version != 3, "its keys are not of serialization version 3"),
        (not view.online, "it is not online"),
        (bool(getattr(view, "aggregations", None)), "it has aggregations"),
        (getattr(view, "feature_transformation", None) is not None, "it has a transformation"),
        (bool(source.field_mapping), "its source renames columns"),
        (not path.is_file(), f"its source {path} is no file here"),
    ):
        if found:
            raise ConfigurationError(f"feature view {name}: {what}; load it with `feast materialize`")
    layout = ViewLayout(
        view=compute_versioned_name(view, store.config.registry.enable_online_feature_view_versioning),
        project=store.project,
        join_keys={field.name: field.dtype.to_value_type().name for field in view.entity_columns},
        features={field.name: field.dtype.to_value_type().name for field in view.features},
        event_timestamp=source.timestamp_field,
    )
    created = source.created_timestamp_column or None
    wanted = [*layout.join_keys, layout.event_timestamp, *layout.features, *([created] if created else [])]
    there = set(pq.read_schema(path).names)
    if missing := [column for column in wanted if column not in there]:
        raise ConfigurationError(f"feature view {name}: {path} has no column {', '.join(missing)}")
    return ViewSource(layout, path, created, view.ttl or None)


class NewestRows:
    """The newest row of each entity, in the order of the file; made by :func:`open_newest_rows`."""

    def __init__(self, source: ViewSource, total: int, numbers: Callable[[int], Iterator[_Rows]]) -> None:
        self._source = source
        self._numbers = numbers
        self.total = total

    def batches(self, *, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """Their columns of the view, a bounded number of rows at a time.

        Args:
            skip: how many rows to leave out at the beginning.
        """
        layout = self._source.layout
        columns = [*layout.join_keys, layout.event_timestamp, *layout.features]
        numbers = _Numbers(self._numbers(skip))
        with pq.ParquetFile(self._source.path) as file:
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if numbers.next() < end:
                    at = start
                    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                        chosen = numbers.below(at + batch.num_rows) - at
                        if len(chosen):
                            yield batch if len(chosen) == batch.num_rows else batch.take(pa.array(chosen))
                        at += batch.num_rows
                start = end


@contextmanager
def open_newest_rows(source: ViewSource, start: datetime, end: datetime) -> Iterator[NewestRows]:
    """Find the newest row of each entity with an event time from ``start`` to ``end``, both aware and included.

    Only keys and times are read for that. Of a table of a million rows or fewer they are held in memory; of a larger
    one DuckDB holds them in :data:`MEMORY`, and on disk what is beyond.

    Raises:
        InvalidInput: if a column of times holds something else.
    """
    with pq.ParquetFile(source.path) as file:
        times = [source.layout.event_timestamp, *([source.created] if source.created else [])]
        for name in times:
            if not pa.types.is_timestamp(kind := file.schema_arrow.field(name).type):
                raise InvalidInput(f"{source.layout.view}: {name} of {source.path} holds {kind}, not timestamps")
        if file.metadata.num_rows <= _GROUPED_ROWS:
            rows = _newest_of(file.read(columns=[*source.layout.join_keys, *times]), source, start, end)
            yield NewestRows(source, len(rows), lambda skip: iter([rows[skip:]]))
            return
    with _newest_by_duckdb(source, start, end) as newest:
        yield newest


def _newest_of(table: pa.Table, source: ViewSource, start: datetime, end: datetime) -> _Rows:
    """The row numbers of the newest rows of a table of keys and times, ascending."""
    times = table[source.layout.event_timestamp]
    unit = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[times.type.unit]
    # A Feast moment is a microsecond, so the last one lasts until the next begins.
    first, after = (
        min(max(-((_EPOCH - moment) // _MICROSECOND * unit // 10**6), _LEAST + 1), -_LEAST - 1)
        for moment in (start, end + _MICROSECOND)
    )
    orders = [_instants(times)]
    rows = np.flatnonzero((orders[0] >= first) & (orders[0] < after))
    if source.created is not None:
        orders.append(_instants(table[source.created]))
    orders.append(np.arange(table.num_rows))
    entities = _entities([table[name] for name in source.layout.join_keys])
    best = np.empty(int(entities.max(initial=-1)) + 1, dtype=np.int64)
    for order in orders:
        best.fill(_LEAST)
        np.maximum.at(best, entities[rows], order[rows])
        rows = rows[order[rows] == best[entities[rows]]]
    return rows


def _instants(column: pa.ChunkedArray) -> _Rows:
    """Timestamps as whole numbers of their unit; null is before all."""
    return np.asarray(column.cast(pa.int64()).fill_null(_LEAST).to_numpy())


def _entities(keys: list[pa.ChunkedArray]) -> _Rows:
    """A number for each row, from 0, that is the same for rows with the same keys."""
    numbers = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        column = key.combine_chunks()
        if isinstance(column.type, pa.DictionaryType):
            column = column.dictionary_decode()
        encoded = column.dictionary_encode(null_encoding="encode")
        both = numbers * len(encoded.dictionary) + encoded.indices.to_numpy()
        # One key alone is numbered without gaps already.
        numbers = both if key is keys[0] else np.unique(both, return_inverse=True)[1]
    return numbers


@contextmanager
def _newest_by_duckdb(source: ViewSource, start: datetime, end: datetime) -> Iterator[NewestRows]:
    """:func:`open_newest_rows` for tables of any size."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="recsys-materialize-") as folder, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET temp_directory = $folder", {"folder": folder})
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("CREATE TEMP TABLE newest (row BIGINT)")
        # DuckDB runs out of memory rather than write a grouping by texts to disk, so a part of the keys at a time.
        parts = 1 + pq.read_metadata(source.path).num_rows // _GROUPED_ROWS
        for part in range(parts):
            given = {"path": str(source.path), "start": _naive(start), "end": _naive(end), "parts": parts, "part": part}
            connection.execute(f"INSERT INTO newest {_newest_query(source)}", given)
        ((total,),) = connection.execute("SELECT count(*) FROM newest").fetchall()
        yield NewestRows(source, total, partial(_numbers_from, connection))


def _numbers_from(connection: Any, skip: int) -> Iterator[_Rows]:
    result = connection.execute("SELECT row FROM newest ORDER BY row OFFSET $skip", {"skip": skip})
    for batch in result.fetch_record_batch(65_536):
        yield batch.column(0).to_numpy()


def _newest_query(source: ViewSource) -> str:
    """SQL for the row numbers of the newest rows, of one part of the keys."""
    time, keys = f'"{source.layout.event_timestamp}"', ", ".join(f'"{name}"' for name in source.layout.join_keys)
    rows = f"""FROM read_parquet($path, file_row_number = true)
        WHERE CAST({time} AS TIMESTAMP) BETWEEN $start AND $end AND hash({keys}) % $parts = $part"""
    if source.created is None:
        # Time and row number in one number of 128 bits: three times faster than a window.
        packed = f"max(CAST(epoch_us({time}) AS HUGEINT) * {_ROWS} + file_row_number)"
        return f"SELECT CAST(({packed} % {_ROWS} + {_ROWS}) % {_ROWS} AS BIGINT) AS row {rows} GROUP BY {keys}"
    return f"""SELECT file_row_number AS row {rows} QUALIFY row_number() OVER (
        PARTITION BY {keys} ORDER BY {time} DESC, "{source.created}" DESC NULLS LAST, row DESC) = 1"""


class _Numbers:
    """Ascending numbers that come in parts, a bounded amount of them in memory."""

    def __init__(self, parts: Iterator[_Rows]) -> None:
        self._parts = parts
        self._held: _Rows = np.empty(0, dtype=np.int64)
        self._more = True

    def next(self) -> float:
        """The smallest one not taken; infinity if there is none."""
        self._fetch(1)
        return float(self._held[0]) if len(self._held) else float("inf")

    def below(self, end: int) -> _Rows:
        """Take all that are smaller."""
        while self._more and (not len(self._held) or self._held[-1] < end):
            self._fetch(len(self._held) + 1)
        count = int(np.searchsorted(self._held, end))
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _fetch(self, least: int) -> None:
        while self._more and len(self._held) < least:
            part = next(self._parts, None)
            self._more = part is not None
            if part is not None:
                self._held = np.concatenate([self._held, part])


class Cursor:
    """How far a view's materialisation has come, in Redis.

    Args:
        client: a redis-py client.
        key: of the hash that holds all cursors.
        view: whose.
        state: digest of everything that the rows and their order depend on.
        kept: whether it may be trusted after a crash; if not, it is neither read nor written.
    """

    def __init__(self, client: Any, key: str, view: str, state: str, *, kept: bool = True) -> None:
        self._client, self._key, self._view, self._state, self._kept = client, key, view, state, kept

    def read(self) -> int:
        """How many rows are in the store; 0 if the cursor is of another state."""
        stored: bytes | None = self._client.hget(self._key, self._view) if self._kept else None
        state, _, rows = (stored or b"").decode().partition(" ")
        return int(rows) if state == self._state else 0

    def write(self, rows: int) -> None:
        """Remember that the first so many rows were acknowledged."""
        if self._kept:
            self._client.hset(self._key, self._view, f"{self._state} {rows}")

    def remove(self) -> None:
        """Forget it: the view is whole, or starts anew."""
        self._client.hdel(self._key, self._view)


def materialize_rows(
    source: ViewSource,
    writer: BulkWriter,
    cursor: Cursor,
    *,
    as_of: datetime,
    progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Write a view's newest rows as of a moment, going on at the cursor.

    Args:
        source: the view.
        writer: to the store; nothing of another view may be under way.
        cursor: of this view and state; it is left at the end, for the caller to remove with what it records.
        as_of: no row is newer; none is older than the view's ttl then.
        progress: told rows done and rows in all.
        clock: seconds that only run forward.

    Returns:
        How many rows were sent, those of an earlier, interrupted run not counted.

    Raises:
        InvalidInput: if a column holds what cannot be written.
        StoreUnavailable, DeadlineExceeded: if Redis fails; the cursor stays for the next run.
    """
    writer.drain()
    before = writer.acknowledged
    with open_newest_rows(source, *source.interval(as_of)) as newest:
        skipped = min(cursor.read(), newest.total)
        cursor.write(skipped)  # a cursor of another state must not outlive the first row that this run writes
        progress(skipped, newest.total)
        saved = clock()
        for _ in writer.write_ahead(source.layout, newest.batches(skip=skipped)):
            done = skipped + writer.acknowledged - before
            if clock() - saved >= _CURSOR_SECONDS:
                cursor.write(done)
                saved = clock()
            progress(done, newest.total)
        writer.drain()
        sent = writer.acknowledged - before
        cursor.write(skipped + sent)
        progress(skipped + sent, newest.total)
    return sent


def materialize_view(
    store: Any,
    view: str,
    writer: BulkWriter,
    cursor: Cursor,
    *,
    as_of: datetime,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """:func:`materialize_rows` for a view of a Feast store, recorded in its registry as ``feast materialize`` does.

    Raises:
        ConfigurationError: as :func:`view_source`.
    """
    definition = store.get_feature_view(view)
    source = _source_of(store, definition)
    rows = materialize_rows(source, writer, cursor, as_of=as_of, progress=progress)
    store.registry.apply_materialization(definition, store.project, *source.interval(as_of))
    return rows


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
