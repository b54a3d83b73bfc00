"""What a user and a candidate have to do with each other: the features that every CTR model shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_plugin.events.event import EVENT_TYPE_CODES
from recsys_plugin.training.inputs import Lists

__all__ = ["PAIR_FEATURES", "Candidates", "ItemTables", "NewItems", "own_items", "pair_features"]

#: The columns of :func:`pair_features`, in order.
PAIR_FEATURES = (
    "likeness", "own_purchases", "own_purchase_share", "bought_before", "own_recency", "likeness_to_recent",
    "category_share", "category_share_root", "own_purchases_to_most", "neighbour_score", "neighbour_score_to_most",
)  # fmt: skip

_CLICK, _CART = EVENT_TYPE_CODES["click"], EVENT_TYPE_CODES["cart"]
#: What looking at an item counts for beside buying it.
_LOOKED_AT = 0.5


@dataclass(frozen=True, slots=True)
class NewItems:
    """Items that are not in the catalogue, C for each of B users, as they were encoded one by one.

    Attributes:
        vectors: float32 [B, C, 64], unit vectors in the space of the two-tower.
        texts: float32 [B, C, 32], as in :class:`ItemTables`.
        numbers: float32 [B, C, numbers]. codes: int64 [B, C, 3]; both as in
            :class:`~recsys_plugin.training.inputs.ItemInputs`.
    """

    vectors: Tensor
    texts: Tensor
    numbers: Tensor
    codes: Tensor


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a ranker sees of B users' C candidates each, whether they are in the catalogue or not.

    Attributes:
        rows: int64 [B, C], catalogue rows. What is not in the catalogue has the row of the empty item, which nobody
            ever bought and no item speaks for.
        texts: float32 [B, C, 32]. categories: int64 [B, C]. Both as in :class:`ItemTables`.
    """

    rows: Tensor
    texts: Tensor
    categories: Tensor


@dataclass(frozen=True, slots=True)
class ItemTables(ABC):
    """The resident catalogue as the ranker sees it; row N (the last) is the empty item.

    Attributes:
        texts: float32 [N+1, 32], unit text vectors along their principal axes; zero without a text.
        categories: int64 [N+1], category codes, 0 unknown.
        neighbour_rows: int64 [N+1, K], what is bought by those who bought the item; N pads.
        neighbour_weights: float32 [N+1, K], how much its purchase speaks for them; 0 where padded.
    """

    texts: Tensor
    categories: Tensor
    neighbour_rows: Tensor
    neighbour_weights: Tensor

    @property
    def empty(self) -> int:
        """The row of the empty item."""
        return self.texts.shape[0] - 1

    @abstractmethod
    def take(self, candidate_rows: Tensor) -> Candidates:
        """What a ranker sees of candidates int64 [B, C]; a row of -1 is the empty item."""

    def known(self, candidate_rows: Tensor) -> Tensor:
        """int64 [B, C]: the rows, those of -1 replaced by that of the empty item."""
        return torch.where(candidate_rows < 0, self.empty, candidate_rows)


def pair_features(lists: Lists, candidates: Candidates, tables: ItemTables) -> Tensor:
    """Compute the features of B users and C candidates each.

    Likeness is of texts, whose vectors no purchase has touched. That of the two towers would be told by the very
    purchases that the rankers learn from, and promise more in training than it keeps.

    Args:
        lists: the users' list features. candidates: C of each user. tables: the resident catalogue, for the lists.

    Returns:
        float32 [B, C, features], columns as in :data:`PAIR_FEATURES`.
    """
    rows, texts = candidates.rows, candidates.texts
    weights = lists.favourite_weights * (lists.favourite_rows >= 0)
    favourite, recent = tables.known(lists.favourite_rows), tables.known(lists.recent_rows)
    taste = (tables.texts[favourite] * weights.unsqueeze(-1)).sum(1)
    taste = taste / taste.norm(dim=1, keepdim=True).clamp(min=1e-6)
    cosine = (texts @ taste.unsqueeze(-1)).squeeze(-1)
    same = (rows.unsqueeze(-1) == lists.favourite_rows.unsqueeze(1)).to(weights.dtype)
    frequency = (same @ weights.unsqueeze(-1)).squeeze(-1)
    share = frequency / weights.sum(1, keepdim=True).clamp(min=1e-6)
    # Freshness 1/(1 + days): summed over the last events of this very item, so 0 means "not lately".
    fresh = (lists.recent_rows >= 0) / (1.0 + lists.recent_ages)
    repeated = (rows.unsqueeze(-1) == lists.recent_rows.unsqueeze(1)).to(weights.dtype)
    recency = (repeated @ fresh.unsqueeze(-1)).squeeze(-1)
    # Likeness to the nearest of the recent items, itself left out.
    alike = texts @ tables.texts[recent].transpose(1, 2) - 2.0 * repeated
    nearest = alike.amax(-1).clamp(min=0.0)
    category = candidates.categories
    kin = (category.unsqueeze(-1) == tables.categories[favourite].unsqueeze(1)) & (category > 0).unsqueeze(-1)
    affinity = (kin.to(weights.dtype) @ weights.unsqueeze(-1)).squeeze(-1)
    affinity = affinity / weights.sum(1, keepdim=True).clamp(min=1e-6)
    own_weights, own = own_items(lists)
    neighbour_score, most = _neighbour_scores(own_weights, tables.known(own), rows, tables)
    return torch.stack(
        [
            cosine,
            torch.log1p(frequency),
            torch.sqrt(share),
            (frequency > 0).to(weights.dtype),
            torch.sqrt(recency),
            nearest,
            affinity,
            torch.sqrt(affinity),
            frequency / weights.amax(1, keepdim=True).clamp(min=1e-6),
            torch.sqrt(neighbour_score),
            neighbour_score / most.clamp(min=1e-6),
        ],
        dim=-1,
    )


def own_items(lists: Lists) -> tuple[Tensor, Tensor]:
    """What the users' own items count for, float32 [B, F + R], and their rows, int64 [B, F + R], -1 pads.

    First the favourites, each at most once, then the recent items, of which only those looked at count.
    """
    bought = (lists.favourite_weights * (lists.favourite_rows >= 0)).clamp(max=1.0)
    weights = torch.cat([bought, _LOOKED_AT * _looked_at(lists)], dim=1)
    return weights, torch.cat([lists.favourite_rows, lists.recent_rows], dim=1)


def _looked_at(lists: Lists) -> Tensor:
    """1 for recent items that were clicked or put into the cart, float32 [B, R]: the favourites know purchases only."""
    seen = (lists.recent_types == _CLICK) | (lists.recent_types == _CART)
    return (seen & (lists.recent_rows >= 0)).to(lists.recent_ages.dtype)


def _neighbour_scores(weights: Tensor, own: Tensor, rows: Tensor, tables: ItemTables) -> tuple[Tensor, Tensor]:
    """How much the user's own items speak for each candidate, float32 [B, C], and for any item at most, [B, 1]."""
    near = tables.neighbour_rows[own].flatten(1)
    said = (weights.unsqueeze(-1) * tables.neighbour_weights[own]).flatten(1)
    catalogue = torch.zeros_like(tables.categories, dtype=said.dtype)
    scores = (catalogue + torch.zeros_like(said[:, :1])).scatter_add(1, near, said)
    # What pads points at the empty item, with weight 0.
    return scores.gather(1, rows), scores.amax(1, keepdim=True)
