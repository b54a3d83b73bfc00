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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_plugin.errors import ConfigurationError
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

#: What DuckDB may use for finding the newest rows before it writes to disk.
MEMORY = "512MB"
#: Rows of the table that are in memory at a time.
_BATCH_ROWS = 16_384
#: Where there is no limit of age.
_EVER = timedelta(days=36_500)
_CURSOR_SECONDS = 0.5
#: Rows whose keys are grouped at a time.
_GROUPED_ROWS = 1_000_000
#: More rows than any table has.
_ROWS = 1 << 40


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
    from feast.infra.online_stores.helpers import compute_versioned_name

    view = store.get_feature_view(name)
    source = view.batch_source
    path = Path(getattr(source, "path", ""))
    for found, what in (
        (store.config.online_store.type != "redis", f"the online store is {store.config.online_store.type}, not redis"),
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

    def __init__(self, source: ViewSource, connection: Any) -> None:
        self._source = source
        self._connection = connection
        (self.total,) = connection.execute("SELECT count(*) FROM newest").fetchone()

    def batches(self, *, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """Their columns of the view, a bounded number of rows at a time.

        Args:
            skip: how many rows to leave out at the beginning.
        """
        layout = self._source.layout
        columns = [*layout.join_keys, layout.event_timestamp, *layout.features]
        numbers = _Numbers(self._connection.execute("SELECT row FROM newest ORDER BY row OFFSET $skip", {"skip": skip}))
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

    Only keys and times are read for that; DuckDB holds them in :data:`MEMORY`, and on disk what is beyond.
    """
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
        yield NewestRows(source, connection)


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
    """Ascending numbers from DuckDB, a bounded amount of them in memory."""

    def __init__(self, result: Any) -> None:
        self._reader = result.fetch_record_batch(65_536)
        self._held = np.empty(0, dtype=np.int64)
        self._more = True

    def next(self) -> float:
        """The smallest one not taken; infinity if there is none."""
        self._fetch(1)
        return float(self._held[0]) if len(self._held) else float("inf")

    def below(self, end: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Take all that are smaller, int64."""
        while self._more and (not len(self._held) or self._held[-1] < end):
            self._fetch(len(self._held) + 1)
        count = int(np.searchsorted(self._held, end))
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _fetch(self, least: int) -> None:
        while self._more and len(self._held) < least:
            batch = next(self._reader, None)
            self._more = batch is not None
            if batch is not None:
                self._held = np.concatenate([self._held, batch.column(0).to_numpy()])


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
        for batch in newest.batches(skip=skipped):
            writer.write(source.layout, batch)
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
    source = view_source(store, view)
    rows = materialize_rows(source, writer, cursor, as_of=as_of, progress=progress)
    store.registry.apply_materialization(store.get_feature_view(view), store.project, *source.interval(as_of))
    return rows


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
