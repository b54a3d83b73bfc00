"""For whom and for what the rankings are good: new and old users, head and tail items, repeat and new purchases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.contexts import Contexts

__all__ = [
    "Segments",
    "earlier_purchases",
    "head_items",
    "mask_earlier",
    "new_items_only",
    "segment_metrics",
    "without_earlier",
]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Segment of users -> least and most earlier baskets; a basket is one moment of purchase.
_BASKETS = {
    "users, 0-1 earlier baskets": (0, 1),
    "users, 2-4 earlier baskets": (2, 4),
    "users, 5+ earlier baskets": (5, None),
}


@dataclass(frozen=True, slots=True)
class Segments:
    """What the segments of one split are told apart by; the same for every system that is compared.

    Attributes:
        baskets: int64 [users], moments of purchase before the split.
        head: bool [items], whether an item is among the most bought before the split.
        earlier: one context per user; its rows are what he bought before the split, distinct.
    """

    baskets: _Array
    head: _Array
    earlier: Contexts

    @classmethod
    def of(
        cls,
        events: pd.DataFrame,
        item_ids: pd.Index[str],
        truth: Contexts,
        *,
        before: pd.Timestamp,
        head_share: float = 0.2,
    ) -> Segments:
        """Read the segments of the users of ``truth`` off the events before a split.

        Args:
            events: columns ``user_id``, ``item_id``, ``event_type`` and ``timestamp`` (UTC).
            item_ids: the catalogue, in row order.
            truth: one context per user.
            before: the split.
            head_share: share of the items sold before the split that counts as head.
        """
        bought = events[(events["event_type"] == "purchase") & (events["timestamp"] < before)]
        moments = bought[["user_id", "timestamp"]].drop_duplicates()["user_id"].value_counts()
        baskets = moments.reindex(truth.entities["user_id"], fill_value=0).to_numpy(np.int64)
        rows = item_ids.get_indexer(pd.Index(bought["item_id"]))
        counts = np.bincount(rows[rows >= 0], minlength=len(item_ids))
        return cls(baskets, head_items(counts, head_share), earlier_purchases(events, item_ids, truth, before=before))


def head_items(counts: _Array, share: float = 0.2) -> _Array:
    """The most bought ``share`` of the items that were bought at all: bool [items]; ties go to the lower row.

    Args:
        counts: int64 [items], purchases of each item.
        share: in (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise InvalidInput(f"the share of head items is {share}; it lies between 0 and 1")
    head = np.zeros(len(counts), bool)
    wanted = int(np.ceil(share * np.count_nonzero(counts)))
    head[np.argsort(-counts, kind="stable")[:wanted]] = True
    return head


def earlier_purchases(
    events: pd.DataFrame, item_ids: pd.Index[str], truth: Contexts, *, before: pd.Timestamp
) -> Contexts:
    """For each context of ``truth``, the distinct catalogue rows that its user bought before a moment."""
    bought = events[(events["event_type"] == "purchase") & (events["timestamp"] < before)]
    users = pd.Index(truth.entities["user_id"])
    if not users.is_unique:
        raise InvalidInput("segments are told apart by user, but a user has more than one context in this split")
    owner = users.get_indexer(pd.Index(bought["user_id"])).astype(np.int64)
    rows = item_ids.get_indexer(pd.Index(bought["item_id"])).astype(np.int64)
    known = (owner >= 0) & (rows >= 0)
    keys = np.unique(owner[known] * len(item_ids) + rows[known])
    return _contexts(truth, keys // max(len(item_ids), 1), keys % max(len(item_ids), 1))


def new_items_only(truth: Contexts, earlier: Contexts) -> Contexts:
    """``truth`` without what the same user had bought before; a context may be left empty, and metrics skip it then.

    Rankings held against it must not contain earlier purchases either: :func:`mask_earlier` or
    :func:`without_earlier`.
    """
    owner = _owners(truth)
    kept = ~_among(owner, truth.rows, earlier)
    return _contexts(truth, owner[kept], truth.rows[kept])


def mask_earlier(scores: _Array, earlier: Contexts, lines: _Array | None = None) -> _Array:
    """Scores float [b, items] with -inf at what each user bought before; a copy.

    Args:
        scores: one line per user.
        earlier: what :func:`earlier_purchases` returned.
        lines: int64 [b], the context of each line; the first b if None.
    """
    masked = np.array(scores, copy=True)
    for line, context in enumerate(np.arange(len(scores)) if lines is None else lines):
        masked[line, earlier.positives(int(context))] = -np.inf
    return masked


def without_earlier(ranked: _Array, earlier: Contexts, *, k: int = 20) -> _Array:
    """Rankings int64 [users, k] without what each user bought before; what follows moves up, -1 fills the end.

    Args:
        ranked: int64 [users, candidates], best first, -1 fills up; give many more than ``k``, since earlier purchases
            often stand in front.
        earlier: what :func:`earlier_purchases` returned.
        k: the cut.
    """
    lines = np.repeat(np.arange(len(ranked)), ranked.shape[1]) if len(ranked) else np.empty(0, np.int64)
    gone = _among(lines, ranked.reshape(-1), earlier).reshape(ranked.shape) | (ranked < 0)
    order = np.argsort(gone, axis=1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(gone, order, axis=1), -1, np.take_along_axis(ranked, order, axis=1))


def segment_metrics(ranked: _Array, truth: Contexts, segments: Segments, *, k: int = 20) -> dict[str, dict[str, float]]:
    """Recall and NDCG at ``k`` in each segment, means over its users.

    Users are divided by their earlier baskets. For items and purchases, the same rankings are held against that part
    of each user's truth that lies in the segment: ``recall@k`` = hits / min(k, size of that part).

    Args:
        ranked: int64 [users, at least k]; catalogue rows, best first; -1 fills up.
        truth: one context per user, in the same order.
        segments: of the same users.
        k: the cut.

    Returns:
        By segment ``recall@k``, ``ndcg@k`` and ``users``, as
        :func:`~recsys_plugin.training.metrics.ranking_metrics` gives them, and ``purchases``, the pairs of user and
        item that it tells of. A segment without any is left out.

    Raises:
        InvalidInput: if rankings, truth and segments are not of the same users.
    """
    if not len(ranked) == len(truth) == len(segments.baskets) == len(segments.earlier):
        raise InvalidInput(
            f"{len(ranked)} rankings, {len(truth)} contexts and segments of {len(segments.baskets)} users: "
            "they must be of the same users in the same order"
        )
    owner = _owners(truth)
    head = segments.head[truth.rows]
    repeated = _among(owner, truth.rows, segments.earlier)
    parts = {
        name: (segments.baskets[owner] >= least) & (segments.baskets[owner] <= (most if most is not None else np.inf))
        for name, (least, most) in _BASKETS.items()
    }
    parts |= {
        "head items": head,
        "tail items": ~head,
        "repeat purchases": repeated,
        "new purchases": ~repeated,
    }
    # One sortable integer per pair of user and row; -1, which fills rankings up, equals no row.
    width = len(segments.head)
    keys = owner * width + truth.rows
    order = np.argsort(keys)
    top = ranked[:, :k]
    asked = np.arange(len(top))[:, None] * width + top
    place = np.searchsorted(keys, asked, sorter=order)
    pair = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(asked.shape, np.int64)
    found = (keys[pair] == asked) & (top >= 0) if len(order) else np.zeros(asked.shape, bool)
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.r_[0.0, np.cumsum(discounts)]
    result: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        sizes = np.bincount(owner[part], minlength=len(truth))
        there = sizes > 0
        if not there.any():
            continue
        hits = (found & part[pair])[there]
        ideal = np.minimum(sizes[there], k)
        result[name] = {
            f"recall@{k}": float((hits.sum(1) / ideal).mean()),
            f"ndcg@{k}": float((hits @ discounts[: top.shape[1]] / best[ideal]).mean()),
            "users": int(there.sum()),
            "purchases": int(part.sum()),
        }
    return result


def _owners(contexts: Contexts) -> _Array:
    """The context of each positive, int64."""
    return np.repeat(np.arange(len(contexts)), np.diff(contexts.offsets))


def _among(owner: _Array, rows: _Array, contexts: Contexts) -> _Array:
    """bool: whether ``rows[j]`` is among the positives of context ``owner[j]``."""
    width = 1 + max(int(rows.max(initial=-1)), int(contexts.rows.max(initial=-1)))
    within: _Array = np.isin(owner * width + rows, _owners(contexts) * width + contexts.rows) & (rows >= 0)
    return within


def _contexts(like: Contexts, owner: _Array, rows: _Array) -> Contexts:
    """The same moments with other positives; ``owner`` ascends."""
    offsets = np.searchsorted(owner, np.arange(len(like) + 1)).astype(np.int64)
    return Contexts(like.entities, offsets, rows.astype(np.int64))
