"""Rounds of serve, log and retrain in a simulated shop, for a model that is kept and for one that learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput
from recsys_plugin.policy.exploration import ExplorationPolicy, NoExploration, calibrated_logits
from recsys_plugin.simulation.shop import Outcomes, SimulatedShop
from recsys_plugin.training.zoo.frame import CtrFrame
from recsys_plugin.training.zoo.model import CtrModel, CtrOptions
from recsys_plugin.training.zoo.registry import new_model

__all__ = ["Arm", "LoopOptions", "Round", "first_pages", "impression_table", "run_arm"]

_Array = NDArray[np.float64]
_Ints = NDArray[np.int64]
_Progress = Callable[[str, int, int], None]

#: Enough for the few columns there are, and quick: a model is trained every round.
_SMALL_TREES = CtrOptions(epochs=60, learning_rate=0.1, leaves=15, least=50, patience=10, smoothing=20.0)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to run the shop.

    Attributes:
        name: in reports. policy: what chooses from the pool. retrains: whether the model is trained again after each
            round, on what this arm logged.
    """

    name: str
    policy: ExplorationPolicy
    retrains: bool


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How the loop runs.

    Attributes:
        rounds: served. visits: pages of each round.
        window: rounds of log that a model is trained on, the newest ones.
        model: of the zoo, by name. training: its options; the usual ones are for trees.
    """

    rounds: int = 12
    visits: int = 1500
    window: int = 20
    model: str = "lightgbm"
    training: CtrOptions = _SMALL_TREES

    def __post_init__(self) -> None:
        for name in ("rounds", "visits", "window"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"loop: {name} is {getattr(self, name)}; at least 1 is wanted")


@dataclass(frozen=True, slots=True)
class Round:
    """What was served in a round, and what came of it: all that a log holds.

    Attributes:
        number: from 0. users: int64 ``[visits]``. pools: int64 ``[visits, pool]``, items. logits: float64 the same.
        chosen: int64 ``[visits, page]``, places in the pool. propensities: float64 the same, conditional.
        outcomes: of the page.
    """

    number: int
    users: _Ints
    pools: _Ints
    logits: _Array
    chosen: _Ints
    propensities: _Array
    outcomes: Outcomes

    @property
    def pages(self) -> _Ints:
        """Items shown, int64 ``[visits, page]``."""
        return np.take_along_axis(self.pools, self.chosen, axis=1)

    @property
    def click_rate(self) -> float:
        """Clicks for each item shown."""
        return float(self.outcomes.click.mean())


def run_arm(
    shop: SimulatedShop,
    arm: Arm,
    options: LoopOptions,
    seed: int,
    tell: _Progress = lambda name, done, total: None,
) -> list[Round]:
    """Serve all rounds with one arm.

    All arms of a seed start from the same model, trained on :func:`first_pages`, and see the same visitors with the
    same candidates; what they show, and so what they learn, is their own.

    Raises:
        InvalidInput: if the policy needs features, which this shop does not give, or the shop has fewer rounds.
    """
    if arm.policy.needs_features:
        raise InvalidInput(f"loop: {arm.policy.name} needs features, and the simulated shop has none to give")
    if options.rounds > shop.rounds:
        raise InvalidInput(f"loop: {options.rounds} rounds in a shop that was made for {shop.rounds}")
    log = [first_pages(shop, options, seed)]
    model = _trained(shop, log, options, seed)
    served = []
    for number in range(options.rounds):
        tell(f"{arm.name}, seed {seed}", number, options.rounds)
        visits, choices, clicks = (np.random.default_rng([seed, number, part]) for part in range(3))
        users = visits.integers(0, shop.options.users, options.visits)
        pools = shop.candidates(number, users, visits)
        logits = _logits(shop, model, users, pools)
        served.append(_serve(shop, number, users, pools, logits, arm.policy, choices, clicks))
        if arm.retrains and number + 1 < options.rounds:
            log.append(served[-1])
            model = _trained(shop, log[-options.window :], options, seed)
    tell(f"{arm.name}, seed {seed}", options.rounds, options.rounds)
    return served


def first_pages(shop: SimulatedShop, options: LoopOptions, seed: int) -> Round:
    """A round before there is a model: candidates in the order of the observed match, as a first stage gives them."""
    visits, choices, clicks = (np.random.default_rng([seed, 2**32 - 1, part]) for part in range(3))
    users = visits.integers(0, shop.options.users, options.visits)
    pools = shop.candidates(0, users, visits)
    match = shop.affinity(users[:, None], pools)
    return _serve(shop, 0, users, pools, match, NoExploration(), choices, clicks)


def impression_table(served: Round, policy: ExplorationPolicy) -> pd.DataFrame:
    """A round as the impression log that off-policy evaluation reads; see :mod:`recsys_plugin.off_policy.log`."""
    visits, pool = served.pools.shape
    page = served.chosen.shape[1]
    line = np.arange(visits)[:, None]

    def shown(values: NDArray[Any]) -> _Array:
        column = np.full((visits, pool), np.nan)
        column[line, served.chosen] = values
        return column.ravel()

    return pd.DataFrame(
        {
            "request_id": np.repeat([f"{served.number}-{visit}" for visit in range(visits)], pool),
            "user_id": np.repeat(served.users, pool),
            "item_id": served.pools.ravel(),
            "position": shown(np.broadcast_to(np.arange(1, page + 1), (visits, page))),
            "propensity": shown(served.propensities),
            "logit": served.logits.ravel(),
            "policy": policy.name,
            "click": shown(served.outcomes.click),
            "cart": shown(served.outcomes.cart),
            "purchase": shown(served.outcomes.purchase),
        }
    )


def _serve(
    shop: SimulatedShop,
    number: int,
    users: _Ints,
    pools: _Ints,
    logits: _Array,
    policy: ExplorationPolicy,
    choices: np.random.Generator,
    clicks: np.random.Generator,
) -> Round:
    found = policy.choose_many(list(logits), shop.options.page, choices)
    chosen = np.stack([choice.positions for choice in found])
    outcomes = shop.outcomes(users, np.take_along_axis(pools, chosen, axis=1), clicks)
    propensities = np.stack([choice.propensities for choice in found])
    return Round(number, users, pools, logits, chosen, propensities, outcomes)


def _logits(shop: SimulatedShop, model: CtrModel, users: _Ints, pools: _Ints) -> _Array:
    """Calibrated log-odds of a click at the first place, ``[visits, pool]``."""
    nothing = np.full(pools.shape, np.nan)
    frame = _frame(shop, users, pools, np.zeros(pools.shape, np.int64), nothing)
    return calibrated_logits(model.predict(frame)[:, 0], ceiling=1.0).reshape(pools.shape)


def _trained(shop: SimulatedShop, log: list[Round], options: LoopOptions, seed: int) -> CtrModel:
    """A model of what was shown; every fifth visit is kept for early stopping and calibration."""
    frames = []
    for served in log:
        places = np.broadcast_to(np.arange(served.chosen.shape[1]), served.chosen.shape)
        frames.append((served.users, served.pages, places, served.outcomes.click))
    users, pages, places, clicks = (np.concatenate(part) for part in zip(*frames, strict=True))
    held = np.arange(len(users)) % 5 == 4
    train, validation = (
        _frame(shop, users[part], pages[part], places[part], clicks[part].astype(np.float64)) for part in (~held, held)
    )
    model = new_model(options.model)
    model.fit(train, validation, options.training, seed, lambda name, done, total: None)
    return model


def _frame(shop: SimulatedShop, users: _Ints, items: _Ints, places: _Ints, clicks: _Array) -> CtrFrame:
    """What a model knows of showing each user a row of items: one line for each.

    The place is a number among others, so that the model learns what it does, and is asked about the first place.
    """
    groups = shop.options.groups
    segment, category = np.broadcast_to(shop.segment[users][:, None], items.shape), shop.category[items]
    numbers = np.stack([shop.affinity(users[:, None], items), np.log1p(places)], axis=-1)
    codes = np.stack([items, segment, category, segment * groups + category], axis=-1) + 1
    lines = items.size
    return CtrFrame(
        numbers=numbers.reshape(lines, -1).astype(np.float32),
        number_names=("affinity", "log_place"),
        codes=codes.reshape(lines, -1),
        code_names=("item", "segment", "category", "segment_category"),
        code_sizes=(shop.total + 1, groups + 1, groups + 1, groups * groups + 1),
        labels=clicks.reshape(lines, 1).astype(np.float32),
        heads=("click",),
        weights=np.ones(lines, np.float32),
        group=np.repeat(users, items.shape[1]),
    )
