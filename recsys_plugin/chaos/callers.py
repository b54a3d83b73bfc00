"""Clients that ask at moments fixed in advance: blocking ones, each from a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.sharedctypes import Synchronized
from threading import Event, Thread
from types import TracebackType
from typing import Self

from recsys_plugin.chaos.driver_plan import WARM_TIMEOUT, WARM_UP, DriverPlan, ask, clock_of, turn_of
from recsys_plugin.chaos.seen import Log
from recsys_plugin.client.recommender import Recommender

__all__ = ["Callers"]


class Callers:
    """The clients of a plan. Entered, they are made and warm; left, they are closed.

    Args:
        plan: see there. clock_offset: seconds that their clock is ahead.
        turn: whose turn it is to ask; calls that are meant to begin at another's are left out.

    Raises:
        RecsysError: at the beginning, if a client cannot be made.
    """

    def __init__(self, plan: DriverPlan, clock_offset: Synchronized[float], turn: Synchronized[int] | None) -> None:
        self._plan, self._clock = plan, clock_of(plan, clock_offset)
        self._may_ask = turn_of(plan, turn)
        self._stack = ExitStack()
        self._clients: list[Recommender] = []
        self._threads: list[Thread] = []
        self._over = Event()

    def __enter__(self) -> Self:
        """Itself, ready to ask."""
        plan = self._plan
        with ExitStack() as stack:
            for _ in range(plan.clients):
                client = Recommender(
                    plan.redis_url, plan.triton_url, timeout=plan.timeout, clock=self._clock, **plan.options
                )
                self._clients.append(stack.enter_context(client))
            for first, client in enumerate(self._clients):
                for number in range(WARM_UP):
                    ask(client, plan, first + number, WARM_TIMEOUT)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._clients.clear()

    def begin(self, begins: float, logs: Sequence[Log]) -> None:
        """Ask from a moment of ``time.monotonic`` on, each client into a log of its own."""
        self._threads = [
            Thread(target=self._ask_on, args=(client, self._plan.first + number, begins, logs[number]))
            for number, client in enumerate(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ask no more; what was asked is answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _ask_on(self, client: Recommender, place: int, begins: float, log: Log) -> None:
        """Ask every so many seconds, at moments fixed in advance; a late call does not move those after it."""
        plan, number = self._plan, place
        while True:
            intended = begins + number / plan.rate
            if self._over.wait(max(0.0, intended - time.monotonic())):
                return
            if self._may_ask():
                asked, began = number % len(plan.asks), time.monotonic()
                try:
                    page = ask(client, plan, number, plan.timeout)
                except Exception as error:  # whatever callers would see is to be counted
                    log.raised(intended, began, asked, error)
                else:
                    log.answered(intended, began, asked, page.fallback)
            number += plan.of
