"""Many stored values of one feature decoded at once, as a column.

A protobuf ``Value`` has a tag, perhaps a length, and its content; values of one feature have the same tag, so whole
columns are checked and decoded by numpy over one buffer. Whatever does not look like the common form (a null, another
type, an unpacked or split list) goes through :func:`~recsys_plugin.features.codec.decode_value` one by one, so that the
answer is the same in any case and a corrupt value is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import FeatureContractError, StoreUnavailable
from recsys_plugin.features.codec import MalformedValueError, decode_value
from recsys_plugin.limits import MOST_COLUMN_VALUES

__all__ = ["Column", "decode_column"]

_DTYPES: dict[str, type] = {
    "FLOAT": np.float32,
    "DOUBLE": np.float64,
    "INT32": np.int32,
    "INT64": np.int64,
    "UNIX_TIMESTAMP": np.int64,
    "BOOL": np.bool_,
    "STRING": object,
    "BYTES": object,
}
#: What stands where a value is missing, and behind the end of a list.
_BLANKS: dict[str, Any] = {"STRING": "", "BYTES": b""}
#: The tags of protobuf ``Value``, number of the field and wire type, as they are written.
_TAGS = {
    "BYTES": b"\x0a",
    "STRING": b"\x12",
    "INT32": b"\x18",
    "INT64": b"\x20",
    "DOUBLE": b"\x29",
    "FLOAT": b"\x35",
    "BOOL": b"\x38",
    "UNIX_TIMESTAMP": b"\x40",
    "DOUBLE_LIST": b"\x7a",
    "FLOAT_LIST": b"\x82\x01",
}
_MOST_VARINT = 10  # bytes
_Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of n entities.

    Attributes:
        values: ``[n]``; of lists ``[n, L]``, L being the longest one's length. float32, float64, int32, int64 (times
            are unix seconds), bool, or objects (``str``, ``bytes``). Where there is no value: 0, false or empty.
        missing: bool ``[n]``, true where the store has no value or a null.
        lengths: int64 ``[n]``, the length of each list; ``None`` for scalars.
    """

    values: _Array
    missing: NDArray[np.bool_]
    lengths: NDArray[np.int64] | None = None


def decode_column(reference: str, dtype: str, stored: Sequence[bytes | None]) -> Column:
    """Decode the stored values of one feature.

    Args:
        reference: ``view:feature``, for the messages of errors.
        dtype: the feature's Feast type, one of :data:`~recsys_plugin.features.contract.DTYPES`.
        stored: n values as Redis has them, ``None`` where there is none.

    Raises:
        FeatureContractError: if a value has another type; the message says by number, from 0, whose.
        StoreUnavailable: if a value is corrupt, or one list so long that the column, as wide as the longest, would have
            more than :data:`~recsys_plugin.limits.MOST_COLUMN_VALUES` places.
    """
    # A null is a message without a value: no bytes at all.
    if None in stored or b"" in stored:
        present = np.array([bool(value) for value in stored], dtype=np.bool_)
        values = [value for value in stored if value]
        return _spread(reference, _decoded(reference, dtype, values, np.flatnonzero(present)), present, dtype)
    return _decoded(reference, dtype, cast("Sequence[bytes]", stored), range(len(stored)))


def _decoded(reference: str, dtype: str, stored: Sequence[bytes], numbers: Sequence[int] | _Array) -> Column:
    """The column of values that are there; ``numbers`` say which of the entities have them."""
    fast = _FAST.get(dtype)
    column = None if fast is None or not stored else fast(dtype, stored)
    return _one_by_one(reference, dtype, stored, numbers) if column is None else column


def _blank(dtype: str, shape: tuple[int, ...]) -> _Array:
    element = dtype.removesuffix("_LIST")
    return np.full(shape, _BLANKS.get(element, 0), dtype=_DTYPES[element])


