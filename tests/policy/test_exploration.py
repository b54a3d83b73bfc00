"""Exploration policies: propensities are what happens, pages are pages, and what cannot be is refused."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.policy import (
    BayesianLastLayer,
    EpsilonGreedy,
    ExplorationPolicy,
    GumbelTopK,
    NoExploration,
    ThompsonSampling,
    calibrated_logits,
    parse_exploration,
)
from recsys_plugin.policy.exploration import SCORE_CEILING

DRAWS = 100_000
Array = NDArray[np.float64]


def thompson(seed: int | None = 0, draws: int = 32) -> ThompsonSampling:
    return ThompsonSampling(BayesianLastLayer.prior(("a", "b"), (1.0, 0.5)), seed=seed, draws=draws)


def features_of(logits: Array) -> Array:
    """Two columns that say different things of the candidates."""
    return np.stack([np.sin(3.0 * np.arange(len(logits))), logits], axis=1)


#: Every policy that claims exact propensities.
EXACT = {
    "none": NoExploration(),
    "epsilon": EpsilonGreedy(0.3),
    "epsilon-all": EpsilonGreedy(1.0),
    "gumbel": GumbelTopK(0.7),
    "gumbel-cold": GumbelTopK(0.05),
    "thompson": thompson(),
}
_LOGITS = st.lists(st.floats(-30.0, 30.0, width=32), max_size=12).map(lambda values: np.array(values, np.float32))
_POLICIES = st.sampled_from([*EXACT.values(), thompson(seed=None)])


@pytest.mark.parametrize("name", ["none", "epsilon", "gumbel", "thompson"])
def test_frequencies_of_100_000_pages_are_the_propensities(name: str) -> None:
    policy, generator = EXACT[name], np.random.default_rng(20261124)
    assert policy.kind == "exact"
    logits = np.array([0.4, -1.0, 0.9, 0.0, 0.3])
    features = features_of(logits)
    pages = (policy.choose(logits, 3, generator, features=features) for _ in range(DRAWS))
    seen = Counter(tuple(page.positions.tolist()) for page in pages)
    orders = list(permutations(range(len(logits)), 3))
    expected = np.array(
        [policy.propensities(logits, np.array(order), features=features).prod() * DRAWS for order in orders]
    )
    observed = np.array([seen[order] for order in orders], dtype=np.float64)
    assert expected.sum() == pytest.approx(DRAWS)
    assert not observed[expected == 0.0].any()
    rare = expected < 5.0  # chi-square wants five expected in each class
    classes = [(observed[~rare], expected[~rare])]
    if expected[rare].sum() >= 5.0:
        classes.append((observed[rare].sum(keepdims=True), expected[rare].sum(keepdims=True)))
    counts, wanted = (np.concatenate(part) for part in zip(*classes, strict=True))
    wanted *= counts.sum() / wanted.sum()
    if len(counts) > 1:
        assert chisquare(counts, wanted).pvalue > 0.001
    else:
        assert counts[0] == DRAWS


@pytest.mark.parametrize("name", EXACT)
def test_marginals_are_sums_over_all_pages(name: str) -> None:
    policy = EXACT[name]
    logits = np.array([0.4, -1.0, 0.9, 0.0])
    features = features_of(logits)
    expected = np.zeros((4, 4))
    for order in permutations(range(4)):
        chance = policy.propensities(logits, np.array(order), features=features).prod()
        expected[list(order), range(4)] += chance
    tolerance = 0.06 if name == "thompson" else 1e-7  # four standard errors of its thousand pages
    np.testing.assert_allclose(policy.marginals(logits, 4, features=features), expected, atol=tolerance)


@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0, 50.0])
def test_plackett_luce_marginals_of_a_real_pool(temperature: float) -> None:
    logits = np.random.default_rng(3).normal(-4.0, 1.5, 120)
    policy, generator = GumbelTopK(temperature), np.random.default_rng(4)
    marginals = policy.marginals(logits, 10)
    assert marginals.shape == (120, 10)
    np.testing.assert_allclose(marginals.sum(axis=0), 1.0)
    np.testing.assert_allclose(
        marginals[:, 0], np.exp(logits / temperature - np.logaddexp.reduce(logits / temperature)), atol=1e-7
    )
    seen = np.zeros_like(marginals)
    for _ in range(4000):
        seen[policy.choose(logits, 10, generator).positions, np.arange(10)] += 1
    error = np.sqrt(marginals * (1.0 - marginals) / 4000)
    assert (np.abs(seen / 4000 - marginals) <= 5.0 * error + 2e-3).all()


@settings(max_examples=200, deadline=None)
@given(_POLICIES, _LOGITS, st.integers(0, 15), st.integers(0, 2**32 - 1))
def test_a_choice_is_a_page_and_a_seed_gives_it_again(
    policy: ExplorationPolicy, logits: Array, k: int, seed: int
) -> None:
    features = features_of(logits)
    first = policy.choose(logits, k, np.random.default_rng(seed), features=features)
    again = policy.choose(logits, k, np.random.default_rng(seed), features=features)
    assert first.positions.tolist() == again.positions.tolist()
    assert first.propensities.tolist() == again.propensities.tolist()
    assert first.positions.dtype == np.int64
    assert first.propensities.dtype == np.float64
    assert len(first.positions) == len(first.propensities) == min(k, len(logits))
    assert len(set(first.positions.tolist())) == len(first.positions)
    assert set(first.positions.tolist()) <= set(range(len(logits)))
    assert ((first.propensities > 0.0) & (first.propensities <= 1.0)).all()
    if policy.kind == "exact":
        retold = policy.propensities(logits, first.positions, features=features)
        np.testing.assert_allclose(retold, first.propensities, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(_POLICIES, st.lists(_LOGITS, max_size=4), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_many_users_are_one_after_the_other(policy: ExplorationPolicy, pools: list[Array], k: int, seed: int) -> None:
    features = [features_of(pool) for pool in pools]
    together = policy.choose_many(pools, k, np.random.default_rng(seed), features=features)
    generator = np.random.default_rng(seed)
    alone = [policy.choose(pool, k, generator, features=beside) for pool, beside in zip(pools, features, strict=True)]
    assert [choice.positions.tolist() for choice in together] == [choice.positions.tolist() for choice in alone]


@settings(max_examples=100, deadline=None)
@given(_LOGITS, st.integers(0, 12))
def test_without_exploration_the_best_come_first_and_nothing_is_drawn(logits: Array, k: int) -> None:
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    choice = NoExploration().choose(logits, k, generator)
    assert generator.bit_generator.state == before
    assert choice.positions.tolist() == sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:k]
    assert (choice.propensities == 1.0).all()
    greedy = EpsilonGreedy(0.0).choose(logits, k, generator)
    assert greedy.positions.tolist() == choice.positions.tolist()
    assert (greedy.propensities == 1.0).all()


@given(_LOGITS.filter(len), st.integers(-20, 20))
def test_gumbel_depends_on_differences_alone(logits: Array, shift: int) -> None:
    """Log-odds that all shift together are no reason for another page: negative ones least of all."""
    moved = logits.astype(np.float64) + shift
    page = GumbelTopK(0.5).choose(logits, 4, np.random.default_rng(1))
    other = GumbelTopK(0.5).choose(moved, 4, np.random.default_rng(1))
    assert page.positions.tolist() == other.positions.tolist()
    np.testing.assert_allclose(page.propensities, other.propensities, rtol=1e-6)


def test_a_colder_page_is_nearer_to_the_best() -> None:
    logits = np.random.default_rng(5).normal(-5.0, 1.0, 100)
    means = []
    for temperature in (0.01, 0.3, 1.0, 10.0):
        generator, policy = np.random.default_rng(6), GumbelTopK(temperature)
        means.append(np.mean([logits[policy.choose(logits, 20, generator).positions].mean() for _ in range(50)]))
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(np.sort(logits)[-20:].mean(), abs=1e-3)


def test_an_estimate_contains_its_own_draw() -> None:
    """Without a seed the mean estimate of a shown item is p + (1 - p) / draws, as documented."""
    logits = np.array([0.0, 0.3, -0.5])
    features = features_of(logits)
    many = thompson(draws=200_000)
    exact = [float(many.propensities(logits, np.array([item]), features=features)[0]) for item in range(3)]
    policy, generator = thompson(seed=None, draws=8), np.random.default_rng(7)
    told: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for _ in range(20_000):
        choice = policy.choose(logits, 1, generator, features=features)
        told[int(choice.positions[0])].append(float(choice.propensities[0]))
    for item, values in told.items():
        assert len(values) / 20_000 == pytest.approx(exact[item], abs=0.015)
        assert np.mean(values) == pytest.approx(exact[item] + (1.0 - exact[item]) / 8, abs=0.01)
    with pytest.raises(InvalidInput, match="only a policy with a seed"):
        policy.propensities(logits, np.array([0]), features=features)


@pytest.mark.parametrize("policy", [*EXACT.values(), thompson(seed=None)], ids=lambda policy: policy.name)
def test_what_is_no_pool_is_refused(policy: ExplorationPolicy) -> None:
    generator = np.random.default_rng(0)
    for bad in (np.nan, np.inf, -np.inf):
        logits = np.array([0.0, bad, 1.0])
        with pytest.raises(InvalidInput, match=f"logits: {bad} at place 1 of the pool"):
            policy.choose(logits, 2, generator, features=np.zeros((3, 2)))
    with pytest.raises(InvalidInput, match="k: -1 is below 0"):
        policy.choose(np.zeros(3), -1, generator, features=np.zeros((3, 2)))
    with pytest.raises(InvalidInput, match="one dimension"):
        policy.choose(np.zeros((3, 1)), 1, generator, features=np.zeros((3, 2)))
    assert policy.choose(np.empty(0), 3, generator, features=np.empty((0, 2))).positions.tolist() == []
    if policy.kind == "exact":
        with pytest.raises(InvalidInput, match="comes twice"):
            policy.propensities(np.zeros(3), np.array([1, 1]), features=np.zeros((3, 2)))
        with pytest.raises(InvalidInput, match=r"has the places 0 … 2, and \[3\]"):
            policy.propensities(np.zeros(3), np.array([3]), features=np.zeros((3, 2)))


def test_thompson_says_what_is_wrong_with_features() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(InvalidInput, match=r"features \[pool, 2\] are needed: a, b"):
        thompson().choose(np.zeros(3), 1, generator)
    with pytest.raises(InvalidInput, match=r"shape \(3, 1\), and \(3, 2\) is wanted"):
        thompson().choose(np.zeros(3), 1, generator, features=np.zeros((3, 1)))
    with pytest.raises(InvalidInput, match="NaN"):
        thompson().choose(np.zeros(3), 1, generator, features=np.full((3, 2), np.nan))


@given(st.floats(allow_nan=True))
def test_parameters_that_make_no_policy_are_refused(value: float) -> None:
    if not 0.0 <= value <= 1.0:
        with pytest.raises(InvalidInput, match="epsilon"):
            EpsilonGreedy(value)
    if not 0.0 < value < np.inf:
        with pytest.raises(InvalidInput, match="temperature"):
            GumbelTopK(value)


def test_settings_name_policies(tmp_path: Path) -> None:
    file = tmp_path / "last_layer.npz"
    thompson().posterior.save(file)
    for text in ("none", "epsilon:0.05", "gumbel:0.3", f"thompson:{file}"):
        policy = parse_exploration(text)
        assert policy.name == text
        assert parse_exploration(policy.name).name == text
    for text, reason in {
        "": "there are none, epsilon",
        "greedy": "there are none",
        "none:1": "there are none",
        "gumbel": "'' is not a number",
        "gumbel:warm": "'warm' is not a number",
        "gumbel:0": "not a finite number above 0",
        "gumbel:nan": "not a finite number above 0",
        "epsilon:1.5": "not from 0 to 1",
        "thompson": "there are none",
        "thompson:nowhere.npz": "nowhere.npz holds no last layer",
    }.items():
        with pytest.raises(ConfigurationError, match=reason):
            parse_exploration(text)


@given(st.lists(st.floats(0.0, 1.0, width=32), max_size=20))
def test_logits_keep_the_order_of_scores(scores: list[float]) -> None:
    logits = calibrated_logits(np.array(scores, np.float32))
    assert np.isfinite(logits).all()
    order = np.argsort(scores, kind="stable")
    assert (np.diff(logits[order]) >= 0.0).all()


def test_logits_are_log_odds() -> None:
    np.testing.assert_allclose(calibrated_logits(np.array([0.5, 0.2]), ceiling=1.0), [0.0, np.log(0.25)])
    for bad in (-0.5, 1.5, np.nan):
        with pytest.raises(InvalidInput, match=r"not a rate from 0 to 1.4"):
            calibrated_logits(np.array([0.1, bad]))
    with pytest.raises(InvalidInput, match="ceiling"):
        calibrated_logits(np.array([0.1]), ceiling=0.0)


def test_the_ceiling_is_what_the_exported_graph_can_answer() -> None:
    from recsys_plugin.export.torch_graphs import SCORE_WEIGHTS

    assert sum(SCORE_WEIGHTS.values()) == pytest.approx(SCORE_CEILING)
