"""Columns of vectors: lists of finite numbers, as many in every row, from Parquet lists or JSON text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.check import Check, show

__all__ = ["coerce_vectors", "is_list", "is_number"]


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of lists, of fixed size or not."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def coerce_vectors(values: pa.ChunkedArray, check: Check) -> pa.ChunkedArray:
    """Lists, or their JSON text, as ``list<float32>``; null stays null.

    Raises:
        DataError: for the first row that is no list of numbers, is empty, holds a null or what is not finite as
            float32, or is not as long as the first.
    """
    if not is_list(values.type):
        values = pa.chunked_array([pa.array(_parsed(values, check), pa.list_(pa.float64()))])
    check.refuse(
        pc.equal(pc.list_value_length(values), 0), values, lambda _: "is an empty list; leave the field empty instead"
    )
    lists = values.cast(pa.list_(values.type.value_type))
    flat = pa.chunked_array([pc.list_flatten(chunk) for chunk in lists.chunks], lists.type.value_type)
    row = np.repeat(np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0).to_numpy())
    # Beyond the range of float32 a number becomes infinite, which is refused with the others.
    numbers = flat.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)
    finite = pc.fill_null(pc.is_finite(numbers), False).to_numpy()
    if not finite.all():
        position = int(np.flatnonzero(~finite)[0])
        value = flat[position].as_py()
        raise check.error(f"holds {value}, which is not a finite number (float32); mend it", row=int(row[position]))
    lengths = pc.list_value_length(lists)
    first = pc.index(pc.is_valid(lists), True).as_py()
    if first >= 0:
        wanted = lengths[first].as_py()
        where = check.row(first)
        check.refuse(
            pc.not_equal(lengths, wanted),
            lists,
            lambda value: f"has {len(value)} numbers where row {where} has {wanted}; every vector must be as long",
        )
    return lists.cast(pa.list_(pa.float32()), safe=False)


def _parsed(texts: pa.ChunkedArray, check: Check) -> list[list[float] | None]:
    found: list[list[float] | None] = []
    for position, text in enumerate(texts.to_pylist()):
        found.append(None if text is None else _numbers(text, position, check))
    return found


def _numbers(text: str, position: int, check: Check) -> list[float]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise check.error(f"{show(text)} is not a JSON list of numbers such as [0.5, -1.25]", row=position) from error
    plain = isinstance(value, list) and all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in value
    )
    if not plain:
        raise check.error(f"{show(text)} is not a JSON list of numbers such as [0.5, -1.25]", row=position)
    try:
        return [float(number) for number in value]
    except OverflowError as error:
        raise check.error(f"{show(text)} holds a number beyond float32; mend it", row=position) from error
