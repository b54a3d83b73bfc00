"""Rows written to a real server, read back through Feast: every type, event times in any order, what is refused."""

from __future__ import annotations

from datetime import UTC, timedelta
from itertools import count
from typing import Any

import pyarrow as pa
import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written import EPOCH, NOW, SMALL, key, price, small

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.features.codec import decode_value, entity_key_prefix, entity_key_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import DTYPES
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.features.writer import BulkWriter, WriteCounts

EVERYTHING = ViewLayout("everything", "shop", {"user_id": "STRING"}, {dtype: dtype for dtype in sorted(DTYPES)})
ARROW = {
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "BOOL": pa.bool_(),
    "STRING": pa.string(),
    "BYTES": pa.binary(),
    "UNIX_TIMESTAMP": pa.int64(),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "FLOAT": st.floats(width=32, allow_nan=False),
    "DOUBLE": st.floats(allow_nan=False),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "STRING": st.text(max_size=20),
    "BYTES": st.binary(max_size=20),
    "UNIX_TIMESTAMP": st.integers(0, 4_000_000_000),
}
_numbers = count()


def rows_of(size: int) -> st.SearchStrategy[dict[str, list[Any]]]:
    columns = {}
    for dtype in DTYPES:
        value = VALUES[dtype.removesuffix("_LIST")]
        value = st.none() | (st.lists(value, max_size=5) if dtype.endswith("_LIST") else value)
        columns[dtype] = st.lists(value, min_size=size, max_size=size)
    return st.fixed_dictionaries(columns)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows_of(4))
def test_feast_reads_what_it_would_have_written(
    feast_store: Any, writer: BulkWriter, client: Any, columns: dict[str, list[Any]]
) -> None:
    """A batch of ours, the same rows one by one, and Feast's own write: the same in Redis and through the SDK."""
    number = next(_numbers)
    users = {way: [f"{way}-{number}-{row}" for row in range(4)] for way in ("batch", "single", "feast")}
    arrays = [
        pa.array(columns[dtype], pa.list_(ARROW[dtype[:-5]]) if dtype.endswith("_LIST") else ARROW[dtype])
        for dtype in EVERYTHING.features
    ]
    moments = pa.array([NOW] * 4, pa.timestamp("us", tz="UTC"))
    names = ["user_id", *EVERYTHING.features, "event_timestamp"]
    writer.write(EVERYTHING, pa.RecordBatch.from_arrays([pa.array(users["batch"]), *arrays, moments], names))
    writer.drain()
    protos = {}
    for dtype, values in columns.items():
        # Feast makes the unknown time of numpy's NaT, and nothing of None.
        sent = [-(2**63) if value is None and dtype == "UNIX_TIMESTAMP" else value for value in values]
        # It takes a column of nothing but empty bytes for nulls, hence one more value.
        more = [b"more"] if dtype == "BYTES" else []
        protos[dtype] = python_values_to_proto_values(sent + more, ValueType[dtype])
    theirs = []
    for row, user_id in enumerate(users["single"]):
        of_row = {dtype: columns[dtype][row] for dtype in EVERYTHING.features}
        assert writer.write_row(EVERYTHING, {"user_id": user_id}, of_row, NOW)
        entity = EntityKey(
            join_keys=["user_id"],
            entity_values=python_values_to_proto_values([users["feast"][row]], ValueType.STRING),
        )
        theirs.append((entity, {dtype: protos[dtype][row] for dtype in protos}, NOW, None))
    view = feast_store.get_feature_view("everything")
    feast_store._get_provider().online_write_batch(feast_store.config, view, theirs, None)
    for row in range(4):
        stored = {way: client.hgetall(key(users[way][row])) for way in users}
        assert len(stored["feast"]) == len(DTYPES) + 1
        assert stored["batch"] == stored["single"] == stored["feast"]
    references = [f"everything:{dtype}" for dtype in EVERYTHING.features]
    read = {
        way: feast_store.get_online_features(references, [{"user_id": user_id} for user_id in users[way]]).proto
        for way in users
    }
    # The first result is the join key itself.
    wanted, ours = ([part.SerializeToString() for part in read[way].results[1:]] for way in ("feast", "batch"))
    assert len(ours) == len(DTYPES)
    assert ours == wanted


MOMENTS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999) | st.integers(-3_000_000, 3_000_000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MOMENTS, min_size=2, max_size=5))
def test_the_latest_event_time_wins_and_the_last_of_equal_ones(
    writer: BulkWriter, client: Any, microseconds: list[int]
) -> None:
    user_id = f"timed-{next(_numbers)}"
    moments = [EPOCH + timedelta(microseconds=each) for each in microseconds]
    latest = max(range(len(moments)), key=lambda position: (moments[position], position))
    newer = [moment >= max(moments[: position + 1]) for position, moment in enumerate(moments)]
    for position, moment in enumerate(moments):
        values = {"price": float(position), "name": ""}
        assert writer.write_row(SMALL, {"user_id": user_id}, values, moment) == newer[position]
    assert price(client, user_id) == float(latest)
    # The same in one batch, where rows meet rows of their own batch.
    before = writer.drain()
    written, older = before.written, before.older
    user_id = f"timed-{next(_numbers)}"
    writer.write(SMALL, small([user_id] * len(moments), [float(each) for each in range(len(moments))], moments))
    after = writer.drain()
    assert price(client, user_id) == float(latest)
    assert (after.written - written, after.older - older) == (sum(newer), len(newer) - sum(newer))


