"""Feast's Redis layout by hand, held against Feast, protobuf and mmh3 themselves."""

from __future__ import annotations

import math
import struct
from typing import Any

import mmh3
import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Null, Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from recsys_plugin.features.codec import (
    MalformedValueError,
    decode_timestamp,
    decode_value,
    entity_key_prefix,
    entity_key_value,
    hash_field,
    murmur3_32,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bytes": st.binary(max_size=300),
    "string": st.text(max_size=200),
    "int32": INT32,
    "int64": INT64,
    "double": st.floats(allow_nan=False),
    "float": st.floats(width=32, allow_nan=False),
    "bool": st.booleans(),
    "unix_timestamp": INT64,
}


@st.composite
def values(draw: st.DrawFn) -> tuple[str, Value]:
    """A Feast type name and a protobuf ``Value`` of that type."""
    name = draw(st.sampled_from(sorted(SCALARS)))
    if draw(st.booleans()):
        return name.upper(), Value(**{f"{name}_val": draw(SCALARS[name])})
    value = Value()
    target = getattr(value, f"{name}_list_val")
    target.SetInParent()
    target.val.extend(draw(st.lists(SCALARS[name], max_size=20)))
    return f"{name.upper()}_LIST", value


def content(value: Value) -> Any:
    """What protobuf itself says the value is."""
    kind = value.WhichOneof("val")
    if kind in (None, "null_val"):
        return None
    found = getattr(value, kind)
    return list(found.val) if kind.endswith("_list_val") else found


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1))
def test_murmur3_equals_mmh3(data: bytes, seed: int) -> None:
    assert murmur3_32(data, seed) == mmh3.hash(data, seed, signed=False)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_hash_field_equals_feasts(view: str, feature: str) -> None:
    assert hash_field(f"{view}:{feature}") == _mmh3(f"{view}:{feature}")


@given(st.text(min_size=1, max_size=20), st.text(max_size=50) | INT64, st.text(min_size=1, max_size=20))
def test_entity_key_equals_feasts(join_key: str, entity: str | int, project: str) -> None:
    value = Value(string_val=entity) if isinstance(entity, str) else Value(int64_val=entity)
    theirs = _redis_key(project, EntityKey(join_keys=[join_key], entity_values=[value]))
    assert entity_key_prefix(join_key) + entity_key_value(entity) + project.encode() == theirs


@given(values())
@example(("FLOAT", Value(float_val=0.0)))
@example(("STRING", Value(string_val="")))
@example(("INT32", Value(int32_val=-1)))
def test_every_type_decodes_as_protobuf_does(typed: tuple[str, Value]) -> None:
    dtype, value = typed
    decoded = decode_value(value.SerializeToString())
    assert decoded == (dtype, content(value))
    if isinstance(decoded[1], float) and decoded[1] == 0:
        assert math.copysign(1, decoded[1]) == math.copysign(1, content(value))


@given(values(), st.data())
def test_truncated_bytes_are_an_error_or_what_protobuf_reads(typed: tuple[str, Value], data: st.DataObject) -> None:
    whole = typed[1].SerializeToString()
    _agrees_with_protobuf(whole[: data.draw(st.integers(0, len(whole)))])


@given(values(), st.data())
def test_corrupted_bytes_are_an_error_or_what_protobuf_reads(typed: tuple[str, Value], data: st.DataObject) -> None:
    corrupt = bytearray(typed[1].SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        if corrupt:
            corrupt[data.draw(st.integers(0, len(corrupt) - 1))] = data.draw(st.integers(0, 255))
    _agrees_with_protobuf(bytes(corrupt))


@given(st.binary(max_size=60))
def test_any_bytes_are_an_error_or_what_protobuf_reads(data: bytes) -> None:
    _agrees_with_protobuf(data)


def _agrees_with_protobuf(data: bytes) -> None:
    """Stricter than protobuf is allowed (unknown fields); another answer than protobuf's never."""
    try:
        dtype, decoded = decode_value(data)
    except MalformedValueError:
        return
    try:
        value = Value.FromString(data)
    except DecodeError:
        # The content of a type that is refused by name is not looked at.
        assert decoded is None, f"protobuf refuses {data.hex()}, and {decoded!r} was read"
        return
    kind = value.WhichOneof("val")
    assert dtype == {None: "NULL"}.get(kind, _type_name(kind))
    if decoded is not None:
        assert repr(decoded) == repr(content(value))


def _type_name(kind: str | None) -> str:
    name = str(kind).removesuffix("_val").upper()
    return {"LIST": "VALUE_LIST", "SET": "VALUE_SET"}.get(name, name)


def test_unpacked_numbers_are_read_too() -> None:
    unpacked_ints = b"".join(b"\x08" + bytes([number]) for number in (1, 2, 3))
    assert decode_value(b"\x6a" + bytes([len(unpacked_ints)]) + unpacked_ints) == ("INT32_LIST", [1, 2, 3])
    unpacked_floats = b"".join(b"\x0d" + struct.pack("<f", number) for number in (0.5, 2.0))
    message = b"\x82\x01" + bytes([len(unpacked_floats)]) + unpacked_floats
    assert content(Value.FromString(message)) == [0.5, 2.0]
    assert decode_value(message) == ("FLOAT_LIST", [0.5, 2.0])


def test_null_and_nothing_are_null() -> None:
    assert decode_value(Value(null_val=Null.NULL).SerializeToString()) == ("NULL", None)
    assert decode_value(b"") == ("NULL", None)


def test_types_that_no_contract_can_name_come_back_by_name() -> None:
    value = Value()
    value.map_val.val["a"].int64_val = 1
    assert decode_value(value.SerializeToString()) == ("MAP", None)
    assert decode_value(Value(uuid_val="x").SerializeToString()) == ("UUID", None)
    value = Value()
    value.string_set_val.val.append("a")
    assert decode_value(value.SerializeToString()) == ("STRING_SET", None)


@pytest.mark.parametrize(
    "data",
    [
        b"\x35\x00\x00",
        b"\x12\x05ab",
        b"\x12\x02\xff\xfe",
        b"\x18" + b"\xff" * 10 + b"\x01",
        b"\x82\x01\x05\x0a\x03abc",
    ],
)
def test_known_corruptions_are_errors(data: bytes) -> None:
    with pytest.raises(MalformedValueError):
        decode_value(data)


@given(st.integers(-62135596800, 253402300799), st.integers(0, 999_999_999))
def test_timestamps_decode_as_protobuf_does(seconds: int, nanoseconds: int) -> None:
    data = Timestamp(seconds=seconds, nanos=nanoseconds).SerializeToString()
    assert decode_timestamp(data) == seconds + nanoseconds / 1e9


def test_a_corrupt_timestamp_is_an_error() -> None:
    for data in (b"\x08", b"\x1a\x00", b"\x10\x80"):
        with pytest.raises(MalformedValueError):
            decode_timestamp(data)
