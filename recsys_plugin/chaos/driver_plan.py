"""What a process asks under load: its clients, how often, and of what each call is."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Literal, overload

from recsys_plugin.client.async_recommender import AsyncRecommender
from recsys_plugin.client.recommender import Recommender
from recsys_plugin.client.results import Page

__all__ = ["ASKS", "CLIENTS", "WARM_TIMEOUT", "WARM_UP", "ClientKind", "DriverPlan", "ask", "clock_of", "turn_of"]

PAGE_SIZE = 20
#: What is asked, by name.
ASKS = ("recommend", "rank", "search", "similar_items")
#: Whether a client blocks a thread of its own, or is awaited in an event loop that all of its process share.
ClientKind = Literal["blocking", "async"]
CLIENTS: tuple[ClientKind, ...] = ("blocking", "async")
#: Calls of each client before anything counts: connections are made, caches and pools are filled.
WARM_UP = 20
#: Seconds that a warming call may take.
WARM_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class DriverPlan:
    """What a driver does; it is sent to the process, so it is plain data.

    Attributes:
        redis_url, triton_url: where its clients connect.
        now: the time of every request, unix seconds, to which the target's clock offset is added; ``None`` for the
            clock.
        users, items: ids to ask for, in turn. query: what is searched.
        asks: which of :data:`ASKS`, in turn.
        clients: how many clients this process has, each with connections of its own.
        first, of: the number of its first client, and how many clients there are in all processes.
        rate: calls per second of all clients together.
        timeout: seconds that each call may take.
        seconds: for how long it is likely to ask: so many calls are made room for before it begins, so that what is
            written down does not count as growth.
        options: further keyword arguments of the clients.
        kind: one of :data:`CLIENTS`.
        place: its number among loads that take turns, see :func:`turn_of`.
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
    kind: ClientKind = "blocking"
    place: int = 0

    @property
    def expected(self) -> float:
        """How many calls each client is likely to make."""
        return self.rate * self.seconds / self.of


def clock_of(plan: DriverPlan, offset: Synchronized[float]) -> Callable[[], float]:
    """The clock of a plan's clients."""
    # The raw value needs no lock: it is one aligned number.
    moved, now = offset.get_obj(), plan.now
    return (lambda: now + moved.value) if now is not None else (lambda: time.time() + moved.value)


def turn_of(plan: DriverPlan, turn: Synchronized[int] | None) -> Callable[[], bool]:
    """Whether it is a plan's turn to ask: the shared number is its place. Without one, it always is."""
    if turn is None:
        return lambda: True
    shared, place = turn.get_obj(), plan.place
    return lambda: shared.value == place


@overload
def ask(client: Recommender, plan: DriverPlan, number: int, timeout: float) -> Page: ...
@overload
def ask(client: AsyncRecommender, plan: DriverPlan, number: int, timeout: float) -> Awaitable[Page]: ...
def ask(
    client: Recommender | AsyncRecommender, plan: DriverPlan, number: int, timeout: float
) -> Page | Awaitable[Page]:
    """Make the call of a number; of a client that is awaited, its page is yet to come."""
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
