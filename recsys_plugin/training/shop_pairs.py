"""Pairs of texts that belong together as a shop's events say: products of a basket, queries and what they led to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.training.fine_tuning_tasks import ContrastivePairs
from recsys_plugin.training.text import TextKind

__all__ = ["co_purchase_pairs", "describe_pairs", "query_pairs", "shop_pairs"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Pairs drawn from one basket at most: a wholesale basket of a hundred lines says little about each pair.
_MOST_OF_BASKET = 100
#: How often one pair counts at most: a bestseller's pairs would be most of the examples.
_MOST_OF_PAIR = 3
#: The last tenth of the events before the split validates.
_VALIDATION_SHARE = 0.1
_LED_TO = ("click", "cart", "purchase")


def shop_pairs(
    events: pd.DataFrame, texts: pd.Series[str], *, before: pd.Timestamp, most: int, seed: int
) -> tuple[list[ContrastivePairs], list[ContrastivePairs]]:
    """Co-purchases and query–product pairs from before a moment, to train on and, of later days, to validate on.

    Args:
        events: ``user_id``, ``item_id``, ``event_type``, ``timestamp``, and ``basket_id`` and ``query``, which may be
            missing (purchases of one user at one moment are one basket then).
        texts: each item's text, indexed by ``item_id``; items with a blank text are left out.
        before: events from then on are not looked at. most: at most so many pairs of each kind. seed: which are drawn.

    Returns:
        Training tasks and validation tasks, each empty where the shop has no such pairs. A pair that is in the
        training tasks is in no validation task.
    """
    events = events[(events["timestamp"] < before) & events["item_id"].isin(texts.index[texts.str.strip() != ""])]
    if events.empty:
        return [], []
    moments = events["timestamp"].dt.tz_convert(None).to_numpy("datetime64[us]").astype(np.int64)
    is_late = moments >= np.quantile(moments, 1 - _VALIDATION_SHARE)
    train: list[ContrastivePairs] = []
    validation: list[ContrastivePairs] = []
    kinds: dict[TextKind, Callable[..., pd.DataFrame]] = {"passage": co_purchase_pairs, "query": query_pairs}
    for kind, pairs_of in kinds.items():
        generator = np.random.default_rng([seed, len(train)])
        early = pairs_of(events[~is_late], generator)
        late = pairs_of(events[is_late], generator).drop_duplicates()
        seen = set(early.itertuples(index=False, name=None))
        fresh = late[np.array([pair not in seen for pair in late.itertuples(index=False, name=None)], bool)]
        for pairs, tasks, limit in ((early, train, most), (fresh, validation, most // 10)):
            if len(pairs) > limit:
                pairs = pairs.iloc[np.sort(generator.choice(len(pairs), limit, replace=False))]
            anchors = pairs["anchor"] if kind == "query" else pairs["anchor"].map(texts)
            # Two items with the same text have nothing to learn from each other.
            positives = pairs["item_id"].map(texts)
            told = (anchors != positives).to_numpy()
            if told.sum() > 1:
                tasks.append(ContrastivePairs(list(anchors[told]), list(positives[told]), anchor_kind=kind))
    return train, validation


def co_purchase_pairs(events: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Two items of one basket, as ``anchor`` and ``item_id``.

    Pairs seen in one basket only are left out if there are others. A pair appears as often as it was bought
    together, but three times at most; of a large basket a hundred pairs are drawn.
    """
    bought = events[events["event_type"] == "purchase"]
    moment = bought["user_id"].astype(str) + "@" + bought["timestamp"].astype(str)
    basket = bought["basket_id"].where(bought["basket_id"].notna(), moment) if "basket_id" in bought else moment
    lines = pd.DataFrame({"basket": basket.to_numpy(object), "item_id": bought["item_id"].to_numpy(object)})
    lines = lines.drop_duplicates().sort_values(["basket", "item_id"], kind="stable")
    codes, ids = pd.factorize(lines["item_id"], sort=True)
    starts = np.flatnonzero(np.r_[True, lines["basket"].to_numpy()[1:] != lines["basket"].to_numpy()[:-1]])
    left, right = _pairs_within(codes, starts, generator)
    pairs, counts = np.unique(left * len(ids) + right, return_counts=True)
    if (counts > 1).any():
        pairs, counts = pairs[counts > 1], counts[counts > 1]
    repeated = np.repeat(pairs, np.minimum(counts, _MOST_OF_PAIR))
    names = np.asarray(ids, object)
    return pd.DataFrame({"anchor": names[repeated // max(1, len(ids))], "item_id": names[repeated % max(1, len(ids))]})


def query_pairs(events: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Queries and the items that were clicked, put in the cart or bought after them, as ``anchor`` and ``item_id``.

    A pair appears as often as it happened, but three times at most.
    """
    if "query" not in events:
        return pd.DataFrame({"anchor": [], "item_id": []}, dtype=object)
    asked = events[events["event_type"].isin(_LED_TO) & events["query"].fillna("").str.strip().ne("")]
    pairs = pd.DataFrame({"anchor": asked["query"].str.strip(), "item_id": asked["item_id"]})
    return pairs[pairs.groupby(["anchor", "item_id"]).cumcount() < _MOST_OF_PAIR].reset_index(drop=True)


def _pairs_within(codes: _Array, starts: _Array, generator: np.random.Generator) -> tuple[_Array, _Array]:
    """Pairs (smaller code, larger code) of each basket; at most a hundred of each, drawn with replacement."""
    sizes = np.diff(np.r_[starts, len(codes)])
    wanted = np.minimum(sizes * (sizes - 1) // 2, _MOST_OF_BASKET)
    start, size = np.repeat(starts, wanted), np.repeat(sizes, wanted)
    small = np.repeat(sizes * (sizes - 1) // 2 <= _MOST_OF_BASKET, wanted)
    # Small baskets: the k-th pair of (0,1), (0,2), (1,2), (0,3), ...; large ones: two different lines at random.
    k = np.arange(len(start)) - np.repeat(np.r_[0, np.cumsum(wanted)[:-1]], wanted)
    upper = ((1 + np.sqrt(1 + 8 * k)) // 2).astype(np.int64)
    lower = k - upper * (upper - 1) // 2
    one = generator.integers(0, np.maximum(size, 1))
    other = (one + generator.integers(1, np.maximum(size, 2))) % np.maximum(size, 1)
    first = codes[start + np.where(small, lower, one)]
    second = codes[start + np.where(small, upper, other)]
    return np.minimum(first, second).astype(np.int64), np.maximum(first, second).astype(np.int64)


def describe_pairs(tasks: Sequence[ContrastivePairs]) -> dict[str, int]:
    """How many co-purchases and query–product pairs there are."""
    named = {"passage": "co_purchases", "query": "query_product_pairs"}
    return {named[task.anchor_kind]: len(task) for task in tasks}
