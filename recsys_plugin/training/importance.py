"""Which features the ranker relies on: how much worse it ranks when one group of them is shuffled.

Permutation importance (Breiman 2001, "Random forests"; Fisher, Rudin and Dominici 2019). Shuffling keeps the group's
own distribution and breaks its tie to everything else. What two groups both tell shows in neither.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recsys_plugin.errors import InvalidInput
from recsys_plugin.features.contract import FeatureContract, TensorName
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.evaluation import rank_candidates, score_candidates
from recsys_plugin.training.frames import Split
from recsys_plugin.training.inputs import ITEM_NUMBER_GROUPS, ItemInputs
from recsys_plugin.training.metrics import ranking_metrics
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS
from recsys_plugin.training.two_tower import TwoTower
from recsys_plugin.training.zoo.metrics import auc

__all__ = ["permutation_importance", "shuffled_users", "user_groups"]

_Array = np.ndarray[Any, np.dtype[Any]]
_Progress = Callable[[int, int], None]
#: The item codes' columns, as ItemInputs has them.
_CODES = ("category", "subcategory", "brand")


def user_groups(contract: FeatureContract) -> dict[str, dict[str, tuple[str, ...]]]:
    """The groups of user features, by kind: every view and every feature, each as feature references.

    What comes with the request (its time) is the same for all and in no group.
    """
    features = [spec for spec in contract.features if not spec.from_request]
    views: dict[str, tuple[str, ...]] = {}
    for spec in features:
        views[spec.view] = (*views.get(spec.view, ()), spec.reference)
    return {"user views": views, "user features": {spec.reference: (spec.reference,) for spec in features}}


def shuffled_users(
    contract: FeatureContract, users: UserTensors, references: tuple[str, ...], order: _Array
) -> UserTensors:
    """A copy in which line i carries the features ``references`` of line ``order[i]`` (int64 [n])."""
    tensors = {
        TensorName.FLOAT: users.user_float.copy(),
        TensorName.INT: users.user_int.copy(),
        TensorName.STRING: users.user_string.copy(),
    }
    for reference in references:
        slot = contract.slots[reference]
        part = slice(slot.offset, slot.offset + slot.width)
        tensors[slot.tensor][:, part] = tensors[slot.tensor][order, part]
    return UserTensors(tensors[TensorName.FLOAT], tensors[TensorName.INT], tensors[TensorName.STRING])


def permutation_importance(
    models: TrainedModels,
    split: Split,
    items: ItemInputs,
    *,
    candidates: int,
    most_users: int = 100,
    repeats: int = 2,
    seed: int = 0,
    progress: _Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Drop of NDCG@20 and AUC when a group of features is shuffled across users or across items.

    The candidates stay those of the true features; the two-tower's vectors, which the ranker reads, are computed from
    the shuffled ones.

    Args:
        models: what was trained. split: whom to rank for. items: the split's item snapshot.
        candidates: how many each user's list holds.
        most_users: so many users are drawn if there are more.
        repeats: shuffles of each group, at least 2. seed: of the draw and of every shuffle.
        progress: told how many rankings are done, and of how many.

    Returns:
        ``groups`` by kind and name, each with ``ndcg@20`` and ``auc`` as ``mean`` and sample standard ``deviation`` of
        the drop; the undisturbed ``ndcg@20`` and ``auc``, and a histogram of the undisturbed ``probabilities``;
        ``users``, ``repeats``, ``seed``, and a ``note`` in words. Empty if there is nobody to rank for.

    Raises:
        InvalidInput: if ``repeats`` is less than 2.
    """
    if repeats < 2:
        raise InvalidInput(f"{repeats} repeats show no spread; ask for at least 2")
    if not len(split.contexts):
        return {}
    generator = np.random.default_rng(seed)
    drawn = np.arange(len(split.contexts))
    if len(drawn) > most_users:
        drawn = np.sort(generator.choice(drawn, most_users, replace=False))
    users, truth = split.users.take(drawn), split.contexts.take(drawn)
    rows, _ = candidate_rows(models.towers, users, candidates)
    labels = np.stack([np.isin(line, truth.positives(index)) for index, line in enumerate(rows)]).astype(np.float64)
    head = "purchase" if "purchase" in models.heads else models.heads[0]
    main = HEADS.index(head)

    def figures(towers: TwoTower, inputs: ItemInputs, asked: UserTensors) -> tuple[float, float]:
        logits = score_candidates(models.ranker, towers, inputs, asked, rows)
        ranked = rank_candidates(logits, rows, models.heads)
        return ranking_metrics(ranked, truth)["ndcg@20"], auc(labels.ravel(), logits[..., main].ravel())

    whole = figures(models.towers, items, users)
    logits = score_candidates(models.ranker, models.towers, items, users, rows)[..., main]
    chances = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    counts, edges = np.histogram(chances[rows >= 0], bins=20, range=(0.0, 1.0))
    groups = user_groups(models.contract)
    parts = _item_parts(items)
    total = repeats * (sum(map(len, groups.values())) + len(parts))
    done = 0
    drops: dict[str, dict[str, Any]] = {}
    for kind, named in groups.items():
        for name, references in named.items():
            found = []
            for _ in range(repeats):
                order = generator.permutation(len(drawn))
                found.append(figures(models.towers, items, shuffled_users(models.contract, users, references, order)))
                done += 1
                progress(done, total)
            drops.setdefault(kind, {})[name] = _drop(whole, found)
    for name in parts:
        found = []
        for _ in range(repeats):
            order = generator.permutation(len(items.codes))
            found.append(figures(*_shuffled_items(models.towers, items, name, order), users))
            done += 1
            progress(done, total)
        drops.setdefault("item features", {})[name] = _drop(whole, found)
    return {
        "ndcg@20": whole[0],
        "auc": whole[1],
        "probabilities": {"head": head, "edges": edges.tolist(), "counts": counts.tolist()},
        "users": len(drawn),
        "repeats": repeats,
        "seed": seed,
        "note": f"{len(drawn)} users of the split, {rows.shape[1]} candidates each, {repeats} shuffles of each group, "
        f"seed {seed}; undisturbed NDCG@20 {whole[0]:.4f}, AUC {whole[1]:.4f}",
        "groups": drops,
    }