def test_a_push_in_between_stays(feast_store: Any, writer: BulkWriter, client: Any) -> None:
    import pandas as pd

    layout = ViewLayout(
        "profile",
        "shop",
        {"user_id": "STRING"},
        {"country": "STRING", "purchases": "FLOAT", "recent": "STRING_LIST", "signed_up_at": "UNIX_TIMESTAMP"},
    )
    frame = pd.DataFrame(
        {
            "user_id": ["pushed"],
            "event_timestamp": [NOW],
            "country": ["DE"],
            "purchases": pd.Series([3.0], dtype="float32"),
            "recent": [["tea"]],
            "signed_up_at": [NOW],
        }
    )
    feast_store.write_to_online_store("profile", frame)
    values = {"country": "FR", "purchases": 4.0, "recent": [], "signed_up_at": None}
    assert not writer.write_row(layout, {"user_id": "pushed"}, values, NOW - timedelta(microseconds=1))
    asked: tuple[Any, ...] = (["profile:country"], [{"user_id": "pushed"}])
    assert feast_store.get_online_features(*asked).to_dict()["country"] == ["DE"]
    assert writer.write_row(layout, {"user_id": "pushed"}, values, NOW)
    assert feast_store.get_online_features(*asked).to_dict()["country"] == ["FR"]


def test_a_corrupt_event_time_is_mended(writer: BulkWriter, client: Any) -> None:
    for corrupt in (b"\x08", b"\x08\xff", b"\x1a\x00", b"\xff" * 12):
        client.hset(key("corrupt"), "_ts:small", corrupt)
        assert writer.write_row(SMALL, {"user_id": "corrupt"}, {"price": 1.0, "name": "a"}, NOW)
        stamp = Timestamp.FromString(client.hget(key("corrupt"), "_ts:small"))
        assert stamp.ToDatetime(UTC) == NOW


def test_keys_expire_only_where_the_store_says_so(address: RedisAddress, writer: BulkWriter, client: Any) -> None:
    with BulkWriter(address, timeout=5, expiry_seconds=1000) as expiring:
        expiring.write_row(SMALL, {"user_id": "expiring"}, {"price": 1.0, "name": ""}, NOW)
    writer.write_row(SMALL, {"user_id": "lasting"}, {"price": 1.0, "name": ""}, NOW)
    assert 0 < client.ttl(key("expiring")) <= 1000
    assert client.ttl(key("lasting")) == -1


def test_more_fields_than_luas_stack_takes(writer: BulkWriter, client: Any) -> None:
    layout = ViewLayout("wide", "shop", {"user_id": "INT64"}, {f"feature_{number}": "INT32" for number in range(5000)})
    values = {name: number for number, name in enumerate(layout.features)}
    assert writer.write_row(layout, {"user_id": -7}, values, NOW)
    stored = client.hgetall(entity_key_prefix("user_id") + entity_key_value(-7) + b"shop")
    assert len(stored) == 5001
    assert decode_value(stored[layout.fields[-1]]) == ("INT32", 4999)


def test_a_script_that_the_server_forgot_is_sent_again(address: RedisAddress, client: Any) -> None:
    users = [f"forgotten-{number}" for number in range(100)]
    with BulkWriter(address, timeout=5) as writer:
        for turn in (1.0, 2.0):
            client.script_flush()
            writer.write(SMALL, small(users, [turn] * 100, [NOW] * 100))
            writer.drain()
            assert {price(client, user_id) for user_id in users} == {turn}
        assert writer.counts == WriteCounts(200, 0)


@pytest.mark.parametrize("limit", [1, 2_000, 1 << 20])
def test_what_is_under_way_is_bounded(address: RedisAddress, client: Any, limit: int) -> None:
    users = [f"bounded-{limit}-{number}" for number in range(2_000)]
    most = 0
    with BulkWriter(address, timeout=5, limit=limit) as writer:
        for turn in (1.0, 2.0):  # the second time, all of them are there already
            for first in range(0, len(users), 50):
                part = users[first : first + 50]
                writer.write(SMALL, small(part, [turn] * len(part), [NOW] * len(part)))
                most = max(most, writer._lanes.under_way)
                assert writer.acknowledged <= writer.drain().written + 50
        assert writer.counts == WriteCounts(4_000, 0)
        assert writer.acknowledged == 4_000
        assert writer._lanes.under_way == 0
    assert 0 < most <= max(limit, 500)
    assert price(client, users[-1]) == 2.0


def test_names_that_share_a_hash_field_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="feature_33781 and feature_119421 share the hash field"):
        ViewLayout("v", "shop", {"user_id": "STRING"}, {"feature_33781": "FLOAT", "feature_119421": "FLOAT"})


def test_wrong_rows_are_refused_by_name_and_leave_the_writer_usable(writer: BulkWriter, client: Any) -> None:
    batch = small(["a"], [1.0], [NOW])
    with pytest.raises(InvalidInput, match="small: the rows have no column name"):
        writer.write(SMALL, batch.drop_columns(["name"]))
    with pytest.raises(InvalidInput, match="small:price is DOUBLE, and its column holds string"):
        writer.write(SMALL, batch.set_column(1, "price", pa.array(["x"])))
    for entity, values in (
        ({}, {"price": 1.0, "name": ""}),
        ({"user_id": 7}, {"price": 1.0, "name": ""}),
        ({"user_id": "a"}, {"price": 1.0}),
        ({"user_id": "a"}, {"price": 1.0, "name": "", "more": 1}),
        ({"user_id": "a"}, {"price": "1", "name": ""}),
    ):
        with pytest.raises(InvalidInput):
            writer.write_row(SMALL, entity, values, NOW)
    assert writer.write_row(SMALL, {"user_id": "after"}, {"price": 5.0, "name": ""}, NOW)
    assert price(client, "after") == 5.0
    writer.write(SMALL, batch.slice(0, 0))
