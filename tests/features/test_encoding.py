"""Columns and single values in Feast's Redis layout: byte for byte what Feast's own encoder writes."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.features.codec import VALUE_FIELDS, decode_timestamp, decode_value
from recsys_plugin.features.contract import DTYPES
from recsys_plugin.features.encoding import encode_column, encode_keys, encode_timestamps, framed
from recsys_plugin.features.value_encoding import encode_timestamp, encode_value
from recsys_plugin.features.view_layout import ViewLayout

MOMENT = pa.timestamp("ms", tz="UTC")
#: Type → Arrow type and values.
SCALARS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "FLOAT": (pa.float32(), st.floats(width=32)),
    "DOUBLE": (pa.float64(), st.floats()),
    "INT32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "INT64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "BOOL": (pa.bool_(), st.booleans()),
    "STRING": (pa.string(), st.text(max_size=200)),
    "BYTES": (pa.binary(), st.binary(max_size=200)),
    # In milliseconds, from the year 1 to 9999: what Python's datetime can hold.
    "UNIX_TIMESTAMP": (MOMENT, st.integers(-62_135_596_800_000, 253_402_300_799_000)),
}
DTYPE = st.sampled_from(sorted(DTYPES))


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, pa.Array]:
    """A Feast type and a column for it, sometimes a slice of a longer one."""
    dtype = draw(DTYPE)
    kind, element = SCALARS[dtype.removesuffix("_LIST")]
    if dtype.endswith("_LIST"):
        kind, element = pa.list_(kind), st.lists(element | st.none(), max_size=6)
    column = pa.array(draw(st.lists(element | st.none(), max_size=8)), type=kind)
    start = draw(st.integers(0, len(column)))
    return dtype, column.slice(start, draw(st.integers(0, len(column) - start)))


def feasts(dtype: str, column: pa.Array) -> list[bytes]:
    """What Feast's encoder writes for what it makes of an Arrow column.

    It makes a numpy array of it. Of nulls among whole numbers that makes floats, which lose the last bits, or are
    refused in lists; there, Feast gets the values as Python has them.
    """
    exact = dtype.removesuffix("_LIST") in ("INT32", "INT64", "BOOL", "STRING", "BYTES")
    values = column.to_pylist() if exact else column.to_numpy(zero_copy_only=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of a time zone that Feast drops
        # Feast takes a column of nothing but empty bytes for nulls, hence one more value.
        values = [*values, b"more"] if dtype == "BYTES" else values
        return [
            value.SerializeToString()
            for value in python_values_to_proto_values(values, ValueType[dtype])[: len(column)]
        ]


@given(columns())
def test_columns_equal_feasts_encoder(typed: tuple[str, pa.Array]) -> None:
    dtype, column = typed
    assert encode_column(dtype, column, "it").to_pylist() == feasts(dtype, column)


@given(columns())
def test_single_values_equal_columns(typed: tuple[str, pa.Array]) -> None:
    dtype, column = typed
    wanted = encode_column(dtype, column, "it").to_pylist()
    values = column.to_pylist()
    if dtype == "FLOAT_LIST" or dtype == "DOUBLE_LIST":  # numpy has NaN for null, Feast's own default is 0
        values = [value and [float("nan") if part is None else part for part in value] for value in values]
    assert [encode_value(dtype, value) for value in values] == wanted


@given(columns())
def test_columns_read_back(typed: tuple[str, pa.Array]) -> None:
    dtype, column = typed
    for cell, value in zip(encode_column(dtype, column, "it").to_pylist(), column.to_pylist(), strict=True):
        found, decoded = decode_value(cell)
        assert found in (dtype, "NULL")
        if dtype == "STRING" or dtype == "INT64":
            assert decoded == value
        if dtype == "INT64_LIST":
            assert decoded == (None if value is None else [part or 0 for part in value])


def test_every_type_that_a_contract_can_name_can_be_written() -> None:
    assert VALUE_FIELDS.keys() == DTYPES


@pytest.mark.parametrize(
    "dtype, column, same",
    [
        ("STRING", pa.array(["a", None, "b"]).dictionary_encode(), pa.array(["a", None, "b"])),
        ("STRING", pa.array(["a", None], pa.large_string()), pa.array(["a", None])),
        ("STRING", pa.array([7, None]), pa.array(["7", None])),
        ("BYTES", pa.array([b"ab", None], pa.binary(2)), pa.array([b"ab", None])),
        ("INT64", pa.array([1.0, float("nan"), None]), pa.array([1, None, None])),
        ("INT64", pa.array([7, None], pa.uint8()), pa.array([7, None])),
        ("INT32", pa.array([None, None]), pa.array([None, None], pa.int32())),
        ("FLOAT", pa.array([1, None], pa.int16()), pa.array([1.0, None], pa.float32())),
        ("FLOAT", pa.array([1e300, 0.1]), pa.array([float("inf"), 0.1], pa.float32())),
        ("FLOAT_LIST", pa.array([[1, 2], None], pa.list_(pa.float32(), 2)), pa.array([[1.0, 2.0], None])),
        ("STRING_LIST", pa.array([["a"], None], pa.large_list(pa.string())), pa.array([["a"], None])),
        ("UNIX_TIMESTAMP", pa.array([1_500_000_000], pa.timestamp("ns")), pa.array([1])),
        ("UNIX_TIMESTAMP", pa.array([1], pa.date32()), pa.array([86_400])),
        (
            "UNIX_TIMESTAMP_LIST",
            pa.array([[1_500_000_000, None]], pa.list_(pa.timestamp("ns"))),
            pa.array([[1, -(2**63)]]),
        ),
    ],
)  # fmt: skip
def test_other_arrow_types_for_the_same_values(dtype: str, column: pa.Array, same: pa.Array) -> None:
    assert encode_column(dtype, column, "it").to_pylist() == encode_column(dtype, same, "it").to_pylist()


def test_elements_behind_a_null_list_are_left_out() -> None:
    offsets, mask = pa.array([0, 2, 4, 5], pa.int32()), pa.array([False, True, False])
    lists = pa.ListArray.from_arrays(offsets, pa.array([1, 2, 3, 4, 5]), mask=mask)
    assert (
        encode_column("INT64_LIST", lists, "it").to_pylist()
        == encode_column("INT64_LIST", pa.array([[1, 2], None, [5]]), "it").to_pylist()
    )


def test_values_longer_than_any_table() -> None:
    texts = pa.array(["x" * 100_000, "y", None, "z" * 16_384])
    assert encode_column("STRING", texts, "it").to_pylist() == feasts("STRING", texts)
    numbers = pa.array([list(range(50_000)), [1]])
    assert encode_column("INT64_LIST", numbers, "it").to_pylist() == feasts("INT64_LIST", numbers)


@pytest.mark.parametrize(
    "dtype, column",
    [
        ("INT32", pa.array([2**31])),
        ("INT64", pa.array([2**63], pa.uint64())),
        ("INT64", pa.array([1.5])),
        ("INT64", pa.array(["1"])),
        ("FLOAT", pa.array(["1"])),
        ("BOOL", pa.array([1])),
        ("STRING", pa.array([1.5])),
        ("STRING", pa.array([b"a"])),
        ("BYTES", pa.array(["a"])),
        ("UNIX_TIMESTAMP", pa.array([1.5])),
        ("FLOAT_LIST", pa.array([1.5])),
        ("FLOAT_LIST", pa.array([["a"]])),
        ("STRING_LIST", pa.array([[1.5]])),
        ("INT64", pa.array([{"a": 1}])),
    ],
)
def test_columns_of_another_type_are_refused_by_name(dtype: str, column: pa.Array) -> None:
    with pytest.raises(InvalidInput, match=f"shop:price .*{dtype.removesuffix('_LIST')}"):
        encode_column(dtype, column, "shop:price")


@pytest.mark.parametrize(
    "dtype, value",
    [
        ("INT32", 2**31),
        ("INT64", 1.5),
        ("FLOAT", "1"),
        ("FLOAT", 1e300),
        ("BOOL", 1),
        ("STRING", 7),
        ("BYTES", "a"),
        ("UNIX_TIMESTAMP", datetime(2020, 1, 1)),
        ("STRING_LIST", "abc"),
        ("INT64_LIST", 5),
    ],
)
def test_values_of_another_type_are_refused_by_name(dtype: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=dtype):
        encode_value(dtype, value)


@given(st.lists(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999), max_size=8))
def test_event_times_equal_protobufs(microseconds: list[int]) -> None:
    moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each) for each in microseconds]
    theirs = []
    for moment in moments:
        stamp = Timestamp()
        stamp.FromDatetime(moment)
        theirs.append(stamp.SerializeToString())
    column = pa.array(microseconds, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    assert encode_timestamps(column, "it").to_pylist() == theirs
    assert [encode_timestamp(moment) for moment in moments] == theirs
    for cell, each in zip(theirs, microseconds, strict=True):
        assert decode_timestamp(cell) == pytest.approx(each / 1e6, abs=1e-3)


def test_event_times_of_any_unit_and_none() -> None:
    for unit, number in (("s", 3), ("ms", 3_000), ("us", 3_000_000), ("ns", 3_000_000_999)):
        assert encode_timestamps(pa.array([number], pa.timestamp(unit)), "it").to_pylist() == [b"\x08\x03"]
    with pytest.raises(InvalidInput, match="shop:when is null in row 1 of 2"):
        encode_timestamps(pa.array([0, None], pa.timestamp("s")), "shop:when")
    with pytest.raises(InvalidInput, match="shop:when holds int64"):
        encode_timestamps(pa.array([0]), "shop:when")
    with pytest.raises(InvalidInput, match="no time zone"):
        encode_timestamp(datetime(2020, 1, 1))


@given(st.lists(st.tuples(st.text(max_size=40), st.integers(-(2**63), 2**63 - 1)), max_size=6))
def test_keys_equal_feasts(entities: list[tuple[str, int]]) -> None:
    layout = ViewLayout("v", "shöp", {"user_id": "STRING", "shop_id": "INT64"}, {"f": "FLOAT"})
    given_columns = {
        "user_id": pa.array([text for text, _ in entities], pa.string()),
        "shop_id": pa.array([number for _, number in entities], pa.int64()),
    }
    theirs = []
    for text, number in entities:
        values = [Value(string_val=text), Value(int64_val=number)]
        theirs.append(_redis_key("shöp", EntityKey(join_keys=["user_id", "shop_id"], entity_values=values)))
    assert encode_keys(layout, given_columns).to_pylist() == theirs


def test_keys_that_cannot_be_are_refused_by_name() -> None:
    layout = ViewLayout("v", "shop", {"user_id": "STRING"}, {"f": "FLOAT"})
    with pytest.raises(InvalidInput, match="join key user_id is null in row 1 of 2"):
        encode_keys(layout, {"user_id": pa.array(["a", None])})
    with pytest.raises(InvalidInput, match="join key user_id is STRING, and its column holds double"):
        encode_keys(layout, {"user_id": pa.array([1.5])})


def test_framed_is_resp() -> None:
    texts = pa.array([b"", b"abc"])
    assert framed(texts, pa.array([b"xy", b""])).to_pylist() == [b"\r\n$0\r\n\r\n$2\r\nxy", b"\r\n$3\r\nabc\r\n$0\r\n"]


@pytest.mark.parametrize("dtype", ["MAP", "STRUCT", "STRING_SET", "JSON", "UUID"])
def test_types_that_cannot_be_written_are_refused_by_name(dtype: str) -> None:
    with pytest.raises(ConfigurationError, match=f"v:f is {dtype}, which cannot be written"):
        ViewLayout("v", "shop", {"user_id": "STRING"}, {"f": dtype})
    with pytest.raises(ConfigurationError, match=f"join key user_id is {dtype}"):
        ViewLayout("v", "shop", {"user_id": dtype}, {"f": "FLOAT"})


def test_numpy_is_not_asked_to_warn() -> None:
    with np.errstate(all="raise"):
        encode_column("FLOAT", pa.array([1e300, None, float("nan")]), "it")
