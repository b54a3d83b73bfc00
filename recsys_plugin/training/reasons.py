"""Of a user's own items, those that speak most for a candidate: what a reason in words can name."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys_plugin.events.event import EVENT_TYPE_CODES
from recsys_plugin.training.inputs import ItemInputs, Lists
from recsys_plugin.training.pair_features import Candidates, ItemTables, own_items

__all__ = ["category_ranks", "nearest_own_items"]

#: The column of an item's numbers that tells its purchases of the last 30 days.
_PURCHASES_30D = 1
_ACTS = tuple(EVENT_TYPE_CODES[name] for name in ("click", "cart", "purchase"))


def nearest_own_items(lists: Lists, candidates: Candidates, tables: ItemTables) -> tuple[Tensor, Tensor]:
    """The own item nearest to each candidate in text, and the one whose buyers buy the candidate most.

    Own items are what the user bought most, and of what he did last the clicks, carts and purchases; the candidate
    itself is not among them.

    Args:
        lists: the users' list features. candidates: C of each user. tables: the resident catalogue.

    Returns:
        int64 [B, C, 2], their catalogue rows, -1 for none; float32 [B, C, 2], the cosine and the weight, 0 for none.
    """
    weights, own = own_items(lists)
    acted = (lists.recent_types.unsqueeze(-1) == torch.tensor(_ACTS)).any(-1)
    own = torch.cat([own[:, : lists.favourite_rows.shape[1]], torch.where(acted, lists.recent_rows, -1)], dim=1)
    known, rows = tables.known(own), candidates.rows
    others = ((own >= 0).unsqueeze(1) & (rows.unsqueeze(-1) != own.unsqueeze(1))).to(weights.dtype)
    alike = (candidates.texts @ tables.texts[known].transpose(1, 2)) * others
    meets = (tables.neighbour_rows[known].unsqueeze(1) == rows.unsqueeze(-1).unsqueeze(-1)).to(weights.dtype)
    said = (meets * tables.neighbour_weights[known].unsqueeze(1)).sum(-1) * weights.unsqueeze(1) * others
    each = own.unsqueeze(1) + torch.zeros_like(rows).unsqueeze(-1)
    found, figures = [], []
    for strength in (alike, said):
        best, place = strength.max(-1)
        row = each.gather(-1, place.unsqueeze(-1)).squeeze(-1)
        found.append(torch.where(best > 0, row, -1))
        figures.append(best.clamp(min=0.0))
    return torch.stack(found, dim=-1), torch.stack(figures, dim=-1)


def category_ranks(items: ItemInputs) -> Tensor:
    """float32 [N + 1]: each item's rank by purchases of the last 30 days in its category, 1 is the most.

    0 for an item that was not bought or has no known category, and for the empty item, the last row.
    """
    sold, category = items.numbers[:, _PURCHASES_30D], items.codes[:, 0]
    ranks = np.zeros(len(sold) + 1, np.float32)
    order = np.lexsort((-sold, category))
    starts = np.r_[0, np.flatnonzero(np.diff(category[order])) + 1]
    sizes = np.diff(np.r_[starts, len(order)])
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes) + 1
    ranks[:-1][(sold <= 0) | (category == 0)] = 0.0
    return torch.from_numpy(ranks)
