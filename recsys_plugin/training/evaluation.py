"""The honest report: the trained pipeline against baselines, for known users and items and purchases not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.frames import Split
from recsys_plugin.training.inputs import ItemInputs
from recsys_plugin.training.metrics import (
    item_knn_scores,
    popularity_scores,
    purchase_matrix,
    ranking_metrics,
    top_rows,
)
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, Ranker
from recsys_plugin.training.two_tower import TwoTower

__all__ = ["baseline_metrics", "pipeline_metrics", "rank_candidates", "score_candidates"]

_Array = np.ndarray[Any, np.dtype[Any]]
_BLOCK = 64


def score_candidates(ranker: Ranker, towers: TwoTower, items: ItemInputs, users: UserTensors, rows: _Array) -> _Array:
    """The ranker's logits float32 [n, C, heads] for candidate rows int64 [n, C]."""
    codes = ranker.inputs.codes(users.user_string)
    parts: list[_Array] = []
    with torch.inference_mode():
        vectors = torch.from_numpy(towers.item_vectors()[1])
        tables = ranker.item_tables(vectors, torch.from_numpy(items.numbers), torch.from_numpy(items.codes))
        user_vectors = towers.user_vectors(users)
        for start in range(0, len(users), _BLOCK):
            part = slice(start, start + _BLOCK)
            logits = ranker(
                torch.from_numpy(users.user_float[part]),
                torch.from_numpy(users.user_int[part]),
                torch.from_numpy(codes[part]),
                torch.from_numpy(user_vectors[part]),
                torch.from_numpy(rows[part]),
                tables,
            )
            parts.append(logits.numpy())
    return np.concatenate(parts) if parts else np.empty((0, rows.shape[1], len(HEADS)), np.float32)


def rank_candidates(logits: _Array, rows: _Array, heads: tuple[str, ...]) -> _Array:
    """Candidate rows in order of the trained heads' probabilities: purchase if there is one, else click."""
    head = HEADS.index("purchase" if "purchase" in heads else heads[0])
    order = np.argsort(-logits[..., head], axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


def pipeline_metrics(models: TrainedModels, split: Split, items: ItemInputs, candidates: int) -> dict[str, Any]:
    """Metrics of retrieval alone and of retrieval with ranking, for one split and its own item snapshot.

    The towers keep the item vectors of training; the ranker sees the snapshot's statistics.
    """
    if not len(split.contexts):
        return {}
    rows, _ = candidate_rows(models.towers, split.users, candidates)
    vectors = models.towers.item_vectors()[1]
    blocks = [
        top_rows(models.towers.user_vectors(split.users.take(np.arange(start, stop))) @ vectors.T, 20)
        for start in range(0, len(split.users), 512)
        for stop in [min(start + 512, len(split.users))]
    ]
    ranked = rank_candidates(
        score_candidates(models.ranker, models.towers, items, split.users, rows), rows, models.heads
    )
    found = ranking_metrics(rows, split.contexts, k=rows.shape[1])
    return {
        "two-tower": ranking_metrics(np.concatenate(blocks), split.contexts),
        "two-tower + ranker": ranking_metrics(ranked, split.contexts),
        f"candidate recall@{rows.shape[1]}": found[f"recall@{rows.shape[1]}"],
    }


def baseline_metrics(
    events: pd.DataFrame, item_ids: pd.Index[str], truth: Contexts, *, before: pd.Timestamp
) -> dict[str, dict[str, float]]:
    """Popularity of the last 30 days, and item-kNN (shrinkage 50) over all and over the 100 nearest neighbours."""
    if not len(truth):
        return {}
    popular = top_rows(popularity_scores(events, item_ids, before=before)[None, :], 20)
    result = {"popularity (30 days)": ranking_metrics(np.repeat(popular, len(truth), axis=0), truth)}
    user_ids = pd.Index(events["user_id"].unique())
    matrix = purchase_matrix(events, user_ids, item_ids, before=before)
    users = user_ids.get_indexer(pd.Index(truth.entities["user_id"]))
    for name, neighbours in (("item-kNN", None), ("item-kNN (100 neighbours)", 100)):
        scores = item_knn_scores(matrix, neighbours=neighbours)
        ranked = [top_rows(scores(users[start : start + 256]), 20) for start in range(0, len(users), 256)]
        result[name] = ranking_metrics(np.concatenate(ranked), truth)
    return result
