"""Columns of many entities equal what Feast's own ``get_online_features`` reads, for every value type."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import redis
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_feast_equality import NOW, as_value, values

from recsys_plugin.errors import DeadlineExceeded, FeatureContractError, InvalidInput, StoreUnavailable
from recsys_plugin.features.bulk_reader import BulkReader
from recsys_plugin.features.codec import (
    MalformedValueError,
    decode_value,
    entity_key_prefix,
    entity_key_value,
    hash_field,
    timestamp_field,
)
from recsys_plugin.features.columns import Column, decode_column
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import DTYPES

TYPES = {f"everything:{dtype}": dtype for dtype in sorted(DTYPES)}
_users = count()


@pytest.fixture(scope="module")
def reader(redis_server: Any) -> Iterator[BulkReader]:
    address = RedisAddress.parse(redis_server.url)
    with BulkReader(address, TYPES, project="shop", join_key="user_id", timeout=5) as reader:
        yield reader


def content(column: Column, number: int) -> Any:
    """One entity's value as Python has it; ``None`` where it is missing."""
    if column.missing[number]:
        return None
    value = column.values[number]
    if column.lengths is not None:
        return value[: column.lengths[number]].tolist()
    return value if column.values.dtype == object else value.item()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({dtype: values(dtype) for dtype in sorted(DTYPES)}), min_size=1, max_size=4))
def test_every_type_equals_get_online_features(feast_store: Any, reader: BulkReader, rows: list[Any]) -> None:
    users = [f"bulk-{next(_users)}" for _ in rows]
    view = feast_store.get_feature_view("everything")
    batch = [
        (
            EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)]),
            {dtype: as_value(dtype, value) for dtype, value in row.items()},
            NOW,
            None,
        )
        for user, row in zip(users, rows, strict=True)
    ]
    feast_store._get_provider().online_write_batch(feast_store.config, view, batch, None)
    users.append("bulk-nobody")
    response = feast_store.get_online_features(list(TYPES), [{"user_id": user} for user in users]).proto
    columns, times = reader.read_with_times(users, timeout=5)
    for name, result in zip(response.metadata.feature_names.val, response.results, strict=True):
        if name == "user_id":
            continue
        for number, value in enumerate(result.values):
            kind = value.WhichOneof("val")
            theirs: Any = None if kind is None else getattr(value, kind)
            if kind is not None and name.endswith("_LIST"):
                theirs = list(theirs.val)
            assert content(columns[f"everything:{name}"], number) == theirs, (name, number)
    assert times["everything"][:-1].tolist() == [NOW.timestamp()] * len(rows)
    assert np.isnan(times["everything"][-1])
    assert all(column.missing[-1] for column in columns.values())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DTYPES)).flatmap(lambda t: st.tuples(st.just(t), st.lists(values(t), max_size=6))))
def test_a_column_is_what_its_values_are_one_by_one(case: tuple[str, list[Any]]) -> None:
    dtype, contents = case
    stored = [as_value(dtype, value).SerializeToString() for value in contents]
    column = decode_column("v:f", dtype, [*stored, None])
    assert [content(column, number) for number in range(len(stored))] == [decode_value(data)[1] for data in stored]
    assert content(column, len(stored)) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.lists(st.binary(min_size=1, max_size=14), min_size=1, max_size=4))
def test_bytes_that_are_no_value_never_become_one(dtype: str, stored: list[bytes]) -> None:
    wanted: list[Any] = []
    for data in stored:
        try:
            kind, value = decode_value(data)
        except MalformedValueError:
            with pytest.raises((StoreUnavailable, FeatureContractError)):
                decode_column("v:f", dtype, stored)
            return
        if kind not in (dtype, "NULL"):
            with pytest.raises((StoreUnavailable, FeatureContractError)):
                decode_column("v:f", dtype, stored)
            return
        wanted.append(value)
    column = decode_column("v:f", dtype, stored)
    np.testing.assert_equal([content(column, number) for number in range(len(stored))], wanted)


def test_another_type_is_named(redis_server: Any) -> None:
    key = entity_key_prefix("item_id") + entity_key_value("tea") + b"shop"
    with redis.Redis(port=redis_server.port) as client:
        client.hset(
            key,
            mapping={
                hash_field("catalogue:price"): as_value("STRING", "cheap").SerializeToString(),
                hash_field("catalogue:title"): b"\x12\x7fcut off",
                timestamp_field("catalogue"): b"\x08",
            },
        )
    address = RedisAddress.parse(redis_server.url)

    def read(features: dict[str, str]) -> BulkReader:
        return BulkReader(address, features, project="shop", join_key="item_id", timeout=5)

    with read({"catalogue:price": "FLOAT"}) as reader:
        with pytest.raises(FeatureContractError, match=r"catalogue:price of entity number 1: FLOAT was.*STRING"):
            reader.read(["cup", "tea"], timeout=5)
        with pytest.raises(StoreUnavailable, match="event time of catalogue is corrupt"):
            reader.read_with_times(["cup", "tea"], timeout=5)
        with redis.Redis(port=redis_server.port) as client:
            process = client.info("server")["process_id"]
        # Paused by CLIENT PAUSE it would not hear of CLIENT UNPAUSE either, but after its time.
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded):
                reader.read(["tea"], timeout=0.02)
        finally:
            os.kill(process, signal.SIGCONT)
        assert reader.read([], timeout=5)["catalogue:price"].values.shape == (0,)
    with (
        read({"catalogue:title": "STRING"}) as reader,
        pytest.raises(StoreUnavailable, match=r"catalogue:title.*corrupt"),
    ):
        reader.read(["tea"], timeout=5)
    with pytest.raises(InvalidInput, match="MAP"):
        read({"catalogue:price": "MAP"})
    with pytest.raises(InvalidInput, match="nothing to read"):
        read({})


def test_more_entities_than_go_into_one_round_trip(redis_server: Any) -> None:
    users = [f"many-{number}" for number in range(4500)]
    with redis.Redis(port=redis_server.port) as client:
        pipeline = client.pipeline(transaction=False)
        for number, user in enumerate(users):
            key = entity_key_prefix("user_id") + entity_key_value(user) + b"shop"
            pipeline.hset(key, hash_field("v:n"), as_value("INT64", number).SerializeToString())
        pipeline.execute()
    address = RedisAddress.parse(redis_server.url)
    with BulkReader(address, {"v:n": "INT64"}, project="shop", join_key="user_id", timeout=5) as reader:
        column = reader.read(users, timeout=5)["v:n"]
    assert column.values.tolist() == list(range(4500))
    assert not column.missing.any()
