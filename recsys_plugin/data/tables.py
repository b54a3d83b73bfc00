"""From raw tables to canonical ones, all or nothing: columns, then uniqueness, then references between tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.check import first_true, show
from recsys_plugin.data.coerce import coerce_column
from recsys_plugin.data.events import PIECE_ROWS, ValidEvents, ordered_events
from recsys_plugin.data.files import LargeTable, RawTable
from recsys_plugin.data.schema import TABLES, Table
from recsys_plugin.errors import DataError

__all__ = ["ValidTables", "validate_tables"]

#: What other systems call our columns; a column so named is a mistake when ours is missing.
_OTHER_NAMES = {
    "user_id": (
        "user",
        "uid",
        "customer",
        "customer_id",
        "client_id",
        "shopper_id",
        "visitor_id",
        "account_id",
    ),
    "item_id": ("item", "product", "product_id", "sku", "article_id", "stock_code", "asin"),
    "title": ("name", "item_name", "product_name", "product_title"),
    "event_type": ("event", "type", "action", "event_name", "behavior", "behaviour", "interaction"),
    "timestamp": (
        "time",
        "date",
        "datetime",
        "event_time",
        "event_timestamp",
        "created_at",
        "occurred_at",
        "ts",
    ),
    "price": ("unit_price",),
    "quantity": ("qty",),
    "basket_id": ("order_id", "invoice_id", "invoice", "cart_id"),
    "entity_id": ("item_id", "user_id"),
    "image_vector": ("image_embedding",),
}


@dataclass(frozen=True, slots=True)
class ValidTables:
    """Canonical tables that refer to each other consistently.

    Attributes:
        tables: ``users`` and ``items``, and ``texts`` if any were given.
        events: the events, which need not fit in memory.
        notes: what validation did beside checking: ignored columns, derived users.
    """

    tables: Mapping[str, pa.Table]
    events: ValidEvents
    notes: tuple[str, ...]


def validate_tables(
    raw: Mapping[str, RawTable | LargeTable], *, now: datetime, scratch: Path, piece_rows: int = PIECE_ROWS
) -> ValidTables:
    """Check every rule of the schema and return the canonical tables, events in order of time.

    Args:
        raw: tables by canonical name; ``items`` and ``events`` at least.
        now: aware moment after which events are refused as lying in the future.
        scratch: an existing folder for events that are too many for memory; needed until they were read.
        piece_rows: events that are checked at a time.

    Raises:
        DataError: for the first fault found; nothing is returned then.
    """
    tables: dict[str, pa.Table] = {}
    notes: list[str] = []
    events: ValidEvents | None = None
    for name, table in TABLES.items():
        if name not in raw:
            if table.required:
                raise DataError(f"the table is missing; {table.meaning}", file=name)
            continue
        plan = _Columns.of(raw[name], table)
        notes += plan.notes
        if name == "events":
            seen: set[str] = set()
            checked = _checked_events(plan, raw, tables, now, seen, piece_rows)
            events = ordered_events(checked, raw[name].file, scratch, piece_rows=piece_rows)
            if "users" not in tables:
                tables["users"] = _derived_users(seen)
                notes.append("users: no file; derived from the events, with an empty profile")
            continue
        (piece,) = raw[name].pieces(max(1, raw[name].rows))
        tables[name] = plan.coerced(piece, now)
        _check_unique(tables[name], table, raw[name].file)
        _check_references(tables[name], table, raw[name].file, tables, raw)
    assert events is not None
    return ValidTables({name: tables[name] for name in TABLES if name in tables}, events, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Columns:
    """How the columns of one file become those of a canonical table."""

    table: Table
    file: str
    rows: int
    given: frozenset[str]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, raw: RawTable | LargeTable, table: Table) -> _Columns:
        """Check the names; the notes are about the columns left out."""
        given = raw.column_names
        missing = [column.name for column in table.columns if column.name not in given]
        extra = [*raw.ignored, *(name for name in given if name not in table.column_names)]
        taken = {meant: name for name in extra if (meant := _meant(name, missing)) is not None}
        for column in table.columns:
            if column.name in missing and column.required:
                known = f"; rename {taken[column.name]!r}" if column.name in taken else ""
                has = ", ".join([*given, *raw.ignored]) or "none"
                raise DataError(
                    f"the required column is missing (columns: {has}){known}", file=raw.file, column=column.name
                )
        for meant, name in taken.items():
            reason = f"unknown column; if it is {meant!r}, rename it, otherwise remove it or give it another name"
            raise DataError(reason, file=raw.file, column=name)
        notes = (
            f"{raw.file}: column {name!r} ignored" if name else f"{raw.file}: unnamed column ignored" for name in extra
        )
        return cls(table, raw.file, raw.rows, frozenset(given), tuple(notes))

    def coerced(self, piece: pa.Table, now: datetime, first_row: int = 1) -> pa.Table:
        """The canonical form of a piece of the file that begins with ``first_row``, counted from 1."""
        columns = []
        for column in self.table.columns:
            absent = column.name not in self.given
            columns.append(
                coerce_column(
                    pa.chunked_array([pa.nulls(piece.num_rows)]) if absent else piece[column.name],
                    column,
                    file=self.file,
                    now=now,
                    first_row=first_row,
                    whole=piece.num_rows == self.rows,
                )
            )
        return pa.table(columns, schema=self.table.arrow_schema)


def _checked_events(
    plan: _Columns,
    raw: Mapping[str, RawTable | LargeTable],
    tables: Mapping[str, pa.Table],
    now: datetime,
    seen: set[str],
    piece_rows: int,
) -> Iterator[pa.Table]:
    """Canonical events in the order of the file; with no table of users, ``seen`` collects theirs."""
    first_row = 1
    for piece in raw["events"].pieces(piece_rows):
        events = plan.coerced(piece, now, first_row)
        if "users" not in tables:
            seen.update(pc.unique(events["user_id"]).to_pylist())
        _check_references(events, plan.table, plan.file, tables, raw, first_row)
        yield events
        first_row += piece.num_rows


def _meant(name: str, missing: list[str]) -> str | None:
    """The missing canonical column that ``name`` seems to stand for."""
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()).strip("_")
    for column in missing:
        if plain == column or plain in _OTHER_NAMES.get(column, ()):
            return column
    near = get_close_matches(plain, missing, n=1, cutoff=0.8)
    return near[0] if near else None


def _derived_users(seen: set[str]) -> pa.Table:
    schema = TABLES["users"].arrow_schema
    users = pa.array(sorted(seen), pa.string())
    return pa.table(
        [users if field.name == "user_id" else pa.nulls(len(users), field.type) for field in schema], schema
    )


def _check_unique(data: pa.Table, table: Table, file: str) -> None:
    for column in table.columns:
        values = data[column.name]
        if not column.unique or pc.count_distinct(values).as_py() == len(values):
            continue
        second = int(np.flatnonzero(values.to_pandas().duplicated().to_numpy())[0])
        value = values[second].as_py()
        first: int = pc.index(values, value).as_py()
        reason = f"{show(value)} is in rows {first + 1} and {second + 1}; each must occur once, keep one of them"
        raise DataError(reason, file=file, column=column.name, row=second + 1)


def _check_references(
    data: pa.Table,
    table: Table,
    file: str,
    tables: Mapping[str, pa.Table],
    raw: Mapping[str, RawTable | LargeTable],
    first_row: int = 1,
) -> None:
    for column in table.columns:
        for reference in column.references:
            if reference.table not in tables:
                continue  # derived from these very rows
            values = data[column.name]
            known = pc.unique(tables[reference.table][reference.column])
            absent = pc.invert(pc.is_in(values, known))
            if reference.when is not None:
                absent = pc.and_(absent, pc.equal(data[reference.when[0]], reference.when[1]))
            row = first_true(absent)
            if row is None:
                continue
            count = pc.sum(absent).as_py()
            least = "" if first_row == 1 and data.num_rows == raw[table.name].rows else "at least "
            also = f" ({least}{count:,} rows name one that is absent)" if count > 1 else ""
            where = raw[reference.table].file if reference.table in raw else reference.table
            reason = f"{show(values[row].as_py())} is not in {where}; add it there or remove the row{also}"
            raise DataError(reason, file=file, column=column.name, row=first_row + row)
