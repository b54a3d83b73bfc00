"""Baselines that need no training run: counters and closed forms. Every report stands beside them.

::

    popularity          distinct buyers of the last 30 days
    own frequency       what the user bought himself, decayed, then popularity
    item-kNN            shrunk cosine of co-purchases (Sarwar et al. 2001)
    EASE^R              the closed-form item-item autoencoder (Steck 2019)
    blend               own frequency + weight · EASE^R · sqrt(popularity)
    ALS                 implicit-feedback matrix factorisation (Hu, Koren and Volinsky 2008), package ``implicit``
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.linalg import lapack

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.training.metrics import BlockScores, item_knn_scores, top_rows

__all__ = [
    "MOST_EASE_ITEMS",
    "EaseWeights",
    "Purchases",
    "als_scores",
    "ease_of_gram",
    "ease_weights",
    "rank_users",
    "standard_baselines",
]

_Array = np.ndarray[Any, np.dtype[Any]]
_DAY = 86_400_000_000  # microseconds
#: EASE^R inverts a matrix of items by items, so it is given no more than this many, the most bought.
MOST_EASE_ITEMS = 5_000


@dataclass(frozen=True)
class Purchases:
    """Who bought what when, as integers; nothing at or after ``before`` is in it.

    Attributes:
        users: int64 [n], positions in ``user_ids``. items: int64 [n], catalogue rows.
        moments: int64 [n], microseconds.
        before: microseconds; the moment at which is ranked. shape: (users, items).
    """

    users: _Array
    items: _Array
    moments: _Array
    before: int
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, events: pd.DataFrame, user_ids: pd.Index[str], item_ids: pd.Index[str], *, before: pd.Timestamp
    ) -> Purchases:
        """The purchases among ``events`` before a moment, of known users and items."""
        return cls.of_pieces([events], user_ids, item_ids, before=before)

    @classmethod
    def of_pieces(
        cls, events: Iterable[pd.DataFrame], user_ids: pd.Index[str], item_ids: pd.Index[str], *, before: pd.Timestamp
    ) -> Purchases:
        """:meth:`of` for events that come piece by piece."""
        parts: list[_Array] = [np.empty((3, 0), np.int64)]
        for piece in events:
            bought = piece[(piece["event_type"] == "purchase") & (piece["timestamp"] < before)]
            users = user_ids.get_indexer(pd.Index(bought["user_id"]))
            items = item_ids.get_indexer(pd.Index(bought["item_id"]))
            known = (users >= 0) & (items >= 0)
            parts.append(np.stack([users[known], items[known], microseconds(bought["timestamp"])[known]]))
        users, items, moments = np.concatenate(parts, axis=1)
        return cls(users, items, moments, before.value // 1000, (len(user_ids), len(item_ids)))

    def until(self, moment: pd.Timestamp) -> Purchases:
        """What of it was before an earlier moment, as it looked then."""
        before = moment.value // 1000
        kept = self.moments < before
        return Purchases(self.users[kept], self.items[kept], self.moments[kept], before, self.shape)

    def matrix(self, *, half_life: float | None = None) -> sp.csr_matrix:
        """Order lines by user and item, float64 [users, items]; each counts half after ``half_life`` days."""
        weights = np.ones(len(self.users))
        if half_life is not None:
            weights = np.exp2(-(self.before - self.moments) / _DAY / half_life)
        return sp.csr_matrix((weights, (self.users, self.items)), shape=self.shape)

    @cached_property
    def owned(self) -> sp.csr_matrix:
        """Who ever bought what, binary float32 [users, items]."""
        matrix = self.matrix().astype(np.float32)
        matrix.data[:] = 1.0
        return matrix

    def popularity(self, days: float = 30.0) -> _Array:
        """Distinct buyers of each item in the last ``days``, float64 [items]."""
        recent = self.moments >= self.before - days * _DAY
        pairs = np.unique(np.stack([self.users[recent], self.items[recent]]), axis=1)
        return np.bincount(pairs[1], minlength=self.shape[1]).astype(np.float64)


@dataclass(frozen=True, slots=True)
class EaseWeights:
    """What the purchase of one item says for another, among the most bought items only.

    Attributes:
        kept: int64 [K], the rows of those items, ascending.
        inner: float32 [K, K], the weight of line → column; the diagonal is zero.
    """

    kept: _Array
    inner: _Array

    def scores(self, histories: sp.csr_matrix) -> _Array:
        """Scores float32 [users, items] of weighted histories [users, items]; items beyond those kept score zero."""
        scored = np.zeros(histories.shape, np.float32)
        scored[:, self.kept] = histories[:, self.kept] @ self.inner
        return scored


def ease_weights(
    matrix: sp.csr_matrix, *, regularisation: float = 200.0, most_items: int = MOST_EASE_ITEMS
) -> EaseWeights:
    """The item-item weights of EASE^R.

    Steck 2019, "Embarrassingly shallow autoencoders for sparse data": ``B = I − P / diag(P)`` with
    ``P = (XᵀX + λI)⁻¹``.

    Args:
        matrix: weights of users and items. regularisation: λ.
        most_items: items beyond so many, in order of their total weight, are left out: time grows with the cube.
    """
    totals = np.asarray(matrix.sum(axis=0)).ravel()
    kept = np.sort(np.argsort(-totals, kind="stable")[:most_items])
    part = matrix[:, kept]
    return EaseWeights(kept, ease_of_gram((part.T @ part).toarray(), regularisation=regularisation))


def ease_of_gram(gram: _Array, *, regularisation: float, dropout: float = 0.0) -> _Array:
    """The weights of EASE^R, float32 [K, K], given what items have in common.

    Args:
        gram: ``XᵀX``, float64 [K, K]; it is overwritten. regularisation: λ.
        dropout: p, the share of a user's items that are hidden in training, on average over all ways to do so: λ grows
            by ``p / (1 − p)`` of an item's own weight (Steck 2020, "Autoencoders that don't overfit towards the
            identity").
    """
    diagonal = np.diag_indices_from(gram)
    gram[diagonal] += regularisation + dropout / (1.0 - dropout) * gram[diagonal]
    # Positive definite by λ, so Cholesky does, in a third of the time of a general inverse.
    factor, _ = lapack.dpotrf(gram, lower=1)
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    inner: _Array = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(inner, 0.0)
    return inner


def als_scores(
    purchases: Purchases,
    *,
    factors: int = 64,
    regularisation: float = 0.05,
    alpha: float = 10.0,
    half_life: float = 240.0,
    iterations: int = 15,
    seed: int = 0,
) -> BlockScores:
    """Scores of implicit-feedback ALS on decayed purchases.

    Raises:
        ConfigurationError: if the package ``implicit`` is not installed.
    """
    try:
        from implicit.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError as error:
        raise ConfigurationError("ALS needs the package implicit: pip install 'recsys-plugin[quality]'") from error
    matrix = purchases.matrix(half_life=half_life).astype(np.float32)
    # Threads below its own slow it down ten times, of which it warns once a process.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=regularisation,
            alpha=alpha,
            iterations=iterations,
            random_state=seed,
            num_threads=1,
        )
        model.fit(matrix, show_progress=False)
    user_factors, item_factors = np.asarray(model.user_factors), np.asarray(model.item_factors)

    def scores(users: _Array) -> _Array:
        scored: _Array = (user_factors[users] @ item_factors.T).astype(np.float32)
        return scored

    return scores


def standard_baselines(purchases: Purchases) -> Mapping[str, BlockScores]:
    """The baselines of every report, by name, in the order of the table."""
    popular = purchases.popularity()
    share = popular / max(popular.max(initial=0.0), 1.0)
    own = purchases.matrix(half_life=90.0).astype(np.float32)
    decayed = purchases.matrix(half_life=120.0).astype(np.float32)
    weights = ease_weights(decayed)

    def ease(users: _Array) -> _Array:
        return weights.scores(decayed[users])

    def own_frequency(users: _Array) -> _Array:
        scored: _Array = own[users].toarray() + (1e-3 * share).astype(np.float32)
        return scored

    def blend(users: _Array) -> _Array:
        lifted = np.maximum(ease(users), 0.0) * np.sqrt(share).astype(np.float32)
        scored: _Array = own[users].toarray() + 2.0 * lifted
        return scored

    return {
        "popularity (30 days)": lambda users: np.repeat(popular[None, :].astype(np.float32), len(users), axis=0),
        "item-kNN": item_knn_scores(purchases.owned),
        "item-kNN (100 neighbours)": item_knn_scores(purchases.owned, neighbours=100),
        "EASE^R": ease,
        "own frequency": own_frequency,
        "own frequency + EASE^R": blend,
    }


def rank_users(
    scores: BlockScores,
    users: _Array,
    *,
    k: int = 20,
    without: sp.csr_matrix | None = None,
    block: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> _Array:
    """The k best rows of each user, int64 [users, k]; ``without`` [all users, items] names what must not be ranked."""
    parts: list[_Array] = []
    for start in range(0, len(users), block):
        part = users[start : start + block]
        scored = scores(part)
        if without is not None:
            scored = np.array(scored)
            scored[without[part].nonzero()] = -np.inf
        parts.append(top_rows(scored, k))
        progress(min(start + block, len(users)), len(users))
    return np.concatenate(parts) if parts else np.empty((0, k), np.int64)
