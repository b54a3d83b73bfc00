"""Tables that do not fit in memory, split by ranges of a key: whatever belongs to one key is in one part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.dictionaries import dictionary_frame

__all__ = ["MOST_PARTS", "partitions", "split"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Parts that are written at a time; every one is an open file. Larger tables get larger parts.
MOST_PARTS = 400


def partitions(batches: Callable[[], Iterable[pa.Table]], key: str, *, rows: int, scratch: Path) -> Iterator[pa.Table]:
    """Yield the rows of a table part by part, in ranges of ``key``: ascending, and all rows of a key in one part.

    Within a part the rows keep their order. The table is read twice and written once, unless it fits in one part.

    Args:
        batches: gives the table from its beginning, piece by piece, each time it is called.
        key: a text column without nulls.
        rows: of one part, about; more only where one key has more, or with more than :data:`MOST_PARTS` parts.
        scratch: an existing folder for the parts; each is removed once it was yielded.
    """
    few: list[pa.Table] = []
    held = 0
    counts: dict[str, int] = {}
    schema: pa.Schema | None = None
    for batch in batches():
        schema = batch.schema
        held += batch.num_rows
        few.append(batch)
        if held > rows:
            few.clear()
        for entry in pc.value_counts(batch[key]).to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    if schema is None:
        return
    if held <= rows:
        yield pa.concat_tables(few)
        return
    bounds = np.array(_first_keys(counts, max(rows, -(-held // MOST_PARTS)))[1:], dtype=object)

    def part_of(batch: pa.Table) -> _Array:
        keys = dictionary_frame(batch.select([key]))[key].cat
        numbers = np.searchsorted(bounds, keys.categories.to_numpy(object), side="right")
        return numbers[keys.codes.to_numpy()]

    yield from split(batches, part_of, len(bounds) + 1, schema, scratch)


def split(
    batches: Callable[[], Iterable[pa.Table]],
    part_of: Callable[[pa.Table], _Array],
    count: int,
    schema: pa.Schema,
    scratch: Path,
) -> Iterator[pa.Table]:
    """Yield ``count`` parts of a table one after the other, each with its rows in the order of the table.

    Args:
        batches: gives the table from its beginning, piece by piece.
        part_of: the part of each row of a piece, int64 [rows], from 0 to ``count`` - 1.
        count: how many parts. schema: of the table.
        scratch: an existing folder for the parts; each is removed once it was yielded.
    """
    paths = [scratch / f"part-{number:04d}.arrow" for number in range(count)]
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_stream(str(path), schema, options=options)) for path in paths]
        for batch in batches():
            part = part_of(batch)
            ordered = batch.take(pa.array(np.argsort(part, kind="stable")))
            ends = np.cumsum(np.bincount(part, minlength=count))
            for writer, start, end in zip(writers, np.r_[0, ends[:-1]], ends, strict=True):
                if end > start:
                    writer.write_table(ordered.slice(start, end - start))
    for path in paths:
        with pa.OSFile(str(path)) as source:
            whole = pa.ipc.open_stream(source).read_all()
        path.unlink()
        yield whole


def _first_keys(counts: dict[str, int], rows: int) -> list[str]:
    """The smallest key of each part."""
    firsts: list[str] = []
    held = 0
    for name in sorted(counts):
        if not firsts or held + counts[name] > rows:
            firsts.append(name)
            held = 0
        held += counts[name]
    return firsts
