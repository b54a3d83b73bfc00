"""Whole Arrow columns into Feast's Redis layout: no Python object per cell, no protobuf.

Every function takes columns of n rows and returns an Arrow ``binary`` array of n cells. The bytes are those that
Feast's own encoder writes for the same Arrow column. Where Feast itself loses something on the way through numpy, the
value is kept instead: 64-bit numbers above 2**53 in columns with nulls, nulls in lists of whole numbers (0, Feast's own
default), times in nanoseconds. Source: the protocol buffers encoding guide.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput
from recsys_plugin.features.codec import NULL_MOMENT, entity_key_value
from recsys_plugin.features.value_encoding import LIST_ELEMENT, encode_varint, tag_of
from recsys_plugin.features.view_layout import ViewLayout

__all__ = ["encode_column", "encode_keys", "encode_timestamps", "framed", "framed_parts"]

_Bytes = NDArray[np.uint8]
_Mask = NDArray[np.bool_]
#: Lengths up to this have a table of what cells so long begin with; longer ones get a table of those that occur.
_TABLE = 1 << 14
_MOST_TABLES = 512
#: The smallest numbers that need 2, 3 … 10 bytes as a varint.
_LONGER = np.array([1 << 7 * size for size in range(1, 10)], dtype=np.uint64)
_SHIFTS = np.arange(0, 70, 7, dtype=np.uint64)


def encode_column(dtype: str, column: pa.Array, name: str) -> pa.Array:
    """One feature's cells: protobuf ``Value`` of a Feast type; empty for null and for a scalar NaN, as Feast does.

    Args:
        dtype: a Feast type of :data:`~recsys_plugin.features.codec.VALUE_FIELDS`.
        column: any Arrow type that holds the same: numbers of any width, texts, dictionaries, timestamps of any unit.
        name: for the messages of errors.

    Raises:
        InvalidInput: if the column has another type, or a value does not fit.
    """
    if isinstance(column.type, pa.DictionaryType):
        column = column.dictionary_decode()
    element = dtype.removesuffix("_LIST")
    tag = tag_of(dtype)
    if dtype == element:
        if element in ("STRING", "BYTES"):
            content = _texts(element, column, name)
            heads = _heads(lambda size: tag + encode_varint(size), _lengths(content), tag)
            return _joined(heads, content).fill_null(b"")
        numbers, known = _numbers(element, column, name)
        return _ragged(*_payload(element, numbers, tag), known)
    if not _is_list(column.type):
        raise InvalidInput(f"{name} is {dtype}, and its column holds {column.type}")
    # Nulls may have elements behind them, which `flatten` leaves out.
    counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = _starts(counts)
    elements = column.flatten()
    if element in ("STRING", "BYTES"):
        content = _texts(element, elements, name).fill_null(b"")
        content = _joined(_heads(_element_head, _lengths(content), LIST_ELEMENT), content)
        parts = _regrouped(content, starts)
        heads = _heads(lambda size: tag + encode_varint(size), _lengths(parts), tag)
    else:
        numbers, _ = _numbers(element, elements, name, in_list=True)
        parts = _regrouped(_ragged(*_payload(element, numbers, b""), None), starts)
        heads = _heads(lambda size: _packed_head(tag, size), _lengths(parts), b"packed" + tag)
    cells = _joined(heads, parts)
    return pc.if_else(column.is_valid(), cells, b"") if column.null_count else cells


def encode_timestamps(column: pa.Array, name: str) -> pa.Array:
    """Event times as protobuf ``Timestamp`` to the microsecond, as Feast does.

    Raises:
        InvalidInput: if the column holds no timestamps, or a null.
    """
    if not pa.types.is_timestamp(column.type):
        raise InvalidInput(f"{name} holds {column.type}, not timestamps")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InvalidInput(f"{name} is null in row {row} of {len(column)}: every row needs an event time")
    factor = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
    moments = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    seconds, rest = np.divmod(moments, factor)
    nanoseconds = rest * (1_000_000_000 // factor) // 1000 * 1000
    # Zeros are left out, as proto3 does.
    return _joined(
        _ragged(*_varints(seconds, b"\x08"), seconds != 0), _ragged(*_varints(nanoseconds, b"\x10"), nanoseconds != 0)
    )


def encode_keys(layout: ViewLayout, columns: Mapping[str, pa.Array]) -> pa.Array:
    """The Redis key of each row.

    Args:
        layout: of the view.
        columns: join key → its column, texts or whole numbers.

    Raises:
        InvalidInput: if a column has another type than the layout says, or a null.
    """
    parts: list[Any] = [pa.scalar(layout.key_prefix, pa.binary())]
    for name, dtype in layout.sorted_join_keys:
        column = columns[name]
        if isinstance(column.type, pa.DictionaryType):
            column = column.dictionary_decode()
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise InvalidInput(f"{layout.view}: join key {name} is null in row {row} of {len(column)}")
        where = f"{layout.view}: join key {name}"
        if dtype == "STRING":
            content = _texts("STRING", column, where)
            parts += [_heads(_text_head, _lengths(content), b"key"), content]
        else:
            numbers, _ = _numbers("INT64", column, where)
            parts += [
                pa.scalar(entity_key_value(0)[:-8], pa.binary()),
                _ragged(*_fixed(numbers.astype("<i8"), b""), None),
            ]
    return _joined(*parts, pa.scalar(layout.key_suffix, pa.binary()))


def framed(*columns: pa.Array, names: Sequence[bytes] | None = None) -> pa.Array:
    """Each row's cells as RESP bulk strings, one after the other; a line end before each part and none at the end.

    Args:
        columns: binary arrays without nulls.
        names: where given, one for each column, which comes before each of its cells as a bulk string of its own.
    """
    parts: list[pa.Array] = []
    for number, column in enumerate(columns):
        name = b"" if names is None else _bulk_head(b"", len(names[number])) + names[number]
        parts += [_heads(partial(_bulk_head, name), _lengths(column), b"resp" + name), column]
    return _joined(*parts)


def framed_parts(rows: pa.Array) -> tuple[list[int], memoryview]:
    """Where each row of a binary array begins, with the end, and the bytes of all: as the lanes take them."""
    _, offsets, data = rows.buffers()
    ends: list[int] = np.frombuffer(offsets, dtype=np.int32)[rows.offset : rows.offset + len(rows) + 1].tolist()
    return ends, memoryview(data)


def _bulk_head(name: bytes, size: int) -> bytes:
    return name + b"\r\n$%d\r\n" % size


def _element_head(size: int) -> bytes:
    return LIST_ELEMENT + encode_varint(size)


def _packed_head(tag: bytes, size: int) -> bytes:
    """What stands before a list of numbers whose packed form has ``size`` bytes; an empty list has no packed form."""
    if size == 0:
        return tag + b"\x00"
    inner = LIST_ELEMENT + encode_varint(size)
    return tag + encode_varint(len(inner) + size) + inner


def _text_head(size: int) -> bytes:
    """What stands before a text of an entity key: type and length."""
    return entity_key_value("")[:-4] + struct.pack("<I", size)


def _heads(head: Callable[[int], bytes], lengths: NDArray[np.int64], kind: bytes) -> pa.Array:
    """``head(length)`` of each length; ``kind`` tells one head from another."""
    longest = int(lengths.max(initial=0))
    if longest < _TABLE:
        size = max(64, 1 << longest.bit_length())
        key = (kind, size)
        table = _tables.get(key)
        if table is None:
            if len(_tables) >= _MOST_TABLES:
                _tables.clear()
            table = _tables[key] = pa.array([head(length) for length in range(size)], pa.binary())
        return table.take(pa.array(lengths))
    distinct, positions = np.unique(lengths, return_inverse=True)
    return pa.array([head(length) for length in distinct.tolist()], pa.binary()).take(pa.array(positions))


#: Heads by kind and size of the table. There are as many kinds as types and features.
_tables: dict[tuple[bytes, int], pa.Array] = {}


def _joined(*parts: Any) -> pa.Array:
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()))


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    """The bytes of each cell, int64 [n]; 0 for null."""
    lengths = pc.binary_length(column)
    if lengths.null_count:
        lengths = lengths.fill_null(0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of the parts of these sizes begins, and the end, int64 [n + 1]."""
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _binary(data: Any, starts: NDArray[np.int64]) -> pa.Array:
    offsets = pa.py_buffer(starts.astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), len(starts) - 1, [None, offsets, pa.py_buffer(data)])


