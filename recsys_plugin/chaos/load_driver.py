"""A process that asks at a fixed rate, whatever becomes of the answers, and writes down what each caller saw.

Calls have a moment at which they are meant to begin, and latency counts from there: a generator that waits for one
answer before it asks anew would stop asking just when the server stalls, and so leave out what is to be measured
("coordinated omission", Tene 2013).
"""

from __future__ import annotations

import gc
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.bench.thin_client import resident_bytes
from recsys_plugin.client.recommender import Recommender
from recsys_plugin.client.results import Page
from recsys_plugin.errors import RecsysError

__all__ = ["ASKS", "ERROR", "Calls", "DriverPlan", "Footprint", "Go", "Seen", "drive", "joined"]

PAGE_SIZE = 20
#: What is asked, by name.
ASKS = ("recommend", "rank", "search", "similar_items")
#: How the outcome of a call begins that raised; the name of the type follows.
ERROR = "error: "
#: Calls of each client before anything counts: connections are made, caches and pools are filled.
_WARM_UP = 20
#: Of what is written down of a call; see :class:`Calls`.
_COLUMNS = ("intended", "began", "ended", "asked", "outcome")
#: Seconds from one look at the process's memory to the next.
_MEMORY_EVERY = 1.0
#: Seconds that a warming call may take.
_WARM_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class DriverPlan:
    """What a driver does; it is sent to the process, so it is plain data.

    Attributes:
        redis_url, triton_url: where its clients connect.
        now: the time of every request, unix seconds, to which the target's clock offset is added; ``None`` for the
            clock.
        users, items: ids to ask for, in turn. query: what is searched.
        asks: which of :data:`ASKS`, in turn.
        clients: how many clients this process has, each with connections and a thread of its own.
        first, of: the number of its first client, and how many clients there are in all processes.
        rate: calls per second of all clients together.
        timeout: seconds that each call may take.
        seconds: for how long it is likely to ask: so many calls are made room for before it begins, so that what is
            written down does not count as growth.
        options: further keyword arguments of the clients.
    """

    redis_url: str
    triton_url: str
    now: float | None
    users: tuple[str, ...]
    items: tuple[str, ...]
    query: str
    asks: tuple[str, ...]
    clients: int
    first: int
    of: int
    rate: float
    timeout: float
    seconds: float = 60.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Go:
    """Begin asking at this moment of ``time.monotonic``, which all processes of a machine share."""

    begins: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds."""

    sockets: int
    threads: int
    resident_bytes: int

    @classmethod
    def now(cls) -> Footprint:
        """Of this process, garbage collected."""
        gc.collect()
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
        return cls(sum(map(_is_socket, os.listdir("/proc/self/fd"))), threads, resident_bytes())


def _is_socket(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except FileNotFoundError:  # that of the listing itself
        return False


@dataclass(frozen=True, slots=True)
class Calls:
    """What became of calls, each array ``[calls]``; moments are of ``time.monotonic``.

    Attributes:
        intended: when each was meant to begin. began, ended: when it did, and when it returned.
        asked: what, as an index into the plan's ``asks``.
        outcome: an index into ``outcomes``: the level that answered, or :data:`ERROR` and the type of what was raised.
        outcomes: the names.
        messages: the first message of each type of error, and the first reason of each level below the full one.
    """

    intended: NDArray[np.float64]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    asked: NDArray[np.int64]
    outcome: NDArray[np.int64]
    outcomes: tuple[str, ...]
    messages: dict[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one process saw: its calls, and what it held at four moments.

    ``before`` its clients were made, ``ready`` to begin, at the ``end`` of the load, and with its clients ``closed``.
    ``memory`` has, every so often under load, a moment of ``time.monotonic`` and the resident bytes then.
    """

    calls: Calls
    before: Footprint
    ready: Footprint
    end: Footprint
    closed: Footprint
    memory: tuple[tuple[float, int], ...]


def drive(connection: Connection, plan: DriverPlan, clock_offset: Synchronized[float]) -> None:
    """Make the clients, say so, and ask from :class:`Go` until any other order comes; send :class:`Seen`, and end.

    An error of this package while the clients are made is sent back as it is.
    """
    # What clients warn of beside the requests is expected here, hundreds of times.
    logging.getLogger("recsys_plugin").setLevel(logging.ERROR)
    try:
        before = Footprint.now()
        with ExitStack() as stack:
            clients = [stack.enter_context(_client(plan, clock_offset)) for _ in range(plan.clients)]
            for number, client in enumerate(clients):
                _warm_up(client, plan, number)
            connection.send("ready")
            go = connection.recv()
            if go is None:
                return
            logs, over = [_Log(plan) for _ in clients], Event()
            # Shortly before, so that all that is left from warming up is gone. A shop's backend does the same with
            # its garbage collector, see the README.
            ready = Footprint.now()
            gc.freeze()
            threads = [
                Thread(target=_ask_on, args=(client, plan, plan.first + number, go.begins, logs[number], over))
                for number, client in enumerate(clients)
            ]
            for thread in threads:
                thread.start()
            memory = []
            while not connection.poll(_MEMORY_EVERY):
                memory.append((time.monotonic(), resident_bytes()))
            connection.recv()
            over.set()
            for thread in threads:
                thread.join()
            calls = joined([log.calls() for log in logs])
            end = Footprint.now()
        gc.unfreeze()
        closed = Footprint.now()
        connection.send(Seen(calls, before, ready, end, closed, tuple(memory)))
        connection.recv()
    except RecsysError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # nobody is left to ask for


