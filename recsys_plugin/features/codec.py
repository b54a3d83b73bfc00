"""Feast's Redis layout, read without Feast and without protobuf objects.

One Redis hash per entity. Its key is the entity key (serialization version 3) followed by the project's
name; each feature is one field, named by the little-endian murmur3-32 of ``view:feature``, holding a protobuf
``Value``; the event time of a view is the field ``_ts:<view>``, holding a protobuf ``Timestamp``. Sources:
Feast's online store format specification, the protocol buffers encoding guide, and MurmurHash3 (Austin
Appleby, public domain).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from recsys_plugin.limits import MOST_VALUE_BYTES

__all__ = [
    "DELIMITED",
    "FIXED32",
    "FIXED64",
    "NULL_MOMENT",
    "VALUE_FIELDS",
    "VARINT",
    "MalformedValueError",
    "Value",
    "decode_timestamp",
    "decode_value",
    "entity_key_prefix",
    "entity_key_value",
    "hash_field",
    "murmur3_32",
    "timestamp_field",
]

#: A decoded value; lists hold one kind of scalar.
Value = float | int | bool | str | bytes | list[float] | list[int] | list[bool] | list[str] | list[bytes] | None

_MASK = 0xFFFFFFFF
_STRING, _INT64 = 2, 4  # numbers of Feast's ValueType
#: Protobuf's wire types: how the content of a field is laid out.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
#: How Feast stores a time that is not known: the number of numpy's NaT. Its SDK returns it as ``None``.
NULL_MOMENT = -(2**63)
_FIRST_DELIMITED = 1 << 3 | DELIMITED  # the tag of an element of a list of strings or bytes


class MalformedValueError(ValueError):
    """Bytes that are not a whole, well-formed protobuf message of the expected kind."""


def murmur3_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3, x86 32-bit, as an unsigned number."""
    state = seed
    whole = len(data) & ~3
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        state ^= _scrambled(block)
        state = ((state << 13) | (state >> 19)) & _MASK
        state = (state * 5 + 0xE6546B64) & _MASK
    state ^= _scrambled(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) & _MASK
    state = ((state ^ (state >> 13)) * 0xC2B2AE35) & _MASK
    return state ^ (state >> 16)


def _scrambled(block: int) -> int:
    block = (block * 0xCC9E2D51) & _MASK
    block = ((block << 15) | (block >> 17)) & _MASK
    return (block * 0x1B873593) & _MASK


def hash_field(reference: str) -> bytes:
    """The hash field, 4 bytes, of a feature named ``view:feature``."""
    return struct.pack("<I", murmur3_32(reference.encode()))


def timestamp_field(view: str) -> bytes:
    """The hash field that holds a view's event time."""
    return f"_ts:{view}".encode()


def entity_key_prefix(*join_keys: str) -> bytes:
    """How every key of entities with these join keys begins; the values follow in the order of the sorted names."""
    names = [name.encode() for name in sorted(join_keys)]
    return struct.pack("<I", len(names)) + b"".join(struct.pack("<II", _STRING, len(name)) + name for name in names)


def entity_key_value(value: str | int) -> bytes:
    """What follows the prefix for one entity: a STRING for ``str``, an INT64 for ``int``."""
    if isinstance(value, str):
        text = value.encode()
        return struct.pack("<II", _STRING, len(text)) + text
    return struct.pack("<IIq", _INT64, 8, value)


def decode_timestamp(data: bytes) -> float:
    """A protobuf ``Timestamp`` as unix seconds.

    Raises:
        MalformedValueError: if the bytes are not one.
    """
    seconds = nanoseconds = position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag not in (1 << 3, 2 << 3):
            raise MalformedValueError(f"tag {tag} does not belong to a Timestamp")
        number, position = _varint(data, position)
        if tag == 1 << 3:
            seconds = _signed(number, 64)
        else:
            nanoseconds = _signed(number, 32)
    return seconds + nanoseconds / 1e9