def _drop(whole: tuple[float, float], found: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    drops = np.array(whole) - np.array(found)
    return {
        metric: {"mean": float(drops[:, column].mean()), "deviation": float(drops[:, column].std(ddof=1))}
        for column, metric in enumerate(("ndcg@20", "auc"))
    }


def _item_parts(items: ItemInputs) -> list[str]:
    """The groups of item features that this shop has."""
    parts = ["texts"] if items.modalities.has_text.any() else []
    if items.modalities.has_image.any():
        parts.append("images")
    return [*parts, *_CODES, *ITEM_NUMBER_GROUPS]


def _shuffled_items(towers: TwoTower, items: ItemInputs, part: str, order: _Array) -> tuple[TwoTower, ItemInputs]:
    """Towers and item inputs in which item i carries ``part`` of item ``order[i]``."""
    shuffled = copy.deepcopy(towers)
    where = torch.from_numpy(order)
    item, fusion = shuffled.item, shuffled.item.fusion
    if part == "texts":
        fusion.texts, fusion.has_text = fusion.texts[where], fusion.has_text[where]
        return shuffled, items
    if part == "images":
        fusion.images, fusion.has_image = fusion.images[where], fusion.has_image[where]
        return shuffled, items
    if part in ITEM_NUMBER_GROUPS:
        columns = list(ITEM_NUMBER_GROUPS[part])
        numbers = items.numbers.copy()
        numbers[:, columns] = numbers[order][:, columns]
        item.numbers = torch.from_numpy(numbers)
        return shuffled, dataclasses.replace(items, numbers=numbers)
    column = _CODES.index(part)
    codes = items.codes.copy()
    codes[:, column] = codes[order, column]
    item.codes = item.codes.clone()
    item.codes[:, column] = item.codes[where, column]
    return shuffled, dataclasses.replace(items, codes=codes)
