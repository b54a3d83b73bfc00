"""``recsys chaos``: scenarios on servers of a copied home, one report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from recsys_plugin.bench.machine import load_average
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import Tell, draw_users
from recsys_plugin.chaos.driver_plan import ASKS, ClientKind, DriverPlan
from recsys_plugin.chaos.experiment import NOTE, Expectations, Played, add_played, failures, play
from recsys_plugin.chaos.scenarios import scenario
from recsys_plugin.chaos.target import Target, copied_home, started
from recsys_plugin.client.recommender import Recommender
from recsys_plugin.settings import Settings

__all__ = ["ChaosOptions", "plan_for", "run_chaos"]

_USERS, _ITEMS, _QUERY_WORDS = 200, 20, 3
#: Seconds for what is asked while all is well, to find out what to ask.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """How scenarios are played.

    Attributes:
        scenarios: names of :data:`~recsys_plugin.chaos.scenarios.SCENARIOS`.
        seconds: how long each lasts; what servers take to start comes on top.
        rate: calls per second of all clients together.
        clients: how many, each with connections of its own. processes: over how many they are spread.
        timeout: seconds that each call may take.
        asks: what is asked, in turn.
        seed: fixes for whom.
        in_place: whether the home's own servers are broken, instead of others on a copy.
        kind: of the clients, one of :data:`~recsys_plugin.chaos.driver_plan.CLIENTS`.
    """

    scenarios: tuple[str, ...] = ("kill",)
    seconds: float = 60.0
    rate: float = 100.0
    clients: int = 16
    processes: int = 2
    timeout: float = 0.05
    asks: tuple[str, ...] = ASKS
    seed: int = 0
    in_place: bool = False
    kind: ClientKind = "blocking"


def run_chaos(
    settings: Settings,
    options: ChaosOptions,
    *,
    now: float | None,
    expected: Expectations,
    scratch: Path | None,
    tell: Tell,
) -> tuple[Report, list[Played], list[str]]:
    """Play scenarios one after the other.

    Args:
        settings: name the home. options: see there.
        now: the time of every request, unix seconds; ``None`` for the clock.
        expected: what is promised. scratch: where the home is copied to. tell: told what is under way.

    Returns:
        the report, what came of each scenario, and what did not hold.

    Raises:
        RecsysError: if servers cannot be started, or do not come back.
    """
    with _target(settings, options, scratch, tell) as target:
        report = begin_report(f"Chaos, {options.kind} clients", target.redis.url, target.triton.url)
        found: list[Played] = []
        failed: list[str] = []
        for name in options.scenarios:
            plan = plan_for(target, target.settings or settings, options, now=now)
            played = play(target, scenario(name, options.seconds), plan, processes=options.processes, tell=tell)
            found.append(played)
            add_played(report, played)
            failed += [f"{name}: {text}" for text in failures(played, expected)]
    report.machine["load_average_after"] = load_average()
    report.notes.append(NOTE)
    return report, found, failed


def plan_for(target: Target, settings: Settings, options: ChaosOptions, *, now: float | None) -> DriverPlan:
    """What the clients ask of a home's servers: for users drawn at random, items and words of one's page."""
    users = draw_users(settings, _USERS, seed=options.seed)
    clock = time.time if now is None else lambda: now
    with Recommender(target.redis.url, target.triton.url, timeout=_PATIENCE, follow_items=False, clock=clock) as client:
        page = client.recommend(users[0], _ITEMS)
    words = next((item.title for item in page if item.title), "gift").lower().split()
    return DriverPlan(
        redis_url=target.redis_url,
        triton_url=target.triton_url,
        now=now,
        users=users,
        items=page.item_ids,
        query=" ".join(words[:_QUERY_WORDS]),
        asks=options.asks,
        clients=options.clients,
        first=0,
        of=options.clients,
        rate=options.rate,
        timeout=options.timeout,
        seconds=2 * options.seconds,
        kind=options.kind,
    )


@contextmanager
def _target(settings: Settings, options: ChaosOptions, scratch: Path | None, tell: Tell) -> Iterator[Target]:
    with ExitStack() as stack:
        if not options.in_place:
            tell("copying the home", 0, 0)
            settings = stack.enter_context(copied_home(settings, scratch=scratch))
        yield stack.enter_context(started(settings, own=options.in_place, tell=tell))
