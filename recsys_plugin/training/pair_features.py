"""What a user and a candidate have to do with each other: the features that every CTR model shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_plugin.training.inputs import Lists

__all__ = ["PAIR_FEATURES", "ItemTables", "pair_features"]

#: The columns of :func:`pair_features`, in order.
PAIR_FEATURES = (
    "likeness", "own_purchases", "own_purchase_share", "bought_before", "own_recency", "likeness_to_recent",
    "category_share", "category_share_root",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ItemTables:
    """The resident catalogue as the ranker sees it; row N (the last) is the empty item.

    Attributes:
        vectors: float32 [N+1, 64], the item tower's unit vectors.
        first_layer: float32 [N+1, 64], the items' part of the first layer.
        categories: int64 [N+1], category codes, 0 unknown.
    """

    vectors: Tensor
    first_layer: Tensor
    categories: Tensor


def pair_features(lists: Lists, user_vector: Tensor, rows: Tensor, tables: ItemTables) -> Tensor:
    """Compute the features of B users and C candidates each.

    Args:
        lists: the users' list features. user_vector: float32 [B, 64], unit vectors.
        rows: int64 [B, C], candidate rows; the empty item is row N. tables: the resident catalogue.

    Returns:
        float32 [B, C, 8], columns as in :data:`PAIR_FEATURES`.
    """
    vectors = tables.vectors[rows]
    cosine = (vectors @ user_vector.unsqueeze(-1)).squeeze(-1)
    weights = lists.favourite_weights * (lists.favourite_rows >= 0)
    same = (rows.unsqueeze(-1) == lists.favourite_rows.unsqueeze(1)).to(weights.dtype)
    frequency = (same @ weights.unsqueeze(-1)).squeeze(-1)
    share = frequency / weights.sum(1, keepdim=True).clamp(min=1e-6)
    # Freshness 1/(1 + days): summed over the last events of this very item, so 0 means "not lately".
    fresh = (lists.recent_rows >= 0) / (1.0 + lists.recent_ages)
    repeated = (rows.unsqueeze(-1) == lists.recent_rows.unsqueeze(1)).to(weights.dtype)
    recency = (repeated @ fresh.unsqueeze(-1)).squeeze(-1)
    # Likeness to the nearest of the recent items, itself left out.
    absent = torch.where(lists.recent_rows < 0, tables.vectors.shape[0] - 1, lists.recent_rows)
    alike = vectors @ tables.vectors[absent].transpose(1, 2) - 2.0 * repeated
    nearest = alike.amax(-1).clamp(min=0.0)
    favourite = torch.where(lists.favourite_rows < 0, tables.vectors.shape[0] - 1, lists.favourite_rows)
    category = tables.categories[rows]
    kin = (category.unsqueeze(-1) == tables.categories[favourite].unsqueeze(1)) & (category > 0).unsqueeze(-1)
    affinity = (kin.to(weights.dtype) @ weights.unsqueeze(-1)).squeeze(-1)
    affinity = affinity / weights.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.stack(
        [
            3.0 * cosine,
            torch.log1p(frequency),
            torch.sqrt(share),
            (frequency > 0).to(weights.dtype),
            torch.sqrt(recency),
            3.0 * nearest,
            affinity,
            torch.sqrt(affinity),
        ],
        dim=-1,
    )
