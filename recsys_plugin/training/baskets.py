"""Baskets: which items were bought together, when, by whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from recsys_plugin.aggregation.arrays import microseconds, sorted_codes

__all__ = ["Baskets"]

_Array = np.ndarray[Any, np.dtype[Any]]
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class Baskets:
    """The baskets before a moment, oldest first.

    Attributes:
        items: which basket holds what, binary float32 [baskets, items].
        moments: int64 [baskets], microseconds; when the first line was bought.
        users: int64 [baskets], positions of their buyers. before: microseconds.
    """

    items: sp.csr_matrix
    moments: _Array
    users: _Array
    before: int

    @classmethod
    def of(cls, events: pd.DataFrame, item_ids: pd.Index[str], *, before: pd.Timestamp) -> Baskets:
        """The baskets of the purchases before a moment; items that are not in ``item_ids`` are left out.

        Args:
            events: ``user_id``, ``item_id``, ``event_type``, ``timestamp`` and ``basket_id``, which may be missing:
                what one user bought at one moment is one basket then.
            item_ids: the catalogue in row order. before: nothing from then on counts.
        """
        bought = events[(events["event_type"] == "purchase") & (events["timestamp"] < before)]
        rows = item_ids.get_indexer(pd.Index(bought["item_id"]))
        bought, rows = bought[rows >= 0], rows[rows >= 0]
        users, _ = sorted_codes(bought["user_id"])
        moments = microseconds(bought["timestamp"])
        named = np.full(len(rows), -1)
        if "basket_id" in bought:
            named = bought["basket_id"].astype("category").cat.codes.to_numpy(np.int64)
        # Of a named basket the lines may have been written at different moments; its buyer is one.
        lines = pd.DataFrame({"user": users, "basket": named, "moment": np.where(named < 0, moments, 0)})
        codes = lines.groupby(["user", "basket", "moment"], sort=False).ngroup().to_numpy()
        count = int(codes.max(initial=-1)) + 1
        began, buyers = np.full(count, before.value // 1000), np.zeros(count, np.int64)
        np.minimum.at(began, codes, moments)
        buyers[codes] = users
        order = np.argsort(began, kind="stable")
        place = np.empty(count, np.int64)
        place[order] = np.arange(count)
        items = sp.csr_matrix((np.ones(len(rows), np.float32), (place[codes], rows)), (count, len(item_ids)))
        items.data[:] = 1.0  # an item on two lines of a basket is in it once
        return cls(items, began[order], buyers[order], before.value // 1000)

    def __len__(self) -> int:
        """The number of baskets."""
        return len(self.moments)

    def until(self, moment: pd.Timestamp) -> Baskets:
        """What of it was before an earlier moment, as it looked then."""
        before = moment.value // 1000
        count = int(np.searchsorted(self.moments, before))
        return Baskets(self.items[:count], self.moments[:count], self.users[:count], before)

    def since(self, moment: pd.Timestamp) -> Baskets:
        """What of it was at or after a moment."""
        count = int(np.searchsorted(self.moments, moment.value // 1000))
        return Baskets(self.items[count:], self.moments[count:], self.users[count:], self.before)

    def recency(self, half_life: float) -> _Array:
        """How much each basket counts, float64 [baskets]: half after ``half_life`` days."""
        weights: _Array = np.exp2(-(self.before - self.moments) / _DAY / half_life)
        return weights

    def popularity(self, days: float) -> _Array:
        """The baskets of the last ``days`` that hold each item, float64 [items]."""
        recent = self.moments >= self.before - days * _DAY
        return np.asarray(self.items[recent].sum(axis=0), np.float64).ravel()
