"""A short load on the tiny shop, as tests of this folder put it on."""

from __future__ import annotations

from typing import Any

from tiny_shop import ITEM_IDS, NOW

from recsys_plugin.chaos.experiment import Played, play
from recsys_plugin.chaos.faults import Fault
from recsys_plugin.chaos.load_driver import ASKS, DriverPlan
from recsys_plugin.chaos.scenarios import Act, Scenario
from recsys_plugin.chaos.target import Target

__all__ = ["plan_of", "played"]


def plan_of(target: Target, **changed: Any) -> DriverPlan:
    """Four clients, 100 calls a second of all kinds, 50 ms for each."""
    plan: dict[str, Any] = {
        "redis_url": target.redis_url,
        "triton_url": target.triton_url,
        "now": NOW,
        "users": ("mug-lover", "nobody-knows"),
        "items": ITEM_IDS[:4],
        "query": "tea pot",
        "asks": ASKS,
        "clients": 4,
        "first": 0,
        "of": 4,
        "rate": 100.0,
        "timeout": 0.05,
    }
    return DriverPlan(**{**plan, **changed})


def played(target: Target, fault: Fault, *, during: float = 1.0, after: float = 2.5, **changed: Any) -> Played:
    """One fault under load, from two processes."""
    scenario = Scenario(fault.name, (Act(fault, 0.5, during, after),))
    return play(target, scenario, plan_of(target, **changed), processes=2, tell=lambda *progress: None)
