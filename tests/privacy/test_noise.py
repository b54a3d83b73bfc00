"""Noise is of the distribution that it is said to be, and covers what one user adds; what is spent adds up."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from recsys_plugin.errors import CheckFailed, ConfigurationError, InvalidInput
from recsys_plugin.privacy.budget import budget_path, read_budget, spend
from recsys_plugin.privacy.noise import Mechanism, bounded, discrete_laplace
from recsys_plugin.settings import Settings
from recsys_plugin.training.communities import CountedPrivately, _described

NOW = datetime(2026, 3, 1, tzinfo=UTC)
_DRAWS = 60_000


def probability(k: int, epsilon: float, sensitivity: int) -> float:
    """Of the discrete Laplace distribution."""
    ratio = math.exp(-epsilon / sensitivity)
    return (1 - ratio) / (1 + ratio) * ratio ** abs(k)


@pytest.mark.parametrize(("epsilon", "sensitivity"), [(1.0, 1), (0.5, 2), (2.0, 3)])
def test_the_noise_has_the_distribution_that_hides_a_user(epsilon: float, sensitivity: int) -> None:
    mechanism = discrete_laplace(epsilon=epsilon, sensitivity=sensitivity)
    assert epsilon <= mechanism.epsilon <= epsilon * (1 + 1e-9)
    drawn = mechanism.noise(np.full((_DRAWS // 2, 2), 7)) - 7
    assert drawn.shape == (_DRAWS // 2, 2)
    assert drawn.dtype == np.int64
    reach = 10
    found = np.bincount(np.clip(drawn.ravel(), -reach, reach) + reach, minlength=2 * reach + 1)
    expected = np.array([probability(k, epsilon, sensitivity) for k in range(-reach, reach + 1)])
    # What lies beyond counts with the ends.
    ratio = math.exp(-epsilon / sensitivity)
    expected[[0, -1]] /= 1 - ratio
    assert math.isclose(expected.sum(), 1.0, rel_tol=1e-9)
    kept = expected * _DRAWS >= 5
    rest = (found[~kept].sum(), expected[~kept].sum() * _DRAWS)
    seen, wanted = [*found[kept], rest[0]], [*(expected[kept] * _DRAWS), rest[1]]
    if rest[1] == 0:
        seen, wanted = seen[:-1], wanted[:-1]
    # Randomness cannot be seeded here; a right sampler fails once in a billion runs.
    assert chisquare(seen, wanted).pvalue > 1e-9
    # Whatever is seen, it is at most exp(epsilon) times likelier if the counts differ by what a user adds.
    ratios = [
        probability(k, epsilon, sensitivity) / probability(k - sensitivity, epsilon, sensitivity) for k in range(-9, 9)
    ]
    assert max(ratios) <= math.exp(epsilon) * (1 + 1e-12)


def test_no_two_runs_draw_the_same() -> None:
    mechanism = discrete_laplace(epsilon=0.1, sensitivity=1)
    assert (mechanism.noise(np.zeros(50, np.int64)) != mechanism.noise(np.zeros(50, np.int64))).any()
    assert mechanism.noise(np.zeros((0, 3), np.int64)).shape == (0, 3)


@given(
    rows=st.lists(st.sets(st.integers(0, 9), max_size=10), min_size=1, max_size=8),
    most=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_a_user_changes_the_counts_by_what_is_allowed_and_no_more(rows: list[set[int]], most: int, seed: int) -> None:
    def counts(users: list[set[int]]) -> Any:
        matrix = sp.lil_matrix((len(users), 10))
        for user, columns in enumerate(users):
            matrix[user, sorted(columns)] = 3.0
        kept = bounded(matrix.tocsr(), most, np.random.default_rng(seed))
        for user, columns in enumerate(users):
            chosen = set(kept[user].indices.tolist())
            assert chosen <= columns
            assert len(chosen) == min(most, len(columns))
        return np.asarray(kept.sum(axis=0)).ravel()

    without = counts(rows[:-1]) if len(rows) > 1 else np.zeros(10)
    assert np.abs(counts(rows) - without).sum() <= most


def test_every_count_of_a_community_gets_noise_and_nothing_else_is_told() -> None:
    labels = np.array([0] * 30 + [1] * 30)
    owned = sp.csr_matrix(np.repeat(np.array([[1.0, 0, 1, 0], [0, 1, 1, 0]]), 30, axis=0))
    calls: dict[str, tuple[int, ...]] = {}

    def mechanism(name: str, sensitivity: int, shift: Any) -> Mechanism:
        def noise(counts: Any) -> Any:
            calls[name] = counts.shape
            return counts + shift

        return Mechanism(noise, 0.25, sensitivity)

    # Noise that turns everything round: the last item, which nobody bought, seems to be bought by all.
    items = np.array([-50, -50, -50, 40])
    privately = CountedPrivately(
        mechanism("sizes", 1, 5),
        mechanism("items", 2, items),
        mechanism("categories", 2, 0),
        2,
        np.random.default_rng(0),
    )
    told = _described(np.eye(2, dtype=np.float32), labels, owned, ["a", "b", "c", ""], 20, privately)
    assert calls == {"sizes": (2,), "items": (2, 4), "categories": (2, 4)}
    assert told.sizes.tolist() == [35, 35]
    assert told.item_rows[:, 0].tolist() == [3, 3]
    assert (told.item_rows[:, 1:] == -1).all()
    assert told.epsilon == 0.75
    assert [set(line) for line in told.categories] == [{"a", "c"}, {"b", "c"}]
    exact = _described(np.eye(2, dtype=np.float32), labels, owned, ["a", "b", "c", ""], 20)
    assert (exact.sizes.tolist(), exact.epsilon) == ([30, 30], None)


def test_what_is_spent_adds_up_and_is_bounded(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert read_budget(settings).epsilon == 0.0
    spend(settings, "communities", epsilon=1.0, now=NOW, most=2.5)
    spend(settings, "communities", epsilon=1.25, now=NOW)
    with pytest.raises(CheckFailed, match=r"would spend epsilon 0\.5; 2\.25 of 2\.5"):
        spend(settings, "communities", epsilon=0.5, now=NOW)
    spent = read_budget(settings)
    assert (spent.epsilon, spent.delta, len(spent.publications), spent.most) == (2.25, 0.0, 2, 2.5)
    assert json.loads(json.dumps(spent.to_dict()))["epsilon"] == 2.25
    assert spend(settings, "communities", epsilon=0.5, now=NOW, most=3.0).epsilon == 2.75
    budget_path(settings).write_text("{")
    with pytest.raises(ConfigurationError, match="damaged"):
        spend(settings, "communities", epsilon=0.1, now=NOW)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
def test_what_hides_nobody_is_refused(epsilon: float) -> None:
    with pytest.raises(InvalidInput, match="epsilon"):
        discrete_laplace(epsilon=epsilon, sensitivity=1)