def decode_value(data: bytes) -> tuple[str, Value]:
    """A protobuf ``Value`` as its Feast type name and its content.

    ``("NULL", None)`` stands for Feast's null and for a message without a value. Maps, structs, sets and the
    other types that no contract can name come back with their type's name and no content, so that the caller
    can say what it found.

    Raises:
        MalformedValueError: if the bytes are truncated, corrupt or too many; never a wrong value instead.
    """
    if len(data) > MOST_VALUE_BYTES:
        raise MalformedValueError(f"{len(data)} bytes are more than the {MOST_VALUE_BYTES} that a value may have")
    dtype, value, position = "NULL", None, 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if number not in _TYPES:
            raise MalformedValueError(f"field {number} does not belong to a feature value")
        name, wanted_wire_type, decode = _TYPES[number]
        if wire_type != wanted_wire_type:
            raise MalformedValueError(f"wire type {wire_type} does not belong to a {name}")
        content, position = _content(data, position, wire_type)
        decoded = decode(content)
        # As protobuf reads a message: the last of several values counts, parts of one list are joined.
        joined = isinstance(value, list) and isinstance(decoded, list) and dtype == name
        value = [*value, *decoded] if joined else decoded  # type: ignore[misc]
        dtype = name
    return dtype, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven to a byte, and the position after it."""
    try:
        byte = data[position]
        if byte < 0x80:
            return byte, position + 1
        number, shift = byte & 0x7F, 7
        while True:
            position += 1
            byte = data[position]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise MalformedValueError("a number of more than ten bytes")
    except IndexError:
        raise MalformedValueError("the bytes end within a number") from None
    if number >= 1 << 64:
        raise MalformedValueError("a number of more than 64 bits")
    return number, position + 1


def _signed(number: int, bits: int) -> int:
    """The low ``bits`` as a two's complement number."""
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def _content(data: bytes, position: int, wire_type: int) -> tuple[bytes | int, int]:
    """The content of one field, and the position after it: a number for a varint, else its bytes."""
    if wire_type == VARINT:
        return _varint(data, position)
    if wire_type == DELIMITED:
        length, position = _varint(data, position)
    else:
        length = 8 if wire_type == FIXED64 else 4
    end = position + length
    if end > len(data):
        raise MalformedValueError(f"{length} bytes were announced and {len(data) - position} are there")
    return data[position:end], end


def _as_float(content: bytes | int) -> float:
    assert isinstance(content, bytes)
    number: float = struct.unpack("<f", content)[0]
    return number


def _as_double(content: bytes | int) -> float:
    assert isinstance(content, bytes)
    number: float = struct.unpack("<d", content)[0]
    return number


def _as_int32(content: bytes | int) -> int:
    assert isinstance(content, int)
    return _signed(content, 32)


def _as_int64(content: bytes | int) -> int:
    assert isinstance(content, int)
    return _signed(content, 64)


def _as_bool(content: bytes | int) -> bool:
    return content != 0


def _as_bytes(content: bytes | int) -> bytes:
    assert isinstance(content, bytes)
    return content


def _as_text(content: bytes | int) -> str:
    assert isinstance(content, bytes)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise MalformedValueError(f"a string that is not UTF-8: {error}") from error


def _as_null(content: bytes | int) -> Value:
    """The one value of Feast's ``Null``, or the content of a type that no contract can name."""
    return None


_Decoder = Callable[[bytes | int], Value]
_Scalar = Callable[[bytes | int], float | int | bool | str | bytes]


def _list_of(wire_type: int, decode: _Scalar) -> _Decoder:
    """The decoder of a message ``{repeated <scalar> val = 1}``, packed or not."""

    def decode_list(content: bytes | int) -> Value:
        assert isinstance(content, bytes)
        values: list[float | int | bool | str | bytes] = []
        position, end = 0, len(content)
        if decode is _as_text and content.isascii():
            position = _short_texts(content, values)
        while position < end:
            if wire_type == DELIMITED:
                # Short elements, which nearly all are, have one byte of tag and one of length: read on the spot.
                start = position + 2
                if start <= end and content[position] == _FIRST_DELIMITED and content[position + 1] < 0x80:
                    stop = start + content[position + 1]
                    if stop <= end:
                        values.append(decode(content[start:stop]))
                        position = stop
                        continue
            tag, position = _varint(content, position)
            if tag >> 3 != 1 or tag & 7 not in (wire_type, DELIMITED):
                raise MalformedValueError(f"tag {tag} does not belong to a list of this type")
            packed = tag & 7 != wire_type
            part, position = _content(content, position, tag & 7)
            if packed:
                assert isinstance(part, bytes)
                values += _unpacked(part, wire_type, decode)
            else:
                values.append(decode(part))
        return values  # type: ignore[return-value]

    return decode_list


