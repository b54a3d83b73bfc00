"""A pool of candidates to choose from: what is checked of it, and how it is ordered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput

__all__ = ["Logits", "best_order", "checked_page", "checked_pool", "largest"]

Logits = NDArray[np.floating[Any]]


def checked_pool(logits: Logits, k: int) -> NDArray[np.float64]:
    """The logits in float64, if they are a pool to choose k of; see :class:`ExplorationPolicy` for what is refused."""
    if k < 0:
        raise InvalidInput(f"k: {k} is below 0")
    pool = np.asarray(logits, dtype=np.float64)
    if pool.ndim != 1:
        raise InvalidInput(f"logits: one dimension is wanted, and the shape is {pool.shape}")
    if not np.isfinite(pool).all():
        place = int(np.flatnonzero(~np.isfinite(pool))[0])
        raise InvalidInput(f"logits: {pool[place]} at place {place} of the pool; every logit must be finite")
    return pool


def checked_page(pool: NDArray[np.float64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of a page, if they are places of the pool and none comes twice."""
    page = np.asarray(positions, dtype=np.int64)
    if page.size and (page.min() < 0 or page.max() >= len(pool)):
        raise InvalidInput(f"positions: a pool of {len(pool)} has the places 0 … {len(pool) - 1}, and {page.tolist()}")
    if len(set(page.tolist())) != len(page):
        raise InvalidInput(f"positions: a place comes twice in {page.tolist()}")
    return page


def best_order(pool: NDArray[np.float64]) -> NDArray[np.int64]:
    """All places, best first, equal ones in pool order: int64 ``[pool]``."""
    return np.argsort(-pool, kind="stable")


def largest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Places of the k largest, largest first."""
    if k == 0:
        return np.empty(0, dtype=np.int64)
    chosen = np.argpartition(-values, k - 1)[:k]
    ordered: NDArray[np.int64] = chosen[np.argsort(-values[chosen], kind="stable")]
    return ordered
