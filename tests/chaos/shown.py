"""A short load on the tiny shop, as tests of this folder put it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tiny_shop import ITEM_IDS, NOW

from recsys_plugin.chaos.driver_plan import ASKS, DriverPlan
from recsys_plugin.chaos.experiment import Played, play
from recsys_plugin.chaos.faults import Fault
from recsys_plugin.chaos.figures import Window, is_full, seconds_until_full
from recsys_plugin.chaos.scenarios import Act, Scenario
from recsys_plugin.chaos.target import Target

__all__ = ["assert_full_soon", "outcomes", "plan_of", "played"]


def plan_of(target: Target, **changed: Any) -> DriverPlan:
    """16 clients, 100 calls a second of all kinds, 50 ms for each."""
    plan: dict[str, Any] = {
        "redis_url": target.redis_url,
        "triton_url": target.triton_url,
        "now": NOW,
        "users": ("mug-lover", "nobody-knows"),
        "items": ITEM_IDS[:4],
        "query": "tea pot",
        "asks": ASKS,
        "clients": 16,
        "first": 0,
        "of": 16,
        "rate": 100.0,
        "timeout": 0.05,
    }
    return DriverPlan(**{**plan, **changed})


def played(target: Target, acts: Sequence[Act], **changed: Any) -> Played:
    """Faults one after the other, under load from two processes."""
    return play(
        target, Scenario("all", tuple(acts)), plan_of(target, **changed), processes=2, tell=lambda *progress: None
    )


def act(fault: Fault, *, after: float = 3.0) -> Act:
    """Not long, but long enough that full service can be told from a lucky moment."""
    return Act(fault, 0.3, 0.8, after)


def outcomes(played: Played, window: Window) -> dict[str, dict[str, int]]:
    """What was asked → how often it had which outcome, of the calls that were begun within a fault."""
    calls = played.observed.calls
    during = (calls.began >= window.began) & (calls.began < window.ended)
    found: dict[str, dict[str, int]] = {}
    for number, asked in enumerate(played.plan.asks):
        numbers, counts = np.unique(calls.outcome[during & (calls.asked == number)], return_counts=True)
        found[asked] = {calls.outcomes[place]: int(count) for place, count in zip(numbers, counts, strict=True)}
    return found


def assert_full_soon(played: Played, window: Window) -> None:
    """Pages are full again 1.2 seconds after a fault was over.

    Now and then a busy machine does not make a call in 50 ms, or is held up itself: then a whole second of full pages,
    begun by then, shows it as well.
    """
    calls = played.observed.calls
    soon = (calls.intended >= window.recovered + 1.2) & (calls.intended < window.until)
    share = float(is_full(calls)[soon].mean())
    seconds = seconds_until_full(calls, window.recovered, window.until)
    assert share >= 0.9 or seconds <= 1.2, (share, seconds, calls.messages)
