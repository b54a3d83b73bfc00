"""Shares in bins, and how far two lists of them are apart."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.checks.distributions import (
    Bins,
    Sample,
    jensen_shannon,
    least_share,
    population_stability_index,
    psi_noise,
)
from recsys_plugin.errors import InvalidInput

_counts = st.integers(2, 12).flatmap(
    lambda size: st.tuples(*[st.lists(st.integers(0, 500), min_size=size, max_size=size).filter(any)] * 2)
)


def shares(counts: list[int]) -> list[float]:
    return [count / sum(counts) for count in counts]


def numbers(values: list[float]) -> Sample:
    column = np.array(values, np.float64)[:, None]
    return Sample.of(column, np.ones_like(column, bool))


def texts(values: list[str]) -> Sample:
    column = np.array(values, object)[:, None]
    return Sample.of(column, column != "")


@given(_counts)
def test_psi_is_zero_for_equal_symmetric_and_finite(counts: tuple[list[int], list[int]]) -> None:
    one, other = map(shares, counts)
    least = least_share(sum(counts[0]), sum(counts[1]))
    assert population_stability_index(one, one, least=least) == population_stability_index(one, one) == 0.0
    there, back = population_stability_index(one, other), population_stability_index(other, one)
    assert 0.0 <= population_stability_index(one, other, least=least) <= there + 1e-12
    assert there == pytest.approx(back)
    assert math.isfinite(there)
    assert there >= 0.0


@given(_counts)
def test_jensen_shannon_is_zero_for_equal_symmetric_and_at_most_a_bit(counts: tuple[list[int], list[int]]) -> None:
    one, other = map(shares, counts)
    assert jensen_shannon(one, one) == 0.0
    there = jensen_shannon(one, other)
    assert there == pytest.approx(jensen_shannon(other, one), abs=1e-12)
    assert 0.0 <= there <= 1.0


def test_known_values() -> None:
    # (0.5 - 0.25) ln 2 + (0.5 - 0.75) ln(2/3)
    assert population_stability_index([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.25 * math.log(2 * 1.5))
    assert jensen_shannon([1.0, 0.0], [0.0, 1.0]) == 1.0
    assert math.isnan(population_stability_index([math.nan], [1.0]))
    assert math.isnan(jensen_shannon([math.nan], [1.0]))
    with pytest.raises(InvalidInput, match="cannot be compared"):
        population_stability_index([1.0], [0.5, 0.5])


def test_psi_of_samples_without_drift_is_within_its_noise() -> None:
    generator = np.random.default_rng(5)
    outside = 0
    for _ in range(300):
        one, other = generator.normal(size=(2, 400))
        bins = Bins.of(numbers(one.tolist()))
        psi = population_stability_index(bins.shares(numbers(one.tolist())), bins.shares(numbers(other.tolist())))
        outside += psi > psi_noise(len(bins) - 1, 400, 400)
    assert outside <= 3
    assert math.isnan(psi_noise(5, 0, 10))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.lists(st.floats(-1e9, 1e9), max_size=60))
def test_every_number_is_in_one_bin(known: list[float], asked: list[float]) -> None:
    bins = Bins.of(numbers(known))
    assert bins.shares(numbers(known)).sum() == pytest.approx(1.0)
    assert len(bins.names) == len(bins)
    assert Bins.from_dict(json.loads(json.dumps(bins.to_dict()))) == bins
    if asked:
        assert bins.shares(numbers(asked)).sum() == pytest.approx(1.0)


def test_a_constant_moves_in_both_directions() -> None:
    bins = Bins.of(numbers([3.0] * 50))
    then = bins.shares(numbers([3.0] * 50))
    for moved in (2.0, 4.0):
        assert population_stability_index(then, bins.shares(numbers([moved] * 50))) > 1.0


def test_absent_values_have_a_bin_of_their_own() -> None:
    values = np.array([[1.0, 2.0], [math.nan, 4.0], [math.nan, math.nan], [0.0, 0.0]])
    sample = Sample.of(values, values != 0.0)
    assert sample.missing == 0.5
    # Each line counts once: the two values of the first half each.
    assert sample.weights.tolist() == [0.5, 0.5, 1.0]
    assert Bins.of(sample).shares(sample)[-1] == 0.5
    nothing = Sample.of(np.zeros((0, 1)), np.zeros((0, 1), bool))
    assert math.isnan(nothing.missing)
    assert np.isnan(Bins.of(sample).shares(nothing)).all()
    absent = Sample.of(np.full((4, 1), math.nan), np.ones((4, 1), bool))
    assert Bins.of(absent).shares(absent).tolist() == [0.0, 1.0]


def test_categories_beyond_the_most_frequent_are_others() -> None:
    sample = texts(["a", "a", "a", "b", "b", "c", ""])
    bins = Bins.of(sample, most_categories=2)
    assert bins.names == ["a", "b", "other", "missing"]
    assert bins.shares(sample).tolist() == pytest.approx([3 / 7, 2 / 7, 1 / 7, 1 / 7])
    # With some left out it is not known what is new.
    assert not bins.complete
    assert bins.new(texts(["z"])) == []
    assert Bins.of(sample).new(texts(["a", "z", "y", "z"])) == ["y", "z"]
    with pytest.raises(InvalidInput, match="no place"):
        bins.shares(numbers([1.0]))
