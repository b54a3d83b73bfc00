"""Refusing values: the first row at fault is named, and how many share the fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.schema import Column
from recsys_plugin.errors import DataError

__all__ = ["Check", "first_true", "show"]


def first_true(mask: pa.ChunkedArray) -> int | None:
    """Position of the first true value, nulls counting as false; ``None`` if there is none."""
    position: int = pc.index(mask, True).as_py()
    return None if position < 0 else position


def show(value: Any, limit: int = 60) -> str:
    """A value for an error message, cut to ``limit`` characters."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= limit else text[:limit] + "…")


class Check:
    """Raises for the first row of a mask, saying how many rows share the fault."""

    def __init__(self, column: Column, file: str, first_row: int, whole: bool) -> None:
        self.column, self.file, self._first_row, self._whole = column, file, first_row, whole

    def refuse(self, mask: pa.ChunkedArray, values: pa.ChunkedArray, reason: Callable[[Any], str]) -> None:
        """Raise if any of ``mask`` is true; ``reason`` says what is wrong with the first such value."""
        row = first_true(mask)
        if row is None:
            return
        count = pc.sum(mask).as_py()
        at_least = "" if self._whole else "at least "
        also = f" ({at_least}{count:,} rows have this fault)" if count > 1 else ""
        raise self.error(reason(values[row].as_py()) + also, row=row)

    def error(self, reason: str, row: int | None = None) -> DataError:
        """The error to raise; ``row`` is a position in the values, None if it is about all of them."""
        number = None if row is None else self.row(row)
        return DataError(reason, file=self.file, column=self.column.name, row=number)

    def row(self, position: int) -> int:
        """The row of the file, counted from 1, of a position in the values."""
        return self._first_row + position