def _check_width(reference: str, count: int, width: int, longest: object) -> None:
    """See that a column is not made too large by its longest list.

    Raises:
        StoreUnavailable: naming the entity by its number.
    """
    if count * width > MOST_COLUMN_VALUES:
        raise StoreUnavailable(
            f"{reference} of entity number {longest}: a list of {width:,} values makes a column of {count:,} entities "
            f"larger than the {MOST_COLUMN_VALUES:,} that it may have; mend it, or read fewer at once"
        )


def _spread(reference: str, column: Column, present: NDArray[np.bool_], dtype: str) -> Column:
    """The column of the values that were there, with gaps where there were none."""
    if column.lengths is not None and len(column.lengths):
        longest = np.flatnonzero(present)[int(column.lengths.argmax())]
        _check_width(reference, len(present), column.values.shape[1], longest)
    values = _blank(dtype, (len(present), *column.values.shape[1:]))
    values[present] = column.values
    missing = ~present
    missing[present] = column.missing
    if column.lengths is None:
        return Column(values, missing)
    lengths = np.zeros(len(present), np.int64)
    lengths[present] = column.lengths
    return Column(values, missing, lengths)


def _one_by_one(reference: str, dtype: str, stored: Sequence[bytes], numbers: Sequence[int] | _Array) -> Column:
    found: list[Any] = []
    for number, data in zip(numbers, stored, strict=True):
        try:
            kind, value = decode_value(data)
        except MalformedValueError as error:
            raise StoreUnavailable(f"{reference} of entity number {number} is corrupt in Redis: {error}") from error
        if kind not in (dtype, "NULL"):
            raise FeatureContractError(
                f"{reference} of entity number {number}: {dtype} was asked for, the feature store holds {kind}. "
                "Run `recsys apply` and `recsys materialize`."
            )
        found.append(value)
    missing = np.array([value is None for value in found], dtype=np.bool_)
    if not dtype.endswith("_LIST"):
        values = _blank(dtype, (len(found),))
        for number, value in enumerate(found):
            if value is not None:
                values[number] = value
        return Column(values, missing)
    lengths = np.array([0 if value is None else len(value) for value in found], dtype=np.int64)
    if len(found):
        longest = int(lengths.argmax())
        _check_width(reference, len(found), int(lengths[longest]), numbers[longest])
    values = _blank(dtype, (len(found), int(lengths.max(initial=0))))
    for number, value in enumerate(found):
        if value is not None:
            values[number, : len(value)] = value
    return Column(values, missing, lengths)


def _nothing_missing(count: int) -> NDArray[np.bool_]:
    return np.zeros(count, np.bool_)


def _fixed(dtype: str, stored: Sequence[bytes]) -> Column | None:
    """FLOAT and DOUBLE: a tag and 4 or 8 bytes."""
    record = np.dtype([("tag", "u1"), ("value", np.dtype(_DTYPES[dtype]).newbyteorder("<"))])
    if set(map(len, stored)) != {record.itemsize}:
        return None
    records = np.frombuffer(b"".join(stored), dtype=record)
    if (records["tag"] != _TAGS[dtype][0]).any():
        return None
    return Column(records["value"].astype(_DTYPES[dtype]), _nothing_missing(len(stored)))


