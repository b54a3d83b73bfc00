"""Where validated tables are kept: one folder, replaced as a whole, with a manifest beside the Parquet files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from recsys_plugin.data.dictionaries import dictionary_frame
from recsys_plugin.data.schema import TABLES
from recsys_plugin.errors import ConfigurationError, InvalidInput, StepFailed
from recsys_plugin.privacy.rows import LeftOut
from recsys_plugin.privacy.tombstones import Tombstones
from recsys_plugin.security.digests import sha256_of
from recsys_plugin.settings import Settings

__all__ = [
    "MANIFEST",
    "ROW_GROUP",
    "Dataset",
    "Description",
    "OrderedEvents",
    "load_dataset",
    "locked",
    "write_dataset",
]

MANIFEST = "dataset.json"
#: Rows of one row group of the stored tables, and of what is read of them at a time.
ROW_GROUP = 1 << 18
_PREVIOUS = ".tables-previous"
_UNFINISHED = ".tables-unfinished-"


class OrderedEvents(Protocol):
    """Canonical events in order of time: :class:`~recsys_plugin.data.events.ValidEvents`."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def first(self) -> datetime:
        """When the first was."""

    @property
    def last(self) -> datetime:
        """When the last was."""

    @property
    def types(self) -> Mapping[str, int]:
        """How many there are of each type."""

    @property
    def pieces(self) -> Callable[[], Iterator[pa.Table]]:
        """Gives them piece by piece."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is known about a data set beside its rows.

    ``as_of`` is "now" for this data: the last event's time when ``historical``, else the moment of loading. Training
    uses events before ``validation_start``, validation those before ``test_start``, the test those from then on.
    ``fingerprint`` identifies the source files, the adapter and the schema that the tables were made from.
    """

    name: str
    source: str
    description: str
    citation: str
    historical: bool
    as_of: datetime
    test_start: datetime
    validation_start: datetime
    notes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """The canonical tables on disk; nothing is read before it is asked for.

    ``counts`` has the rows of each table, ``event_types`` the events of each type, ``sha256`` each file's digest, and
    ``first_event`` and ``last_event`` bound the period.
    """

    description: Description
    folder: Path
    counts: Mapping[str, int]
    event_types: Mapping[str, int]
    sha256: Mapping[str, str]
    first_event: datetime
    last_event: datetime

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.description.name

    @property
    def historical(self) -> bool:
        """Whether time stands still at ``as_of``."""
        return self.description.historical

    @property
    def as_of(self) -> datetime:
        """The moment to treat as now."""
        return self.description.as_of

    @property
    def test_start(self) -> datetime:
        """The first moment of the test period."""
        return self.description.test_start

    @property
    def validation_start(self) -> datetime:
        """The first moment of the validation period."""
        return self.description.validation_start

    def path(self, table: str) -> Path:
        """The Parquet file of ``users``, ``items``, ``events`` or ``texts``.

        Raises:
            InvalidInput: if the data set has no such table.
        """
        if table not in self.counts:
            raise InvalidInput(f"data set {self.name!r} has no table {table!r}; it has {', '.join(self.counts)}")
        return self.folder / f"{table}.parquet"

    def table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table, or some of its columns, as Arrow; events are in order of time.

        An optional table that the data set does not have is empty.
        """
        if table in TABLES and table not in self.counts:
            empty = TABLES[table].arrow_schema.empty_table()
            return empty if columns is None else empty.select(list(columns))
        return parquet.read_table(self.path(table), columns=None if columns is None else list(columns))

    def frame(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        dictionary: bool = False,
        event_types: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """One table, or some of its columns, as pandas; timestamps are aware (UTC), text nulls are ``None``.

        Args:
            table: its name; an optional table that the data set does not have gives an empty frame.
            columns: which, in this order; all if None.
            dictionary: give text columns as categories in order of their code points, which takes a tenth of the
                memory where values repeat; a null is then NaN.
            event_types: of events, only those of these types; the others are never in memory.
        """
        if event_types is None:
            content = self.table(table, columns)
        else:
            wanted = pc.field("event_type").isin(list(event_types))
            names = None if columns is None else list(columns)
            content = parquet.read_table(self.path(table), columns=names, filters=wanted)
        return dictionary_frame(content) if dictionary else content.to_pandas()

    def batches(self, table: str, columns: Sequence[str] | None = None, *, rows: int = ROW_GROUP) -> Iterator[pa.Table]:
        """The table piece by piece, for data that does not fit in memory: at most ``rows`` rows at a time, in order.

        The columns come in the order of the table, whatever the order of ``columns``.
        """
        if table in TABLES and table not in self.counts:
            return
        with parquet.ParquetFile(self.path(table)) as source:
            for batch in source.iter_batches(rows, columns=None if columns is None else list(columns)):
                yield pa.Table.from_batches([batch])

    def event_frames(self, columns: Sequence[str], *, rows: int = ROW_GROUP) -> Iterator[pd.DataFrame]:
        """The events piece by piece in order of time, as :func:`dictionary_frame`; no moment is split between two.

        Args:
            columns: which; ``timestamp`` must be among them.
            rows: about as many rows at a time; more if that many happened at one moment.
        """
        held: pa.Table | None = None
        for batch in self.batches("events", columns, rows=rows):
            piece = batch if held is None else pa.concat_tables([held, batch])
            moments = piece["timestamp"].cast(pa.int64()).to_numpy()
            whole = int(np.searchsorted(moments, moments[-1]))
            held = piece.slice(whole)
            if whole:
                yield dictionary_frame(piece.slice(0, whole))
        if held is not None and held.num_rows:
            yield dictionary_frame(held)

    def manifest(self) -> dict[str, Any]:
        """Plain JSON values: what ``dataset.json`` holds."""
        known = self.description
        return {
            "name": known.name,
            "source": known.source,
            "description": known.description,
            "citation": known.citation,
            "historical": known.historical,
            "as_of": known.as_of.isoformat(),
            "test_start": known.test_start.isoformat(),
            "validation_start": known.validation_start.isoformat(),
            "first_event": self.first_event.isoformat(),
            "last_event": self.last_event.isoformat(),
            "counts": dict(self.counts),
            "event_types": dict(self.event_types),
            "sha256": dict(self.sha256),
            "fingerprint": known.fingerprint,
            "notes": list(known.notes),
        }

    def damaged(self) -> str | None:
        """What differs from the manifest on disk (every byte is read), or ``None``."""
        for table, digest in self.sha256.items():
            path = self.folder / f"{table}.parquet"
            if not path.is_file():
                return f"{path} is missing"
            if sha256_of(path) != digest:
                return f"{path} is not the file that was written"
        return None


def load_dataset(settings: Settings) -> Dataset:
    """Open the tables that ``recsys data`` made.

    Raises:
        ConfigurationError: if there are none, or a file is missing or is not the one the manifest describes.
    """
    folder = settings.tables
    _restore_previous(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigurationError(f"no tables in {folder}; run `recsys data` (or `recsys data --from DIR`) first")
    try:
        manifest = json.loads(path.read_text("utf8"))
        dataset = _from_manifest(manifest, folder)
        for table, rows in dataset.counts.items():
            with parquet.ParquetFile(dataset.path(table)) as file:
                if file.metadata.num_rows != rows:
                    raise ValueError(f"{table} has not {rows:,} rows")
                if tuple(file.schema_arrow.names) != TABLES[table].column_names:
                    raise ValueError(f"{table} has other columns than this version writes")
    except (ValueError, KeyError, TypeError, OSError) as error:
        # pyarrow.ArrowInvalid is a ValueError.
        raise ConfigurationError(f"the tables in {folder} are damaged ({error}); run `recsys data --force`") from error
    return dataset


def write_dataset(
    settings: Settings, tables: Mapping[str, pa.Table], events: OrderedEvents, description: Description
) -> Dataset:
    """Write validated tables and their manifest; either all of it replaces what was there, or nothing does.

    Rows of people whom this home has forgotten are left out, whatever they came from. Call it inside :func:`locked`.

    Args:
        settings: ``settings.tables`` is the folder replaced.
        tables: canonical tables by name, events not among them, from
            :func:`~recsys_plugin.data.tables.validate_tables`. events: the events, from there too.
        description: what the manifest says beside what is counted here.
    """
    final = settings.tables
    settings.state.mkdir(parents=True, exist_ok=True)
    for left in settings.state.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left)
    fresh = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=settings.state))
    digests = {}
    left_out = LeftOut(Tombstones.read(settings))
    for name in (name for name in TABLES if name in tables or name == "events"):
        path = fresh / f"{name}.parquet"
        with parquet.ParquetWriter(path, TABLES[name].arrow_schema, compression="zstd") as writer:
            for piece in events.pieces() if name == "events" else [tables[name]]:
                writer.write_table(left_out.of(name, piece), row_group_size=ROW_GROUP)
        _flush(path)
        digests[name] = sha256_of(path)
    dataset = Dataset(
        description=description,
        folder=final,
        counts={
            name: (events.rows if name == "events" else tables[name].num_rows) - left_out.rows[name] for name in digests
        },
        event_types={kind: n for kind, count in events.types.items() if (n := count - left_out.types[kind])},
        sha256=digests,
        first_event=events.first,
        last_event=events.last,
    )
    (fresh / MANIFEST).write_text(json.dumps(dataset.manifest(), indent=2, ensure_ascii=False) + "\n", "utf8")
    _flush(fresh / MANIFEST)
    _flush(fresh)
    fresh.chmod(0o755)
    _replace_folder(fresh, final)
    return dataset


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Keep a second ``recsys data`` in the same home from writing at the same time.

    Raises:
        StepFailed: if another process holds the lock; the system releases it when that process ends, however it ends.
    """
    settings.state.mkdir(parents=True, exist_ok=True)
    with (settings.state / "data.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StepFailed(
                f"another `recsys data` is writing in {settings.state}; run again when it is done"
            ) from error
        _restore_previous(settings.tables)
        yield


