"""Calls to a cluster keep their deadline too, though redis-py asks its servers with timeouts of its own."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from recsys_plugin import Backoff, Retry
from recsys_plugin.errors import DeadlineExceeded, StoreUnavailable
from recsys_plugin.features.cluster_calls import AsyncClusterCalls, ClusterCalls
from recsys_plugin.features.connection import RedisAddress

ADDRESS = RedisAddress.parse("redis-cluster://127.0.0.1:1")
#: So long that a pause, which is drawn from nothing to this, is not over within a test.
RARELY = Retry(backoff=Backoff(1e6, 1e6))


def test_who_waits_for_a_thread_waits_no_longer_than_he_may() -> None:
    calls, over = ClusterCalls(ADDRESS, RARELY, patience=0.01), threading.Event()
    try:
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match="30 ms"):
                calls.perform(lambda: over.wait(20), 0.03)
            assert 0.03 <= time.monotonic() - began < 5
        with pytest.raises(StoreUnavailable, match="is away; it is asked again in"):
            calls.perform(lambda: 1, 10)
    finally:
        over.set()
        calls.close()


def test_one_probe_finds_out_whether_it_is_back() -> None:
    calls = ClusterCalls(ADDRESS, Retry(backoff=Backoff(1e-9, 1e-9)), patience=0.01)
    assert calls.perform(lambda: 1, 10) == 1
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            calls.perform(lambda: _raise(OSError("gone")), 10)
    assert calls.breaker.state == "open"
    assert calls.perform(lambda: 2, 10) == 2
    assert calls.breaker.state == "closed"
    calls.close()


async def test_tasks_wait_no_longer_either() -> None:
    calls = AsyncClusterCalls(ADDRESS, RARELY, patience=0.01)
    for _ in range(5):
        with pytest.raises(DeadlineExceeded, match="30 ms"):
            await calls.perform(lambda: asyncio.sleep(20), 0.03)
    with pytest.raises(StoreUnavailable, match="is away"):
        await calls.perform(lambda: asyncio.sleep(0), 10)


def _raise(error: Exception) -> None:
    raise error
