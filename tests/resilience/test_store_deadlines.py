"""Reads from Redis keep their deadline whatever the server does, and are back soon after it is."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from killable_redis import KillableRedis
from unanswering import silent, vanishing
from waiting import holds_within, wait_until

from recsys_plugin import Backoff, Limits, Retry, Timeout
from recsys_plugin.errors import DeadlineExceeded, Overloaded, ServiceUnavailable, StoreUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadFeatures
from recsys_plugin.features.reader import AsyncFeatureReader, FeatureReader

READ = ReadFeatures([b"user:1", b"user:2"], [b"a", b"b"])
TIMEOUT = 0.03


@contextmanager
def refused() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        yield taken.getsockname()[1]


def address(port: int) -> RedisAddress:
    return RedisAddress.parse(f"redis://127.0.0.1:{port}")


def threads() -> set[threading.Thread]:
    """The plugin's own in this process, those of other tests' clients among them."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("recsys-")}


def kept(took: list[float], seconds: float) -> None:
    """The deadline was kept; a busy machine may be late itself now and then, and very late once."""
    *others, latest = sorted(took)
    assert statistics.median(took) <= seconds + 0.005
    assert max(others) <= seconds + 0.25
    assert latest <= seconds + 5


Broken = Callable[[], AbstractContextManager[int]]


@pytest.mark.parametrize("broken", [silent, vanishing, refused])
async def test_no_read_outlives_its_deadline_at_a_server_that_never_answers(broken: Broken) -> None:
    before = threads()
    with broken() as port:
        reader = FeatureReader(address(port), timeout=Timeout(TIMEOUT, features=1, connect=0.2))
        waiting = AsyncFeatureReader(address(port), timeout=Timeout(TIMEOUT, features=1, connect=0.2))
        took, took_waiting = [], []
        for _ in range(30):
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable):
                reader.read(READ, timeout=TIMEOUT)
            took.append(time.monotonic() - began)
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable):
                await waiting.read(READ, timeout=TIMEOUT)
            took_waiting.append(time.monotonic() - began)
        kept(took, TIMEOUT)
        kept(took_waiting, TIMEOUT)
        # By now it is known to be away, and nobody waits for it.
        wait_until(lambda: reader.breaker.state != "closed")
        began = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreUnavailable, match=f"{port}, database 0\\) is away"):
                reader.read(READ, timeout=10)
        assert time.monotonic() - began < 9  # a single one that waited would have taken longer
        reader.close()
        await waiting.close()
    assert threads() <= before


def test_a_stopped_server_costs_a_few_deadlines_and_is_back_at_once(event_redis: KillableRedis) -> None:
    before = threads()
    with event_redis.connect() as client:
        client.hset(b"user:1", mapping={b"a": b"1"})
        pid = client.info("server")["process_id"]
    reader = FeatureReader(RedisAddress.parse(event_redis.url), timeout=Timeout(0.05, features=1))
    wanted = [[b"1", None], [None, None]]
    assert [list(reply) for reply in reader.read(READ, timeout=5)] == wanted
    os.kill(pid, signal.SIGSTOP)
    try:
        took: list[float] = []
        errors: list[type[Exception]] = []
        while len(took) < 30:
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable) as caught:
                reader.read(READ, timeout=0.05)
            took.append(time.monotonic() - began)
            errors.append(type(caught.value))
        kept(took, 0.05)
        assert errors[0] is DeadlineExceeded
        assert errors[-1] is StoreUnavailable
        # Five waited for it, the others knew better.
        assert statistics.median(took) < 0.01
        # Whoever has hardly any time says nothing about the server.
    finally:
        os.kill(pid, signal.SIGCONT)
    assert holds_within(lambda: reader.breaker.state == "closed", 2)
    assert [list(reply) for reply in reader.read(READ, timeout=5)] == wanted
    reader.close()
    assert threads() <= before


def test_a_reader_that_is_dropped_leaves_no_thread_behind() -> None:
    before = threads()
    with refused() as port:
        reader = FeatureReader(address(port), timeout=Timeout(TIMEOUT, features=1))
        with pytest.raises(ServiceUnavailable):
            reader.read(READ, timeout=5)
        wait_until(lambda: threads() - before)
        del reader
        gc.collect()
        wait_until(lambda: threads() <= before)


