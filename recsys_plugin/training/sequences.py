"""Sequences of items, one per user, and the place of one held-out item among all: leave-one-out evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_plugin.errors import InvalidInput

__all__ = ["Sequences", "target_ranks", "top_metrics"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Lines ranked at once.
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Sequences:
    """The items of n users in time order.

    Attributes:
        offsets: int64 [n+1]; user i has ``rows[offsets[i]:offsets[i+1]]``, oldest first.
        rows: int64, item rows from 0 on.
    """

    offsets: _Array
    rows: _Array

    @classmethod
    def of(cls, parts: Sequence[Sequence[int] | _Array]) -> Sequences:
        """One sequence per user."""
        offsets = np.r_[0, np.cumsum([len(part) for part in parts])].astype(np.int64)
        rows = [np.asarray(part, np.int64) for part in parts]
        return cls(offsets, np.concatenate(rows) if rows else np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> _Array:
        """int64 [n]."""
        return np.diff(self.offsets)

    def take(self, users: _Array) -> Sequences:
        """The given users, in the given order."""
        return Sequences.of([self.rows[self.offsets[user] : self.offsets[user + 1]] for user in users])

    def without_last(self, count: int) -> Sequences:
        """The same users, each without his last ``count`` items; shorter sequences become empty."""
        kept = np.maximum(self.lengths - count, 0)
        inside = np.arange(len(self.rows)) - np.repeat(self.offsets[:-1], self.lengths)
        return Sequences(np.r_[0, np.cumsum(kept)].astype(np.int64), self.rows[inside < np.repeat(kept, self.lengths)])

    def item_from_end(self, place: int) -> _Array:
        """int64 [n]: the last item (place 1), the one before (2), and so on; -1 if a sequence is shorter."""
        return self._rows_at(self.offsets[1:] - place, self.lengths >= place)

    def newest_first(self, users: _Array, length: int, *, skip: int = 0) -> _Array:
        """int64 [b, L]: the latest items of some users before their last ``skip``, newest first, -1 fills up.

        L is the longest of these, at most ``length`` and at least 1.
        """
        counts = np.clip(self.lengths[users] - skip, 0, length)
        columns = np.arange(max(1, int(counts.max(initial=0))))
        places = self.offsets[users + 1][:, None] - 1 - skip - columns
        return self._rows_at(places, columns < counts[:, None])

    def _rows_at(self, places: _Array, exist: _Array) -> _Array:
        """The rows at these places, -1 where there is none: the last place of the longer array holds -1."""
        return np.append(self.rows, -1)[np.where(exist, places, -1)]


def target_ranks(
    scores: Callable[[_Array], Tensor | _Array],
    known: Sequences,
    targets: _Array,
    *,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> _Array:
    """The place, from 0 on, of each user's target among all items, those that he had before left out.

    Args:
        scores: user positions int64 [b] → scores [b, items]; higher is better.
        known: what each user had before; never a competitor of the target.
        targets: int64 [n], one item per user.
        tell: told how many users are done, and of how many.

    Returns:
        int64 [n]. An item with the same score as the target counts as better, so a constant score gains nothing.

    Raises:
        InvalidInput: if a score is not finite.
    """
    ranks = np.empty(len(targets), np.int64)
    for start in range(0, len(targets), _BLOCK):
        users = np.arange(start, min(start + _BLOCK, len(targets)))
        block = torch.as_tensor(scores(users))
        if not bool(torch.isfinite(block).all()):
            raise InvalidInput(
                f"a score of users {users[0]} to {users[-1]} is NaN or infinite; ranks would mean nothing"
            )
        wanted = torch.from_numpy(targets[users])
        reached = block.gather(1, wanted[:, None])
        better = (block >= reached).sum(dim=1) - 1
        # The few known items are taken off the count; the target itself, if it is known, is not among the better.
        lines = np.repeat(np.arange(len(users)), known.lengths[users])
        seen = known.rows[known.offsets[users[0]] : known.offsets[users[-1] + 1]]
        pairs = np.unique(np.stack([lines, seen]), axis=1)
        pairs = pairs[:, pairs[1] != targets[users][pairs[0]]]
        above = block[torch.from_numpy(pairs[0]), torch.from_numpy(pairs[1])] >= reached[torch.from_numpy(pairs[0]), 0]
        ranks[users] = better.numpy() - np.bincount(pairs[0], weights=above.numpy(), minlength=len(users)).astype(int)
        tell(int(users[-1]) + 1, len(targets))
    return ranks


def top_metrics(ranks: _Array, cuts: Sequence[int] = (5, 10)) -> dict[str, float]:
    """``HR@k`` and ``NDCG@k`` of one target per user at ranks int64 [n], from 0 on; NaN without users.

    A hit is a rank below k; NDCG discounts it by ``log2(rank + 2)``.
    """
    gains = 1.0 / np.log2(ranks + 2.0)
    found: dict[str, float] = {}
    for k in cuts:
        found[f"HR@{k}"] = float(np.mean(ranks < k)) if len(ranks) else float("nan")
        found[f"NDCG@{k}"] = float(np.mean(gains * (ranks < k))) if len(ranks) else float("nan")
    return found
