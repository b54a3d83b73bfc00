"""The embedded Redis, empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from killable_redis import KillableRedis


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableRedis]:
    server = KillableRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def event_redis(shared_redis: KillableRedis) -> Iterator[KillableRedis]:
    """An empty server that runs; a test that stops it starts it again."""
    with shared_redis.connect() as client:
        client.flushall()
    yield shared_redis
    shared_redis.start()
