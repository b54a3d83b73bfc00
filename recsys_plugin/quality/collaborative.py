"""What other users and other items say of a user and an item: classic collaborative scores as numbers of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["COLLABORATIVE_SCORES", "collaborative_scores", "out_of_fold_scores"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: The columns of :func:`collaborative_scores`.
COLLABORATIVE_SCORES = (
    "user_offset", "item_offset", "user_count_log", "item_count_log", "item_neighbours", "user_neighbours",
    "factors", "group_affinity",
)  # fmt: skip


def collaborative_scores(
    users: _Array, items: _Array, values: _Array, asked_users: _Array, asked_items: _Array, groups: _Array
) -> _Array:
    """Learn from known triples and score pairs.

    Offsets of users and items (Koren 2008), then on what they leave unexplained: item- and user-based neighbours with
    shrunk cosines (Sarwar et al. 2001), factors by alternating least squares (Hu et al. 2008, observed entries only),
    and the user's mean over the item's groups.

    Args:
        users: int64 [n]. items: int64 [n]. values: float [n]; the pairs must be distinct.
        asked_users: int64 [m]. asked_items: int64 [m].
        groups: float [items, G], an item's groups (genres); the number of rows is the number of items.

    Returns:
        float32 [m, 8], columns as in :data:`COLLABORATIVE_SCORES`; users and items that are new score 0.
    """
    size = int(max(users.max(initial=0), asked_users.max(initial=0))) + 1, len(groups)
    user_offset, item_offset = np.zeros(size[0]), np.zeros(size[1])
    user_count, item_count = np.bincount(users, minlength=size[0]), np.bincount(items, minlength=size[1])
    centred = values - (values.mean() if len(values) else 0.0)
    for _ in range(5):
        item_offset = np.bincount(items, centred - user_offset[users], minlength=size[1]) / (item_count + 5.0)
        user_offset = np.bincount(users, centred - item_offset[items], minlength=size[0]) / (user_count + 5.0)
    left, there = np.zeros(size), np.zeros(size)
    left[users, items] = centred - user_offset[users] - item_offset[items]
    there[users, items] = 1.0
    length = np.maximum(np.linalg.norm(groups, axis=1, keepdims=True), 1e-9)
    unit = groups / length
    affinity = (left @ unit) / (there @ unit + 3.0)
    user_factors, item_factors = _factors(left, there)
    columns = [
        user_offset[asked_users],
        item_offset[asked_items],
        np.log1p(user_count[asked_users]),
        np.log1p(item_count[asked_items]),
        _neighbours(left, there)[asked_users, asked_items],
        _neighbours(left.T, there.T)[asked_items, asked_users],
        (user_factors[asked_users] * item_factors[asked_items]).sum(1),
        (affinity[asked_users] * unit[asked_items]).sum(1),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _neighbours(left: _Array, there: _Array, *, shrinkage: float = 20.0) -> _Array:
    """Weighted means over the alike columns: [lines, columns]."""
    together = there.T @ there
    power = (left**2).T @ there
    alike = (left.T @ left) / np.sqrt(np.maximum(power * power.T, 1e-12)) * together / (together + shrinkage)
    np.fill_diagonal(alike, 0.0)
    alike = np.maximum(alike, 0.0)
    means: _Array = (left @ alike) / (there @ alike + 1.0)
    return means


def _factors(left: _Array, there: _Array, *, width: int = 10, penalty: float = 4.0, rounds: int = 10) -> list[_Array]:
    generator = np.random.default_rng(0)
    sides: list[_Array] = [generator.normal(0.0, 0.1, (lines, width)) for lines in left.shape]
    for _ in range(rounds):
        for side, (values, known) in enumerate(((left, there), (left.T, there.T))):
            other = sides[1 - side]
            squares = (other[:, :, None] * other[:, None, :]).reshape(len(other), -1)
            system = (known @ squares).reshape(-1, width, width) + penalty * np.eye(width)
            sides[side] = np.linalg.solve(system, (values @ other)[..., None])[..., 0]
    return sides


def out_of_fold_scores(
    users: _Array, items: _Array, values: _Array, train: _Array, groups: _Array, *, seed: int, folds: int = 10
) -> _Array:
    """Scores of all n pairs from the training lines alone; a training line never sees its own fold.

    Args:
        users: int64 [n]. items: int64 [n]. values: float [n]. train: int64, the training lines.
        groups: float [items, G]. seed: of the folds.

    Returns:
        float32 [n, 8].
    """
    result = np.empty((len(users), len(COLLABORATIVE_SCORES)), np.float32)
    fold = np.full(len(users), -1)
    fold[train] = np.random.default_rng(seed).integers(0, folds, len(train))
    for number in range(-1, folds):
        asked = np.flatnonzero(fold == number)
        known = train[fold[train] != number]
        result[asked] = collaborative_scores(
            users[known], items[known], values[known], users[asked], items[asked], groups
        )
    return result