def test_impatient_callers_do_not_make_a_server_count_as_away(event_redis: KillableRedis) -> None:
    reader = FeatureReader(RedisAddress.parse(event_redis.url), timeout=1.0)
    reader.read(READ, timeout=5)
    for _ in range(20):
        with pytest.raises(DeadlineExceeded):
            reader.read(READ, timeout=1e-9)
    assert reader.breaker.state == "closed"
    reader.read(READ, timeout=5)
    reader.close()


async def test_after_a_restart_no_request_notices_the_connections_that_broke(event_redis: KillableRedis) -> None:
    url = RedisAddress.parse(event_redis.url)
    reader, waiting = FeatureReader(url, timeout=5.0), AsyncFeatureReader(url, timeout=5.0)
    for _ in range(3):
        reader.read(READ, timeout=5)
        await waiting.read(READ, timeout=5)
        event_redis.kill()
        event_redis.start()
        assert RedisAddress.parse(event_redis.url) == url
    reader.read(READ, timeout=5)
    await waiting.read(READ, timeout=5)
    reader.close()
    await waiting.close()


async def test_a_killed_server_is_found_again_within_two_seconds(event_redis: KillableRedis) -> None:
    before, took = threads(), []
    url = RedisAddress.parse(event_redis.url)
    reader, waiting = FeatureReader(url, timeout=0.5), AsyncFeatureReader(url, timeout=0.5)
    for _ in range(3):
        reader.read(READ, timeout=5)
        await waiting.read(READ, timeout=5)
        event_redis.kill()
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                reader.read(READ, timeout=5)
            with pytest.raises(StoreUnavailable):
                await waiting.read(READ, timeout=5)
            await asyncio.sleep(0.02)  # the workers get to look
        event_redis.start()
        began = time.monotonic()
        async with asyncio.timeout(20):
            while reader.breaker.state != "closed" or waiting.breaker.state != "closed":
                await asyncio.sleep(0.005)
        took.append(time.monotonic() - began)
    # The machine may be held up once.
    assert statistics.median(took) < 2
    reader.read(READ, timeout=5)
    await waiting.read(READ, timeout=5)
    reader.close()
    await waiting.close()
    assert threads() <= before


def test_connections_are_bounded_and_the_rest_wait_or_are_refused(event_redis: KillableRedis) -> None:
    with event_redis.connect() as client:
        limits = Limits(connections=2, ready=0)
        reader = FeatureReader(RedisAddress.parse(event_redis.url), timeout=5.0, limits=limits)
        errors: list[Exception] = []

        def read() -> None:
            try:
                reader.execute([("BLPOP", "given later", 0)], timeout=60)
            except Exception as error:
                errors.append(error)

        running = [threading.Thread(target=read) for _ in range(6)]
        for thread in running:
            thread.start()
        wait_until(lambda: client.info("clients")["blocked_clients"] == 2)
        with pytest.raises(Overloaded, match="none of 2 connections became free") as caught:
            reader.read(READ, timeout=0.01)
        assert caught.value.retry_after > 0
        client.rpush("given later", *range(len(running)))
        for thread in running:
            thread.join()
        assert errors == []
        reader.close()


def test_connections_are_replaced_with_age(event_redis: KillableRedis) -> None:
    with event_redis.connect() as client:
        limits = Limits(ready=1, connection_seconds=0.05)
        url = RedisAddress.parse(event_redis.url)
        reader = FeatureReader(url, timeout=5.0, limits=limits, retry=Retry(backoff=Backoff(0.01, 0.01)))
        seen = set()

        def third() -> bool:
            seen.add(reader.execute([("CLIENT", "ID")], timeout=5)[0])
            return len(seen) >= 3

        assert holds_within(third, 20)
        # Redis notices a moment later that one was closed.
        assert holds_within(lambda: client.info("clients")["connected_clients"] <= 4, 20)
        reader.close()


async def test_a_reader_closed_while_it_connects_leaves_nothing_open(event_redis: KillableRedis) -> None:
    """The one that was just being made when the reader was closed was forgotten."""
    url = RedisAddress.parse(event_redis.url)
    with event_redis.connect() as client:
        before = client.info("clients")["connected_clients"]
        for _ in range(40):
            reader = AsyncFeatureReader(url, timeout=5.0)
            await asyncio.gather(*(reader.read(READ, timeout=5) for _ in range(50)))
            await reader.close()
        async with asyncio.timeout(20):
            while client.info("clients")["connected_clients"] > before:
                await asyncio.sleep(0.005)
