"""The loop against the frozen model over several seeds: click rates, intervals, and what off-policy estimates said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from recsys_plugin.errors import InvalidInput
from recsys_plugin.off_policy import Estimate, EvaluationOptions, ImpressionLog, evaluate_policy
from recsys_plugin.policy.exploration import ExplorationPolicy, NoExploration
from recsys_plugin.simulation.loop import Arm, LoopOptions, Round, impression_table, run_arm
from recsys_plugin.simulation.shop import ShopOptions, SimulatedShop

__all__ = ["BASELINE", "GREEDY", "LOOP", "Comparison", "Foretold", "Mean", "compare_arms", "document", "mean_of"]

_Array = NDArray[np.float64]
_Progress = Callable[[str, int, int], None]

#: Names of the arms: the model kept as it is; retrained without exploration; retrained with it.
BASELINE, GREEDY, LOOP = "frozen", "retrained", "loop"


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds with its interval of 95 % by Student's t."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Foretold:
    """Estimates of a policy from what another one logged, and what the policy is truly worth on the same visits."""

    seed: int
    policy: str
    truth: float
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What each arm got.

    Attributes:
        seeds: one shop each. rates: arm → float64 ``[seeds, rounds]``, clicks for each item shown.
        appeal: arm → float64 ``[seeds, rounds]``: P(click | looked at) of what was shown to whom, the mean over items
            shown: known exactly, since the click model is.
        foretold: for each seed.
    """

    seeds: tuple[int, ...]
    rates: dict[str, _Array]
    appeal: dict[str, _Array]
    foretold: tuple[Foretold, ...]

    def lead(self, arm: str = LOOP) -> _Array:
        """By how much an arm's click rate is above the frozen model's, float64 ``[seeds, rounds]``."""
        return self.rates[arm] - self.rates[BASELINE]

    def ahead_from(self, arm: str = LOOP) -> int | None:
        """The first round, from 1, from which on the arm was ahead in every round and with every seed."""
        lead = self.lead(arm)
        behind = np.flatnonzero(lead.min(axis=0) <= 0.0)
        first = 0 if not behind.size else int(behind[-1]) + 1
        return None if first == lead.shape[1] else first + 1


def mean_of(values: _Array) -> Mean:
    """The mean of values of independent seeds, ``[seeds]``; two at least."""
    count = len(values)
    centre = float(values.mean())
    half = float(student.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return Mean(centre, centre - half, centre + half)


def compare_arms(
    seeds: Sequence[int],
    policy: ExplorationPolicy,
    options: LoopOptions,
    shop_options: ShopOptions,
    *,
    foretell: ExplorationPolicy,
    foretold_visits: int = 300,
    tell: _Progress = lambda name, done, total: None,
) -> Comparison:
    """Run all arms in a shop of each seed.

    Args:
        seeds: two at least. policy: of the loop. foretell: a policy that is evaluated off-policy on the last round that
            the loop logged. foretold_visits: how many of its visits, the first ones, are used.

    Raises:
        InvalidInput: if there are fewer than two seeds.
    """
    if len(seeds) < 2:
        raise InvalidInput(f"seeds: {len(seeds)}; two at least are needed to tell how much they differ")
    arms = (
        Arm(BASELINE, NoExploration(), retrains=False),
        Arm(GREEDY, NoExploration(), retrains=True),
        Arm(LOOP, policy, retrains=True),
    )
    rates = {arm.name: np.empty((len(seeds), options.rounds)) for arm in arms}
    appeal = {arm.name: np.empty((len(seeds), options.rounds)) for arm in arms}
    foretold = []
    for row, seed in enumerate(seeds):
        shop = SimulatedShop(shop_options, options.rounds, seed)
        for arm in arms:
            served = run_arm(shop, arm, options, seed, tell)
            rates[arm.name][row] = [each.click_rate for each in served]
            appeal[arm.name][row] = [float(shop.appeal(each.users[:, None], each.pages).mean()) for each in served]
            if arm.name == LOOP:
                tell("off-policy estimates", row, len(seeds))
                foretold.append(_foretell(shop, _first_visits(served[-1], foretold_visits), policy, foretell, seed))
    return Comparison(tuple(seeds), rates, appeal, tuple(foretold))


def _first_visits(served: Round, count: int) -> Round:
    """A round cut to its first visits."""
    outcomes = served.outcomes
    kept = {name: getattr(served, name)[:count] for name in ("users", "pools", "logits", "chosen", "propensities")}
    cut = type(outcomes)(outcomes.click[:count], outcomes.cart[:count], outcomes.purchase[:count])
    return Round(number=served.number, outcomes=cut, **kept)


def _foretell(
    shop: SimulatedShop, served: Round, logged: ExplorationPolicy, policy: ExplorationPolicy, seed: int
) -> Foretold:
    log = ImpressionLog.of_table(
        impression_table(served, logged), "click", file=f"the loop's round {served.number + 1}"
    )
    found = evaluate_policy(log, policy, EvaluationOptions(seed=seed))
    page = served.chosen.shape[1]
    examined = shop.examination(np.arange(page))
    worth = [
        float((policy.marginals(logits, page) * examined * shop.appeal(user, pool)[:, None]).sum()) / page
        for user, pool, logits in zip(served.users, served.pools, served.logits, strict=True)
    ]
    return Foretold(seed, policy.name, float(np.mean(worth)), found.estimates)


def document(comparison: Comparison, settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON holds it, with what it was run with."""
    last = {name: mean_of(rates[:, -1]) for name, rates in comparison.rates.items()}
    return {
        "settings": settings,
        "seeds": list(comparison.seeds),
        "click_rate": {name: rates.tolist() for name, rates in comparison.rates.items()},
        "appeal": {name: values.tolist() for name, values in comparison.appeal.items()},
        "last_round": {name: [mean.value, mean.low, mean.high] for name, mean in last.items()},
        "ahead_from_round": comparison.ahead_from(),
        "foretold": [
            {
                "seed": each.seed,
                "policy": each.policy,
                "truth": each.truth,
                "estimates": [found.document() for found in each.estimates],
            }
            for each in comparison.foretold
        ],
    }
