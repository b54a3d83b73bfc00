"""From one user's candidate rows and scores to the order of a page."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InferenceUnavailable

__all__ = ["DEFAULT_SEARCH_BLEND", "MULTILINGUAL_SEARCH_BLEND", "SearchBlend", "best_first"]


def best_first(
    model: str,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    catalogue_size: int,
    excluded: Collection[int] = (),
    k: int,
) -> NDArray[np.intp]:
    """The positions in ``rows`` of the k best candidates, best first.

    Candidates with a row below 0 ("fewer than asked for") and excluded ones are dropped; of a row that comes twice
    the better score counts; equal scores are ordered by row, so that the same answer always gives the same page.

    Args:
        model: named in errors.
        rows: ``[n]`` catalogue rows, in any order.
        scores: ``[n]``, higher is better.
        catalogue_size: rows from this number on do not exist.
        excluded: rows that must not be on the page.
        k: the most candidates wanted.

    Raises:
        InferenceUnavailable: if a candidate's score is NaN or infinite, or its row does not exist: a page made of
            such an answer would be wrong in silence.
    """
    candidates = np.flatnonzero(rows >= 0)
    if candidates.size and int(rows.max()) >= catalogue_size:
        raise InferenceUnavailable(f"model {model} answered row {int(rows.max())} of a catalogue of {catalogue_size}")
    checked = scores[candidates]
    if not np.isfinite(checked).all():
        kind = "NaN" if np.isnan(checked).any() else "infinity"
        item = int(rows[candidates[~np.isfinite(checked)][0]])
        raise InferenceUnavailable(f"model {model} answered {kind} as the score of catalogue row {item}")
    if excluded:
        candidates = candidates[~np.isin(rows[candidates], np.fromiter(excluded, dtype=np.int64))]
    order = _by_score(rows, scores) if len(candidates) == len(rows) else _by_score(rows, scores, candidates)
    # Hardly ever does a row come twice, and looking at the page is much quicker than sorting all rows.
    best = order[:k]
    if not _has_equal_neighbours(np.sort(rows[best])):
        return best
    _, first = np.unique(rows[order], return_index=True)
    return order[np.sort(first)][:k]


def _by_score(
    rows: NDArray[np.int64], scores: NDArray[np.float32], candidates: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """Positions of all, or of the candidates among them, by descending score, then ascending row."""
    if candidates is not None:
        return candidates[_by_score(rows[candidates], scores[candidates])]
    keys = -scores
    order = np.argsort(keys)
    # Equal scores are rare, and sorting by two keys takes several times as long.
    return np.lexsort((rows, keys)) if _has_equal_neighbours(keys[order]) else order


def _has_equal_neighbours(values: NDArray[Any]) -> bool:
    return bool((values[1:] == values[:-1]).any())


@dataclass(frozen=True, slots=True)
class SearchBlend:
    """How a search result is ordered: meaning and words first, wishes and personal taste as small weights on top.

    ``relevance + lexical_weight * match + wish_weight * boost + personal_weight * (score - lowest) / (highest -
    lowest)``, the lowest and the highest score being those among the candidates: a weighted sum of what lies between 0
    and 1 (CombSUM; Fox and Shaw 1994). With ``personal_weight`` 0.1, taste outweighs at most 0.1 of cosine.

    Args:
        personal_weight: of the click model's score for the user.
        lexical_weight: of the words, as BM25's share of the query that an item answers.
        wish_weight: of what a query wishes for without demanding it, such as a colour.
    """

    personal_weight: float = 0.1
    lexical_weight: float = 0.4
    wish_weight: float = 0.15

    def scores(
        self,
        rows: NDArray[np.int64],
        relevance: NDArray[np.float32],
        scores: NDArray[np.float32],
        *,
        matches: NDArray[np.float32] | None = None,
        boosts: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The blended scores, ``[n]``; NaN stays NaN for :func:`best_first` to refuse.

        Args:
            rows: ``[n]`` candidates; those below 0 are none.
            relevance: ``[n]`` cosines of query and item.
            scores: ``[n]`` of the click model.
            matches, boosts: ``[n]`` from 0 to 1, or not known of any.
        """
        candidates = rows >= 0
        blended = relevance
        if matches is not None:
            blended = blended + np.float32(self.lexical_weight) * matches
        if boosts is not None:
            blended = blended + np.float32(self.wish_weight) * boosts
        if self.personal_weight == 0 or not candidates.any():
            return blended
        lowest, highest = scores[candidates].min(), scores[candidates].max()
        if highest == lowest:
            return blended
        personal = (scores - lowest) / (highest - lowest)
        return np.where(candidates, blended + self.personal_weight * personal, blended).astype(np.float32)


#: For the text encoder MiniLM: its weight of the words is what the training queries of ``recsys bench quality --suite
#: search-fusion`` chose.
DEFAULT_SEARCH_BLEND = SearchBlend()
#: For the multilingual E5, whose cosines differ about a sixth as much, and which hardly gains from words: there they
#: only decide among items that mean about the same, and find codes.
MULTILINGUAL_SEARCH_BLEND = SearchBlend(personal_weight=0.02, lexical_weight=0.02, wish_weight=0.03)
