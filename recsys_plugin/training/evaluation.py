"""The honest report: the trained pipeline against baselines, for known users and items and purchases not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.baselines import Purchases, rank_users, standard_baselines
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.frames import Split
from recsys_plugin.training.inputs import ItemInputs
from recsys_plugin.training.metrics import BlockScores, ranking_metrics, top_rows
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, CandidateRanker
from recsys_plugin.training.segments import (
    Segments,
    mask_earlier,
    new_items_only,
    segment_metrics,
    without_earlier,
)
from recsys_plugin.training.two_tower import TwoTower

__all__ = ["baseline_metrics", "judge", "rank_candidates", "ranker_metrics", "retrieval_metrics", "score_candidates"]

_Array = np.ndarray[Any, np.dtype[Any]]
_BLOCK = 64


def score_candidates(
    ranker: CandidateRanker, towers: TwoTower, items: ItemInputs, users: UserTensors, rows: _Array
) -> _Array:
    """The ranker's calibrated logits float32 [n, C, heads] for candidate rows int64 [n, C]."""
    codes = ranker.inputs.codes(users.user_string)
    parts: list[_Array] = []
    with torch.inference_mode():
        vectors = torch.from_numpy(towers.item_vectors()[1])
        tables = ranker.item_tables(vectors, items)
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


def judge(ranked: _Array, ranked_new: _Array, truth: Contexts, segments: Segments) -> dict[str, Any]:
    """Every figure of one system on one split.

    Args:
        ranked: int64 [users, at least 20], best first, -1 fills up. ranked_new: the same without earlier purchases.
        truth: one context per user. segments: of the same users.

    Returns:
        ``recall@20``, ``ndcg@20`` and ``users`` over all purchases; the same below ``new_items`` for purchases of
        items that the user had not bought before; and ``segments``.
    """
    return {
        **ranking_metrics(ranked, truth),
        "new_items": ranking_metrics(ranked_new, new_items_only(truth, segments.earlier)),
        "segments": segment_metrics(ranked, truth, segments),
    }


def retrieval_metrics(towers: TwoTower, split: Split, candidates: int, segments: Segments) -> dict[str, Any]:
    """What the two-tower finds by itself: its own ranking judged, and how much of the truth is among the candidates."""
    if not len(split.contexts):
        return {}
    vectors, user_vectors = towers.item_vectors()[1], towers.user_vectors(split.users)
    nearest, nearest_new = [], []
    for start in range(0, len(split.users), 512):
        scores = user_vectors[start : start + 512] @ vectors.T
        nearest.append(top_rows(scores, 20))
        lines = np.arange(start, start + len(scores))
        nearest_new.append(top_rows(mask_earlier(scores, segments.earlier, lines), 20))
    rows, _ = candidate_rows(towers, split.users, candidates)
    k = rows.shape[1]
    found = ranking_metrics(rows, split.contexts, k=k)
    new = ranking_metrics(rows, new_items_only(split.contexts, segments.earlier), k=k)
    return {
        "two-tower": judge(np.concatenate(nearest), np.concatenate(nearest_new), split.contexts, segments),
        f"candidate recall@{k}": found[f"recall@{k}"],
        f"candidate recall@{k}, new items": new[f"recall@{k}"],
    }


def ranker_metrics(
    models: TrainedModels, split: Split, items: ItemInputs, candidates: int, segments: Segments
) -> dict[str, Any]:
    """Retrieval and ranking together, judged on one split with its own item snapshot; empty for an empty split.

    Both models keep their weights and see the snapshot's statistics, as they do when served.
    """
    if not len(split.contexts):
        return {}
    rows, _ = candidate_rows(models.towers, split.users, candidates)
    logits = score_candidates(models.ranker, models.towers, items, split.users, rows)
    ranked = rank_candidates(logits, rows, models.heads)
    return judge(ranked, without_earlier(ranked, segments.earlier), split.contexts, segments)


def baseline_metrics(
    events: pd.DataFrame,
    item_ids: pd.Index[str],
    truth: Contexts,
    segments: Segments,
    *,
    before: pd.Timestamp,
    further: Callable[[Purchases], Mapping[str, BlockScores]] = lambda purchases: {},
) -> dict[str, dict[str, Any]]:
    """The baselines of :mod:`recsys_plugin.training.baselines`, each judged like a model.

    Args:
        events: columns ``user_id``, ``item_id``, ``event_type`` and ``timestamp``.
        item_ids: the catalogue, in row order.
        truth: one context per user. segments: of the same users. before: the split.
        further: more baselines to compute of the same purchases.
    """
    if not len(truth):
        return {}
    user_ids = pd.Index(np.sort(events["user_id"].unique()))
    purchases = Purchases.of(events, user_ids, item_ids, before=before)
    users = user_ids.get_indexer(pd.Index(truth.entities["user_id"]))
    return {
        name: judge(rank_users(scores, users), rank_users(scores, users, without=purchases.owned), truth, segments)
        for name, scores in {**standard_baselines(purchases), **further(purchases)}.items()
    }
