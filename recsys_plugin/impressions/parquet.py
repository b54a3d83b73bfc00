"""The archive's files: Parquet, partitioned by day in UTC, each written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

__all__ = ["EVENTS", "IMPRESSIONS", "day_folder", "day_of", "days_in", "write_days", "write_whole"]

_MOMENT = pa.timestamp("us", tz="UTC")

#: A row for each page.
IMPRESSIONS = pa.schema(
    [
        ("entry", pa.string()),
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("served_at", _MOMENT),
        ("model", pa.string()),
        ("version", pa.int64()),
        ("contract", pa.string()),
        ("policy", pa.string()),
        ("propensity_kind", pa.string()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("propensities", pa.list_(pa.float64())),
        ("candidates", pa.list_(pa.string())),
        ("candidate_scores", pa.list_(pa.float64())),
        ("features", pa.string()),
        ("fallback", pa.string()),
    ]
)

#: A row for each entry of the event streams; an event that was recorded twice is there twice.
EVENTS = pa.schema(
    [
        ("entry", pa.string()),
        ("recorded_at", _MOMENT),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", _MOMENT),
        ("event_id", pa.string()),
        ("quantity", pa.float64()),
        ("price", pa.float64()),
        ("basket_id", pa.string()),
        ("query", pa.string()),
        ("request_id", pa.string()),
    ]
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def day_of(microseconds: int) -> date:
    """The day in UTC."""
    return (_EPOCH + timedelta(microseconds=microseconds)).date()


def day_folder(root: Path, day: date) -> Path:
    """Where a day's files are: ``day=2026-01-31``."""
    return root / f"day={day.isoformat()}"


def days_in(root: Path) -> list[date]:
    """The days that there are, in order."""
    return sorted(date.fromisoformat(path.name.removeprefix("day=")) for path in root.glob("day=*") if path.is_dir())


def write_days(root: Path, name: str, schema: pa.Schema, moment: str, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write rows to a file of this name for each day that they fall on; a file of that name is replaced.

    Args:
        moment: the column that says the day, microseconds since the epoch.
    """
    days: dict[date, list[Mapping[str, Any]]] = {}
    for row in rows:
        days.setdefault(day_of(row[moment]), []).append(row)
    paths = []
    for day, found in sorted(days.items()):
        paths.append(day_folder(root, day) / f"{name}.parquet")
        write_whole(paths[-1], schema, pa.Table.from_pylist(found, schema=schema).to_batches())
    return paths


def write_whole(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a file such that it is there whole, or as it was before, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
