"""The embedded Redis, its data on disk, for the stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.redis_server import EmbeddedRedis


@pytest.fixture(scope="session")
def stream_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("stream") / ".recsys")
    with server.process.lock():
        server.start()
    yield server
    server.stop()


@pytest.fixture
def stream_address(stream_redis: EmbeddedRedis) -> Iterator[RedisAddress]:
    """Its address; everything in it is gone after the test."""
    address = RedisAddress.parse(stream_redis.url)
    yield address
    with address.connect(20.0) as client:
        client.flushall()


@pytest.fixture
def stream_client(stream_address: RedisAddress) -> Iterator[Any]:
    with stream_address.connect(20.0) as client:
        yield client