def _short_texts(content: bytes, values: list[Any]) -> int:
    """Append the leading elements of up to 127 ASCII bytes, which nearly all ids are; where the others begin."""
    text, position, end = content.decode("ascii"), 0, len(content)
    while position + 2 <= end and content[position] == _FIRST_DELIMITED:
        start = position + 2
        stop = start + content[position + 1]  # of one byte, since all of them are ASCII
        if stop > end:
            break
        values.append(text[start:stop])
        position = stop
    return position


def _alike(part: bytes) -> list[int] | None:
    """Numbers that all take the same bytes, as times and small codes do; ``None`` if these do not."""
    width = next((place for place, byte in enumerate(part[:9], 1) if byte < 0x80), 0)
    if not width or len(part) % width:
        return None
    digits = [part[place::width] for place in range(width)]
    if not digits[-1].isascii() or any(min(digit) < 0x80 for digit in digits[:-1]):
        return None
    numbers = list(digits[-1])
    for digit in digits[-2::-1]:
        numbers = [number << 7 | byte & 0x7F for number, byte in zip(numbers, digit, strict=True)]
    return numbers


def _unpacked(part: bytes, wire_type: int, decode: _Scalar) -> list[float | int | bool | str | bytes]:
    if wire_type == VARINT:
        if (numbers := _alike(part)) is not None:
            # Of up to nine bytes, so that none has a sign to it.
            return numbers if decode is _as_int64 else [decode(number) for number in numbers]  # type: ignore[return-value]
        values, position = [], 0
        while position < len(part):
            number, position = _varint(part, position)
            values.append(decode(number))
        return values
    size, code = (8, "d") if wire_type == FIXED64 else (4, "f")
    if len(part) % size:
        raise MalformedValueError(f"{len(part)} bytes are no whole number of {size}-byte values")
    return list(struct.unpack(f"<{len(part) // size}{code}", part))


#: Field number of protobuf ``Value`` → Feast type name, wire type, decoder.
_TYPES: dict[int, tuple[str, int, _Decoder]] = {
    1: ("BYTES", DELIMITED, _as_bytes),
    2: ("STRING", DELIMITED, _as_text),
    3: ("INT32", VARINT, _as_int32),
    4: ("INT64", VARINT, _as_int64),
    5: ("DOUBLE", FIXED64, _as_double),
    6: ("FLOAT", FIXED32, _as_float),
    7: ("BOOL", VARINT, _as_bool),
    8: ("UNIX_TIMESTAMP", VARINT, _as_int64),
    11: ("BYTES_LIST", DELIMITED, _list_of(DELIMITED, _as_bytes)),
    12: ("STRING_LIST", DELIMITED, _list_of(DELIMITED, _as_text)),
    13: ("INT32_LIST", DELIMITED, _list_of(VARINT, _as_int32)),
    14: ("INT64_LIST", DELIMITED, _list_of(VARINT, _as_int64)),
    15: ("DOUBLE_LIST", DELIMITED, _list_of(FIXED64, _as_double)),
    16: ("FLOAT_LIST", DELIMITED, _list_of(FIXED32, _as_float)),
    17: ("BOOL_LIST", DELIMITED, _list_of(VARINT, _as_bool)),
    18: ("UNIX_TIMESTAMP_LIST", DELIMITED, _list_of(VARINT, _as_int64)),
    19: ("NULL", VARINT, _as_null),
}

#: Types that Feast can store and no contract can name.
_UNREADABLE = {
    20: "MAP",
    21: "MAP_LIST",
    22: "BYTES_SET",
    23: "STRING_SET",
    24: "INT32_SET",
    25: "INT64_SET",
    26: "DOUBLE_SET",
    27: "FLOAT_SET",
    28: "BOOL_SET",
    29: "UNIX_TIMESTAMP_SET",
    32: "JSON",
    33: "JSON_LIST",
    34: "STRUCT",
    35: "STRUCT_LIST",
    36: "UUID",
    37: "TIME_UUID",
    38: "UUID_LIST",
    39: "TIME_UUID_LIST",
    40: "UUID_SET",
    41: "TIME_UUID_SET",
    42: "VALUE_LIST",
    43: "VALUE_SET",
    44: "DECIMAL",
    45: "DECIMAL_LIST",
    46: "DECIMAL_SET",
    47: "SCALAR_MAP",
    48: "ZONED_TIMESTAMP",
}
_TYPES.update({number: (name, DELIMITED, _as_null) for number, name in _UNREADABLE.items()})

#: Feast type name → the number of its field in protobuf ``Value``, for every type that a contract can name.
VALUE_FIELDS = {name: number for number, (name, _, _) in _TYPES.items() if number not in _UNREADABLE and name != "NULL"}
