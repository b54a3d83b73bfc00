"""A person's traces in the files of a home: taken out, each file whole or as it was before, and looked for."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_plugin.privacy.person import Person, in_file
from recsys_plugin.privacy.request_logs import forget_in_request_log, request_log_files
from recsys_plugin.privacy.rows import belongs
from recsys_plugin.privacy.tombstones import tombstones_path
from recsys_plugin.privacy.whole_files import whole_file
from recsys_plugin.settings import Settings

__all__ = [
    "FileTraces",
    "files_of",
    "forget_in_files",
    "kept_rows",
    "logged_in",
    "search_files",
    "why_named",
    "without_rows",
]

Progress = Callable[[str, int, int], None]
#: Below the state folder: Redis's own files are Redis's to write, locks hold nothing, downloads are the shop's sources.
_NOT_OURS = ("redis", "run", "downloads")
_BATCH_ROWS = 1 << 16
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class FileTraces:
    """What a search of files looked at, and where it found a person.

    Attributes:
        files, bytes, rows: how many, rows being those of tables that were decoded.
        found: where, one line each, without the id.
        kept: where a pseudonym is that is to stay, and why.
    """

    files: int
    bytes: int
    rows: int
    found: tuple[str, ...]
    kept: tuple[str, ...] = ()


def files_of(settings: Settings) -> list[Path]:
    """Every file of a home that this package or a program that it starts writes."""
    roots = [settings.state, settings.feature_repo / "data", settings.model_repository]
    found = [path for root in roots if root.is_dir() for path in root.rglob("*") if path.is_file()]
    out = tuple(settings.state / name for name in _NOT_OURS)
    found = [path for path in found if not any(path.is_relative_to(folder) for folder in out)]
    if settings.spool is not None and settings.spool.is_dir():
        found += [path for path in settings.spool.iterdir() if path.is_file()]
    if settings.opted_out is not None and settings.opted_out.is_file():
        found.append(settings.opted_out)
    if settings.request_log is not None:
        found += request_log_files(settings.request_log)
    return sorted(set(found))


def forget_in_files(
    settings: Settings, people: Sequence[Person], pseudonym: Callable[[str], str], progress: Progress
) -> dict[str, int]:
    """Take people out of every file but the canonical tables, which are written by their own rules.

    The caller holds the locks of the pipeline and the archive.

    Returns:
        File, relative to the home → rows, lines or documents that were taken out.
    """
    done: dict[str, int] = {}
    of_requests: list[Path] = []
    if settings.request_log is not None:
        for path, removed in forget_in_request_log(settings.request_log, people).items():
            done[_shown_path(path, settings, people)] = removed
        of_requests = request_log_files(settings.request_log)
    paths = [
        path for path in files_of(settings) if not path.is_relative_to(settings.tables) and path not in of_requests
    ]
    for number, path in enumerate(paths):
        progress("files", number, len(paths))
        try:
            removed = _forget_in_file(path, settings, people, pseudonym)
        except FileNotFoundError:  # spooled events that were sent meanwhile
            continue
        if removed:
            done[_shown_path(path, settings, people)] = removed
    progress("files", len(paths), len(paths))
    return done


def _forget_in_file(path: Path, settings: Settings, people: Sequence[Person], pseudonym: Callable[[str], str]) -> int:
    if _is_leftover(path, settings):
        path.unlink()
        return 1
    if not _is_readable(path):
        return 0  # which the search then says
    if path.suffix == ".parquet":
        return without_rows(path, lambda table: _theirs(table, people))
    if path.suffix == ".npz":
        return _without_contexts(path, people)
    if settings.spool is not None and path.parent == settings.spool:
        return _blank_spool(path, people)
    if path == settings.opted_out:
        return _with_pseudonyms(path, people, pseudonym)
    if path.parent == settings.state / "logs":
        return _masked(path, people)
    report = path.suffix in (".json", ".html", ".jsonl") and path.parent.name in ("checks", "training")
    if report and in_file(path, _needles(people)):
        # Their commands make them anew; a step whose report is gone runs again.
        path.unlink()
        return 1
    return 0


def _is_leftover(path: Path, settings: Settings) -> bool:
    """Whether a file is what a killed process left of its work: drafts and parts, which nobody reads again."""
    roots = [root for root in (settings.state, settings.feature_repo) if path.is_relative_to(root)]
    if not any(part.startswith(".") for root in roots for part in path.relative_to(root).parts):
        return False
    if path.suffix == ".arrow" or (path.name.startswith(".") and {".parquet", ".npz"} & set(path.suffixes[:-1])):
        return True
    return not _is_readable(path)


def _is_readable(path: Path) -> bool:
    """Whether a table or training file is whole; of others nothing is asked."""
    if path.suffix == ".npz":
        return zipfile.is_zipfile(path)
    if path.suffix == ".parquet":
        try:
            pq.read_metadata(path)
        except pa.ArrowInvalid:
            return False
    return True


def _theirs(table: pa.Table, people: Sequence[Person]) -> dict[str, Any]:
    mask = belongs(table, _among(people))
    return {} if mask is None else {"theirs": mask}


def _among(people: Sequence[Person]) -> Callable[[Any], set[str]]:
    ids = {person.user_id for person in people}
    return lambda values: ids.intersection(value for value in values if value is not None)


def without_rows(
    path: Path,
    gone: Callable[[pa.Table], Mapping[str, Any]],
    *,
    counted: Callable[[str, Any], None] = lambda name, mask: None,
    dry_run: bool = False,
) -> int:
    """Write a Parquet file anew without some rows, its schema with all that it notes kept; how many rows.

    Args:
        gone: gives, of a piece of the table, which rows are meant, bool [rows], by why.
        counted: is told why, and which rows of a piece. dry_run: only count.
    """
    removed = 0
    with pq.ParquetFile(path) as source:
        for batch in source.iter_batches(_BATCH_ROWS):
            for name, mask in gone(pa.Table.from_batches([batch])).items():
                counted(name, mask)
                removed += int(pc.sum(mask).as_py() or 0)
        if not removed or dry_run:
            return removed
        groups = source.metadata
        size = max(groups.row_group(number).num_rows for number in range(groups.num_row_groups))
        with whole_file(path) as draft, pq.ParquetWriter(draft, source.schema_arrow, compression="zstd") as writer:
            for batch in source.iter_batches(_BATCH_ROWS):
                piece = pa.Table.from_batches([batch])
                writer.write_table(kept_rows(piece, gone(piece)), row_group_size=size)
    return removed


def kept_rows(piece: pa.Table, masks: Mapping[str, Any]) -> pa.Table:
    """The rows of a piece that no mask means."""
    keep: Any = None
    for mask in masks.values():
        keep = pc.invert(mask) if keep is None else pc.and_(keep, pc.invert(mask))
    return piece if keep is None else piece.filter(keep)


def _without_contexts(path: Path, people: Sequence[Person]) -> int:
    """Write training contexts anew without those of some users; how many contexts.

    Arrays that are as long as ``user_id`` have a line for each context; ``offsets`` bound each one's part of ``rows``.
    """
    with np.load(path, allow_pickle=False) as stored:
        if "user_id" not in stored.files:
            return 0
        arrays = {name: stored[name] for name in stored.files}
    users = arrays["user_id"]
    keep = ~np.isin(users, [person.user_id for person in people])
    if keep.all():
        return 0
    kept: dict[str, Any] = {}
    ragged = "offsets" in arrays
    for name, array in arrays.items():
        if ragged and name == "offsets":
            kept[name] = np.concatenate([[0], np.cumsum(np.diff(array)[keep])]).astype(array.dtype)
        elif ragged and name == "rows":
            kept[name] = array[np.repeat(keep, np.diff(arrays["offsets"]))]
        elif array.ndim and len(array) == len(users):
            kept[name] = array[keep]
        else:
            kept[name] = array
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez(file, allow_pickle=False, **kept)
    return int((~keep).sum())


def _blank_spool(path: Path, people: Sequence[Person]) -> int:
    """Blank out spooled events in place: the recorder that owns the file goes on, and skips what is no event."""
    blanked = 0
    with path.open("r+b") as file:
        place = 0
        for line in file.read().splitlines(keepends=True):
            if any(person.in_text(line.strip()) for person in people):
                file.seek(place)
                file.write(b" " * (len(line) - 1))
                blanked += 1
            place += len(line)
        file.flush()
        os.fsync(file.fileno())
    return blanked


def _with_pseudonyms(path: Path, people: Sequence[Person], pseudonym: Callable[[str], str]) -> int:
    """Put pseudonyms in the place of ids in a list: who opted out stays so."""
    ids = {person.user_id: pseudonym(person.user_id) for person in people}
    lines = path.read_text(encoding="utf-8").splitlines()
    changed = [ids.get(line.strip(), line) for line in lines]
    count = sum(old != new for old, new in zip(lines, changed, strict=True))
    if count:
        with whole_file(path) as draft:
            draft.write_text("".join(f"{line}\n" for line in changed), encoding="utf-8")
    return count


def _needles(people: Sequence[Person]) -> list[bytes]:
    """Bytes that tell of people, by id or by pseudonym."""
    return [needle for person in people for needle in (*person.needles, *person.name_needles)]


def _masked(path: Path, people: Sequence[Person]) -> int:
    """Blank ids and pseudonyms out in a log in place, byte for byte, since a server may be writing to it."""
    masked = 0
    with path.open("r+b") as file:
        for start, end in _logged(file.read(), people):
            file.seek(start)
            file.write(b"*" * (end - start))
            masked += 1
        file.flush()
        os.fsync(file.fileno())
    return masked


def logged_in(content: bytes, people: Sequence[Person]) -> bool:
    """Whether the text of a log, or a line of it, names people."""
    return any(True for _ in _logged(content, people))


def _logged(content: bytes, people: Sequence[Person]) -> Iterator[tuple[int, int]]:
    """Where names of people stand in the text of a log, from and to.

    A pseudonym and a distinctive id count wherever they are, other ids behind a word that says what they are.
    """
    for person in people:
        name = re.escape(person.user_id.encode())
        patterns = [b"(" + re.escape(text.encode()) + b")" for text in person.name_texts]
        if person.distinctive:
            patterns.append(b"(" + name + b")")
        else:
            patterns.append(rb"(?i:user(?:_id)?['\"]?\s*[:= ]\s*['\"]?)(" + name + rb")(?![0-9A-Za-z_-])")
        for pattern in patterns:
            for match in re.finditer(pattern, content):
                yield match.span(1)


def search_files(settings: Settings, people: Sequence[Person], progress: Progress) -> FileTraces:
    """Look for people in every file of a home: tables decoded, documents read, and all bytes as they are."""
    paths = files_of(settings)
    size = rows = 0
    found: list[str] = []
    kept: list[str] = []
    names = [needle for person in people for needle in person.name_needles]
    for number, path in enumerate(paths):
        progress("searching files", number, len(paths))
        try:
            size += path.stat().st_size
            where, looked = _traces(path, people)
            if where is None and in_file(path, names):
                why = why_named(path, settings)
                if why is None:
                    where = "its bytes, which have a pseudonym"
                else:
                    kept.append(f"{_shown_path(path, settings, people)}: {why}")
        except FileNotFoundError:
            continue
        rows += looked
        if where:
            found.append(f"{_shown_path(path, settings, people)}: {where}")
        if any(person.distinctive and person.user_id in str(path) for person in people):
            found.append(f"the name of {_shown_path(path, settings, people)}")
    progress("searching files", len(paths), len(paths))
    return FileTraces(len(paths), size, rows, tuple(found), tuple(kept))


def why_named(path: Path, settings: Settings) -> str | None:
    """Why a file may hold pseudonyms of people who are to be forgotten; ``None`` if it may not."""
    if path == tombstones_path(settings):
        return "who was forgotten"
    if path == settings.opted_out:
        return "who opted out"
    if path.is_relative_to(settings.model_repository):
        return "a model, until the next export"
    return None


def _traces(path: Path, people: Sequence[Person]) -> tuple[str | None, int]:
    """What of a file tells of people, if anything does; and how many rows of tables were decoded."""
    rows = 0
    if not _is_readable(path):
        return f"it is no whole {path.suffix[1:]} file, so nobody can tell", 0
    if path.suffix == ".parquet":
        column, rows = _in_parquet(path, people)
        if column:
            return f"column {column}", rows
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            if "user_id" in arrays.files:
                rows = len(arrays["user_id"])
                if np.isin(arrays["user_id"], [person.user_id for person in people]).any():
                    return "array user_id", rows
    elif path.suffix in (".json", ".jsonl") and path.stat().st_size <= _BLOCK:
        for line in [path.read_bytes()] if path.suffix == ".json" else path.read_bytes().splitlines():
            if any(person.in_text(line.strip()) for person in people):
                return "a document", rows
    elif path.suffix == ".log" and logged_in(path.read_bytes(), people):
        return "a line", rows
    needles = [needle for person in people for needle in person.needles]
    return ("its bytes" if in_file(path, needles) else None), rows


def _in_parquet(path: Path, people: Sequence[Person]) -> tuple[str | None, int]:
    """The first column that holds somebody's id: exactly where it is a user's, anywhere in text if distinctive; or his
    pseudonym."""
    texts = [text for one in people for text in (*one.name_texts, *((one.user_id,) if one.distinctive else ()))]
    rows = 0
    with pq.ParquetFile(path) as source:
        for batch in source.iter_batches(_BATCH_ROWS):
            piece = pa.Table.from_batches([batch])
            rows += piece.num_rows
            mine = belongs(piece, _among(people))
            if mine is not None and pc.any(mine).as_py():
                return "user_id" if "user_id" in piece.column_names else "entity_id", rows
            for name in piece.column_names:
                text = _text_of(piece[name].combine_chunks())
                if text is None:
                    continue
                if any(pc.any(pc.match_substring(text, wanted)).as_py() for wanted in texts):
                    return name, rows
    return None, rows


def _text_of(array: Any) -> Any:
    """The text in a column, lists laid end to end; ``None`` if it holds none."""
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        array = array.flatten()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary
    return array if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else None


def _shown_path(path: Path, settings: Settings, people: Sequence[Person]) -> str:
    shown = str(path.relative_to(settings.home)) if path.is_relative_to(settings.home) else str(path)
    for person in people:
        if person.distinctive:
            shown = shown.replace(person.user_id, "<user>")
    return shown
