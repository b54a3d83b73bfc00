"""Equality first: what is timed side by side must give the same answer, or the comparison means nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from recsys_plugin.client.results import Page
from recsys_plugin.errors import CheckFailed

__all__ = ["TOLERANCE", "by_item", "require_equal", "require_same_scores"]

#: Largest difference allowed between two scores or cosines.
TOLERANCE = 1e-4


def by_item(item_ids: Sequence[str], values: ArrayLike) -> dict[str, float]:
    """Item id → value, for values ``[n]`` in the order of the ids."""
    return dict(zip(item_ids, np.asarray(values, dtype=np.float64).tolist(), strict=True))


def require_same_scores(what: str, page: Page, others: Mapping[str, float], *, relevance: bool = False) -> None:
    """Check that every item of our page has the same score, or relevance, in another way's answer.

    Raises:
        CheckFailed: if an item is not in there, or differs by more than :data:`TOLERANCE`.
    """
    ours = {item.item_id: item.relevance if relevance else item.score for item in page}
    if not ours:
        raise CheckFailed(f"{what}: our page is empty, so there is nothing to compare")
    if missing := sorted(set(ours) - set(others)):
        raise CheckFailed(f"{what}: {len(missing)} items of our page are not in the other answer, {missing[0]!r} first")
    _require(what, ((item_id, value, others[item_id]) for item_id, value in ours.items()))


def require_equal(what: str, ours: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> None:
    """Check that two sets of tensors are the same to the last bit.

    Raises:
        CheckFailed: naming the first tensor that differs, and where.
    """
    for name, array in ours.items():
        other = others[name]
        if array.shape != other.shape:
            raise CheckFailed(f"{what}: {name} has shape {array.shape} in one and {other.shape} in the other")
        if (different := np.argwhere(array != other)).size:
            place = tuple(different[0])
            raise CheckFailed(f"{what}: {name}{list(map(int, place))} is {array[place]!r} and {other[place]!r}")


def _require(what: str, triples: Iterable[tuple[str, float | None, float]]) -> None:
    for item_id, ours, other in triples:
        if ours is None or not abs(ours - other) <= TOLERANCE:
            raise CheckFailed(
                f"{what}: item {item_id!r} has {ours} in our answer and {other} in the other; more than {TOLERANCE:g} "
                "apart. A benchmark of different answers means nothing, so nothing was measured."
            )
