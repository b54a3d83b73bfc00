"""Users who are alike: their vectors, and the communities that they fall into, for features of a community.

Communities are clusters by spherical k-means (Dhillon and Modha 2001, "Concept decompositions for large sparse text
data using clustering") with k-means++ seeding (Arthur and Vassilvitskii 2007). None is smaller than a least size, and
what is told of one is true of as many of its members.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import scipy.sparse as sp

from recsys_plugin.privacy.noise import Mechanism, bounded
from recsys_plugin.pseudonyms import Pseudonyms, halves_of

if TYPE_CHECKING:  # descriptions of models need the numbers below and not torch
    from recsys_plugin.training.run import TrainingRun

__all__ = [
    "MOST_CATEGORIES",
    "MOST_ITEMS",
    "Communities",
    "CountedPrivately",
    "People",
    "communities_of",
    "nobody",
    "people_now",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Favourite items and categories that are told of a community.
MOST_ITEMS, MOST_CATEGORIES = 10, 5
#: Communities are so many times the least size on average, and no more than this.
_MEAN_SIZE, _MOST_COMMUNITIES = 5, 64
_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class CountedPrivately:
    """How what is told of communities is counted under differential privacy.

    A user is in one community, and counts for one of its members, for at most ``most`` items, and for at most ``most``
    categories. What is told is computed of the three noisy counts alone. The grouping of users is not protected by it,
    nor what else is served of them.

    Attributes:
        sizes, items, categories: the mechanisms of the counts, of sensitivity 1, ``most`` and ``most``.
        most: items, and categories, that a user counts for. generator: draws them.
    """

    sizes: Mechanism
    items: Mechanism
    categories: Mechanism
    most: int
    generator: np.random.Generator

    @property
    def epsilon(self) -> float:
        """Of all three, composed."""
        return self.sizes.epsilon + self.items.epsilon + self.categories.epsilon


@dataclass(frozen=True, slots=True)
class Communities:
    """C groups of users.

    Attributes:
        centroids: float32 [C, D], unit vectors; a user belongs to the nearest. sizes: int64 [C].
        item_rows: int64 [C, 10], what its members buy more than others do, catalogue rows, -1 pads.
        categories: of each, at most 5, likewise.
        epsilon: that what is told of them was counted with; ``None`` for exact counts.
    """

    centroids: _Array
    sizes: _Array
    item_rows: _Array
    categories: tuple[tuple[str, ...], ...]
    epsilon: float | None = None


@dataclass(frozen=True, slots=True)
class People:
    """The users who may be somebody's neighbour.

    Attributes:
        vectors: float32 [N, D], unit vectors. pseudonyms: int64 [N, 2], the two halves of each pseudonym.
        key_check: int64 [2], that of the key. communities: that they fall into.
    """

    vectors: _Array
    pseudonyms: _Array
    key_check: _Array
    communities: Communities


def nobody(width: int) -> People:
    """No users, for a shop that gives no key."""
    none = np.empty((0, MOST_ITEMS), np.int64)
    communities = Communities(np.empty((0, width), np.float32), np.empty(0, np.int64), none, ())
    return People(np.empty((0, width), np.float32), np.empty((0, 2), np.int64), np.zeros(2, np.int64), communities)


def communities_of(vectors: _Array, *, least: int, seed: int = 0, count: int | None = None) -> tuple[_Array, _Array]:
    """Cluster unit vectors float32 [N, D] into communities of at least ``least``.

    Args:
        count: how many to begin with; the smallest is given up, and its members go to their next nearest, until all
            are large enough. By default as many as make them five times the least size on average, 64 at most.

    Returns:
        centroids float32 [C, D] and labels int64 [N]; with fewer than ``least`` users no centroid, and labels of -1.
    """
    if len(vectors) < max(1, least):
        return np.empty((0, vectors.shape[1]), np.float32), np.full(len(vectors), -1)
    wanted = count or max(1, min(_MOST_COMMUNITIES, len(vectors) // (_MEAN_SIZE * least)))
    centroids = _seeds(vectors, wanted, np.random.default_rng(seed))
    labels = (vectors @ centroids.T).argmax(axis=1)
    for _ in range(_ROUNDS):
        members = sp.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (len(centroids), len(labels)))
        sums = np.asarray(members @ vectors, np.float32)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centroids)
        before, labels = labels, (vectors @ centroids.T).argmax(axis=1)
        if (before == labels).all():
            break
    while len(centroids) > 1 and (sizes := np.bincount(labels, minlength=len(centroids))).min() < least:
        centroids = np.delete(centroids, sizes.argmin(), axis=0)
        labels = (vectors @ centroids.T).argmax(axis=1)
    return centroids, labels


def _seeds(vectors: _Array, count: int, generator: np.random.Generator) -> _Array:
    """Distinct vectors far from each other, by k-means++ on the squared distance."""
    chosen = [int(generator.integers(len(vectors)))]
    nearest = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.maximum(2.0 - 2.0 * (vectors @ vectors[chosen[-1]]), 0.0))
        # Below rounding it is the same vector again.
        nearest[nearest < 1e-6] = 0.0
        if not nearest.any():
            break
        chosen.append(int(generator.choice(len(vectors), p=nearest / nearest.sum())))
    return vectors[chosen].astype(np.float32)


def people_now(
    run: TrainingRun,
    pseudonyms: Pseudonyms,
    *,
    opted_out: Collection[str],
    least: int,
    seed: int = 0,
    privately: CountedPrivately | None = None,
) -> People:
    """Who bought something, as of now, without those who opted out, by the vectors that training wrote.

    Args:
        opted_out: ids or pseudonyms; they are in no count either. least: of a community, and of every count.
        seed: of the clustering. privately: how members, items and categories are counted; exactly, if ``None``.
    """
    table = pq.read_table(run.feature_data / "user_embedding.parquet", columns=["user_id", "vector"])
    user_ids, columns = table["user_id"].to_pylist(), ["user_id", "item_id", "event_type"]
    vectors = np.asarray(table["vector"].combine_chunks().flatten(), np.float32).reshape(len(user_ids), -1)
    events = run.dataset.frame("events", columns, event_types=["purchase"], dictionary=True)
    users = pd.Index(user_ids).get_indexer(pd.Index(events["user_id"]))
    items = run.item_ids.get_indexer(pd.Index(events["item_id"]))
    known = (users >= 0) & (items >= 0)
    shape = (len(user_ids), len(run.item_ids))
    owned = sp.csr_matrix((np.ones(int(known.sum()), np.float32), (users[known], items[known])), shape)
    owned.data[:] = 1.0
    names = [pseudonyms.of(user_id) for user_id in user_ids]
    gone = set(opted_out)
    stays = np.array([not gone & {user_id, name} for user_id, name in zip(user_ids, names, strict=True)], bool)
    kept = np.flatnonzero(stays & (np.diff(owned.indptr) > 0))
    centroids, labels = communities_of(vectors[kept], least=least, seed=seed)
    categories = run.dataset.frame("items", ["item_id", "category"]).set_index("item_id")["category"]
    return People(
        vectors[kept],
        np.array([halves_of(names[line]) for line in kept], np.int64).reshape(-1, 2),
        np.array(halves_of(pseudonyms.check), np.int64),
        _described(centroids, labels, owned[kept], list(categories.reindex(run.item_ids).fillna("")), least, privately),
    )


def _described(
    centroids: _Array,
    labels: _Array,
    owned: sp.csr_matrix,
    categories: Sequence[str],
    least: int,
    privately: CountedPrivately | None = None,
) -> Communities:
    """What members of each community buy more than others, of what at least so many of them bought."""
    count, (users, items) = len(centroids), owned.shape
    members = sp.csr_matrix((np.ones(users), (np.maximum(labels, 0), np.arange(users))), (max(count, 1), users))
    sizes = np.bincount(labels[labels >= 0], minlength=count).astype(np.int64)
    codes, names = pd.factorize(pd.Series(categories, dtype=object))
    of_category = owned @ sp.csr_matrix((np.ones(items, np.float32), (np.arange(items), codes)), (items, len(names)))
    of_category.data[:] = 1.0
    of_category = of_category.multiply(np.array([name != "" for name in names], np.float32)).tocsr()
    if privately is not None:
        sizes = np.maximum(privately.sizes.noise(sizes), least)
        owned = bounded(owned, privately.most, privately.generator)
        of_category = bounded(of_category, privately.most, privately.generator)
    buyers, category_buyers = (members @ owned).toarray()[:count], (members @ of_category).toarray()[:count]
    if privately is not None:
        # Every column gets noise: which of them nobody bought would tell something too.
        buyers = privately.items.noise(buyers.astype(np.int64)).astype(np.float32)
        category_buyers = privately.categories.noise(category_buyers.astype(np.int64)).astype(np.float32)
        category_buyers *= np.array([name != "" for name in names], np.float32)
    rows = _favourites(buyers, sizes, least, MOST_ITEMS)
    found = _favourites(category_buyers, sizes, least, MOST_CATEGORIES)
    return Communities(
        centroids,
        sizes,
        rows,
        tuple(tuple(str(names[code]) for code in line if code >= 0) for line in found),
        None if privately is None else privately.epsilon,
    )


def _favourites(buyers: _Array, sizes: _Array, least: int, most: int) -> _Array:
    """The columns that lines stand out by, int64 [C, most], -1 pads: buyers times the logarithm of their lift."""
    found = np.full((len(buyers), most), -1, np.int64)
    buyers = np.maximum(buyers, 0)  # noise may take a count below it
    overall = buyers.sum(axis=0) / max(1, sizes.sum())
    for line, counts in enumerate(buyers):
        allowed = np.flatnonzero((counts >= least) & (counts > 0))
        gain = counts[allowed] * np.log(counts[allowed] / sizes[line] / overall[allowed])
        # With a single community nothing stands out, and what most of them bought is told.
        order = np.lexsort((allowed, -counts[allowed], -np.round(gain, 9)))[:most]
        found[line, : len(order)] = allowed[order]
    return found
