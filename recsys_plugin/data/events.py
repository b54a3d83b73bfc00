"""Events of any number: named, checked and brought into order of time piece by piece; they need not fit in memory.

What is kept of every event is a few numbers (its time, and a hash of its content or of its id): about 50 bytes each at
the most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from recsys_plugin.data.check import show
from recsys_plugin.data.partitions import MOST_PARTS, split
from recsys_plugin.data.schema import TABLES
from recsys_plugin.errors import DataError

__all__ = ["PIECE_ROWS", "ValidEvents", "content_hashes", "ordered_events", "repetitions"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Events that are checked and sorted at a time.
PIECE_ROWS = 1 << 20

#: What makes two events the same event, for generated ids.
_CONTENT = ("user_id", "item_id", "event_type", "timestamp", "quantity", "price", "basket_id", "query")


@dataclass(frozen=True, slots=True)
class ValidEvents:
    """Canonical events in order of time.

    Attributes:
        rows: how many. first, last: the times of the first and of the last.
        types: how many of each type there are, most frequent first.
        pieces: gives them from the beginning, piece by piece; once only.
    """

    rows: int
    first: datetime
    last: datetime
    types: dict[str, int]
    pieces: Callable[[], Iterator[pa.Table]]


def content_hashes(events: pa.Table) -> _Array:
    """A number for each event's content, the same wherever the event stands: uint64 [rows]."""
    frame = events.select(list(_CONTENT)).to_pandas(strings_to_categorical=True)
    hashes: _Array = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashes


def repetitions(hashes: _Array) -> _Array:
    """How often each value came before in the array: int64, 0 for what comes first."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    found = np.zeros(len(hashes), np.int64)
    if len(repeated):
        positions = np.flatnonzero(np.isin(hashes, repeated))
        values = pd.Series(hashes[positions])
        found[positions] = values.groupby(values, sort=False).cumcount().to_numpy()
    return found


def ordered_events(
    pieces: Iterable[pa.Table], file: str, scratch: Path, *, piece_rows: int = PIECE_ROWS
) -> ValidEvents:
    """Name the events that have no id, refuse ids that occur twice, and sort all by time, keeping ties in file order.

    Args:
        pieces: canonical events in the order of the file, at least one row in all.
        file: named in errors.
        scratch: an existing folder, where pieces are kept until :attr:`ValidEvents.pieces` has given them.
        piece_rows: events that are sorted at a time, about.

    Raises:
        DataError: if an id occurs twice.
    """
    draft = _Draft(scratch / "events.parquet")
    moments: list[_Array] = []
    hashes: list[_Array] = []
    types: dict[str, int] = {}
    unnamed = False
    for piece in pieces:
        draft.add(piece)
        moments.append(piece["timestamp"].cast(pa.int64()).to_numpy())
        hashes.append(content_hashes(piece))
        unnamed = unnamed or piece["event_id"].null_count > 0
        for entry in pc.value_counts(piece["event_type"]).to_pylist():
            types[entry["values"]] = types.get(entry["values"], 0) + entry["counts"]
    draft.close()
    times = np.concatenate(moments)
    named = _names(np.concatenate(hashes)) if unnamed else None
    del moments, hashes

    def identified() -> Iterator[pa.Table]:
        first = 0
        for piece in draft.pieces():
            yield piece if named is None else _with_ids(piece, named(slice(first, first + piece.num_rows)))
            first += piece.num_rows

    _refuse_repeated_ids(identified, file)
    first, last = (pa.scalar(int(edge), pa.timestamp("us", tz="UTC")).as_py() for edge in (times.min(), times.max()))
    return ValidEvents(
        rows=len(times),
        first=first,
        last=last,
        types=dict(sorted(types.items(), key=lambda pair: -pair[1])),
        pieces=identified
        if bool((np.diff(times) >= 0).all())
        else lambda: _by_time(identified, times, scratch, piece_rows),
    )


class _Draft:
    """Pieces of events, in memory if there is but one, else in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._only: pa.Table | None = None
        self._writer: parquet.ParquetWriter | None = None

    def add(self, piece: pa.Table) -> None:
        if self._writer is None and self._only is None:
            self._only = piece
            return
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._path, piece.schema, compression="lz4")
            self._writer.write_table(self._only, row_group_size=PIECE_ROWS)
            self._only = None
        self._writer.write_table(piece, row_group_size=PIECE_ROWS)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def pieces(self) -> Iterator[pa.Table]:
        if self._only is not None:
            yield self._only
            return
        with parquet.ParquetFile(self._path) as source:
            for group in range(source.num_row_groups):
                yield source.read_row_group(group)


def _names(hashes: _Array) -> Callable[[slice], pa.Array]:
    """Ids of events by position: sixteen hexadecimal digits of the content; ``-n`` follows at the n-th repetition."""
    repetition = repetitions(hashes)

    def ids(part: slice) -> pa.Array:
        digits = np.frombuffer(hashes[part].astype(">u8").tobytes().hex().encode(), dtype="S16")
        base = pa.array(digits).cast(pa.string())
        counter = pa.array(repetition[part]).cast(pa.string())
        return pc.if_else(pa.array(repetition[part] > 0), pc.binary_join_element_wise(base, counter, "-"), base)

    return ids


def _with_ids(events: pa.Table, ids: pa.Array) -> pa.Table:
    position = events.schema.get_field_index("event_id")
    return events.set_column(position, events.schema.field(position), pc.coalesce(events["event_id"], ids))


def _refuse_repeated_ids(pieces: Callable[[], Iterator[pa.Table]], file: str) -> None:
    """Equal ids have equal hashes; ids of equal hashes are compared as they are."""
    hashed = np.concatenate([pd.util.hash_array(piece["event_id"].to_numpy(), categorize=False) for piece in pieces()])
    ordered = np.sort(hashed)
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(suspects):
        return
    positions = np.flatnonzero(np.isin(hashed, suspects))
    first, found = 0, []
    for piece in pieces():
        here = positions[(positions >= first) & (positions < first + piece.num_rows)] - first
        found += piece["event_id"].take(pa.array(here)).to_pylist()
        first += piece.num_rows
    earlier: dict[str, int] = {}
    for position, value in zip(positions.tolist(), found, strict=True):
        if value in earlier:
            both = f"{earlier[value] + 1} and {position + 1}"
            reason = f"{show(value)} is in rows {both}; each must occur once, keep one of them"
            raise DataError(reason, file=file, column="event_id", row=position + 1)
        earlier[value] = position


def _by_time(
    pieces: Callable[[], Iterator[pa.Table]], times: _Array, scratch: Path, piece_rows: int
) -> Iterator[pa.Table]:
    """Parts by ranges of time, each sorted; a stable sort keeps the events of one moment in the order of the file."""
    count = min(MOST_PARTS, -(-len(times) // piece_rows))
    if count == 1:
        yield pa.concat_tables(pieces()).take(pa.array(np.argsort(times, kind="stable")))
        return
    middle = np.arange(1, count) * len(times) // count
    bounds = np.unique(np.partition(times, middle)[middle])

    def part_of(piece: pa.Table) -> _Array:
        moments = piece["timestamp"].cast(pa.int64()).to_numpy()
        numbers: _Array = np.searchsorted(bounds, moments, side="right")
        return numbers

    for part in split(pieces, part_of, len(bounds) + 1, TABLES["events"].arrow_schema, scratch):
        moments = part["timestamp"].cast(pa.int64()).to_numpy()
        yield part.take(pa.array(np.argsort(moments, kind="stable")))
