"""The canonical tables as one typed description: validation and documentation both read it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

__all__ = [
    "EARLIEST",
    "EVENT_TYPES",
    "LATEST",
    "TABLES",
    "Column",
    "Kind",
    "Reference",
    "Table",
    "describe",
    "schema_fingerprint",
]

Kind = Literal["identifier", "text", "number", "timestamp", "vector"]

#: What a shopper can do. ``return`` is a purchase brought back.
EVENT_TYPES = ("impression", "click", "cart", "purchase", "return")

#: Timestamps must lie strictly between these two: 1970-01-01 itself is what a missing date turns into, and nanosecond
#: clocks (pandas) end in 2262.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)

_ARROW_TYPES: dict[Kind, pa.DataType] = {
    "identifier": pa.string(),
    "text": pa.string(),
    "number": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "vector": pa.list_(pa.float32()),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """The value must exist in ``table.column``; with ``when``, only in rows where another column has that value."""

    table: str
    column: str
    when: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, its bounds and one sentence of meaning.

    ``minimum`` is inclusive unless ``above_minimum``; ``max_bytes`` counts UTF-8 bytes; ``past`` forbids timestamps
    later than the moment of loading; ``default`` replaces nulls; ``generated`` columns are filled where null.
    """

    name: str
    kind: Kind
    meaning: str
    required: bool = False
    unique: bool = False
    allowed: tuple[str, ...] = ()
    minimum: float | None = None
    above_minimum: bool = False
    max_bytes: int = 1024
    past: bool = False
    default: float | None = None
    generated: bool = False
    references: tuple[Reference, ...] = ()

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of the canonical column."""
        return _ARROW_TYPES[self.kind]

    @property
    def rules(self) -> tuple[str, ...]:
        """The bounds in words, for documentation."""
        rules = []
        if self.kind in ("identifier", "text"):
            rules.append(f"at most {self.max_bytes:,} bytes of UTF-8")
        if self.kind == "identifier":
            rules.append("no control characters, no spaces around it")
        if self.unique:
            rules.append("unique")
        if self.allowed:
            rules.append("one of " + ", ".join(self.allowed))
        if self.kind == "number":
            rules.append("finite")
        if self.kind == "vector":
            rules.append("finite numbers, as many in every row; in CSV a JSON list such as [0.5, -1.25]")
        if self.minimum is not None:
            rules.append(f"{'>' if self.above_minimum else '>='} {self.minimum:g}")
        if self.kind == "timestamp":
            rules.append(f"after {EARLIEST:%Y-%m-%d}, " + ("not in the future" if self.past else f"before {LATEST:%Y}"))
        if self.default is not None:
            rules.append(f"{self.default:g} if absent")
        if self.generated:
            rules.append("generated from the row's content if absent")
        for reference in self.references:
            where = f" where {reference.when[0]} is {reference.when[1]}" if reference.when else ""
            rules.append(f"exists in {reference.table}.{reference.column}{where}")
        return tuple(rules)


@dataclass(frozen=True, slots=True)
class Table:
    """One table; ``required`` tables must be given, ``if_absent`` says what happens to the others."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    required: bool = True
    if_absent: str = ""

    @property
    def arrow_schema(self) -> pa.Schema:
        """The canonical Arrow schema; required columns are not nullable in content, nullability is not declared."""
        return pa.schema([(column.name, column.arrow_type) for column in self.columns])

    @property
    def column_names(self) -> tuple[str, ...]:
        """Every canonical column, in order."""
        return tuple(column.name for column in self.columns)


_USERS = Table(
    name="users",
    meaning="One row per shopper; every profile column may be null.",
    required=False,
    if_absent="derived from the events, with an empty profile",
    columns=(
        Column(
            "user_id",
            "identifier",
            "The shopper, under a pseudonym.",
            required=True,
            unique=True,
            max_bytes=256,
        ),
        Column("country", "text", "Country as the shop names it."),
        Column("gender", "text", "Gender as the shop records it."),
        Column("age_group", "text", "Age band, such as 25-34."),
        Column("income_group", "text", "Income band, such as 50-74K."),
        Column("household", "text", "Composition and size of the household."),
        Column("segment", "text", "Any grouping the shop already uses."),
        Column("signed_up_at", "timestamp", "When the account was opened.", past=True),
    ),
)

