"""Rows of tables that belong to people who were forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.privacy.tombstones import Tombstones

__all__ = ["LeftOut", "belongs"]

#: Gives those of some ids that are meant.
Among = Callable[[Iterable[str | None]], Iterable[str]]


def belongs(table: pa.Table, among: Among) -> pa.ChunkedArray | None:
    """Which rows belong to users who are meant, bool [rows]; ``None`` for a table that is of no users.

    A row belongs to its ``user_id``, a text to its ``entity_id`` where its ``entity`` is ``user``.
    """
    if "user_id" in table.column_names and pa.types.is_string(table.schema.field("user_id").type):
        column, users = table["user_id"], None
    elif {"entity", "entity_id"} <= set(table.column_names):
        column, users = table["entity_id"], pc.equal(table["entity"], "user")
    else:
        return None
    meant = sorted(among(pc.unique(column).to_pylist()))
    found = pc.is_in(column, pa.array(meant, pa.string()))
    return found if users is None else pc.and_(found, users)


class LeftOut:
    """Leaves out the rows of people who were forgotten, and counts them.

    Args:
        tombstones: who they are.

    Attributes:
        rows: table → rows that were left out. types: of the events among them, by type.
    """

    def __init__(self, tombstones: Tombstones) -> None:
        self._tombstones = tombstones
        self.rows: Counter[str] = Counter()
        self.types: Counter[str] = Counter()

    def of(self, name: str, table: pa.Table) -> pa.Table:
        """The table, or a piece of it, without them."""
        if not self._tombstones:
            return table
        gone = belongs(table, self._tombstones.among)
        if gone is None or not pc.any(gone).as_py():
            return table
        self.rows[name] += int(pc.sum(gone).as_py())
        if name == "events":
            for entry in pc.value_counts(table["event_type"].filter(gone)).to_pylist():
                self.types[entry["values"]] += entry["counts"]
        return table.filter(pc.invert(gone))
