"""The read plan: three outcomes kept apart, padding, rows, ages; and refusal of what does not fit."""

from __future__ import annotations

import math
from itertools import count

import mmh3
import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import (
    BytesList,
    FloatList,
    Int64List,
    Null,
    StringList,
    StringSet,
    Value,
)
from google.protobuf.timestamp_pb2 import Timestamp

from recsys_plugin.errors import FeatureContractError, InvalidInput, StoreUnavailable
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, Encoding, FeatureContract, FeatureSpec
from recsys_plugin.features.plan import FeatureReport, FeatureTensors, ReadPlan

NOW = 1_700_000_000.0
ROWS = {"tea": 0, "cup": 1, "pot": 2}
CONTRACT = FeatureContract(
    (
        FeatureSpec("statistics:purchases", "FLOAT", 0.5, max_age_seconds=60),
        FeatureSpec("statistics:weights", "FLOAT_LIST", -1.0, length=3, max_age_seconds=60),
        FeatureSpec("recent:item_ids", "STRING_LIST", -1, encoding=Encoding.ROW, length=3),
        FeatureSpec("profile:country", "STRING", "?"),
        FeatureSpec("profile:member", "BOOL", False),
        FeatureSpec("profile:token", "BYTES_LIST", "", length=2),
        FeatureSpec("profile:first_item", "STRING", -1, encoding=Encoding.ROW),
        FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
    )
)
PLAN = ReadPlan(CONTRACT)
EVERYTHING = {
    "statistics:purchases": Value(float_val=7),
    "statistics:weights": Value(float_list_val=FloatList(val=[0.1, 0.2, 0.3, 0.4])),
    "recent:item_ids": Value(string_list_val=StringList(val=["pot", "gone"])),
    "profile:country": Value(string_val="DE"),
    "profile:member": Value(bool_val=True),
    "profile:token": Value(bytes_list_val=BytesList(val=[b"a\x00", b"\xff\x00\x00"])),
    "profile:first_item": Value(string_val="cup"),
}


def reply(values: dict[str, Value], ages: dict[str, float]) -> list[bytes | None]:
    """What Redis would answer, ages in seconds."""
    stored = [values.get(spec.reference) for spec in CONTRACT.stored_features]
    times = []
    for view in dict.fromkeys(spec.view for spec in CONTRACT.stored_features):
        stamp = Timestamp()
        if view in ages:
            stamp.FromNanoseconds(int((NOW - ages[view]) * 1e9))
        times.append(stamp.SerializeToString() if view in ages else None)
    return [None if value is None else value.SerializeToString() for value in stored] + times


ALL_VIEWS = {"statistics": 10.0, "recent": 10.0, "profile": 1e6}


def decode(values: dict[str, Value], ages: dict[str, float]) -> tuple[FeatureTensors, FeatureReport]:
    tensors, (report,) = PLAN.decode(["u"], [reply(values, ages)], now=NOW, rows=ROWS)
    return tensors, report


def test_everything_present() -> None:
    tensors, report = decode(EVERYTHING, ALL_VIEWS)
    np.testing.assert_array_equal(tensors.user_float, np.array([[7, 0.1, 0.2, 0.3]], dtype=np.float32))
    np.testing.assert_array_equal(tensors.user_int, [[2, -1, -1, 1, 1, int(NOW)]])
    assert tensors.user_string.tolist() == [[b"DE", b"a\x00", b"\xff\x00\x00"]]
    assert tensors.user_float.dtype == np.float32
    assert tensors.user_int.dtype == np.int64
    assert report == FeatureReport(known=True, total=7, missing=(), expired=())
    assert (report.present, report.defaults) == (7, 0)


def test_unknown_user_gets_every_default() -> None:
    tensors, report = decode({}, {})
    np.testing.assert_array_equal(tensors.user_float, np.array([[0.5, -1, -1, -1]], dtype=np.float32))
    np.testing.assert_array_equal(tensors.user_int, [[-1, -1, -1, 0, -1, int(NOW)]])
    assert tensors.user_string.tolist() == [[b"?", b"", b""]]
    assert not report.known
    assert report.missing == tuple(spec.reference for spec in CONTRACT.stored_features)
    assert report.expired == ()


def test_missing_and_expired_are_told_apart() -> None:
    values = {name: value for name, value in EVERYTHING.items() if name != "profile:member"}
    tensors, report = decode(values, {**ALL_VIEWS, "statistics": 60.1})
    assert report.known
    assert report.missing == ("profile:member",)
    assert report.expired == ("statistics:purchases", "statistics:weights")
    assert report.defaults == 3
    np.testing.assert_array_equal(tensors.user_float, np.array([[0.5, -1, -1, -1]], dtype=np.float32))


def test_the_oldest_allowed_age_and_the_future_count_as_fresh() -> None:
    assert decode(EVERYTHING, {**ALL_VIEWS, "statistics": 60.0})[1].expired == ()
    assert decode(EVERYTHING, {**ALL_VIEWS, "statistics": -5.0})[1].expired == ()


