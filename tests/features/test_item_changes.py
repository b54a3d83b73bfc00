"""Hearing of written items: told by a real server, asked for where it cannot tell; blocking and awaiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.item_changes import AsyncItemChanges, ItemChanges, ItemKeys

KEYS = ItemKeys("shop")


def key(item_id: str, *, join_key: str = "item_id", project: str = "shop") -> bytes:
    return entity_key_prefix(join_key) + entity_key_value(item_id) + project.encode()


@given(st.text(max_size=20), st.text(max_size=5), st.sampled_from(["shop", "shop2", ""]))
def test_the_id_in_a_key(item_id: str, other: str, project: str) -> None:
    assert KEYS.item_id(key(item_id)) == item_id
    assert [*KEYS.item_ids([key(item_id), key(item_id, join_key="user_id")])] == [item_id]
    if project != "shop":
        assert KEYS.item_id(key(item_id, project=project)) is None
    assert KEYS.item_id(key(item_id)[:-1]) is None
    assert KEYS.item_id(KEYS.prefix + other.encode()) is None


@pytest.fixture
def writer(redis_server: Any) -> Iterator[Any]:
    client = RedisAddress.parse(redis_server.url).connect(20)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


def limited(writer: Any, url: str) -> str:
    """A user who may not ask to be told."""
    writer.acl_setuser(
        "poller", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-client|tracking"]
    )
    return url.replace("redis://", "redis://poller:secret@")


def heard(wait: Callable[[], list[bytes]], wanted: set[bytes]) -> set[bytes]:
    """What is heard until all that is wanted is, or a minute is over."""
    found: set[bytes] = set()
    deadline = time.monotonic() + 60
    while not wanted <= found and time.monotonic() < deadline:
        found.update(wait())
    return found


@pytest.mark.parametrize("may_track", [True, False])
def test_written_items_are_heard(may_track: bool, redis_server: Any, writer: Any) -> None:
    url = redis_server.url if may_track else limited(writer, redis_server.url)
    writer.hset(key("old"), "a", "1")
    before = {one["id"] for one in writer.client_list()}
    changes = ItemChanges(RedisAddress.parse(url), KEYS, timeout=20)
    try:
        assert changes.everything() == [key("old")]
        writer.hset(key("someone", join_key="user_id"), "a", "1")
        writer.hset(key("tea"), "a", "1")
        writer.hset(key("日本"), "a", "1")
        assert heard(lambda: changes.wait(0.1), {key("tea"), key("日本")}) == {key("tea"), key("日本")}
        assert changes.wait(0.01) == []
        if may_track:  # asked for, a known item is not heard of again
            writer.hset(key("old"), "a", "2")
            assert heard(lambda: changes.wait(0.1), {key("old")}) == {key("old")}
    finally:
        changes.close()
    deadline = time.monotonic() + 60
    while left := {one["id"] for one in writer.client_list()} - before:
        assert time.monotonic() < deadline, f"connections {left} are still open"


@pytest.mark.parametrize("may_track", [True, False])
async def test_written_items_are_heard_awaiting(may_track: bool, redis_server: Any, writer: Any) -> None:
    url = redis_server.url if may_track else limited(writer, redis_server.url)
    writer.hset(key("old"), "a", "1")
    changes = AsyncItemChanges(RedisAddress.parse(url), KEYS, timeout=20)
    try:
        await changes.open()
        assert await changes.everything() == [key("old")]
        writer.hset(key("someone", join_key="user_id"), "a", "1")
        writer.hset(key("tea"), "a", "1")
        found: list[bytes] = []
        deadline = time.monotonic() + 60
        while not found and time.monotonic() < deadline:
            found = await changes.wait(0.1)
        assert found == [key("tea")]
        assert await changes.wait(0.01) == []
    finally:
        await changes.close()


def test_a_server_that_goes_away_is_an_error(start_redis: Any) -> None:
    server = start_redis()
    changes = ItemChanges(RedisAddress.parse(server.url), KEYS, timeout=20)
    try:
        with RedisAddress.parse(server.url).connect(20) as client:
            client.shutdown(nosave=True)
        with pytest.raises(StoreUnavailable):
            heard(lambda: changes.wait(0.1), {b"never"})
    finally:
        changes.close()
    with pytest.raises(StoreUnavailable):
        ItemChanges(RedisAddress.parse(server.url), KEYS, timeout=20)
