"""Bounded concurrency, for threads and for tasks."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from waiting import wait_until

from recsys_plugin.errors import Overloaded, ServiceUnavailable
from recsys_plugin.resilience.gate import AsyncGate, Gate
from recsys_plugin.resilience.values import Limits


def test_no_more_threads_are_inside_than_may_be_and_all_get_their_turn() -> None:
    gate, inside, most, done = Gate(Limits(concurrency=3, waiting=50)), [0], [0], []
    lock = threading.Lock()

    def request() -> None:
        gate.enter(time.monotonic() + 20)
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        threading.Event().wait(0.002)
        with lock:
            inside[0] -= 1
            done.append(1)
        gate.leave(0.002)

    threads = [threading.Thread(target=request) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], len(done)) == (3, 40)
    gate.enter(time.monotonic())  # the way is free again


def test_what_comes_too_late_is_refused_and_says_when_to_ask_again() -> None:
    gate = Gate(Limits(concurrency=1, waiting=1))
    gate.enter(time.monotonic() + 1)
    began = time.monotonic()
    with pytest.raises(Overloaded, match="did not come in time"):
        gate.enter(began + 0.02)
    assert 0.02 <= time.monotonic() - began < 20  # nobody ever goes out
    gate.leave(2.0)  # a request takes two seconds
    gate.enter(time.monotonic() + 1)
    with pytest.raises(ServiceUnavailable, match="would come too late") as caught:
        gate.enter(time.monotonic() + 1)
    assert isinstance(caught.value, Overloaded)
    assert caught.value.retry_after == pytest.approx(2.0)
    waiter = threading.Thread(target=gate.enter, args=(time.monotonic() + 20,))
    waiter.start()
    wait_until(lambda: gate._queue)
    with pytest.raises(Overloaded, match="the queue is full"):
        gate.enter(time.monotonic() + 100)
    gate.leave(0.1)
    waiter.join()
    gate.leave(0.1)


async def test_tasks_get_their_turn_or_a_refusal() -> None:
    gate, inside, most = AsyncGate(Limits(concurrency=3, waiting=50)), [0], [0]

    async def request(patience: float) -> str:
        try:
            await gate.enter(time.monotonic() + patience)
        except Overloaded:
            return "refused"
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        await asyncio.sleep(0.002)
        inside[0] -= 1
        gate.leave(0.002)
        return "done"

    assert await asyncio.gather(*[request(20) for _ in range(40)]) == ["done"] * 40
    assert most[0] == 3
    for _ in range(3):
        await gate.enter(time.monotonic())
    impatient = [asyncio.create_task(request(0.02)) for _ in range(3)]
    waiting = asyncio.create_task(request(20))
    given_up = asyncio.create_task(request(20))
    await asyncio.wait(impatient)
    given_up.cancel()
    await asyncio.wait([given_up])
    assert [task.result() for task in impatient] == ["refused"] * 3
    for _ in range(3):
        gate.leave(0.01)
    assert await waiting == "done"
    assert await asyncio.gather(*[request(20) for _ in range(40)]) == ["done"] * 40
