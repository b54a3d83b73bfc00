"""Who gets a connection, and when.

One that becomes free just as somebody gives up waiting is the next one's, not nobody's. One that took too long to
make is made once more before the server counts as away.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError
from waiting import wait_until

from recsys_plugin import Limits, Retry
from recsys_plugin.errors import Overloaded, StoreUnavailable
from recsys_plugin.features.connection_set import AsyncConnectionSet, ConnectionSet

ONE = Limits(connections=1, ready=1)


class FakeWire:
    """Leads nowhere."""

    def __init__(self, until: float) -> None:
        self.until = until

    def is_sound(self) -> bool:
        return True

    def close(self) -> None:
        pass


class FakeAsyncWire(FakeWire):
    async def close(self) -> None:  # type: ignore[override]
        pass


class Makes:
    """Fails with each error in turn, and then connects."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def now(self, until: float) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return FakeWire(until)

    async def later(self, until: float) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return FakeAsyncWire(until)


async def check(wire: Any) -> None:
    """Finds nothing wrong."""


class GivingUp(threading.Condition):
    """Whoever waits first is told, but only as the time for waiting is over."""

    waited = False

    def wait(self, timeout: float | None = None) -> bool:
        first, self.waited = not self.waited, True
        return super().wait(timeout) and not first


def test_threads_hand_on_what_came_too_late() -> None:
    make: Any = FakeWire
    connections = ConnectionSet("a server", make, lambda wire: None, ONE, Retry())
    wire = connections.take(time.monotonic() + 20, counts=False)
    connections._changed = GivingUp()
    outcomes: list[Any] = []

    def ask() -> None:
        try:
            outcomes.append(connections.take(time.monotonic() + 20, counts=False))
        except Overloaded as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda waiting=waiting: connections._stock.waiting == waiting)  # type: ignore[misc]
    connections.give_back(wire)
    for thread in threads:
        thread.join()
    assert isinstance(outcomes[0], Overloaded)
    assert outcomes[1] is wire
    connections.give_back(wire)
    connections.close()


async def test_tasks_hand_on_what_came_too_late() -> None:
    async def make(until: float) -> Any:
        return FakeAsyncWire(until)

    connections, loop = AsyncConnectionSet("a server", make, check, ONE, Retry()), asyncio.get_running_loop()
    wire = await connections.take(time.monotonic() + 20, counts=False)

    def give_back() -> None:
        with pytest.raises(StopIteration):
            connections.give_back(wire).send(None)

    began = time.monotonic()
    first = asyncio.create_task(connections.take(began + 0.2, counts=False))
    second = asyncio.create_task(connections.take(began + 20, counts=False))
    loop.call_later(0.1, give_back)
    await asyncio.sleep(0)
    # The loop is busy until both are due: the connection comes, and the time is over before the first takes it.
    loop.call_soon(time.sleep, 0.3)
    with pytest.raises(Overloaded):
        await first
    assert await second is wire
    await connections.give_back(wire)
    await connections.close()


SLOW, REFUSED = TimeoutError("Timeout connecting"), ConnectionRefusedError("nobody listens")


def test_threads_wait_for_another_try_after_one_that_took_too_long() -> None:
    make = Makes(SLOW)
    connections: Any = ConnectionSet("a server", make.now, lambda wire: None, ONE, Retry())
    connections.give_back(connections.take(time.monotonic() + 20, counts=True))
    assert connections.breaker.state == "closed"
    connections.close()


async def test_tasks_wait_for_another_try_after_one_that_took_too_long() -> None:
    make = Makes(RedisTimeoutError("Timeout reading"))
    connections: Any = AsyncConnectionSet("a server", make.later, check, ONE, Retry())
    await connections.give_back(await connections.take(time.monotonic() + 20, counts=True))
    assert connections.breaker.state == "closed"
    await connections.close()


@pytest.mark.parametrize("errors", [(REFUSED,), (SLOW, SLOW), (SLOW, RedisTimeoutError("Timeout reading"))])
async def test_nobody_waits_for_a_server_that_refuses_or_was_too_slow_twice(errors: tuple[Exception, ...]) -> None:
    errors += errors[-1:] * 1000  # it is asked again and again meanwhile
    connections: Any = ConnectionSet("a server", Makes(*errors).now, lambda wire: None, ONE, Retry())
    with pytest.raises(StoreUnavailable, match=str(errors[-1])):
        connections.take(time.monotonic() + 20, counts=True)
    connections.close()
    waiting: Any = AsyncConnectionSet("a server", Makes(*errors).later, check, ONE, Retry())
    with pytest.raises(StoreUnavailable, match=str(errors[-1])):
        await waiting.take(time.monotonic() + 20, counts=True)
    await waiting.close()
