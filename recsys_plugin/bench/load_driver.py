"""A process that asks under load: so many callers at once, each asking again as soon as it is answered.

It runs apart from the benchmark, so that callers share no interpreter lock with whoever counts, and several of them can
ask at once. One that uses the usual way holds Feast, one that uses our clients does not.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from recsys_plugin.bench.shop import CALL_TIMEOUT, ServedShop, open_shop
from recsys_plugin.client.async_recommender import AsyncRecommender
from recsys_plugin.errors import RecsysError
from recsys_plugin.settings import Settings

__all__ = ["OUR_WAYS", "PAGE_SIZE", "WAYS", "DriverPlan", "Slice", "SliceResult", "drive"]

PAGE_SIZE = 20

#: How our clients are asked: threads on the blocking one, tasks on the awaiting one.
OUR_WAYS = ("threads", "tasks")
#: The same and the usual way, which is asked by threads.
WAYS = (*OUR_WAYS, "usual")


@dataclass(frozen=True, slots=True)
class DriverPlan:
    """What a driver asks for; it is sent to the process, so it is plain data.

    Attributes:
        settings: names the home, whose servers run.
        now: the time of every request, unix seconds.
        users: how many users are drawn. seed: fixes which, as in the whole benchmark.
        candidates: how many items are ranked.
        usual_items: user → the candidates that the usual way is given; empty for a driver of our clients.
        first: where in the list of users this driver begins.
    """

    settings: Settings
    now: float
    users: int
    seed: int
    candidates: int
    usual_items: Mapping[str, tuple[str, ...]]
    first: int


@dataclass(frozen=True, slots=True)
class Slice:
    """One stretch of load.

    Attributes:
        way: one of :data:`WAYS`. callers: how many ask at once in this process.
        begins, ends: moments of ``time.monotonic``, which all processes of a machine share; after ``ends`` nobody
            asks anew, and what was asked is still answered and counted. Who is held up until then asks once.
    """

    way: str
    callers: int
    begins: float
    ends: float


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What became of a slice in one process.

    Attributes:
        milliseconds: how long each request took.
        finished: the moment, by ``time.monotonic``, of the last answer.
        cpu_seconds: processor time of this process over the slice.
    """

    milliseconds: list[float]
    finished: float
    cpu_seconds: float


def drive(connection: Connection, plan: DriverPlan) -> None:
    """Serve slices until ``None`` comes; the first thing sent back says that this process is ready.

    An error of this package is sent back as it is; any other ends the process, which the other side notices. Should the
    other side be gone, there is nobody left to ask for.
    """
    try:
        with _callers(plan) as run:
            connection.send("ready")
            while (order := connection.recv()) is not None:
                connection.send(_timed(run, order))
    except RecsysError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):
        return


_Run = Callable[[Slice], list[float]]


def _timed(run: _Run, order: Slice) -> SliceResult:
    time.sleep(max(0.0, order.begins - time.monotonic()))
    before = resource.getrusage(resource.RUSAGE_SELF)
    milliseconds = run(order)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return SliceResult(milliseconds, time.monotonic(), spent)


@contextmanager
def _callers(plan: DriverPlan) -> Iterator[_Run]:
    """What runs a slice, with everything that a driver of this kind needs open."""
    with open_shop(plan.settings, now=plan.now, users=plan.users, seed=plan.seed) as shop:
        numbers = count(plan.first)

        def next_user() -> str:
            # A C iterator advances under the interpreter's lock: no two threads get one number.
            return shop.users[next(numbers) % len(shop.users)]

        if plan.usual_items:
            from recsys_plugin.bench.usual_way import open_usual_way

            with open_usual_way(shop) as usual:
                yield lambda order: _threads(
                    order, lambda: (lambda user: usual.rank(user, plan.usual_items[user]))(next_user())
                )
            return

        def recommend() -> Any:
            return shop.recommender.recommend(next_user(), PAGE_SIZE, candidates=plan.candidates)

        with asyncio.Runner() as runner:
            client = _async_client(shop)

            async def recommend_async() -> Any:
                return await client.recommend(next_user(), PAGE_SIZE, candidates=plan.candidates)

            def run(order: Slice) -> list[float]:
                if order.way == "tasks":
                    return runner.run(_tasks(order, recommend_async))
                return _threads(order, recommend)

            # The awaiting client connects at its first call: not within a slice.
            runner.run(recommend_async())
            try:
                yield run
            finally:
                runner.run(client.close())


def _async_client(shop: ServedShop) -> AsyncRecommender:
    # Its loop stands still between two turns: what goes on beside requests would take that for servers gone silent.
    return AsyncRecommender(
        shop.redis_url,
        shop.triton_url,
        timeout=CALL_TIMEOUT,
        strict=True,
        refresh_every=None,
        follow_items=False,
        clock=lambda: shop.now,
    )


def _threads(order: Slice, ask: Callable[[], Any]) -> list[float]:
    taken: list[list[float]] = [[] for _ in range(order.callers)]
    failed: list[RecsysError] = []

    def caller(mine: list[float]) -> None:
        try:
            while (began := time.monotonic()) < order.ends or not mine:
                ask()
                mine.append((time.monotonic() - began) * 1000)
        except RecsysError as error:
            failed.append(error)

    threads = [Thread(target=caller, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return [milliseconds for mine in taken for milliseconds in mine]


async def _tasks(order: Slice, ask: Callable[[], Any]) -> list[float]:
    taken: list[list[float]] = [[] for _ in range(order.callers)]

    async def caller(mine: list[float]) -> None:
        while (began := time.monotonic()) < order.ends or not mine:
            await ask()
            mine.append((time.monotonic() - began) * 1000)

    async with asyncio.TaskGroup() as group:
        for mine in taken:
            group.create_task(caller(mine))
    return [milliseconds for mine in taken for milliseconds in mine]
