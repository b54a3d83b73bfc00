"""What is popular, with everybody and in each segment of the users that the shop's table of users has.

A user counts once for an item, by the last time that he bought it, the later the more, so that whoever buys the same
every day does not decide what is popular. A segment's shares are drawn to those of everybody, as if so many more of its
purchases were like everybody's (Dirichlet smoothing; Zhai and Lafferty 2004), and what is told of it is true of as many
of its members as a group has at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.policy.popularity import ATTRIBUTES, PopularItems, Popularity, Segment, nothing_popular

if TYPE_CHECKING:  # descriptions of models need no torch
    from recsys_plugin.training.run import TrainingRun

__all__ = ["PopularityOptions", "popularity_now", "popularity_of"]

_Array = np.ndarray[Any, np.dtype[Any]]
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class PopularityOptions:
    """How popularity is counted; for held-out users of the demo shop half-lives of 7 to 14 days and smoothing by 300 to
    3,000 purchases do about equally well, and longer half-lives worse.

    Attributes:
        half_life: days after which a purchase counts half. window: days from which on it does not count.
        smoothing: so many purchases of a segment are taken to be like everybody's.
        most: items told of a segment: those that are most popular in it or with everybody.
    """

    half_life: float = 14.0
    window: float = 365.0
    smoothing: float = 1_000.0
    most: int = 300


def popularity_of(
    purchases: pd.DataFrame,
    users: pd.DataFrame,
    item_ids: pd.Index[str],
    *,
    before: pd.Timestamp,
    least: int,
    options: PopularityOptions | None = None,
) -> Popularity:
    """Count the purchases before a moment.

    Args:
        purchases: ``user_id``, ``item_id`` and ``timestamp`` (UTC).
        users: ``user_id`` and those of ``ATTRIBUTES`` of the policy that there are; null where a user is in no segment.
        item_ids: the catalogue in row order; other items are left out.
        before: nothing from then on counts.
        least: segments with fewer buyers are not told of, nor items that fewer of a segment's users bought.
        options: how.
    """
    chosen = options or PopularityOptions()
    ages = (before.value // 1000 - microseconds(purchases["timestamp"])) / _DAY
    rows = item_ids.get_indexer(pd.Index(purchases["item_id"]))
    owners = pd.Index(users["user_id"]).get_indexer(pd.Index(purchases["user_id"]))
    known = (rows >= 0) & (ages > 0) & (ages <= chosen.window)
    if not known.any():
        return nothing_popular(len(item_ids))
    # Whoever is missing in the table of users counts as one of everybody.
    strangers = pd.factorize(purchases["user_id"].to_numpy(object))[0] + len(users)
    pairs = pd.DataFrame({"user": np.where(owners < 0, strangers, owners), "row": rows, "age": ages})[known]
    last = pairs.groupby(["user", "row"], sort=True)["age"].min()
    user, row = (last.index.get_level_values(level).to_numpy() for level in ("user", "row"))
    weights = np.exp2(-last.to_numpy() / chosen.half_life)
    counts = np.bincount(row, weights, minlength=len(item_ids))
    overall = counts / counts.sum()
    bought = sp.csr_matrix((weights, (user, row)), (int(user.max()) + 1, len(item_ids)))
    found: dict[Segment, PopularItems] = {}
    for column in [name for name in ATTRIBUTES if name in users]:
        codes, names = pd.factorize(users[column])
        for code, name in enumerate(names):
            members = np.flatnonzero(codes == code)
            told = _of_segment(bought[members[members < bought.shape[0]]], overall, least, chosen)
            if told is not None:
                found[column, str(name)] = told
    return Popularity(overall.astype(np.float32), found)


def _of_segment(bought: sp.csr_matrix, overall: _Array, least: int, chosen: PopularityOptions) -> PopularItems | None:
    """What is popular with some users; ``None`` if they are too few."""
    if int((np.diff(bought.indptr) > 0).sum()) < least:
        return None
    counts = np.asarray(bought.sum(axis=0)).ravel()
    buyers = bought.getnnz(axis=0)
    shares = (counts + chosen.smoothing * overall) / (counts.sum() + chosen.smoothing)
    allowed = np.flatnonzero(buyers >= least)
    if not len(allowed):
        return None
    told = allowed[np.argsort(-np.maximum(shares, overall)[allowed], kind="stable")][: chosen.most]
    order = told[np.argsort(-shares[told], kind="stable")]
    return PopularItems(order.astype(np.int64), shares[order].astype(np.float32))


def popularity_now(run: TrainingRun, *, least: int) -> Popularity:
    """What is popular by all purchases of a run's data, in the order of its catalogue."""
    events = run.dataset.frame(
        "events", ["user_id", "item_id", "event_type", "timestamp"], dictionary=True, event_types=["purchase"]
    )
    users = run.dataset.frame("users", ["user_id", *ATTRIBUTES])
    end = pd.Timestamp(run.dataset.as_of) + pd.Timedelta(microseconds=1)
    return popularity_of(events, users, run.item_ids, before=end, least=least)