_ITEMS = Table(
    name="items",
    meaning="One row per product that can be recommended.",
    columns=(
        Column("item_id", "identifier", "The product.", required=True, unique=True, max_bytes=256),
        Column(
            "title",
            "text",
            "What the shopper reads; the text encoder reads it too.",
            required=True,
            max_bytes=4096,
        ),
        Column("description", "text", "A longer text about the product.", max_bytes=1 << 20),
        Column("category", "text", "The shop's main category."),
        Column("subcategory", "text", "A finer category."),
        Column("brand", "text", "Brand or maker."),
        Column("price", "number", "Current unit price in the shop's currency.", minimum=0.0),
        Column("available_from", "timestamp", "When the product is first on sale; may lie in the future."),
        Column("image_vector", "vector", "What an image encoder made of the product's picture."),
    ),
)

_EVENTS = Table(
    name="events",
    meaning="One row per thing a shopper did with a product.",
    columns=(
        Column(
            "user_id", "identifier", "Who did it.", required=True, max_bytes=256,
            references=(Reference("users", "user_id"),),
        ),
        Column(
            "item_id", "identifier", "With which product.", required=True, max_bytes=256,
            references=(Reference("items", "item_id"),),
        ),
        Column("event_type", "text", "What was done.", required=True, allowed=EVENT_TYPES),
        Column("timestamp", "timestamp", "When; without a zone it is UTC.", required=True, past=True),
        Column(
            "event_id", "identifier", "Names the event, so that a repeat counts once.",
            unique=True, generated=True, max_bytes=256,
        ),
        Column(
            "quantity", "number", "How many units.", minimum=0.0, above_minimum=True, default=1.0,
        ),
        Column("price", "number", "Unit price paid.", minimum=0.0),
        Column("basket_id", "identifier", "The order or invoice it belongs to.", max_bytes=256),
        Column("query", "text", "The search that led to it."),
    ),
)  # fmt: skip

_TEXTS = Table(
    name="texts",
    meaning="Further texts about items or users: reviews, social posts, long descriptions.",
    required=False,
    if_absent="no further texts",
    columns=(
        Column("entity", "text", "What the text is about.", required=True, allowed=("item", "user")),
        Column(
            "entity_id", "identifier", "Which item or user.", required=True, max_bytes=256,
            references=(
                Reference("items", "item_id", when=("entity", "item")),
                Reference("users", "user_id", when=("entity", "user")),
            ),
        ),
        Column("source", "text", "Where it comes from: description, review, social, ...", required=True),
        Column("text", "text", "The text itself.", required=True, max_bytes=1 << 20),
        Column("timestamp", "timestamp", "When it was written.", past=True),
    ),
)  # fmt: skip

#: Every canonical table by name, in the order they are validated: what is referred to comes first.
TABLES: dict[str, Table] = {table.name: table for table in (_USERS, _ITEMS, _EVENTS, _TEXTS)}


def describe() -> dict[str, Any]:
    """The whole description as plain JSON values: what ``recsys data --schema --json`` prints."""
    return {
        name: {
            "meaning": table.meaning,
            "required": table.required,
            "if_absent": table.if_absent or None,
            "columns": [
                {
                    "name": column.name,
                    "kind": column.kind,
                    "type": str(column.arrow_type),
                    "required": column.required,
                    "meaning": column.meaning,
                    "rules": list(column.rules),
                }
                for column in table.columns
            ],
        }
        for name, table in TABLES.items()
    }


def schema_fingerprint() -> str:
    """SHA-256 of the description: tables validated under another schema are not current."""
    return hashlib.sha256(json.dumps(describe(), sort_keys=True).encode()).hexdigest()
