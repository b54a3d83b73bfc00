from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from waiting import wait_until

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.runtime.services import Services


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    embedded = EmbeddedRedis(tmp_path)
    yield embedded
    embedded.stop()


def test_data_survive_stop_and_start_at_the_same_address(server: EmbeddedRedis) -> None:
    server.start()
    url = server.url
    with redis.Redis.from_url(url) as client:
        client.hset("user", mapping={"a": b"\x00\xff", "b": "2"})
    assert server.stop() is True
    server.start()
    assert server.url == url
    with redis.Redis.from_url(url) as client:
        assert client.hgetall("user") == {b"a": b"\x00\xff", b"b": b"2"}


def test_every_acknowledged_write_survives_a_kill(server: EmbeddedRedis) -> None:
    server.start()
    with redis.Redis.from_url(server.url) as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(5000):
            pipeline.set(f"key:{number}", number)
        pipeline.execute()
        # While the disk is being synchronised the server holds its file back, for two seconds at most.
        wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0)
    record = server.process.record
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: not server.process.running)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 5000
        assert client.get("key:4999") == b"4999"


def test_it_listens_on_loopback_only_with_persistence_on(server: EmbeddedRedis) -> None:
    server.start()
    with redis.Redis.from_url(server.url) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("hash-max-listpack-value") == {"hash-max-listpack-value": "512"}


def test_starting_it_twice_keeps_the_one_that_runs(server: EmbeddedRedis, tmp_path: Path) -> None:
    server.start()
    first = server.process.record
    EmbeddedRedis(tmp_path).start()
    assert server.process.record == first


def test_a_taken_port_is_changed_with_a_note(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_plugin.runtime.ports._PATIENCE_SECONDS", 0.1)
    before = server.url
    notes: list[str] = []
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", int(before.rsplit(":", 1)[1].removesuffix("/0"))))
        somebody.listen()
        server.start(note=notes.append)
    assert server.url != before
    assert any("taken by another program" in note for note in notes)


def test_a_file_that_cannot_be_loaded_is_reported_and_nothing_is_left(server: EmbeddedRedis) -> None:
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("a", "b")
    server.stop()
    for file in (server.data / "appendonlydir").glob("*.aof"):
        file.write_bytes(b"*3\r\n$3\r\nnonsense\r\n" * 3)
    with pytest.raises(StoreUnavailable, match="Redis ended while starting"):
        server.start()
    assert not server.process.running


def test_ensure_redis_stops_what_it_started(make_services: Callable[..., Services]) -> None:
    services = make_services()
    with services.ensure_redis() as url, redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
        with make_services().ensure_redis() as inner:  # a second step at the same time
            assert inner == url
        assert client.get("kept") == b"yes"
    assert not services.redis.process.running
    with services.ensure_redis() as url, redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"


def test_ensure_redis_leaves_a_lasting_server_alone(make_services: Callable[..., Services]) -> None:
    services = make_services()
    services.redis.start()
    with services.ensure_redis():
        pass
    assert services.redis.process.running


def test_a_server_adopted_by_up_outlives_the_step_that_started_it(make_services: Callable[..., Services]) -> None:
    services = make_services()
    with services.ensure_redis():
        make_services().redis.start()
    assert services.redis.process.running


def test_ensure_redis_cleans_up_after_an_error(make_services: Callable[..., Services]) -> None:
    services = make_services()
    with pytest.raises(KeyboardInterrupt), services.ensure_redis():
        signal.raise_signal(signal.SIGTERM)
    assert not services.redis.process.running


def test_an_external_redis_is_used_and_never_started(
    make_services: Callable[..., Services], server: EmbeddedRedis
) -> None:
    missing = "redis://:secret@127.0.0.1:1/0"
    with (
        pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as raised,
        make_services(redis_url=missing).ensure_redis(),
    ):
        pass
    assert "secret" not in str(raised.value)
