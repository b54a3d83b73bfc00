"""One value at a time into Feast's Redis layout, without numpy or Arrow: for pushes of a row or two.

Whole columns are :mod:`recsys_plugin.features.encoding`'s. Source: the protocol buffers encoding guide.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from recsys_plugin.errors import InvalidInput
from recsys_plugin.features.codec import DELIMITED, FIXED32, FIXED64, NULL_MOMENT, VALUE_FIELDS, VARINT

__all__ = ["LIST_ELEMENT", "WIRE_TYPES", "encode_timestamp", "encode_value", "encode_varint", "tag_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND, _MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)
_U64 = 0xFFFFFFFFFFFFFFFF

#: The wire type of each scalar type.
WIRE_TYPES = {
    "FLOAT": FIXED32,
    "DOUBLE": FIXED64,
    "INT32": VARINT,
    "INT64": VARINT,
    "BOOL": VARINT,
    "UNIX_TIMESTAMP": VARINT,
    "STRING": DELIMITED,
    "BYTES": DELIMITED,
}
#: The tag of what a list holds: an element of texts or bytes, or all numbers in one piece.
LIST_ELEMENT = bytes([1 << 3 | DELIMITED])


@lru_cache(maxsize=1 << 16)
def encode_varint(number: int) -> bytes:
    """A number of 0 to 2**64 - 1, seven bits to a byte, the lowest first.

    Remembered, because a row that is written again holds nearly the same codes and times as before.
    """
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def tag_of(dtype: str) -> bytes:
    """What a ``Value`` of this Feast type begins with."""
    wire_type = DELIMITED if dtype.endswith("_LIST") else WIRE_TYPES[dtype]
    return encode_varint(VALUE_FIELDS[dtype] << 3 | wire_type)


def encode_timestamp(moment: datetime) -> bytes:
    """An aware ``datetime`` as a protobuf ``Timestamp``.

    Raises:
        InvalidInput: if the moment has no time zone.
    """
    if moment.tzinfo is None:
        raise InvalidInput(f"event timestamp {moment.isoformat()} has no time zone")
    seconds, rest = divmod(moment - _EPOCH, _SECOND)
    nanoseconds = rest // _MICROSECOND * 1000
    encoded = b"\x08" + encode_varint(seconds & _U64) if seconds else b""
    return encoded + b"\x10" + encode_varint(nanoseconds) if nanoseconds else encoded


def encode_value(dtype: str, value: Any) -> bytes:
    """A value as Feast's encoder writes it: ``Value`` of this type, or nothing for ``None`` and a scalar NaN.

    Args:
        dtype: a Feast type of :data:`~recsys_plugin.features.codec.VALUE_FIELDS`.
        value: ``None``, a float, int, bool, str, bytes or aware datetime, or a list of such; for UNIX_TIMESTAMP also
            whole seconds. ``None`` within a list stands for zero, or the unknown time.

    Raises:
        InvalidInput: if the value is of another type or too large.
    """
    tag = _TAGS[dtype]
    encode = _moment_in_list if dtype == "UNIX_TIMESTAMP_LIST" else _ENCODERS[dtype.removesuffix("_LIST")]
    try:
        if not dtype.endswith("_LIST"):
            if value is None or value != value:
                return tag + encode(None) if dtype == "UNIX_TIMESTAMP" else b""
            content = encode(value)
            return tag + encode_varint(len(content)) + content if dtype in ("STRING", "BYTES") else tag + content
        if value is None:
            return b""
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise TypeError(f"{type(value).__name__} is no list")
        elements = [encode(element) for element in value]
    except (TypeError, struct.error, AttributeError, OverflowError) as error:
        raise InvalidInput(f"{value!r} is no {dtype}: {error}") from error
    if dtype in ("STRING_LIST", "BYTES_LIST"):
        content = b"".join(LIST_ELEMENT + encode_varint(len(element)) + element for element in elements)
    else:
        content = b"".join(elements)
        content = LIST_ELEMENT + encode_varint(len(content)) + content if content else b""
    return tag + encode_varint(len(content)) + content


def _float(value: Any) -> bytes:
    return struct.pack("<f", 0.0 if value is None else value)


def _double(value: Any) -> bytes:
    return struct.pack("<d", 0.0 if value is None else value)


def _int32(value: Any) -> bytes:
    return _integer(value, 32)


def _int64(value: Any) -> bytes:
    return _integer(value, 64)


def _integer(value: Any, bits: int) -> bytes:
    number = 0 if value is None else value.__index__()
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise OverflowError(f"it needs more than {bits} bits")
    return encode_varint(number & _U64)


def _bool(value: Any) -> bytes:
    if value is not None and not isinstance(value, bool):
        raise TypeError("it is neither true nor false")
    return b"\x01" if value else b"\x00"


def _moment(value: Any) -> bytes:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("it has no time zone")
        value = (value - _EPOCH) // _SECOND
    return _integer(NULL_MOMENT if value is None else value, 64)


def _moment_in_list(value: Any) -> bytes:
    """As in Feast, lists cut fractions of a second off; others round down. Before 1970 that differs."""
    if isinstance(value, datetime) and value.tzinfo is not None and value < _EPOCH:
        value = -((_EPOCH - value) // _SECOND)
    return _moment(value)


def _text(value: Any) -> bytes:
    encoded: bytes = b"" if value is None else value.encode()
    return encoded


def _bytes(value: Any) -> bytes:
    if value is not None and not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is not bytes")
    return b"" if value is None else value


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "FLOAT": _float,
    "DOUBLE": _double,
    "INT32": _int32,
    "INT64": _int64,
    "BOOL": _bool,
    "UNIX_TIMESTAMP": _moment,
    "STRING": _text,
    "BYTES": _bytes,
}
_TAGS = {dtype: tag_of(dtype) for dtype in VALUE_FIELDS}
