"""Events recorded and taken in while everything that takes part is killed; what must come of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from recsys_plugin.events.event import Event
from recsys_plugin.events.keys import PARTITIONS, EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.redis_server import EmbeddedRedis

__all__ = ["disturbed_run", "event_of"]

KEYS = EventKeys("recsys")

RECORD = """
import sys
from datetime import datetime
from killed_run import event_of
from recsys_plugin import EventRecorder
from recsys_plugin.errors import DeadlineExceeded, StoreUnavailable

url, spool, origin, first, count = sys.argv[1:]
with EventRecorder(url, timeout=2, spool=spool) as recorder:
    for number in range(int(first), int(count), 50):
        recorder.record_many([event_of(n, datetime.fromisoformat(origin)) for n in range(number, number + 50)])
        print(number + 50, flush=True)
    while recorder.spooling:
        try:
            recorder.flush()
        except (StoreUnavailable, DeadlineExceeded):
            pass  # still away
"""

WORK = """
import sys, threading
from recsys_plugin.stream import supervisor

supervisor._MOST_DEATHS = 1_000  # however long Redis is away, and workers cannot begin
supervisor.run_workers(sys.argv[1], "recsys", 2, stopping=threading.Event())
"""


def event_of(number: int, origin: datetime) -> Event:
    """Event ``number`` of the run: of one of 40 users, a little late now and then."""
    draw = random.Random(number)
    late = draw.choice([0, 0, 0, 0, 30, 4000])
    return Event(
        user_id=f"u{draw.randrange(40)}",
        item_id=f"i{draw.randrange(100)}",
        event_type=draw.choice(["click", "click", "cart", "purchase", "return"]),
        timestamp=origin + timedelta(milliseconds=number * 50) - timedelta(seconds=late),
        event_id=f"e{number}",
    )


def disturbed_run(folder: Path, count: int, *, kills: int) -> tuple[list[Event], RedisAddress, EmbeddedRedis]:
    """Record ``count`` events with one client and two workers, killing each and Redis ``kills`` times on the way.

    The client that takes a killed one's place goes on where acknowledgements ended, and sends the last batch again.

    Returns:
        The events, and the Redis that holds what came of them, which is the caller's to stop.
    """
    origin = datetime.now(UTC) - timedelta(hours=2)
    server = EmbeddedRedis(folder / ".recsys")
    start_redis(server)
    address = RedisAddress.parse(server.url)
    publish_schema(address)
    acknowledged, readers = [0], list[threading.Thread]()
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, server.url, *arguments]
        output = subprocess.PIPE if code is RECORD else None
        return subprocess.Popen(command, stdout=output, text=True, env=environment)

    def record() -> subprocess.Popen[str]:
        first = max(0, acknowledged[0] - 50)
        process = start(RECORD, str(folder / "spool"), origin.isoformat(), str(first), str(count))

        def read() -> None:
            assert process.stdout is not None
            with process.stdout as said:
                for line in said:
                    if line.endswith("\n"):
                        acknowledged[0] = max(acknowledged[0], int(line))

        readers.append(threading.Thread(target=read))
        readers[-1].start()
        return process

    def midway(goal: int) -> bool:
        """Whether so many events are recorded and the workers are among them."""
        with address.connect(20.0) as redis_client:
            applied = int(redis_client.hget(KEYS.counts, "applied") or 0)
        return acknowledged[0] >= goal and applied >= goal // 2

    client, workers = record(), start(WORK)
    try:
        for number in range(1, kills + 1):
            wait_until(partial(midway, count * number // (kills + 1)))
            for pid in children_of(workers.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            client.kill()
            client.wait()
            kill_redis(server)
            client = record()  # it begins while Redis is away, and spools
            wait_until(lambda: (folder / "spool").exists() and any((folder / "spool").iterdir()))
            start_redis(server)
        assert client.wait(timeout=900) == 0
        wait_until(lambda: acknowledged[0] == count)
        with address.connect(20.0) as redis_client:
            wait_until(lambda: nothing_left(redis_client))
    finally:
        client.kill()
        for process in (client, workers):
            process.terminate()
            process.wait()
        for reader in readers:
            reader.join()
    return [event_of(number, origin) for number in range(count)], address, server


def publish_schema(address: RedisAddress) -> None:
    import json

    from streamed import SCHEMA

    from recsys_plugin.features.requests import schema_key

    with address.connect(5.0) as client:
        client.set(schema_key("recsys"), json.dumps(SCHEMA))


def nothing_left(client: Any) -> bool:
    """Whether every entry of every stream has been taken in."""
    for number in range(PARTITIONS):
        for stream in (KEYS.events(number), KEYS.item_events(number)):
            groups = client.xinfo_groups(stream) if client.exists(stream) else []
            if not groups or any(group["pending"] or group["lag"] != 0 for group in groups):
                return False
    return True


def wait_until(true: Callable[[], bool], seconds: float = 900.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """The workers that a process started; the resource tracker of multiprocessing is none."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    workers = []
    for child in listed:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers


def start_redis(server: EmbeddedRedis) -> None:
    with server.process.lock():
        server.start()
    # What was answered is in its file at once, as killable_redis tells.
    with RedisAddress.parse(server.url).connect(20.0) as client:
        client.config_set("appendfsync", "no")


def kill_redis(server: EmbeddedRedis) -> None:
    record = server.process.record
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    with server.process.lock():
        server.stop()
