"""Reading hashes from real servers: single, unix socket, ACL user, TLS, cluster; blocking and awaiting."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from recsys_plugin.errors import DeadlineExceeded, StoreUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadFeatures, ReadSchema
from recsys_plugin.features.reader import AsyncFeatureReader, FeatureReader
from recsys_plugin.features.requests import schema_key

READ = ReadFeatures([b"user:1", b"user:2", b"user:3"], [b"a", b"b"])
WANTED = [[b"1", None], [None, b"\x00\xff"], [None, None]]


def fill(client: Any) -> None:
    client.hset(b"user:1", mapping={b"a": b"1"})
    client.hset(b"user:2", mapping={b"b": b"\x00\xff"})
    client.set(schema_key("shop"), '{"profile:country": "STRING"}')


async def read_both_ways(url: str) -> None:
    """Both readers must see what was filled in."""
    address = RedisAddress.parse(url)
    reader = FeatureReader(address, timeout=20)
    try:
        assert [list(reply) for reply in reader.read(READ, timeout=20)] == WANTED
        assert reader.read_schema(ReadSchema("shop"), timeout=20) == {"profile:country": "STRING"}
        assert reader.read_schema(ReadSchema("other"), timeout=20) is None
    finally:
        reader.close()
    async_reader = AsyncFeatureReader(address, timeout=20)
    try:
        assert [list(reply) for reply in await async_reader.read(READ, timeout=20)] == WANTED
        assert await async_reader.read_schema(ReadSchema("shop"), timeout=20) == {"profile:country": "STRING"}
        assert await async_reader.read_schema(ReadSchema("other"), timeout=20) is None
    finally:
        await async_reader.close()


async def test_one_server_by_tcp_and_unix_socket(redis_server: Any) -> None:
    with redis.Redis(port=redis_server.port) as client:
        fill(client)
    await read_both_ways(redis_server.url)
    await read_both_ways(f"unix://{redis_server.socket_path}")


async def test_acl_user_needs_two_commands_only(start_redis: Any) -> None:
    server = start_redis(*["--user", "admin", "on", "nopass", "~*", "&*", "+@all", "--user", "default", "off"])
    with redis.Redis(port=server.port, username="admin", password="x") as client:
        fill(client)
        # HELLO and CLIENT SETINFO are tried by redis-py at connect; being refused them does no harm.
        client.execute_command("ACL", "SETUSER", "shop", "on", ">p,w 1#", "~*", "-@all", "+hmget", "+get")
    await read_both_ways(f"redis://shop:p%2Cw%201%23@127.0.0.1:{server.port}")
    for login in ("shop:wrong@", ""):
        reader = FeatureReader(RedisAddress.parse(f"redis://{login}127.0.0.1:{server.port}"), timeout=20)
        with pytest.raises(StoreUnavailable):
            reader.read(READ, timeout=20)
        reader.close()


async def test_cluster(start_redis: Any, free_tcp_port: int) -> None:
    server = start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_tcp_port))
    with redis.Redis(port=server.port) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 60
        while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        fill(node)
    await read_both_ways(f"redis-cluster://127.0.0.1:{server.port}")


async def test_sentinel(start_redis: Any, tmp_path: Path) -> None:
    server = start_redis()
    with redis.Redis(port=server.port) as client:
        fill(client)
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
    sentinel = start_redis("--sentinel", first=str(configuration))
    await read_both_ways(f"redis-sentinel://127.0.0.1:{sentinel.port}/main")
    reader = FeatureReader(RedisAddress.parse(f"redis-sentinel://127.0.0.1:{sentinel.port}/other"), timeout=20)
    with pytest.raises(StoreUnavailable, match="other"):
        reader.read(READ, timeout=20)
    reader.close()


async def test_server_away(free_tcp_port: int) -> None:
    address = RedisAddress.parse(f"redis://me:secret@127.0.0.1:{free_tcp_port}")
    reader = FeatureReader(address, timeout=20)
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        reader.read(READ, timeout=20)
    assert "secret" not in str(caught.value)
    reader.close()
    async_reader = AsyncFeatureReader(address, timeout=20)
    with pytest.raises(StoreUnavailable, match=f"{free_tcp_port}"):
        await async_reader.read(READ, timeout=20)
    await async_reader.close()
    with pytest.raises(StoreUnavailable):
        FeatureReader(RedisAddress.parse(f"redis-cluster://127.0.0.1:{free_tcp_port}"), timeout=20)


async def test_a_server_that_hangs_and_comes_back(start_redis: Any) -> None:
    server = start_redis()
    with redis.Redis(port=server.port) as client:
        fill(client)
        pid = client.info("server")["process_id"]
    address = RedisAddress.parse(server.url)
    tries = 3
    readers = [FeatureReader(address, timeout=5) for _ in range(tries)]
    async_readers = [AsyncFeatureReader(address, timeout=5) for _ in range(tries)]
    any_readers = [FeatureReader(address, timeout=5) for _ in range(tries)]
    for reader, async_reader, any_reader in zip(readers, async_readers, any_readers, strict=True):
        reader.read(READ, timeout=20)
        await async_reader.read(READ, timeout=20)
        any_reader.execute([("PING",)], timeout=20)
    os.kill(pid, signal.SIGSTOP)
    try:
        seconds = []
        for reader, async_reader, any_reader in zip(readers, async_readers, any_readers, strict=True):
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded, match="50 ms"):
                reader.read(READ, timeout=0.05)
            with pytest.raises(DeadlineExceeded, match="50 ms"):
                await async_reader.read(READ, timeout=0.05)
            with pytest.raises(DeadlineExceeded, match="50 ms"):
                any_reader.execute([("HGET", b"user:2", "b"), ("HGETALL", b"user:1")], timeout=0.05)
            seconds.append(time.monotonic() - started)
        assert min(seconds) < 0.5  # of several tries, as this process may be held up
    finally:
        os.kill(pid, signal.SIGCONT)
    # The late replies belong to nobody; the next reads must not take them for theirs.
    other = ReadFeatures([b"user:2"], [b"b"])
    assert reader.read(other, timeout=20) == [[b"\x00\xff"]]
    assert await async_reader.read(other, timeout=20) == [[b"\x00\xff"]]
    assert any_reader.execute([("HGET", b"user:2", "b"), ("HGETALL", b"user:1")], timeout=20) == [
        b"\x00\xff",
        {b"a": b"1"},
    ]
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        any_reader.execute([("GET", b"user:2"), ("HGET", b"user:2", "b")], timeout=20)
    assert any_reader.execute([("HGET", b"user:2", "b")], timeout=20) == [b"\x00\xff"]
    for blocking in (*readers, *any_readers):
        blocking.close()
    for awaiting in async_readers:
        await awaiting.close()


async def test_a_key_of_another_kind_and_a_broken_schema(redis_server: Any) -> None:
    with redis.Redis(port=redis_server.port) as client:
        client.set(b"no-hash", b"x")
        client.set(schema_key("broken"), b"{")
        client.set(schema_key("odd"), b"[1]")
    reader = FeatureReader(RedisAddress.parse(redis_server.url), timeout=20)
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        reader.read(ReadFeatures([b"no-hash", b"user:1"], [b"a"]), timeout=20)
    assert reader.read(ReadFeatures([b"none"], [b"a"]), timeout=20) == [[None]]
    for project in ("broken", "odd"):
        with pytest.raises(StoreUnavailable, match="recsys apply"):
            reader.read_schema(ReadSchema(project), timeout=20)
    reader.close()
