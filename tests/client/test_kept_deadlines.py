"""Calls to Triton and whole requests keep their deadline; one server of several that hangs is gone round."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import threading
import time
from typing import Any

import numpy as np
import pytest
from tiny_shop import NOW, TinyShop
from waiting import comes_true_within, holds_within, standstills, wait_until

from recsys_plugin import AsyncRecommender, Limits, Recommender, Timeout
from recsys_plugin.errors import DeadlineExceeded, Overloaded, ServiceUnavailable
from recsys_plugin.features.connection_set import ConnectionSet
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.lines import Lines, TritonUnreachable
from recsys_plugin.inference.replicas import AsyncReplicas, Replicas
from recsys_plugin.inference.triton import AsyncTritonClient, TritonClient
from recsys_plugin.resilience.hedging import Hedging

CALL = Infer(
    "similar",
    1,
    {
        "item_row": np.array([[3]], dtype=np.int64),
        "excluded_rows": np.array([[-1]], dtype=np.int64),
        "counts": np.array([[2, 2]], dtype=np.int64),
    },
    {"rows": OutputSpec("INT64", (1, -1))},
)
QUICK = Timeout(0.05, connect=0.3)
OPTIONS: dict[str, Any] = {"clock": lambda: NOW, "refresh_every": None, "follow_items": False}


@pytest.fixture
def hung() -> Any:
    """The URL of a server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        yield f"grpc://127.0.0.1:{listener.getsockname()[1]}"


def pid_of(shop: TinyShop) -> int:
    """The process of its Redis."""
    record = shop.redis.process.record
    assert record is not None
    return record.pid


def threads() -> set[threading.Thread]:
    """The plugin's own in this process, those of other tests' clients among them."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("recsys-")}


async def test_no_call_outlives_its_deadline_at_a_triton_that_hangs(hung: str) -> None:
    before = threads()
    client = TritonClient(TritonAddress.parse(hung), timeout=QUICK)
    waiting = AsyncTritonClient(TritonAddress.parse(hung), timeout=QUICK)
    calls, errors = [], []
    with standstills() as stood_still:
        for _ in range(10):
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable) as caught:
                client.infer(CALL, timeout=0.05)
            calls.append((began, time.monotonic()))
            errors.append(type(caught.value))
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable):
                await waiting.infer(CALL, timeout=0.05)
            calls.append((began, time.monotonic()))
    assert statistics.median(ended - began for began, ended in calls) <= 0.055
    assert max(ended - began - stood_still(began, ended) for began, ended in calls) <= 0.3
    assert errors[0] is DeadlineExceeded
    assert errors[-1] is TritonUnreachable
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(TritonUnreachable, match="is away"):
            client.infer(CALL, timeout=10)
    assert time.monotonic() - began < 5  # none of them waited
    client.close()
    await waiting.close()
    assert threads() <= before


async def test_an_awaited_call_ends_with_its_time_and_not_when_grpc_notices(hung: str) -> None:
    """gRPC's own timers are two or three milliseconds late as a rule, and tens when the machine is busy."""
    waiting, beyond = AsyncTritonClient(TritonAddress.parse(hung), timeout=Timeout(10)), []
    for _ in range(20):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="did not answer within 20 ms"):
            await waiting.infer(CALL, timeout=0.02)  # so little that the server is not blamed
        beyond.append(time.monotonic() - began - 0.02)
    assert statistics.quantiles(beyond, n=4)[0] < 0.0015
    await waiting.close()


async def test_a_triton_that_was_down_is_found_again_within_two_seconds(disposable_shop: TinyShop) -> None:
    address = TritonAddress.parse(disposable_shop.triton_url)
    client, waiting = TritonClient(address, timeout=QUICK), AsyncTritonClient(address, timeout=QUICK)
    client.infer(CALL, timeout=10)
    await waiting.infer(CALL, timeout=10)
    disposable_shop.stop_triton()
    for _ in range(20):
        began = time.monotonic()
        with pytest.raises(TritonUnreachable):
            client.infer(CALL, timeout=10)
        with pytest.raises(TritonUnreachable):
            await waiting.infer(CALL, timeout=10)
        assert time.monotonic() - began < 5  # neither waited
    disposable_shop.start_triton()
    assert holds_within(lambda: client.breaker.state == "closed", 2)
    assert client.infer(CALL, timeout=10)["rows"][0, 0] == 3

    async def answers() -> bool:
        try:
            return bool((await waiting.infer(CALL, timeout=10))["rows"][0, 0] == 3)
        except TritonUnreachable:
            return False

    assert await comes_true_within(answers, 2)
    client.close()
    await waiting.close()


