"""The order of a page: properties over random candidates, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.policy.page import SearchBlend, best_first

SIZE = 12
_CANDIDATES = st.lists(st.tuples(st.integers(-2, SIZE - 1), st.sampled_from([-1.5, 0.0, 0.25, 3.0])), max_size=25)


def arrays(candidates: list[tuple[int, float]]) -> tuple[Any, Any]:
    rows = np.array([row for row, _ in candidates], dtype=np.int64)
    return rows, np.array([score for _, score in candidates], dtype=np.float32)


@given(_CANDIDATES, st.sets(st.integers(0, SIZE - 1)), st.integers(0, 15))
def test_a_page_is_the_best_distinct_allowed_rows_in_one_order(
    candidates: list[tuple[int, float]], excluded: set[int], k: int
) -> None:
    rows, scores = arrays(candidates)
    order = best_first("m", rows, scores, catalogue_size=SIZE, excluded=excluded, k=k)
    best: dict[int, float] = {}
    for row, score in candidates:
        if row >= 0 and row not in excluded:
            best[row] = max(score, best.get(row, score))
    expected = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
    assert [(int(rows[i]), float(scores[i])) for i in order] == expected


@given(_CANDIDATES, st.randoms(use_true_random=False))
def test_the_order_of_the_answer_does_not_matter(candidates: list[tuple[int, float]], random: Any) -> None:
    shuffled = candidates.copy()
    random.shuffle(shuffled)
    pages = []
    for version in (candidates, shuffled):
        rows, scores = arrays(version)
        pages.append(rows[best_first("m", rows, scores, catalogue_size=SIZE, k=25)].tolist())
    assert pages[0] == pages[1]


@pytest.mark.parametrize("bad, name", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_scores_that_are_no_numbers_are_refused(bad: float, name: str) -> None:
    rows, scores = arrays([(1, 0.5), (4, bad), (2, 0.1)])
    with pytest.raises(InferenceUnavailable, match=f"model m answered {name} as the score of catalogue row 4"):
        best_first("m", rows, scores, catalogue_size=SIZE, excluded={4}, k=1)
    rows[1] = -1  # "no candidate" may carry any score
    assert best_first("m", rows, scores, catalogue_size=SIZE, k=3).tolist() == [0, 2]


def test_rows_beyond_the_catalogue_are_refused() -> None:
    rows, scores = arrays([(1, 0.5), (SIZE, 0.1)])
    with pytest.raises(InferenceUnavailable, match="answered row 12 of a catalogue of 12"):
        best_first("m", rows, scores, catalogue_size=SIZE, k=3)


def test_search_blend() -> None:
    rows = np.array([0, 1, 2, -1], dtype=np.int64)
    relevance = np.array([0.9, 0.8, 0.2, 0.0], dtype=np.float32)
    scores = np.array([-4.0, 6.0, 1.0, 99.0], dtype=np.float32)
    blended = SearchBlend(personal_weight=0.2).scores(rows, relevance, scores)
    np.testing.assert_allclose(blended, [0.9, 1.0, 0.3, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(SearchBlend(0).scores(rows, relevance, scores), relevance)
    np.testing.assert_array_equal(SearchBlend().scores(rows, relevance, np.ones(4, np.float32)), relevance)
    scores[1] = np.nan
    blended = SearchBlend().scores(rows, relevance, scores)
    with pytest.raises(InferenceUnavailable, match="NaN"):
        best_first("search", rows, blended, catalogue_size=3, k=3)


def test_words_and_wishes_are_added() -> None:
    rows = np.array([3, 1, -1])
    relevance, equal = np.array([0.5, 0.4, 0.9], dtype=np.float32), np.ones(3, np.float32)
    matches, boosts = np.array([0.0, 0.5, 1.0], np.float32), np.array([1.0, 0.0, 1.0], np.float32)
    blend = SearchBlend(personal_weight=0.0, lexical_weight=0.4, wish_weight=0.1)
    both = blend.scores(rows, relevance, equal, matches=matches, boosts=boosts)
    np.testing.assert_allclose(both[:2], [0.6, 0.6], rtol=1e-6)
    np.testing.assert_allclose(blend.scores(rows, relevance, equal, matches=matches)[:2], [0.5, 0.6], rtol=1e-6)
    np.testing.assert_allclose(blend.scores(rows, relevance, equal, boosts=boosts)[:2], [0.6, 0.4], rtol=1e-6)
