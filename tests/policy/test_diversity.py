"""Diversity: pure functions against their definitions, worked out the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.errors import InvalidInput
from recsys_plugin.policy.diversity import DiversityMethod, diversified, intra_list_distance, similarities

METHODS = st.sampled_from(["mmr", "dpp"])


def pool(seed: int, size: int, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=size), draw.normal(size=(size, width))


@given(METHODS, st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 40), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_distinct_places_of_the_pool(method: DiversityMethod, seed: int, size: int, k: int, strength: float) -> None:
    scores, vectors = pool(seed, size)
    chosen = diversified(method, scores, vectors, k, strength=strength)
    assert len(chosen) == len(set(chosen.tolist())) == min(k, size)
    assert set(chosen.tolist()) <= set(range(size))
    # Any scale of scores and any lengths of vectors are the same.
    again = diversified(method, 3 * scores + 7, vectors * np.arange(1, size + 1)[:, np.newaxis], k, strength=strength)
    assert again.tolist() == chosen.tolist() or strength == 1


@given(METHODS, st.integers(0, 2**32), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_no_strength_is_the_order_of_scores(method: DiversityMethod, seed: int, size: int) -> None:
    scores, vectors = pool(seed, size)
    assert diversified(method, scores, vectors, size, strength=0).tolist() == np.argsort(-scores).tolist()


@given(st.integers(0, 2**32), st.integers(2, 12), st.floats(0.01, 1))
@settings(max_examples=80, deadline=None)
def test_maximal_marginal_relevance(seed: int, size: int, strength: float) -> None:
    """Each item is the best by the definition of Carbonell and Goldstein, given those before it."""
    scores, vectors = pool(seed, size)
    relevance, similar = (scores - scores.min()) / np.ptp(scores), similarities(vectors)
    chosen = diversified("mmr", scores, vectors, size, strength=strength).tolist()
    for place, item in enumerate(chosen):
        before, left = chosen[:place], chosen[place:]

        def value(candidate: int, before: list[int] = before) -> float:
            nearest = max((similar[candidate, other] for other in before), default=0.0)
            return float((1 - strength) * relevance[candidate] - strength * nearest)

        assert value(item) == pytest.approx(max(map(value, left)), abs=1e-9)


@given(st.integers(0, 2**32), st.integers(2, 10), st.floats(0.05, 1))
@settings(max_examples=80, deadline=None)
def test_determinantal_process(seed: int, size: int, strength: float) -> None:
    """Each item adds most to the objective, with determinants computed anew."""
    scores, vectors = pool(seed, size, width=20)
    relevance, similar = (scores - scores.min()) / np.ptp(scores), similarities(vectors)
    chosen = diversified("dpp", scores, vectors, size, strength=strength).tolist()
    for place in range(size):
        before, left = chosen[:place], chosen[place:]

        def value(candidate: int, before: list[int] = before) -> float:
            page = [*before, candidate]
            _, determinant = np.linalg.slogdet(similar[np.ix_(page, page)])
            return float((1 - strength) * relevance[page].sum() + strength * determinant)

        assert value(left[0]) == pytest.approx(max(map(value, left)), abs=1e-6)


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_a_twin_is_passed_over(method: DiversityMethod) -> None:
    vectors = np.array([[1.0, 0.0], [1.0, 0.001], [0.0, 1.0], [-1.0, 0.0]])
    scores = np.array([1.0, 0.99, 0.6, 0.0])
    assert diversified(method, scores, vectors, 2, strength=0.6).tolist() in ([0, 2], [0, 3])
    # More than there are directions: what is made up by the others still comes, in the end.
    twins = np.ones((5, 3))
    assert sorted(diversified(method, np.arange(5.0), twins, 5, strength=0.9).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_distance_rises_with_strength(method: DiversityMethod) -> None:
    distances = []
    for strength in (0.0, 0.3, 0.6, 0.9):
        found = []
        for seed in range(20):
            scores, vectors = pool(seed, 60, width=20)
            found.append(intra_list_distance(vectors[diversified(method, scores, vectors, 10, strength=strength)]))
        distances.append(np.mean(found))
    assert distances == sorted(distances)
    assert distances[-1] > 1.02 * distances[0]


def test_intra_list_distance() -> None:
    assert intra_list_distance(np.eye(3)) == pytest.approx(1.0)
    assert intra_list_distance(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(2.0)
    assert intra_list_distance(np.ones((4, 2))) == pytest.approx(0.0)
    assert intra_list_distance(np.ones((1, 2))) == intra_list_distance(np.ones((0, 2))) == 0.0


@pytest.mark.parametrize(
    "scores, vectors, k, strength, message",
    [
        ([1.0], [[1.0], [2.0]], 1, 0.5, "shape"),
        ([np.nan], [[1.0]], 1, 0.5, "not finite"),
        ([1.0], [[np.inf]], 1, 0.5, "not finite"),
        ([1.0], [[1.0]], -1, 0.5, "k -1 is below 0"),
        ([1.0], [[1.0]], 1, 1.5, "strength 1.5 is not from 0 to 1"),
    ],
)
def test_nonsense_is_refused(
    scores: list[float], vectors: list[list[float]], k: int, strength: float, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        diversified("mmr", np.array(scores), np.array(vectors), k, strength=strength)
