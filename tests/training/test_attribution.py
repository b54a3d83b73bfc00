"""Contributions by themselves: Shapley's axioms, chords that add up, and their limit, integrated gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_plugin.training.attribution import (
    ChordGradients,
    coalitions,
    score_log_odds,
    score_slopes,
    shapley_matrix,
)

GROUPS, FIRST, SECOND = 4, 6, 5


@settings(deadline=None, max_examples=20)
@given(groups=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_shapley_values_are_means_over_all_orders(groups: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=2**groups).astype(np.float32)
    orders = list(itertools.permutations(range(groups)))
    wanted = np.zeros(groups)
    for order in orders:
        inside = 0
        for group in order:
            wanted[group] += values[inside | 1 << group] - values[inside]
            inside |= 1 << group
    found = values @ shapley_matrix(groups).numpy()
    np.testing.assert_allclose(found, wanted / len(orders), atol=1e-5)
    np.testing.assert_allclose(found.sum(), values[-1] - values[0], atol=1e-5)
    members = coalitions(groups)
    assert members.shape == (2**groups, groups)
    assert not members[0].any()
    assert members[-1].all()


@settings(deadline=None, max_examples=50)
@given(
    start=st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3),
    end=st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3),
    heads=st.integers(1, 3),
)
def test_slopes_of_a_score_give_its_change(start: list[float], end: list[float], heads: int) -> None:
    weights = torch.tensor([1.0, 0.3, 0.1][:heads], dtype=torch.float64)
    low, high = (torch.tensor(values[:heads], dtype=torch.float64) for values in (start, end))
    change = score_log_odds(high, weights) - score_log_odds(low, weights)
    torch.testing.assert_close((score_slopes(low, high, weights) * (high - low)).sum(), change, atol=1e-5, rtol=1e-5)


def test_a_score_is_the_weighted_mean_probability() -> None:
    logits, weights = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.3])
    chance = (weights * torch.sigmoid(logits)).sum() / weights.sum()
    torch.testing.assert_close(score_log_odds(logits, weights), torch.logit(chance))
    assert score_log_odds(logits[:1], weights[:1]) == logits[0]


def network(
    seed: int, heads: int, steps: int
) -> tuple[ChordGradients, tuple[Tensor, ...], Callable[[Tensor, Tensor], Tensor]]:
    """A network of random weights, what three lines' groups add to it, and its score of added-up groups."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    hidden, output = (draw(SECOND, FIRST), draw(SECOND)), (draw(heads, SECOND), draw(heads))
    weights = torch.tensor([1.0, 0.3][:heads], dtype=torch.float64)
    parts = (draw(3, GROUPS, FIRST), draw(3, GROUPS, heads), draw(FIRST), draw(heads))

    def score(first: Tensor, direct: Tensor) -> Tensor:
        middle = torch.relu(first) @ hidden[0].T + hidden[1]
        return score_log_odds(torch.relu(middle) @ output[0].T + output[1] + direct, weights)

    return ChordGradients(hidden, output, weights, steps=steps).double(), parts, score


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), heads=st.integers(1, 2), steps=st.sampled_from([1, 4, 32]))
def test_chords_add_up_whatever_the_number_of_steps(seed: int, heads: int, steps: int) -> None:
    gradients, (first, direct, first_base, direct_base), score = network(seed, heads, steps)
    contributions, base, logit = gradients(first, direct, first_base, direct_base)
    torch.testing.assert_close(base, score(first_base, direct_base).expand(3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logit, score(first_base + first.sum(1), direct_base + direct.sum(1)))
    torch.testing.assert_close(base + contributions.sum(1), logit, atol=1e-5, rtol=1e-5)


def test_chords_tend_to_integrated_gradients() -> None:
    # The path integral of torch's own gradient, by the midpoint rule with so many points that its error is small.
    points = (torch.arange(4000) + 0.5) / 4000
    for heads in (1, 2):
        gradients, (first, direct, first_base, direct_base), score = network(7, heads, 32)
        path = points.reshape(1, -1, 1, 1)
        groups = torch.ones(3, 4000, GROUPS, 1, dtype=torch.float64)
        scaled = (groups * path).requires_grad_()
        values = score(
            first_base + (scaled * first.unsqueeze(1)).sum(2), direct_base + (scaled * direct.unsqueeze(1)).sum(2)
        )
        (slopes,) = torch.autograd.grad(values.sum(), scaled)
        wanted = slopes.squeeze(-1).mean(1)
        contributions, base, logit = gradients(first, direct, first_base, direct_base)
        assert float((base + wanted.sum(1) - logit).abs().max()) < 0.01  # the midpoint rule does not add up by itself
        assert float((contributions - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_a_linear_model_gets_exact_products() -> None:
    direct, base = torch.randn(3, GROUPS, 1, generator=torch.Generator().manual_seed(0)), torch.tensor([0.25])
    gradients = ChordGradients(None, None, torch.ones(1), steps=32)
    contributions, start, logit = gradients(direct, direct, base, base)
    torch.testing.assert_close(contributions, direct.squeeze(-1))
    torch.testing.assert_close(start, base.expand(3))
    torch.testing.assert_close(logit, 0.25 + direct.sum((1, 2)))