def _regrouped(cells: pa.Array, starts: NDArray[np.int64]) -> pa.Array:
    """Neighbouring cells as one: cell i of the result is cells ``starts[i]`` to ``starts[i + 1]``, nothing copied."""
    _, offsets, data = cells.buffers()
    positions = np.frombuffer(offsets, dtype=np.int32)[cells.offset : cells.offset + len(cells) + 1]
    return _binary(data if data is not None else b"", positions[starts].astype(np.int64))


def _ragged(matrix: _Bytes, sizes: NDArray[np.int64] | None, known: _Mask | None) -> pa.Array:
    """Row by row the first so many bytes of uint8 [n, width], int64 [n], all if ``None``; none of rows not known."""
    count, width = matrix.shape
    if sizes is None and known is None:
        return _binary(matrix.reshape(-1), np.arange(count + 1, dtype=np.int64) * width)
    lengths = np.full(count, width, dtype=np.int64) if sizes is None else sizes
    if known is not None:
        lengths = np.where(known, lengths, 0)
    return _binary(matrix[np.arange(width) < lengths[:, None]], _starts(lengths))


def _varints(numbers: NDArray[np.int64], tag: bytes) -> tuple[_Bytes, NDArray[np.int64]]:
    """Tag and varint of each number, int64 [n]: uint8 [n, width], of which the first so many bytes count, int64 [n]."""
    unsigned = numbers.view(np.uint64)
    sizes = np.searchsorted(_LONGER, unsigned, side="right") + 1
    width = int(sizes.max(initial=1))
    matrix = np.empty((len(numbers), len(tag) + width), dtype=np.uint8)
    matrix[:, : len(tag)] = np.frombuffer(tag, dtype=np.uint8)
    body = matrix[:, len(tag) :]
    body[:] = (unsigned[:, None] >> _SHIFTS[:width]) & np.uint64(0x7F)
    body |= np.where(np.arange(1, width + 1) < sizes[:, None], np.uint8(0x80), np.uint8(0))
    return matrix, sizes + len(tag)


