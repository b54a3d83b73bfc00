"""Finding and reading a folder's Parquet or CSV files; types and values are judged later, by ``tables``."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from recsys_plugin.data.schema import TABLES, Table
from recsys_plugin.errors import DataError, InvalidInput

__all__ = ["LargeTable", "RawTable", "find_tables", "open_events", "read_csv", "read_parquet", "read_table"]

_CHUNK = 1 << 24
#: Parquet tables of events with more rows are not read whole.
_WHOLE_ROWS = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class RawTable:
    """A table as its file has it: ``file`` names it in error messages; every CSV column is still text.

    ``ignored`` holds columns that the file has and the canonical table does not; they are left out of ``data``.
    """

    file: str
    data: pa.Table
    ignored: tuple[str, ...] = ()

    @property
    def column_names(self) -> list[str]:
        """The columns of ``data``."""
        return list(self.data.column_names)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.data.num_rows)

    def pieces(self, rows: int) -> Iterator[pa.Table]:
        """The rows in order, at most so many at a time."""
        for start in range(0, self.data.num_rows, rows):
            yield self.data.slice(start, rows)


@dataclass(frozen=True, slots=True)
class LargeTable:
    """A Parquet file of events that is read piece by piece; its canonical columns are ``column_names``."""

    path: Path
    column_names: list[str]
    rows: int
    ignored: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """What error messages call it."""
        return self.path.name

    def pieces(self, rows: int) -> Iterator[pa.Table]:
        """The rows in order, at most so many at a time.

        Raises:
            DataError: if a part of the file cannot be read.
        """
        try:
            with parquet.ParquetFile(self.path) as source:
                for batch in source.iter_batches(rows, columns=self.column_names):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot be read as Parquet ({error}); write it again", file=self.file) from error


def find_tables(folder: Path) -> dict[str, Path]:
    """The one file of each canonical table in ``folder``, such as ``items.parquet`` or ``items.csv``.

    Raises:
        InvalidInput: if the folder does not exist.
        DataError: if a required table has no file, or a table has both.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder; give the one with items.csv and events.csv (or .parquet)")
    found = {}
    for table in TABLES.values():
        choices = [folder / f"{table.name}.parquet", folder / f"{table.name}.csv"]
        present = [path for path in choices if path.is_file()]
        if len(present) == 2:
            reason = f"both {present[0].name} and {present[1].name} are in {folder}; keep one of them"
            raise DataError(reason, file=present[0].name)
        if present:
            found[table.name] = present[0]
        elif table.required:
            reason = f"not found in {folder}, nor is {choices[1].name}; `recsys data --schema` says what it must hold"
            raise DataError(reason, file=choices[0].name)
    return found


def read_table(path: Path, table: Table) -> RawTable:
    """Read one canonical table's file by its suffix, ``.csv`` or ``.parquet``.

    Raises:
        DataError: if the file is empty, has no rows, or is not what its suffix says.
    """
    raw = read_csv(path, table.column_names) if path.suffix == ".csv" else read_parquet(path, table.column_names)
    if raw.data.num_rows == 0:
        what = "leave the file out" if not table.required else f"a shop needs at least one row of {table.name}"
        raise DataError(f"a header but no rows; {what}", file=raw.file)
    return raw


def open_events(path: Path, table: Table) -> RawTable | LargeTable:
    """A file of events: read whole if it is CSV or small, else opened for reading piece by piece.

    Raises:
        DataError: if the file is empty, has no rows, or is not what its suffix says.
    """
    if path.suffix == ".parquet" and path.stat().st_size > 0:
        try:
            with parquet.ParquetFile(path) as source:
                names, rows = source.schema_arrow.names, source.metadata.num_rows
        except (pa.ArrowException, ValueError, OSError):
            rows = 0  # read_table says what is wrong with it
        if rows > _WHOLE_ROWS:
            _refuse_repeated(names, table.column_names, path.name)
            kept = [name for name in table.column_names if name in names]
            return LargeTable(path, kept, rows, tuple(name for name in names if name not in table.column_names))
    return read_table(path, table)


def read_parquet(path: Path, columns: tuple[str, ...]) -> RawTable:
    """Read those of ``columns`` that a Parquet file has.

    Raises:
        DataError: if it is empty or not Parquet, or two columns share one of the names.
    """
    if path.stat().st_size == 0:
        raise DataError("the file is empty (0 bytes)", file=path.name)
    try:
        with parquet.ParquetFile(path) as source:
            names = source.schema_arrow.names
            _refuse_repeated(names, columns, path.name)
            data = source.read(columns=[name for name in columns if name in names])
    except (pa.ArrowException, ValueError, OSError) as error:
        # ValueError: column names that are not UTF-8.
        raise DataError(f"cannot be read as Parquet ({error}); write it again", file=path.name) from error
    return RawTable(path.name, data, tuple(name for name in names if name not in columns))


