"""Writing what Feast can read: whole Arrow batches for materialisation, single rows for pushes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from recsys_plugin.errors import InvalidInput, ServiceUnavailable
from recsys_plugin.features.ahead import ahead
from recsys_plugin.features.codec import entity_key_value
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.features.value_encoding import encode_timestamp, encode_value
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.features.write_lanes import Piece, bulk, open_lanes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BulkWriter", "WriteCounts"]

#: What of a batch is encoded at a time: rows, and bytes in Arrow.
_ENCODED_ROWS, _ENCODED_BYTES = 4096, 4 << 20
#: How many such parts are encoded before the lanes take them.
_AHEAD = 3


@dataclass(slots=True)
class WriteCounts:
    """What became of the rows that the server has answered for."""

    written: int = 0
    """Stored now."""
    older: int = 0
    """Left out, because the store held a later event time."""


class BulkWriter:
    """Writes rows of feature views into Feast's Redis layout; belongs to one thread.

    A row takes effect unless the store holds a later event time for its entity and view, whoever wrote that and
    whenever. Unlike Feast's own writes, one with the same event time takes effect: corrected rows must. After an error
    of the server, rows that were not acknowledged may or may not be written; the writer can be used again.

    Args:
        address: where Redis is.
        timeout: seconds for making a connection and for each answer.
        expiry_seconds: when keys expire after their last write (Feast's ``key_ttl_seconds``); never, if ``None``.
        limit: bytes of commands that may await their answers; more wait for the server.

    Raises:
        StoreUnavailable: if a cluster does not answer.
    """

    def __init__(
        self, address: RedisAddress, *, timeout: float = 30.0, expiry_seconds: int | None = None, limit: int = 4 << 20
    ) -> None:
        self.address = address
        self.counts = WriteCounts()
        self._timeout = timeout
        self._expiry = expiry_seconds or 0
        with named_errors(address, timeout):
            self._client: Any = address.connect(timeout)
        self._lanes = open_lanes(address, self._client, limit=limit, counted=self._count)

    def __enter__(self) -> BulkWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def acknowledged(self) -> int:
        """How many rows the server has answered for, counted from the first one sent and without a gap."""
        return self._lanes.acknowledged

    def close(self) -> None:
        """Close every connection. Rows not drained may or may not be written."""
        self._lanes.close()
        self._client.close()

    def write(self, layout: ViewLayout, batch: pa.RecordBatch) -> None:
        """Send rows; returns once few enough of them await their answers. :meth:`drain` waits for all.

        Args:
            layout: of the view.
            batch: a column for each join key, each feature and the event time; others are not looked at.

        Raises:
            InvalidInput: if a column is missing, has another type or holds what cannot be written.
            StoreUnavailable: if Redis cannot be reached or refuses.
            DeadlineExceeded: if an answer takes too long.
        """
        for piece in _encoded(layout, batch, self._expiry):
            with self._errors():
                self._lanes.write(piece)

    def write_ahead(self, layout: ViewLayout, batches: Iterator[pa.RecordBatch]) -> Iterator[None]:
        """As :meth:`write` for each batch, while a thread takes and encodes the next ones: the server need not wait.

        Nothing else may be written before the end.

        Args:
            layout: of the view.
            batches: is used by that thread alone until the end.

        Yields:
            After every few thousand rows sent.

        Raises:
            RecsysError: as for :meth:`write`, and whatever ``batches`` raises.
        """
        pieces = (piece for batch in batches for piece in _encoded(layout, batch, self._expiry))
        with closing(ahead(pieces, _AHEAD)) as made:
            for piece in made:
                with self._errors():
                    self._lanes.write(piece)
                yield

    def write_row(
        self, layout: ViewLayout, entity: Mapping[str, str | int], values: Mapping[str, Any], event_timestamp: datetime
    ) -> bool:
        """Write one row and wait for it, and for all sent before; needs no Arrow.

        Args:
            layout: of the view.
            entity: join key → its value.
            values: feature → its value, see :func:`~recsys_plugin.features.value_encoding.encode_value`.
            event_timestamp: aware.

        Returns:
            Whether it was written; False if the store holds a later event time.

        Raises:
            InvalidInput: if a join key or feature is missing or unknown, or a value is of another type.
            StoreUnavailable, DeadlineExceeded: as for :meth:`write`.
        """
        for wanted, given in ((layout.join_keys, entity), (layout.features, values)):
            if different := sorted(wanted.keys() ^ given.keys()):
                raise InvalidInput(
                    f"{layout.view}: {', '.join(different)} missing from the row, or unknown to the view"
                )
        parts = [layout.key_prefix]
        for name, dtype in layout.sorted_join_keys:
            value = entity[name]
            if type(value) is not (str if dtype == "STRING" else int):
                raise InvalidInput(f"{layout.view}: join key {name} is {dtype}, not {value!r}")
            parts.append(entity_key_value(value))
        key = b"".join((*parts, layout.key_suffix))
        cells = [encode_timestamp(event_timestamp)]
        cells += [encode_value(dtype, values[name]) for name, dtype in layout.features.items()]
        framed_key = bulk(key)
        row = bulk(*(part for pair in zip(layout.fields, cells, strict=True) for part in pair))
        piece = Piece(framed_key, (0, len(framed_key)), row, (0, len(row)), 2 * len(cells), self._expiry)
        with self._errors():
            self._lanes.drain()
            before = self.counts.written
            self._lanes.write(piece, pushed=True)
            self._lanes.drain()
        return self.counts.written > before

    def drain(self) -> WriteCounts:
        """Wait until the server has answered for every row.

        Raises:
            StoreUnavailable, DeadlineExceeded: as for :meth:`write`.
        """
        with self._errors():
            self._lanes.drain()
        return self.counts

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Name errors. What was under way is given up: its answers must not be taken for those of later rows."""
        try:
            with named_errors(self.address, self._timeout):
                yield
        except ServiceUnavailable:
            self._lanes.close()
            raise

    def _count(self, written: int, older: int) -> None:
        self.counts.written += written
        self.counts.older += older


def _encoded(layout: ViewLayout, batch: pa.RecordBatch, expiry: int) -> Iterator[Piece]:
    """The rows of a batch as the lanes send them, a bounded amount at a time."""
    from recsys_plugin.features.encoding import encode_column, encode_keys, encode_timestamps, framed, framed_parts

    if missing := [name for name in _columns(layout) if name not in batch.schema.names]:
        raise InvalidInput(f"{layout.view}: the rows have no column {', '.join(missing)}")
    step = max(1, min(_ENCODED_ROWS, batch.num_rows * _ENCODED_BYTES // max(1, batch.nbytes)))
    for first in range(0, batch.num_rows, step):
        part = batch.slice(first, step)
        columns = {name: part.column(name) for name in _columns(layout)}
        keys = encode_keys(layout, columns)
        times = encode_timestamps(columns[layout.event_timestamp], f"{layout.view}: {layout.event_timestamp}")
        cells = [
            encode_column(dtype, columns[name], f"{layout.view}:{name}") for name, dtype in layout.features.items()
        ]
        key_ends, key_bytes = framed_parts(framed(keys))
        row_ends, row_bytes = framed_parts(framed(times, *cells, names=layout.fields))
        yield Piece(key_bytes, key_ends, row_bytes, row_ends, 2 * len(layout.fields), expiry)


def _columns(layout: ViewLayout) -> tuple[str, ...]:
    return (*layout.join_keys, *layout.features, layout.event_timestamp)