async def test_a_replica_that_hangs_is_gone_round_within_the_deadline(tiny: TinyShop, hung: str) -> None:
    both = TritonAddress.parse_several(f"{tiny.triton_url},{hung.removeprefix('grpc://')}")
    replicas, waiting = (kind(both, timeout=QUICK, hedging=Hedging(time=0.03)) for kind in (Replicas, AsyncReplicas))
    assert isinstance(replicas, Replicas)
    assert isinstance(waiting, AsyncReplicas)
    for _ in range(30):
        assert replicas.infer(CALL, timeout=10)["rows"][0, 0] == 3
        assert (await waiting.infer(CALL, timeout=10))["rows"][0, 0] == 3
    # It was asked in its turn until it had been too slow five times; then no more.
    assert 1 <= replicas.hedges.made <= 10
    assert 1 <= waiting.hedges.made <= 10
    replicas.close()
    await waiting.close()


def test_more_requests_than_may_be_are_refused_and_say_when_to_ask_again(disposable_shop: TinyShop) -> None:
    urls = disposable_shop.redis_url, disposable_shop.triton_url
    pid = pid_of(disposable_shop)
    limits = Limits(concurrency=1, waiting=0)
    with Recommender(*urls, timeout=Timeout(10.0, features=1.0), limits=limits, strict=True, **OPTIONS) as client:
        pages: list[Any] = []
        first = threading.Thread(target=lambda: pages.append(client.recommend("mug-lover", 2)))
        os.kill(pid, signal.SIGSTOP)
        try:
            first.start()
            wait_until(lambda: client._gate._counts.inside == 1)
            with pytest.raises(Overloaded, match="1 requests are under way in this client and 0 wait") as caught:
                client.recommend("mug-lover", 2)
            assert caught.value.retry_after > 0
            # Those who are not strict get what can be made without a server.
            assert client.recommend("mug-lover", 2, strict=False).fallback.degraded
        finally:
            os.kill(pid, signal.SIGCONT)
        first.join()
        assert pages[0].item_ids[0] == "mug"
        assert client.recommend("mug-lover", 2).item_ids == pages[0].item_ids


def test_closing_does_not_wait_for_a_server_that_hangs(disposable_shop: TinyShop) -> None:
    urls = disposable_shop.redis_url, disposable_shop.triton_url
    pid, before = pid_of(disposable_shop), threads()
    client = Recommender(*urls, timeout=10.0, clock=lambda: NOW, refresh_every=0.01, follow_items=False)
    try:
        os.kill(pid, signal.SIGSTOP)
        # The look for another version waits for an answer, and may do so for a minute.
        wait_until(lambda: client._reader._connections._in_use)
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 10
        assert threads() <= before
    finally:
        os.kill(pid, signal.SIGCONT)


def test_closing_waits_for_threads_that_are_about_to_end(tiny: TinyShop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threads()
    for kind in (ConnectionSet, Lines):

        def slowly(self: Any, work: Any = kind._work) -> None:
            work(self)
            time.sleep(0.3)

        monkeypatch.setattr(kind, "_work", slowly)
    triton = TritonClient(TritonAddress.parse(tiny.triton_url), timeout=Timeout(10))
    lines = triton._lines
    lines._line.renew_at = 0.0
    lines.take(1.0)  # which starts the worker
    wait_until(lambda: lines._worker is None)
    triton.close()
    assert threads() <= before
    client = Recommender(tiny.redis_url, tiny.triton_url, timeout=10.0, **OPTIONS)
    wait_until(lambda: client._reader._connections._worker is None)
    client.close()
    assert threads() <= before


async def test_a_client_that_is_slow_considers_fewer_candidates_and_says_so(tiny: TinyShop) -> None:
    urls = tiny.redis_url, tiny.triton_url
    with Recommender(*urls, timeout=10, **OPTIONS) as client:
        assert client.recommend("mug-lover", 1, candidates=4).candidates == 4
        assert client.search("mug-lover", "mug", 1, candidates=4).candidates == 4
        assert client.rank("mug-lover", ["mug"]).candidates is None
        assert client._adaptive is not None
        for _ in range(100):
            client._adaptive.observe(9.0, 10.0)
        assert client.recommend("mug-lover", 1, candidates=4).candidates == 1
        assert client.recommend("mug-lover", 3, candidates=4).candidates == 3  # no fewer than are wanted
    async with AsyncRecommender(*urls, timeout=10, latency_target=None, **OPTIONS) as other:
        assert (await other.recommend("mug-lover", 1, candidates=4)).candidates == 4


def test_a_timeout_may_be_a_number_or_a_value(tiny: TinyShop) -> None:
    with Recommender(tiny.redis_url, tiny.triton_url, timeout=Timeout(10), **OPTIONS) as client:
        assert client.recommend("mug-lover", 1, timeout=Timeout(10, features=0.9)).item_ids == ("mug",)
        assert client.recommend("mug-lover", 1, timeout=5).item_ids == ("mug",)
        with pytest.raises(ServiceUnavailable):
            client.recommend("mug-lover", 1, timeout=1e-6, strict=True)
    with Recommender(tiny.redis_url, tiny.triton_url, **OPTIONS) as client:
        assert client._allowed == Timeout(0.05)