def _from_manifest(manifest: Mapping[str, Any], folder: Path) -> Dataset:
    description = Description(
        name=manifest["name"],
        source=manifest["source"],
        description=manifest["description"],
        citation=manifest["citation"],
        historical=manifest["historical"],
        as_of=datetime.fromisoformat(manifest["as_of"]),
        test_start=datetime.fromisoformat(manifest["test_start"]),
        validation_start=datetime.fromisoformat(manifest["validation_start"]),
        notes=tuple(manifest["notes"]),
        fingerprint=manifest["fingerprint"],
    )
    return Dataset(
        description=description,
        folder=folder,
        counts=manifest["counts"],
        event_types=manifest["event_types"],
        sha256=manifest["sha256"],
        first_event=datetime.fromisoformat(manifest["first_event"]),
        last_event=datetime.fromisoformat(manifest["last_event"]),
    )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_folder(fresh: Path, final: Path) -> None:
    """A folder cannot be renamed over a full one, so the old one steps aside; a kill in between is mended later."""
    previous = final.with_name(_PREVIOUS)
    if previous.exists():
        shutil.rmtree(previous)
    if final.exists():
        final.rename(previous)
    fresh.rename(final)
    _flush(final.parent)
    if previous.exists():
        shutil.rmtree(previous)


def _restore_previous(final: Path) -> None:
    """After a kill between the two renames of :func:`_replace_folder`, put the old folder back."""
    previous = final.with_name(_PREVIOUS)
    if previous.exists() and not final.exists():
        previous.rename(final)