def test_a_value_without_its_views_event_time_is_missing() -> None:
    ages = {"recent": 1.0, "profile": 1.0}
    assert decode(EVERYTHING, ages)[1].missing == ("statistics:purchases", "statistics:weights")


def test_null_is_missing_and_an_empty_list_is_not() -> None:
    values = EVERYTHING | {
        "profile:country": Value(null_val=Null.NULL),
        "recent:item_ids": Value(string_list_val=StringList()),
    }
    tensors, report = decode(values, ALL_VIEWS)
    assert report.missing == ("profile:country",)
    assert tensors.user_int[0, :3].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_floats_that_are_not_finite_count_as_missing(bad: float) -> None:
    values = EVERYTHING | {
        "statistics:purchases": Value(float_val=bad),
        "statistics:weights": Value(float_list_val=FloatList(val=[bad, 0.25])),
    }
    tensors, report = decode(values, ALL_VIEWS)
    assert report.missing == ("statistics:purchases",)
    np.testing.assert_array_equal(tensors.user_float, np.array([[0.5, -1, 0.25, -1]], dtype=np.float32))
    values["statistics:weights"] = Value(float_list_val=FloatList(val=[bad]))
    assert decode(values, ALL_VIEWS)[1].missing == ("statistics:purchases", "statistics:weights")


def test_several_users_do_not_mix() -> None:
    replies = [reply({}, {}), reply(EVERYTHING, ALL_VIEWS), reply({}, {"profile": 1.0})]
    tensors, reports = PLAN.decode(["a", "b", "c"], replies, now=NOW, rows=ROWS)
    assert [report.known for report in reports] == [False, True, True]
    assert tensors.user_string[:, 0].tolist() == [b"?", b"DE", b"?"]
    assert tensors.user_float[:, 0].tolist() == [0.5, 7.0, 0.5]


@pytest.mark.parametrize(
    "value, name",
    [
        (Value(int64_val=7), "INT64"),
        (Value(double_val=7), "DOUBLE"),
        (Value(float_list_val=FloatList(val=[1])), "FLOAT_LIST"),
        (Value(string_set_val=StringSet(val=["a"])), "STRING_SET"),
    ],
)
def test_another_type_than_the_contracts_is_named(value: Value, name: str) -> None:
    with pytest.raises(FeatureContractError, match=rf"statistics:purchases.*wants FLOAT.*holds {name}\..*recsys apply"):
        decode(EVERYTHING | {"statistics:purchases": value}, ALL_VIEWS)


def test_corrupt_bytes_name_the_feature_and_the_user() -> None:
    line = reply(EVERYTHING, ALL_VIEWS)
    line[0] = b"\x35\x00"
    with pytest.raises(StoreUnavailable, match=r"statistics:purchases of user#[0-9a-f]{12} is corrupt"):
        PLAN.decode(["u"], [line], now=NOW, rows=ROWS)
    line = reply(EVERYTHING, ALL_VIEWS)
    line[-1] = b"\x08"
    with pytest.raises(StoreUnavailable, match=r"event time of profile for user#[0-9a-f]{12} is corrupt"):
        PLAN.decode(["u"], [line], now=NOW, rows=ROWS)


def test_two_features_with_one_hash_field_are_refused() -> None:
    seen: dict[int, str] = {}
    for number in count():
        reference = f"view:f{number}"
        other = seen.setdefault(mmh3.hash(reference), reference)
        if other != reference:
            break
    clash = tuple(FeatureSpec(name, "FLOAT", 0.0) for name in (other, reference))
    contract = FeatureContract((*clash, *CONTRACT.features))
    with pytest.raises(FeatureContractError, match=rf"{other} and {reference} have one hash field"):
        ReadPlan(contract)


def test_whole_number_users() -> None:
    plan = ReadPlan(FeatureContract(CONTRACT.features, join_key_type="INT64"))
    assert plan.key("-5").endswith((-5).to_bytes(8, "little", signed=True) + b"recsys")
    for wrong in ("x", "1.0", "007", "-0", "9223372036854775808", "１", ""):
        with pytest.raises(InvalidInput, match="64-bit whole numbers"):
            plan.key(wrong)


def test_integers_keep_every_bit() -> None:
    contract = FeatureContract((FeatureSpec("v:big", "INT64_LIST", 0, length=2), *CONTRACT.features))
    plan = ReadPlan(contract)
    line = [Value(int64_list_val=Int64List(val=[2**63 - 1, -(2**63)])).SerializeToString(), *reply(EVERYTHING, {})]
    line.insert(8, Timestamp(seconds=1).SerializeToString())
    tensors, _ = plan.decode(["u"], [line], now=NOW, rows=ROWS)
    assert tensors.user_int[0, :2].tolist() == [2**63 - 1, -(2**63)]