def _varints(dtype: str, stored: Sequence[bytes]) -> Column | None:
    """INT32, INT64, UNIX_TIMESTAMP and BOOL: a tag and a number of one to ten bytes, seven bits in each."""
    sizes = np.fromiter(map(len, stored), dtype=np.int64, count=len(stored))
    shortest, longest = int(sizes.min()), int(sizes.max())
    if shortest < 2 or longest > _MOST_VARINT + 1:
        return None
    table = np.frombuffer(b"".join([data.ljust(longest, b"\0") for data in stored]), np.uint8)
    table = table.reshape(len(stored), longest)
    digits, place = table[:, 1:], np.arange(longest - 1)
    # All bytes but a number's last say that another follows.
    if (table[:, 0] != _TAGS[dtype][0]).any() or ((digits >= 0x80) != (place < sizes[:, None] - 2)).any():
        return None
    # The tenth byte holds the 64th bit alone; more would be no number of 64 bits.
    if longest == _MOST_VARINT + 1 and (digits[:, -1] > 1).any():
        return None
    shifted = (digits & np.uint8(0x7F)).astype(np.uint64) << (place * 7).astype(np.uint64)
    numbers = np.bitwise_or.reduce(shifted, axis=1)
    if dtype == "BOOL":
        return Column(numbers != 0, _nothing_missing(len(stored)))
    return Column(numbers.view(np.int64).astype(_DTYPES[dtype]), _nothing_missing(len(stored)))


def _texts(dtype: str, stored: Sequence[bytes]) -> Column | None:
    """STRING and BYTES of less than 128 bytes: a tag, a length of one byte, the content."""
    sizes = np.fromiter(map(len, stored), dtype=np.int64, count=len(stored))
    if int(sizes.min()) < 2 or int(sizes.max()) >= 0x80 + 2:
        return None
    joined = b"".join(stored)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    flat = np.frombuffer(joined, np.uint8)
    if (flat[starts] != _TAGS[dtype][0]).any() or (flat[starts + 1] != sizes - 2).any():
        return None
    values = np.empty(len(stored), object)
    if dtype == "BYTES":
        values[:] = [data[2:] for data in stored]
    elif joined.isascii():
        # One decoding for all, as each byte is a character.
        text = joined.decode("ascii")
        values[:] = [text[start:end] for start, end in zip((starts + 2).tolist(), ends.tolist(), strict=True)]
    else:
        try:
            values[:] = [data[2:].decode() for data in stored]
        except UnicodeDecodeError:
            return None
    return Column(values, _nothing_missing(len(stored)))


def _packed(dtype: str, stored: Sequence[bytes]) -> Column | None:
    """Lists of FLOAT and DOUBLE that are equally long and packed, as vectors are: one header, then the numbers."""
    size = len(stored[0])
    if size == 0 or set(map(len, stored)) != {size}:
        return None
    element = np.dtype(_DTYPES[dtype.removesuffix("_LIST")]).newbyteorder("<")
    width = _packed_width(_TAGS[dtype], size, element.itemsize)
    if width is None:
        return None
    content = width * element.itemsize
    header = _TAGS[dtype] + _varint(1 + len(_varint(content)) + content) + b"\x0a" + _varint(content)
    table = np.frombuffer(b"".join(stored), np.uint8).reshape(len(stored), size)
    if (table[:, : len(header)] != np.frombuffer(header, np.uint8)).any():
        return None
    values = np.ascontiguousarray(table[:, len(header) :]).view(element).astype(element.newbyteorder("="), copy=False)
    return Column(values, _nothing_missing(len(stored)), np.full(len(stored), width, np.int64))


def _packed_width(tag: bytes, size: int, item: int) -> int | None:
    """How many numbers of ``item`` bytes a packed list of ``size`` bytes has; ``None`` if no number fits."""
    for header in range(len(tag) + 3, len(tag) + 12):
        width, rest = divmod(size - header, item)
        if rest or width < 1:
            continue
        content = width * item
        inner = 1 + len(_varint(content)) + content
        if len(tag) + len(_varint(inner)) + inner == size:
            return width
    return None


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


_Fast = Callable[[str, Sequence[bytes]], Column | None]
_FAST: dict[str, _Fast] = {
    **dict.fromkeys(("FLOAT", "DOUBLE"), _fixed),
    **dict.fromkeys(("INT32", "INT64", "UNIX_TIMESTAMP", "BOOL"), _varints),
    **dict.fromkeys(("STRING", "BYTES"), _texts),
    **dict.fromkeys(("FLOAT_LIST", "DOUBLE_LIST"), _packed),
}