def read_csv(path: Path, columns: tuple[str, ...], *, encoding: str = "utf8") -> RawTable:
    """Read those of ``columns`` that a comma-separated file has, all as text; an empty field is null.

    Args:
        path: the file; its first record is the header.
        columns: names to keep.
        encoding: any Python codec; with ``utf8`` the file's bytes are checked first, so that the fault has a place.

    Raises:
        DataError: if it is empty, not UTF-8, has a repeated column, an unclosed quotation mark or ragged rows.
    """
    odd_quotes = _check_bytes(path, utf8=encoding == "utf8")
    with path.open(encoding="utf-8-sig" if encoding == "utf8" else encoding, newline="") as text:
        names = next((record for record in csv.reader(text) if record), [])
    if not names:
        raise DataError("the file is empty (blank lines only)", file=path.name)
    _refuse_repeated(names, columns, path.name)
    _refuse_other_separators(names, path.name)
    if odd_quotes:
        _refuse_unclosed_quote(path, encoding)
    ragged: list[arrow_csv.InvalidRow] = []

    def remember(row: arrow_csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    kept = [name for name in columns if name in names]
    try:
        data = arrow_csv.read_csv(
            path,
            # Row numbers are known to the handler only when one thread reads.
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_CHUNK, encoding=encoding),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=remember),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=kept,
                column_types={name: pa.string() for name in kept},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        if path.stat().st_size < _CHUNK and len(path.read_bytes().strip().splitlines()) == 1:
            # Arrow takes a header without a line end for an empty file.
            return RawTable(path.name, pa.table({name: pa.array([], pa.string()) for name in kept}))
        raise DataError(f"cannot be read as CSV ({error})", file=path.name) from error
    if ragged:
        first = ragged[0]
        reason = f"{first.actual_columns} fields where the header has {first.expected_columns}: {_shorten(first.text)}"
        reason += "; put values that contain a comma in quotation marks"
        if len(ragged) > 1:
            reason += f" ({len(ragged)} rows have this fault)"
        raise DataError(reason, file=path.name, row=None if first.number is None else first.number - 1)
    # With no column kept, Arrow would keep them all.
    return RawTable(path.name, data.select(kept), tuple(name for name in names if name not in columns))


def _check_bytes(path: Path, *, utf8: bool) -> bool:
    """Refuse an empty or non-UTF-8 file; return whether its quotation marks are odd in number."""
    decoder = codecs.getincrementaldecoder("utf8")()
    before, quotes = 0, 0
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            if before == 0 and chunk.startswith(_UTF16_MARKS):
                raise DataError("the file is UTF-16; save it as UTF-8", file=path.name)
            if utf8:
                held = len(decoder.getstate()[0])
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    raise _not_utf8(path, before - held + error.start) from error
            before += len(chunk)
            quotes += chunk.count(b'"')
    if utf8 and (held := len(decoder.getstate()[0])):
        raise _not_utf8(path, before - held)
    if before == 0:
        raise DataError("the file is empty (0 bytes)", file=path.name)
    return quotes % 2 == 1


def _not_utf8(path: Path, offset: int) -> DataError:
    with path.open("rb") as source:
        prefix = source.read(offset)
        byte = source.read(1)
    # Line ends inside quotation marks separate no records; the added character makes a fault at a record's start count.
    unquoted = b"q".join(prefix.split(b'"')[::2]) + b"x"
    records = sum(1 for line in unquoted.splitlines() if line)
    place = f"byte {offset} (0x{byte.hex()})"
    if records <= 1:
        place += ", in the header"
    reason = f"not UTF-8 at {place}; save the file as UTF-8 (it may be Latin-1 or Windows-1252)"
    return DataError(reason, file=path.name, row=records - 1 if records > 1 else None)


def _refuse_repeated(names: list[str], columns: tuple[str, ...], file: str) -> None:
    for name in columns:
        if names.count(name) > 1:
            raise DataError("two columns have this name; keep one", file=file, column=name)


def _refuse_other_separators(names: list[str], file: str) -> None:
    for mark, said in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and mark in names[0]:
            raise DataError(f"fields are separated by {said}; separate them by commas", file=file)


def _refuse_unclosed_quote(path: Path, encoding: str) -> None:
    """Arrow takes an unclosed quotation mark as a value up to the end of the file; Python's strict reader does not."""
    row = -1
    with path.open(encoding=encoding, newline="") as text:
        try:
            for row, _ in enumerate(csv.reader(text, strict=True)):  # noqa: B007
                pass
        except csv.Error as error:
            reason = f"a quotation mark is opened and not closed ({error})"
            raise DataError(reason, file=path.name, row=row + 1 if row >= 0 else None) from error


def _shorten(text: str | None, limit: int = 60) -> str:
    shown = text or ""
    return repr(shown if len(shown) <= limit else shown[:limit] + "…")
