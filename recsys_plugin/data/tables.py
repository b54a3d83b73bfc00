"""From raw tables to canonical ones, all or nothing: columns, then uniqueness, then references between tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.coerce import coerce_column, first_true, show
from recsys_plugin.data.files import RawTable
from recsys_plugin.data.schema import TABLES, Table
from recsys_plugin.errors import DataError

__all__ = ["ValidTables", "event_ids", "validate_tables"]

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
}

#: What makes two events the same event, for generated ids.
_CONTENT = ("user_id", "item_id", "event_type", "timestamp", "quantity", "price", "basket_id", "query")


@dataclass(frozen=True, slots=True)
class ValidTables:
    """Canonical tables that refer to each other consistently; ``texts`` is missing when none were given.

    ``notes`` says what validation did beside checking: ignored columns, derived users.
    """

    tables: Mapping[str, pa.Table]
    notes: tuple[str, ...]


def validate_tables(raw: Mapping[str, RawTable], *, now: datetime) -> ValidTables:
    """Check every rule of the schema and return the canonical tables, events in order of time.

    Args:
        raw: tables by canonical name; ``items`` and ``events`` at least.
        now: aware moment after which events are refused as lying in the future.

    Raises:
        DataError: for the first fault found; nothing is returned then.
    """
    tables: dict[str, pa.Table] = {}
    notes: list[str] = []
    for name, table in TABLES.items():
        if name in raw:
            tables[name], remarks = _canonical(raw[name], table, now)
            notes += remarks
        elif table.required:
            raise DataError(f"the table is missing; {table.meaning}", file=name)
    if "users" not in tables:
        tables["users"] = _derive_users(tables["events"])
        notes.append("users: no file; derived from the events, with an empty profile")
    tables["events"] = _with_event_ids(tables["events"])
    for name, data in tables.items():
        file = raw[name].file if name in raw else name
        _check_unique(data, TABLES[name], file)
        _check_references(data, TABLES[name], file, tables, raw)
    # Arrow sorts stably: events of one second keep their order in the file.
    tables["events"] = tables["events"].sort_by("timestamp")
    return ValidTables({name: tables[name] for name in TABLES if name in tables}, tuple(notes))


def event_ids(events: pa.Table) -> pa.Array:
    """Sixteen hexadecimal digits of each row's content; the n-th repetition of a row (n >= 1) has ``-n`` appended.

    The ids depend on nothing but content and on the order of identical rows, so loading the same events again, in
    whatever order, names them alike.
    """
    frame = events.select(list(_CONTENT)).to_pandas(strings_to_categorical=True)
    hashes = pd.util.hash_pandas_object(frame, index=False)
    repetition = hashes.groupby(hashes, sort=False).cumcount()
    digits = np.frombuffer(hashes.to_numpy().astype(">u8").tobytes().hex().encode(), dtype="S16")
    base = pa.array(digits).cast(pa.string())
    counter = pa.array(repetition.to_numpy()).cast(pa.string())
    repeated = pa.array(repetition.to_numpy() > 0)
    return pc.if_else(repeated, pc.binary_join_element_wise(base, counter, "-"), base)


def _canonical(raw: RawTable, table: Table, now: datetime) -> tuple[pa.Table, list[str]]:
    """Coerce one table's columns; returns it with notes about the columns left out."""
    given = raw.data.column_names
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
    rows = raw.data.num_rows
    columns = []
    for column in table.columns:
        if column.name in missing:
            values = pa.chunked_array([pa.nulls(rows, column.arrow_type)])
        else:
            values = raw.data[column.name]
        columns.append(coerce_column(values, column, file=raw.file, now=now))
    notes = [
        f"{raw.file}: column {name!r} ignored" if name else f"{raw.file}: unnamed column ignored" for name in extra
    ]
    return pa.table(columns, schema=table.arrow_schema), notes


def _meant(name: str, missing: list[str]) -> str | None:
    """The missing canonical column that ``name`` seems to stand for."""
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()).strip("_")
    for column in missing:
        if plain == column or plain in _OTHER_NAMES.get(column, ()):
            return column
    near = get_close_matches(plain, missing, n=1, cutoff=0.8)
    return near[0] if near else None


def _derive_users(events: pa.Table) -> pa.Table:
    schema = TABLES["users"].arrow_schema
    users = pc.unique(events["user_id"]).sort()
    return pa.table(
        [users if field.name == "user_id" else pa.nulls(len(users), field.type) for field in schema], schema
    )


def _with_event_ids(events: pa.Table) -> pa.Table:
    given = events["event_id"]
    if given.null_count == 0:
        return events
    position = events.schema.get_field_index("event_id")
    filled = pc.coalesce(given, event_ids(events))
    return events.set_column(position, events.schema.field(position), filled)


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
    data: pa.Table, table: Table, file: str, tables: Mapping[str, pa.Table], raw: Mapping[str, RawTable]
) -> None:
    for column in table.columns:
        for reference in column.references:
            values = data[column.name]
            known = pc.unique(tables[reference.table][reference.column])
            absent = pc.invert(pc.is_in(values, known))
            if reference.when is not None:
                absent = pc.and_(absent, pc.equal(data[reference.when[0]], reference.when[1]))
            row = first_true(absent)
            if row is None:
                continue
            count = pc.sum(absent).as_py()
            also = f" ({count:,} rows name one that is absent)" if count > 1 else ""
            where = raw[reference.table].file if reference.table in raw else reference.table
            reason = f"{show(values[row].as_py())} is not in {where}; add it there or remove the row{also}"
            raise DataError(reason, file=file, column=column.name, row=row + 1)
