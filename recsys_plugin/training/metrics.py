"""Ranking metrics over one list per user, and the baselines that every report stands beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from recsys_plugin.training.contexts import Contexts

__all__ = [
    "BlockScores",
    "item_knn_scores",
    "item_knn_weights",
    "ranking_metrics",
    "ranking_values",
    "top_rows",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Scores of a block of users over the whole catalogue: user positions [b] -> float32 [b, items].
BlockScores = Callable[[_Array], _Array]


def top_rows(scores: _Array, k: int) -> _Array:
    """The rows of the k largest scores of each line, best first; ties go to the lower row."""
    k = min(k, scores.shape[1])
    # argpartition would choose among those that tie for the last places as it likes.
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, tied = scores > least, scores == least
    chosen = above | (tied & (np.cumsum(tied, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    part = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def ranking_metrics(ranked: _Array, truth: Contexts, *, k: int = 20) -> dict[str, float]:
    """Recall and NDCG at ``k``, means over users.

    Args:
        ranked: int64 [users, at least k]; catalogue rows, best first; -1 fills up.
        truth: one context per user, in the same order; users without a positive are left out.
        k: the cut.

    Returns:
        ``recall@k`` = hits / min(k, |truth|); ``ndcg@k`` with binary gains against the ideal order; ``users``.
    """
    values = ranking_values(ranked, truth, k=k)
    known = ~np.isnan(values[f"recall@{k}"])
    return {
        **{name: float(each[known].mean()) if known.any() else float("nan") for name, each in values.items()},
        "users": int(known.sum()),
    }


def ranking_values(ranked: _Array, truth: Contexts, *, k: int = 20) -> dict[str, _Array]:
    """What :func:`ranking_metrics` takes the means of: float64 [users], NaN for users without a positive."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    recalls, gains = (np.full(len(truth), np.nan) for _ in range(2))
    for index in range(len(truth)):
        wanted = truth.positives(index)
        if not len(wanted):
            continue
        hits = np.isin(ranked[index, :k], wanted)
        ideal = min(k, len(wanted))
        recalls[index] = hits.sum() / ideal
        gains[index] = (hits * discounts[: len(hits)]).sum() / discounts[:ideal].sum()
    return {f"recall@{k}": recalls, f"ndcg@{k}": gains}


def item_knn_weights(matrix: sp.csr_matrix, *, shrinkage: float = 50.0, neighbours: int | None = None) -> sp.csr_matrix:
    """The shrunk cosines of items by who bought them, [items, items]; a line holds what speaks for its item.

    Cosine with shrinkage, Sarwar et al. 2001 and Koren 2008: ``|i ∩ j| / (sqrt(|i| |j|) + shrinkage)``, the diagonal
    set to zero.

    Args:
        matrix: binary [users, items].
        shrinkage: damps similarities that few users support.
        neighbours: keep only so many of each item's nearest; all if None.
    """
    together = (matrix.T @ matrix).tocsr()
    sizes = np.asarray(matrix.sum(axis=0)).ravel()
    rows = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    together.data /= np.sqrt(sizes[rows] * sizes[together.indices]) + shrinkage
    together.setdiag(0.0)
    if neighbours is not None:
        for row in range(together.shape[0]):
            part = together.data[together.indptr[row] : together.indptr[row + 1]]
            if len(part) > neighbours:
                part[np.argpartition(-part, neighbours)[neighbours:]] = 0.0
        together.eliminate_zeros()
    return together


def item_knn_scores(matrix: sp.csr_matrix, *, shrinkage: float = 50.0, neighbours: int | None = None) -> BlockScores:
    """Item-kNN: a user's score for an item is the sum of its shrunk cosines with what he has bought.

    The arguments are those of :func:`item_knn_weights`.
    """
    similar = item_knn_weights(matrix, shrinkage=shrinkage, neighbours=neighbours).T.tocsr()

    def scores(users: _Array) -> _Array:
        scored: _Array = (matrix[users] @ similar).toarray().astype(np.float32)
        return scored

    return scores
