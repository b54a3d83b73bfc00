"""A made-up feature table with a column of every type, and its Feast view: for measuring and checking writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_plugin.features.codec import VALUE_FIELDS

__all__ = ["AS_OF", "VIEW", "entity_id", "typed_view", "write_typed_table"]

VIEW = "every_type"
#: No row is newer.
AS_OF = datetime(2026, 1, 1, tzinfo=UTC)

_PIECE = 10_000
_NULLS = 0.05
_WORDS = np.array(["", "tea", "green kettle", "Überraschung", "日本茶", "a longer text, as a title of an item may be"])
_ARROW = {
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "BOOL": pa.bool_(),
    "STRING": pa.string(),
    "BYTES": pa.binary(),
    "UNIX_TIMESTAMP": pa.timestamp("ms", tz="UTC"),
}
_Array = np.ndarray[Any, np.dtype[Any]]


def entity_id(number: int) -> str:
    """The id of one of the table's entities, counted from 0."""
    return f"entity-{number:08d}"


def write_typed_table(
    path: Path, rows: int, *, seed: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write a Parquet table for ``rows`` entities, every fourth of which has an older row as well.

    Every column has nulls. Whole numbers are within ±2**53: beyond, Feast itself loses the last bits of a column with
    nulls. Lists have up to 10 elements, those of FLOAT 32, as vectors do.

    Args:
        path: the file.
        rows: how many entities.
        seed: fixes everything.
        progress: told entities written and entities in all.
    """
    with pq.ParquetWriter(path, _schema(), compression="zstd") as writer:
        for number, first in enumerate(range(0, rows, _PIECE)):
            ids = np.arange(first, min(first + _PIECE, rows))
            generator = np.random.default_rng([seed, number])
            for part, age in ((ids[::4], 2), (ids, 1)):
                writer.write_table(_piece(generator, part, age))
            progress(int(ids[-1]) + 1, rows)


def typed_view(path: Path) -> tuple[Any, Any]:
    """Feast's entity and feature view of the table; the view takes pushes through the source ``every_type_push``."""
    from feast import Entity, FeatureView, Field, FileSource, PushSource
    from feast import types as feast_types
    from feast.value_type import ValueType

    names = {"FLOAT": "Float32", "DOUBLE": "Float64", "UNIX_TIMESTAMP": "UnixTimestamp"}
    scalars = {name: getattr(feast_types, names.get(name, name.capitalize())) for name in _ARROW}
    entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.STRING)
    table = FileSource(name="every_type_table", path=str(path), timestamp_field="event_timestamp")
    view = FeatureView(
        name=VIEW,
        entities=[entity],
        ttl=timedelta(days=30),
        schema=[
            Field(name=name.lower(), dtype=feast_types.Array(scalars[element]) if name != element else scalars[element])
            for name, element in _elements()
        ],
        source=PushSource(name=f"{VIEW}_push", batch_source=table),
    )
    return entity, view


def _elements() -> Iterator[tuple[str, str]]:
    """Every type and the type of its elements."""
    for name in VALUE_FIELDS:
        yield name, name.removesuffix("_LIST")


def _schema() -> pa.Schema:
    columns = [("entity_id", pa.string()), ("event_timestamp", pa.timestamp("us", tz="UTC"))]
    for name, element in _elements():
        columns.append((name.lower(), _ARROW[element] if name == element else pa.list_(_ARROW[element])))
    return pa.schema(columns)


def _piece(generator: np.random.Generator, ids: _Array, age: int) -> pa.Table:
    """One row for each entity, ``age`` to ``age + 1`` days before :data:`AS_OF`."""
    moments = int(AS_OF.timestamp()) * 1_000_000 - generator.integers(age * 86_400 * 10**6, size=len(ids))
    moments -= (age - 1) * 86_400 * 10**6
    columns: list[pa.Array] = [
        pa.array([entity_id(number) for number in ids.tolist()]),
        pa.array(moments).cast(pa.timestamp("us", tz="UTC")),
    ]
    for name, element in _elements():
        nulls = generator.random(len(ids)) < _NULLS
        if name == element:
            values = _values(generator, element, len(ids))
            columns.append(pa.array(values, mask=nulls).cast(_ARROW[element]))
            continue
        counts = np.full(len(ids), 32) if name == "FLOAT_LIST" else generator.integers(11, size=len(ids))
        counts[nulls] = 0
        offsets = pa.array(np.r_[0, np.cumsum(counts)].astype(np.int32), mask=np.r_[nulls, False])
        elements = pa.array(_values(generator, element, int(counts.sum()))).cast(_ARROW[element])
        columns.append(pa.ListArray.from_arrays(offsets, elements))
    return pa.table(columns, schema=_schema())


def _values(generator: np.random.Generator, element: str, size: int) -> _Array:
    if element in ("FLOAT", "DOUBLE"):
        return generator.normal(size=size).astype(np.float32 if element == "FLOAT" else np.float64)
    if element == "BOOL":
        return generator.random(size) < 0.5
    if element == "STRING":
        return _WORDS[generator.integers(len(_WORDS), size=size)].astype(object)
    if element == "BYTES":
        return np.array([generator.bytes(length) for length in generator.integers(1, 20, size=size)], dtype=object)
    if element == "UNIX_TIMESTAMP":
        return generator.integers(2 * 10**12, size=size)
    # As many numbers of each length, as counters and ids have.
    bits = generator.integers(1, 31 if element == "INT32" else 53, size=size)
    signs = generator.choice(np.array([1, 1, 1, -1]), size=size)
    return np.asarray((generator.random(size) * (1 << bits)).astype(np.int64) * signs)
