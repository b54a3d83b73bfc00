"""The whole data step: find the source, do nothing if its tables are current, else read, validate and store them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from recsys_plugin.data.adapters import Adapter, Places, Report, SourceTables, adapter_named
from recsys_plugin.data.adapters.folder import Folder
from recsys_plugin.data.schema import schema_fingerprint
from recsys_plugin.data.store import Dataset, Description, load_dataset, locked, write_dataset
from recsys_plugin.data.tables import ValidTables, validate_tables
from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.security.digests import sha256_of
from recsys_plugin.settings import Settings

__all__ = ["DEFAULT_SOURCE", "LIVE_FOR", "Prepared", "prepare", "prepare_data"]

DEFAULT_SOURCE = "complete_journey"

#: A shop's own data whose last event is older than this is history: time stands still at its last event.
LIVE_FOR = timedelta(days=7)
_HELD_OUT = 0.1
#: Folders for events that are too many for memory; what a killed run left is removed by the next.
_SCRATCH = ".events-unsorted-"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data set, and whether it was current already."""

    dataset: Dataset
    reused: bool


def prepare_data(
    settings: Settings,
    *,
    source: str | None = None,
    folder: Path | None = None,
    path: Path | None = None,
    now: datetime,
    progress: Report | None = None,
) -> Dataset:
    """Make the canonical tables current and open them: :func:`prepare` for callers who need only the data."""
    return prepare(settings, source=source, folder=folder, path=path, now=now, progress=progress).dataset


def prepare(
    settings: Settings,
    *,
    source: str | None = None,
    folder: Path | None = None,
    path: Path | None = None,
    now: datetime,
    held_out: timedelta | None = None,
    progress: Report | None = None,
    force: bool = False,
) -> Prepared:
    """Make the canonical tables current.

    Args:
        settings: where the tables go, and ``settings.data``, the folder with public data sets.
        source: an adapter's name; ``complete_journey`` if neither it nor ``folder`` is given.
        folder: a shop's own folder of canonical tables, instead of ``source``.
        path: a file, or a folder with data sets, for ``source``; ``settings.data`` by default.
        now: aware moment of loading; events after it are refused.
        held_out: length of the test time, which ends with the last event, and of the validation time before it; what
            the source says by default, else a tenth of its time each.
        progress: called with what is being done, how much is done, and how much there is.
        force: read and write again even if nothing changed.

    Raises:
        DataError: for a malformed table; the tables made earlier stay as they were.
        InvalidInput: for a source, folder or path that does not exist, or times held out that are no times.
        ServiceUnavailable: if a download was needed and did not succeed.
        StepFailed: if another process is doing the same.
    """
    if held_out is not None and held_out <= timedelta(0):
        raise InvalidInput(f"held out: {held_out} is not above 0")
    report = progress or _silent
    adapter = _adapter(source, folder)
    with locked(settings):
        report("finding the source", 0, 4)
        files = adapter.locate(Places(path, settings.data, settings.state / "downloads"), report)
        fingerprint = _fingerprint(adapter, files, held_out)
        current = None if force else _current(settings, fingerprint)
        if current is not None:
            return Prepared(current, reused=True)
        report(f"reading {adapter.name}", 1, 4)
        found = adapter.read(files)
        if held_out is not None:
            found = replace(found, test_start=None, validation_start=None)
        report("validating", 2, 4)
        for left in settings.state.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left)
        with TemporaryDirectory(prefix=_SCRATCH, dir=settings.state) as scratch:
            valid = validate_tables(found.tables, now=now, scratch=Path(scratch))
            described = _describe(found, adapter.name, valid, fingerprint, now, held_out)
            report("writing", 3, 4)
            dataset = write_dataset(settings, valid.tables, valid.events, described)
        report("done", 4, 4)
        return Prepared(dataset, reused=False)


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def _adapter(source: str | None, folder: Path | None) -> Adapter:
    if folder is not None:
        if source is not None:
            raise InvalidInput(f"source {source!r} and folder {folder} exclude each other; give one")
        return Folder(folder)
    return adapter_named(source or DEFAULT_SOURCE)


def _fingerprint(adapter: Adapter, files: tuple[Path, ...], held_out: timedelta | None) -> str:
    """Of the adapter with its options, the schema, and every byte of the files: times of change prove nothing."""
    parts = [
        adapter.name,
        repr(adapter),
        schema_fingerprint(),
        *([] if held_out is None else [repr(held_out)]),
        *(f"{path.name} {sha256_of(path)}" for path in files),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _current(settings: Settings, fingerprint: str) -> Dataset | None:
    """The stored data set if it was made from the same source and is undamaged."""
    try:
        dataset = load_dataset(settings)
    except ConfigurationError:
        return None
    return dataset if dataset.description.fingerprint == fingerprint and dataset.damaged() is None else None


def _describe(
    found: SourceTables,
    source: str,
    valid: ValidTables,
    fingerprint: str,
    now: datetime,
    held_out: timedelta | None,
) -> Description:
    first, last = valid.events.first, valid.events.last
    historical = last < now - LIVE_FOR if found.historical is None else found.historical
    span = last - first
    if held_out is not None and 2 * held_out >= span:
        raise InvalidInput(
            f"held out: {held_out} for the test and as much for the validation leave nothing of {span} to learn from"
        )
    each = span * _HELD_OUT if held_out is None else held_out
    test_start = found.test_start or last - each
    notes = [*found.notes, *valid.notes]
    if not span:
        notes.append("events: all at one moment, so that nothing comes before the test period; models cannot be judged")
    return Description(
        name=found.name,
        source=source,
        description=found.description,
        citation=found.citation,
        historical=historical,
        as_of=last if historical else now,
        test_start=test_start,
        validation_start=found.validation_start or test_start - each,
        notes=tuple(notes),
        fingerprint=fingerprint,
    )
