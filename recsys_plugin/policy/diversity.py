"""Pages whose items are unlike each other: re-ranking by maximal marginal relevance, and by a determinantal process.

Both pick one item after the other from a pool of candidates, each time weighing how good an item is against how like
the chosen ones it is. Strength 0 is the order of the scores, strength 1 looks at likeness alone.

- **mmr**: maximal marginal relevance (Carbonell and Goldstein 1998): the next item has the largest
  ``(1 - strength) * relevance - strength * (largest similarity to a chosen one)``.
- **dpp**: greedy maximum a posteriori inference for a determinantal point process (Chen, Zhang and Zhou 2018, "Fast
  greedy MAP inference for determinantal point process to improve recommendation diversity", algorithm 1): the set with
  the largest ``(1 - strength) * sum of relevance + strength * log det S``, where S holds the similarities. It looks at
  the page as a whole: an item that the chosen ones together make up adds nothing, though it is like none of them.

Relevance is the scores stretched to 0 … 1 over the pool; similarity is ``(1 + cosine) / 2`` of the items' vectors,
also from 0 to 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput

__all__ = ["DiversityMethod", "diversified", "intra_list_distance", "similarities"]

DiversityMethod = Literal["mmr", "dpp"]
_Floats = NDArray[np.floating[Any]]

#: What is left of an item that the chosen ones make up; its logarithm is far below any gain of relevance.
_NOTHING_LEFT = 1e-10


def similarities(vectors: _Floats) -> NDArray[np.float64]:
    """``(1 + cosine) / 2`` of every two items: float64 ``[n, n]``, from 0 to 1, positive semi-definite.

    Args:
        vectors: ``[n, D]`` of any length; a vector of zeros, of which nothing is known, is half like every other.
    """
    matrix = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    result: NDArray[np.float64] = np.clip((1.0 + unit @ unit.T) / 2.0, 0.0, 1.0)
    np.fill_diagonal(result, 1.0)
    return result


def intra_list_distance(vectors: _Floats) -> float:
    """Mean of ``1 - cosine`` over all pairs of a page (Ziegler et al. 2005, there as similarity); 0 for one item.

    Args:
        vectors: ``[n, D]`` of the page's items.
    """
    count = len(vectors)
    if count < 2:
        return 0.0
    distances = 2.0 * (1.0 - similarities(vectors))
    return float(distances.sum() / (count * (count - 1)))


def diversified(
    method: DiversityMethod, scores: _Floats, vectors: _Floats, k: int, *, strength: float
) -> NDArray[np.intp]:
    """The places of up to k of a pool, in the order chosen; ties go to the earlier place.

    Args:
        method: see the module.
        scores: ``[n]``, higher is better; any scale.
        vectors: ``[n, D]`` of the same items.
        k: how many to choose. strength: from 0 to 1.

    Raises:
        InvalidInput: if a score or vector is not finite, their numbers differ, or k or strength make no sense.
    """
    relevance, vectors = np.asarray(scores, dtype=np.float64), np.asarray(vectors)
    if relevance.ndim != 1 or vectors.ndim != 2 or len(relevance) != len(vectors):
        raise InvalidInput(f"diversity: scores of shape {relevance.shape} for vectors of shape {vectors.shape}")
    if not np.isfinite(relevance).all() or not np.isfinite(vectors).all():
        raise InvalidInput("diversity: a score or a vector is not finite")
    if k < 0 or not 0.0 <= strength <= 1.0:
        raise InvalidInput(f"diversity: k {k} is below 0, or strength {strength} is not from 0 to 1")
    count = min(k, len(relevance))
    if count == 0:
        return np.empty(0, dtype=np.intp)
    spread = relevance.max() - relevance.min()
    relevance = (relevance - relevance.min()) / spread if spread > 0 else np.zeros(len(relevance))
    choose = _mmr if method == "mmr" else _dpp
    return choose((1.0 - strength) * relevance, similarities(vectors), count, strength)


def _mmr(gains: NDArray[np.float64], similar: NDArray[np.float64], k: int, strength: float) -> NDArray[np.intp]:
    """Maximal marginal relevance of gains ``[n]`` and similarities ``[n, n]``."""
    chosen = np.empty(k, dtype=np.intp)
    nearest = np.zeros(len(gains))
    left = gains.copy()
    for place in range(k):
        item = int(np.argmax(left - strength * nearest))
        chosen[place] = item
        left[item] = -np.inf
        np.maximum(nearest, similar[item], out=nearest)
    return chosen


def _dpp(gains: NDArray[np.float64], similar: NDArray[np.float64], k: int, strength: float) -> NDArray[np.intp]:
    """Greedy MAP of gains ``[n]`` and similarities ``[n, n]``, by rows of a Cholesky factor that grow with the page.

    An item's ``rest`` is what the determinant is multiplied by if it joins. In logarithms, relevance and determinant
    add up, so that no exponential of a relevance is needed.
    """
    chosen = np.empty(k, dtype=np.intp)
    factor = np.zeros((k, len(gains)))
    rest = np.diagonal(similar).copy()
    left = gains.copy()
    for place in range(k):
        item = int(np.argmax(left + strength * np.log(np.maximum(rest, _NOTHING_LEFT))))
        chosen[place] = item
        left[item] = -np.inf
        if rest[item] > _NOTHING_LEFT:
            row = (similar[item] - factor[:place, item] @ factor[:place]) / np.sqrt(rest[item])
            factor[place] = row
            rest = rest - row * row
    return chosen
