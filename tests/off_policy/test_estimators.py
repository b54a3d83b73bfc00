"""Off-policy estimators: right on average, honest in their intervals, and clear about what they cannot do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.errors import InvalidInput, NoOverlap
from recsys_plugin.off_policy import ESTIMATORS, CrossFittedRewards, Decisions, Estimate, Estimator, estimate

#: Four contexts, five actions: what each is worth, and how two policies choose.
WORTH = np.random.default_rng(0).uniform(0.05, 0.6, (4, 5))
LOGGED = np.random.default_rng(1).dirichlet(np.full(5, 2.0), 4)
TARGET = np.random.default_rng(2).dirichlet(np.full(5, 2.0), 4)
TRUTH = float((TARGET * WORTH).sum(axis=1).mean())


def logged(generator: np.random.Generator, count: int, *, model_error: float = 0.0, certain: bool = False) -> Decisions:
    """Decisions of the logging policy; the reward model is the truth plus an error, rewards their mean if certain."""
    context = generator.integers(0, 4, count)
    action = (generator.random(count)[:, None] > LOGGED.cumsum(axis=1)[context]).sum(axis=1)
    worth = WORTH[context, action]
    model = np.clip(WORTH + model_error, 0.0, 1.0)
    return Decisions(
        rewards=worth if certain else (generator.random(count) < worth).astype(np.float64),
        logged=LOGGED[context, action],
        target=TARGET[context, action],
        groups=np.arange(count),
        predicted=model[context, action],
        expected=(TARGET * model).sum(axis=1)[context],
    )


def answer(decisions: Decisions, estimator: Estimator, **options: object) -> Estimate:
    extra = {"switch": 3.0} if estimator == "switch" else {}
    return estimate(decisions, estimator, **{**extra, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_intervals_of_95_percent_hold_the_truth_as_often(estimator: Estimator) -> None:
    generator = np.random.default_rng(3)
    found = [answer(logged(generator, 1000), estimator) for _ in range(300)]
    share = np.mean([each.low <= TRUTH <= each.high for each in found])
    assert share >= 0.91  # 300 intervals: three standard errors below 0.95
    mean, error = np.mean([each.value for each in found]), np.std([each.value for each in found]) / np.sqrt(300)
    assert abs(mean - TRUTH) <= 4.0 * error
    spread = np.std([each.value for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.2)


def test_the_bootstrap_agrees_with_the_normal_law() -> None:
    decisions = logged(np.random.default_rng(4), 3000)
    for estimator in ESTIMATORS:
        normal = answer(decisions, estimator)
        drawn = answer(decisions, estimator, interval="bootstrap", generator=np.random.default_rng(5))
        again = answer(decisions, estimator, interval="bootstrap", generator=np.random.default_rng(5))
        assert drawn == again
        assert drawn.value == normal.value
        assert drawn.low == pytest.approx(normal.low, abs=0.2 * (normal.high - normal.low))
        assert drawn.high == pytest.approx(normal.high, abs=0.2 * (normal.high - normal.low))


def test_doubly_robust_survives_a_wrong_model_and_wins_with_a_right_one() -> None:
    generator = np.random.default_rng(6)
    wrong = [logged(generator, 1000, model_error=0.3) for _ in range(200)]
    assert np.mean([answer(each, "dr").value for each in wrong]) == pytest.approx(TRUTH, abs=0.01)
    assert np.mean([answer(each, "dm").value for each in wrong]) > TRUTH + 0.2
    right = [logged(generator, 1000, certain=True) for _ in range(200)]
    errors = {name: np.std([answer(each, name).value for each in right]) for name in ("ips", "dr")}
    assert errors["dr"] < 0.5 * errors["ips"]


def test_groups_that_go_together_widen_the_interval() -> None:
    decisions = logged(np.random.default_rng(7), 1000)
    alone = answer(decisions, "snips")
    copies = Decisions(*(np.repeat(getattr(decisions, name), 10) for name in ("rewards", "logged", "target", "groups")))
    together = answer(copies, "snips")
    assert together.groups == 1000
    assert together.standard_error == pytest.approx(alone.standard_error)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 200))
def test_a_policy_evaluated_on_its_own_log_gets_the_mean(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    propensities, rewards = generator.uniform(0.01, 1.0, count), generator.random(count)
    decisions = Decisions(rewards, propensities, propensities, np.arange(count))
    for estimator in ("ips", "snips"):
        found = answer(decisions, estimator)
        assert found.value == pytest.approx(rewards.mean())
        assert found.effective_sample_size == pytest.approx(count)
        assert found.mean_weight == pytest.approx(1.0)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 10.0))
def test_snips_stays_between_the_rewards_and_clipping_bounds_weights(seed: int, clip: float) -> None:
    decisions = logged(np.random.default_rng(seed), 50)
    assert 0.0 <= answer(decisions, "snips").value <= 1.0
    clipped = answer(decisions, "ips", clip=clip)
    assert clipped.largest_weight <= clip
    assert clipped.value <= answer(decisions, "ips").value + 1e-12


def test_what_cannot_be_evaluated_is_refused() -> None:
    ones, groups = np.ones(3), np.arange(3)
    with pytest.raises(InvalidInput, match="there is no decision"):
        Decisions(np.empty(0), np.empty(0), np.empty(0), np.empty(0, np.int64))
    with pytest.raises(InvalidInput, match=r"decision 1 was logged with the propensity 0\.0"):
        Decisions(ones, np.array([0.5, 0.0, 1.0]), ones, groups)
    with pytest.raises(InvalidInput, match="rewards is nan in decision 2"):
        Decisions(np.array([0.0, 1.0, np.nan]), ones, ones, groups)
    with pytest.raises(InvalidInput, match=r"target has shape \(2,\)"):
        Decisions(ones, ones, np.ones(2), groups)
    with pytest.raises(InvalidInput, match="outside 0 … 1"):
        Decisions(ones, ones, np.array([0.5, -0.1, 0.5]), groups)
    with pytest.raises(InvalidInput, match="come together"):
        Decisions(ones, ones, ones, groups, predicted=ones)
    none = Decisions(ones, ones, np.zeros(3), groups)
    with pytest.raises(NoOverlap, match="none of the 3 decisions"):
        estimate(none, "ips")
    some = Decisions(ones, ones, ones, groups)
    with pytest.raises(InvalidInput, match="a reward model is needed"):
        estimate(some, "dr")
    with pytest.raises(InvalidInput, match="needs a threshold"):
        estimate(some, "ips", switch=2.0)
    with pytest.raises(InvalidInput, match="clip"):
        estimate(some, "ips", clip=0.0)
    with pytest.raises(InvalidInput, match="level"):
        estimate(some, "ips", level=1.0)
    with pytest.raises(InvalidInput, match="needs a generator"):
        estimate(some, "ips", interval="bootstrap")
    with pytest.raises(InvalidInput, match="one group"):
        estimate(Decisions(ones, ones, ones, np.zeros(3, np.int64)), "ips")


def test_a_page_is_never_predicted_from_its_own_rewards() -> None:
    """Each page has a feature of its own that gives its reward away to a model that has seen it."""
    generator = np.random.default_rng(8)
    groups = np.repeat(np.arange(300), 4)
    secret = np.repeat(generator.normal(size=300), 4)
    rewards = np.repeat(generator.integers(0, 2, 300), 4).astype(np.float64)

    class Memory:
        """Remembers the rewards of what it has seen, and says -1 of everything else."""

        def fit(self, features: np.ndarray, rewards: np.ndarray) -> None:
            self.known = dict(zip(features[:, 0].tolist(), rewards.tolist(), strict=True))

        def predict(self, features: np.ndarray) -> np.ndarray:
            return np.array([self.known.get(value, -1.0) for value in features[:, 0].tolist()])

    model = CrossFittedRewards(secret[:, None], rewards, groups, make=lambda seed: Memory(), folds=3)
    assert (model.predict(secret[:, None], groups) == -1.0).all()
    with pytest.raises(InvalidInput, match="not in the log"):
        model.predict(secret[:1, None], np.array([300]))
    with pytest.raises(InvalidInput, match="folds"):
        CrossFittedRewards(secret[:4, None], rewards[:4], groups[:4], folds=2)
