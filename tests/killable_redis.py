"""The embedded Redis, with its append-only file, for tests that kill it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import redis

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.redis_server import EmbeddedRedis

__all__ = ["KillableRedis"]


class KillableRedis:
    """A server whose data outlives it: what it has answered is in its file.

    With ``appendfsync everysec`` it would answer, and hold the file back for up to two seconds, while the disk is being
    synchronised.
    """

    def __init__(self, state: Path) -> None:
        self._server = EmbeddedRedis(state)

    @property
    def url(self) -> str:
        return self._server.url

    def start(self) -> None:
        with self._server.process.lock():
            self._server.start()
        with redis.Redis.from_url(self.url) as client:
            client.config_set("appendfsync", "no")

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        record = self._server.process.record
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        with self._server.process.lock():
            self._server.stop()

    def connect(self) -> Any:
        return RedisAddress.parse(self.url).connect(20)
