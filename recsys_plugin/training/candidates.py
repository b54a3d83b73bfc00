"""Candidate lists: what retrieval would have offered at each moment, and what of it was then bought.

The data holds no impressions, so a candidate that was not bought counts as a negative. Such labels are a
construction, and every report says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.metrics import top_rows
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, TrainingLists
from recsys_plugin.training.two_tower import TwoTower

__all__ = ["candidate_rows", "history_rows", "training_lists"]

_Array = np.ndarray[Any, np.dtype[Any]]


def history_rows(towers: TwoTower, users: UserTensors) -> _Array:
    """The catalogue rows of each user's favourites and recent items, int64 [n, F + R], -1 pads; duplicates remain."""
    slots = towers.user.inputs.contract.slots
    parts = []
    for reference in ("user_statistics:favourite_items", "user_recent_items:item_ids"):
        slot = slots[reference]
        parts.append(users.user_int[:, slot.offset : slot.offset + slot.width])
    return np.concatenate(parts, axis=1)


def candidate_rows(towers: TwoTower, users: UserTensors, count: int, *, block: int = 512) -> tuple[_Array, _Array]:
    """What the exported item index returns: the user's own items first, then the nearest, ``count`` in all.

    Returns:
        rows int64 [n, count] and their scores float32 [n, count].
    """
    vectors = towers.item_vectors()[1]
    history = history_rows(towers, users)
    rows: list[_Array] = []
    scores: list[_Array] = []
    for start in range(0, len(users), block):
        part = users.take(np.arange(start, min(start + block, len(users))))
        cosine = towers.user_vectors(part) @ vectors.T
        boosted = cosine.copy()
        own = history[start : start + block]
        lines, columns = np.nonzero(own >= 0)
        # 4 lifts every own item above every other: cosines lie in [-1, 1].
        boosted[lines, own[lines, columns]] = cosine[lines, own[lines, columns]] + 4.0
        top = top_rows(boosted, count)
        rows.append(top)
        scores.append(np.take_along_axis(cosine, top, axis=1))
    return np.concatenate(rows).astype(np.int64), np.concatenate(scores)


def training_lists(
    towers: TwoTower,
    outcomes: Mapping[str, Contexts],
    users: UserTensors,
    weeks: _Array,
    *,
    retrieved: int = 500,
    negatives: int = 100,
    most_positives: int = 24,
    seed: int = 0,
) -> TrainingLists:
    """Sample one list per context from its retrieved candidates.

    Args:
        towers: the trained two-tower.
        outcomes: for each head of :data:`HEADS` that the data can tell, what was clicked or bought after each moment.
        users: the packed features of the same moments.
        weeks: int64 [n], the item snapshot of each moment.
        retrieved: candidates at serving.
        negatives: sampled of those that nothing came of, half of them from the user's own items if he has so many.
        most_positives: candidates kept that something came of.
        seed: of the sampling.
    """
    generator = np.random.default_rng(seed)
    rows, _ = candidate_rows(towers, users, retrieved)
    own = history_rows(towers, users)
    width = most_positives + negatives
    total = len(users)
    lists = np.full((total, width), -1, np.int64)
    labels = np.full((total, width, len(HEADS)), np.nan, np.float32)
    weights = np.zeros((total, width), np.float32)
    for index in range(total):
        offered = rows[index]
        came = {head: np.isin(offered, truth.positives(index)) for head, truth in outcomes.items()}
        any_came = np.logical_or.reduce(list(came.values()))
        positive, negative = np.flatnonzero(any_came), np.flatnonzero(~any_came)
        is_own = np.isin(offered[negative], own[index])
        near, far = negative[is_own], negative[~is_own]
        most_near = min(len(near), negatives // 2)
        start = 0
        for pool, most in ((positive, most_positives), (near, most_near), (far, negatives - most_near)):
            picked = pool if len(pool) <= most else generator.choice(pool, most, replace=False)
            stop = start + len(picked)
            lists[index, start:stop] = offered[picked]
            weights[index, start:stop] = len(pool) / max(len(picked), 1)
            for head, hit in came.items():
                labels[index, start:stop, HEADS.index(head)] = hit[picked]
            start = stop
    kept = np.flatnonzero((np.nan_to_num(labels) * (weights > 0)[..., None]).sum((1, 2)) > 0)
    return TrainingLists(kept, weeks[kept], lists[kept], labels[kept], weights[kept])