def _fixed(numbers: NDArray[Any], tag: bytes) -> tuple[_Bytes, None]:
    """Tag and little-endian bytes of each number: uint8 [n, width], all of which count."""
    size = numbers.dtype.itemsize
    matrix = np.empty((len(numbers), len(tag) + size), dtype=np.uint8)
    matrix[:, : len(tag)] = np.frombuffer(tag, dtype=np.uint8)
    matrix[:, len(tag) :] = np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), size)
    return matrix, None


def _payload(element: str, numbers: NDArray[Any], tag: bytes) -> tuple[_Bytes, NDArray[np.int64] | None]:
    return _fixed(numbers, tag) if element in ("FLOAT", "DOUBLE") else _varints(numbers, tag)


def _texts(element: str, column: pa.Array, name: str) -> pa.Array:
    """The bytes of texts; whole numbers are written out, as Feast does."""
    kind = column.type
    if element == "STRING" and pa.types.is_integer(kind):
        column = column.cast(pa.string())
    elif element == "STRING":
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise InvalidInput(f"{name} is {element}, and its column holds {kind}")
    elif not (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_null(kind)
    ):
        raise InvalidInput(f"{name} is {element}, and its column holds {kind}")
    return column.cast(pa.binary())


def _numbers(element: str, column: pa.Array, name: str, *, in_list: bool = False) -> tuple[NDArray[Any], _Mask | None]:
    """Numbers in the width that the type has on the wire, and which rows have one; ``None`` if all have."""
    kind = column.type
    if pa.types.is_null(kind):
        column = column.cast(pa.int64())
        kind = column.type
    if element in ("FLOAT", "DOUBLE"):
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise InvalidInput(f"{name} is {element}, and its column holds {kind}")
        floats = column.cast(pa.float64() if element == "DOUBLE" or kind != pa.float32() else kind, safe=False)
        if floats.null_count:
            floats = floats.fill_null(float("nan"))
        values = floats.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, as protobuf has it
            narrow = values.astype("<f4" if element == "FLOAT" else "<f8", copy=False)
        missing = np.isnan(values)
        return narrow, ~missing if missing.any() else None
    if element == "UNIX_TIMESTAMP":
        if pa.types.is_date(kind):
            column = column.cast(pa.timestamp("s"))
        if pa.types.is_timestamp(column.type):
            return _seconds(column, towards_zero=in_list), None
        if not pa.types.is_integer(kind):
            raise InvalidInput(f"{name} is {element}, and its column holds {kind}")
        return _whole(column, "INT64", name, NULL_MOMENT)[0], None
    if element == "BOOL":
        if not (pa.types.is_boolean(kind) or column.null_count == len(column)):
            raise InvalidInput(f"{name} is {element}, and its column holds {kind}")
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InvalidInput(f"{name} is {element}, and its column holds {kind}")
    return _whole(column, "INT32" if element == "INT32" else "INT64", name, 0)


def _whole(column: pa.Array, element: str, name: str, null: int) -> tuple[NDArray[np.int64], _Mask | None]:
    """Whole numbers, int64, with ``null`` where there is none, and which rows have one."""
    if pa.types.is_floating(column.type):  # how pandas stores whole numbers with gaps
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        column = column.cast(pa.int32() if element == "INT32" else pa.int64()).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{name} does not fit {element}: {error}") from error
    known = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
    if known is not None:
        column = column.fill_null(null)
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64), known


def _seconds(column: pa.Array, *, towards_zero: bool) -> NDArray[np.int64]:
    """Unix seconds, int64; Feast's unknown time for null. As in Feast, lists cut fractions off, others round down."""
    factor = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
    moments = column.cast(pa.int64())
    known = moments.is_valid().to_numpy(zero_copy_only=False)
    numbers = np.asarray(moments.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    seconds = numbers // factor
    if towards_zero:
        seconds += (numbers < 0) & (seconds * factor != numbers)
    return np.where(known, seconds, NULL_MOMENT)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