def _client(plan: DriverPlan, offset: Synchronized[float]) -> Recommender:
    # The raw value needs no lock: it is one aligned number.
    moved = offset.get_obj()
    now = plan.now
    clock: Callable[[], float] = (lambda: now + moved.value) if now is not None else (lambda: time.time() + moved.value)
    return Recommender(plan.redis_url, plan.triton_url, timeout=plan.timeout, clock=clock, **plan.options)


def _warm_up(client: Recommender, plan: DriverPlan, first: int) -> None:
    for number in range(_WARM_UP):
        _ask(client, plan, first + number, _WARM_TIMEOUT)


class _Log:
    """What one client saw, call by call."""

    def __init__(self, plan: DriverPlan) -> None:
        # Filled, not only reserved: untouched memory would be taken as it is written.
        self._rows = np.full((max(16, math.ceil(plan.rate * plan.seconds / plan.of)), len(_COLUMNS)), np.nan)
        self._count = 0
        self._outcomes: dict[str, int] = {}
        self.messages: dict[str, str] = {}

    def add(self, intended: float, began: float, ended: float, asked: int, outcome: str) -> None:
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.full_like(self._rows, np.nan)])
        number = self._outcomes.setdefault(outcome, len(self._outcomes))
        self._rows[self._count] = intended, began, ended, asked, number
        self._count += 1

    def calls(self) -> Calls:
        """All of them."""
        intended, began, ended, asked, outcome = self._rows[: self._count].T.copy()
        names = tuple(self._outcomes)
        return Calls(intended, began, ended, asked.astype(np.int64), outcome.astype(np.int64), names, self.messages)


def _ask_on(client: Recommender, plan: DriverPlan, place: int, begins: float, log: _Log, over: Event) -> None:
    """Ask every so many seconds, at moments fixed in advance; a late call does not move those after it."""
    number = place
    while True:
        intended = begins + number / plan.rate
        if over.wait(max(0.0, intended - time.monotonic())):
            return
        began = time.monotonic()
        outcome: str
        try:
            found = _ask(client, plan, number, plan.timeout).fallback
            outcome = found.level
            if found.degraded and outcome not in log.messages:
                log.messages[outcome] = found.reason
        except Exception as error:  # whatever callers would see is to be counted
            outcome = f"{ERROR}{type(error).__name__}"
            log.messages.setdefault(type(error).__name__, str(error))
        log.add(intended, began, time.monotonic(), number % len(plan.asks), outcome)
        number += plan.of


def _ask(client: Recommender, plan: DriverPlan, number: int, timeout: float) -> Page:
    """Make one call."""
    user = plan.users[number % len(plan.users)]
    match plan.asks[number % len(plan.asks)]:
        case "recommend":
            return client.recommend(user, PAGE_SIZE, timeout=timeout)
        case "rank":
            return client.rank(user, plan.items, timeout=timeout)
        case "search":
            return client.search(user, plan.query, PAGE_SIZE, timeout=timeout)
        case _:
            return client.similar_items(plan.items[number % len(plan.items)], PAGE_SIZE, timeout=timeout)


def joined(parts: Sequence[Calls]) -> Calls:
    """Calls of several clients or processes as those of one, in the order in which they were meant to begin."""
    names = tuple(sorted({name for part in parts for name in part.outcomes}))
    messages: dict[str, str] = {}
    for part in parts:
        messages = {**part.messages, **messages}
    renamed = [
        np.array([names.index(name) for name in part.outcomes], np.int64)[part.outcome]
        if part.outcomes
        else part.outcome
        for part in parts
    ]
    order = np.argsort(np.concatenate([part.intended for part in parts]), kind="stable")
    return Calls(
        np.concatenate([part.intended for part in parts])[order],
        np.concatenate([part.began for part in parts])[order],
        np.concatenate([part.ended for part in parts])[order],
        np.concatenate([part.asked for part in parts])[order],
        np.concatenate(renamed)[order],
        names,
        messages,
    )
