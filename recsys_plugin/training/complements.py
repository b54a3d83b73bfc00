"""What goes with a basket: weights between items, as tables that a graph can hold.

The item-item weights of EASE^R with dropout noise (Steck 2019, "Embarrassingly shallow autoencoders for sparse data";
Steck 2020, "Autoencoders that don't overfit towards the identity"), learnt from baskets rather than from users, so that
they say what is bought together rather than what the same people like, and from how much more often than on average an
item is in a basket (its lift), so that what everybody buys anyway goes with nothing in particular. Items that stand in
for one another have negative weights. Rarely bought items lean on the weights of those with similar texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from recsys_plugin.training.baselines import MOST_EASE_ITEMS, EaseWeights, ease_of_gram
from recsys_plugin.training.baskets import Baskets

if TYPE_CHECKING:  # the quality suites, which have no training run, are spared torch
    from recsys_plugin.training.run import TrainingRun

__all__ = [
    "ComplementOptions",
    "Complements",
    "complements_now",
    "complements_of",
    "no_complements",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Items whose lines are made at a time.
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class ComplementOptions:
    """How weights are learnt; the defaults are the best on Online Retail II's invoices of October 2011.

    Attributes:
        half_life: days after which a basket counts half.
        size_exponent: a basket of n items counts n to the power of minus this, since large ones hold many chance pairs.
        regularisation: λ of EASE^R. dropout: the share of a basket's items that are hidden in training.
        rarity_exponent: an item of n baskets speaks with n to the power of minus this.
        text_strength: an item of so many baskets is known half by its own and half by those of similar texts.
        text_neighbours: how many of these.
        text_least: baskets from which on an item lends its weights.
        recent_days: over which popularity counts. prior: its weight beside what the basket says.
        most: weights kept for each item, the largest in size.
        most_items: the items, the most bought, that are looked at together; others are never proposed, and those in a
            basket speak by one regression each.
    """

    half_life: float = 240.0
    size_exponent: float = 0.5
    regularisation: float = 10.0
    dropout: float = 1 / 3
    rarity_exponent: float = 0.1
    text_strength: float = 5.0
    text_neighbours: int = 5
    text_least: int = 20
    recent_days: float = 14.0
    prior: float = 0.01
    most: int = 100
    most_items: int = MOST_EASE_ITEMS


@dataclass(frozen=True, slots=True)
class Complements:
    """For each of N items the K items that its presence in a basket says most of, and what is popular anyway.

    Attributes:
        rows: int32 [N, K], -1 pads. weights: float32 [N, K], of either sign, 0 where padded.
        prior: float32 [N], what an item scores before the basket is looked at.
    """

    rows: _Array
    weights: _Array
    prior: _Array

    def scores(self, baskets: sp.csr_matrix) -> _Array:
        """What the served graph adds up: float32 [B, N] for binary baskets [B, N]."""
        known = self.rows >= 0
        lines = np.nonzero(known)[0]
        table = sp.csr_matrix((self.weights[known], (lines, self.rows[known])), shape=(len(self.rows),) * 2)
        scored: _Array = (baskets @ table).toarray().astype(np.float32) + self.prior
        return scored


def no_complements(items: int) -> Complements:
    """The tables of a catalogue without purchases."""
    rows = np.full((items, 1), -1, np.int32)
    return Complements(rows, np.zeros(rows.shape, np.float32), np.zeros(items, np.float32))


def complements_of(
    baskets: Baskets,
    texts: _Array | None = None,
    *,
    options: ComplementOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Complements:
    """Learn the tables from baskets.

    Args:
        baskets: what was bought together. texts: unit vectors of the items' texts, float32 [N, D]; ``None`` for none.
        options: how. progress: told how many items are done, of how many.
    """
    chosen = options or ComplementOptions()
    size = baskets.items.shape[1]
    if not len(baskets):
        return no_complements(size)
    weights = baskets.recency(chosen.half_life)
    weights *= np.maximum(np.diff(baskets.items.indptr) - 1.0, 1.0) ** -chosen.size_exponent
    ease = _ease(baskets.items, weights, chosen)
    counts = np.asarray(baskets.items.sum(axis=0), np.float64).ravel()
    seldom = _seldom_bought(baskets.items, weights, ease.kept, chosen)
    place = np.full(size, -1)
    place[ease.kept] = np.arange(len(ease.kept))
    lenders = np.flatnonzero((place >= 0) & (counts >= chosen.text_least))
    most = min(chosen.most, len(ease.kept))
    rows, kept_weights = np.full((size, most), -1, np.int32), np.zeros((size, most), np.float32)
    for start in range(0, size, _BLOCK):
        progress(start, size)
        items = np.arange(start, min(start + _BLOCK, size))
        line = np.asarray(seldom[items].todense(), np.float32)
        frequent = place[items] >= 0
        line[frequent] = ease.inner[place[items[frequent]]]
        if texts is not None and len(lenders):
            line += _lent(items, counts, lenders, ease, place, texts, chosen)
            line[np.flatnonzero(frequent), place[items[frequent]]] = 0.0
        line *= (counts[items, None] + chosen.text_strength) ** -chosen.rarity_exponent
        top = np.argpartition(-np.abs(line), most - 1, axis=1)[:, :most]
        said = np.take_along_axis(line, top, axis=1)
        rows[items] = np.where(said != 0, ease.kept[top], -1)
        kept_weights[items] = said
    progress(size, size)
    popular = baskets.popularity(chosen.recent_days)
    share = popular / max(1, int((baskets.moments >= baskets.before - chosen.recent_days * 86_400_000_000).sum()))
    return Complements(rows, kept_weights, (chosen.prior * share).astype(np.float32))


def _ease(items: sp.csr_matrix, weights: _Array, chosen: ComplementOptions) -> EaseWeights:
    """EASE^R of centred baskets: a regression with an intercept, which takes what is popular out of the weights."""
    totals = np.asarray(items.T @ weights, np.float64)
    kept = np.sort(np.argsort(-totals, kind="stable")[: chosen.most_items])
    part = (sp.diags(np.sqrt(weights)) @ items[:, kept]).tocsr()
    gram = (part.T @ part).toarray() - np.outer(totals[kept], totals[kept]) / weights.sum()
    return EaseWeights(kept, ease_of_gram(gram, regularisation=chosen.regularisation, dropout=chosen.dropout))


def _seldom_bought(items: sp.csr_matrix, weights: _Array, kept: _Array, chosen: ComplementOptions) -> sp.csr_matrix:
    """Lines float32 [N, kept] of the items that EASE^R leaves out: the same regression with one item at a time.

    ``(c_ij − n_i · p_j) / (n_i + λ)``: how much more often j is in a basket with i than in any, shrunk; less often
    counts as nothing, as few baskets cannot say so.
    """
    size = items.shape[1]
    others = np.setdiff1d(np.arange(size), kept)
    if not len(others):
        return sp.csr_matrix((size, len(kept)), dtype=np.float32)
    weighted = (sp.diags(weights) @ items).tocsr()
    together = (items[:, others].T @ weighted[:, kept]).tocoo()
    totals = np.asarray(weighted.sum(axis=0)).ravel()
    of_item = totals[others[together.row]]
    expected = of_item * totals[kept[together.col]] / weights.sum()
    values = np.maximum(together.data - expected, 0.0) / (of_item + chosen.regularisation)
    return sp.csr_matrix((values, (others[together.row], together.col)), (size, len(kept)), dtype=np.float32)


def _lent(
    items: _Array,
    counts: _Array,
    lenders: _Array,
    ease: EaseWeights,
    place: _Array,
    texts: _Array,
    chosen: ComplementOptions,
) -> _Array:
    """What items of similar text lend to some items, float32 [items, kept]: the more, the less these are bought."""
    cosines = np.maximum(texts[items] @ texts[lenders].T, 0.0)
    cosines[items[:, None] == lenders] = 0.0
    many = min(chosen.text_neighbours, len(lenders))
    nearest = np.argpartition(-cosines, many - 1, axis=1)[:, :many]
    alike = np.take_along_axis(cosines, nearest, axis=1)
    shares = alike / np.maximum(alike.sum(axis=1, keepdims=True), 1e-9)
    # Of little use is what resembles nothing; of much use, what has hardly been bought.
    strength = alike.max(axis=1) * chosen.text_strength / (chosen.text_strength + counts[items])
    mixing = sp.csr_matrix(
        (
            (shares * strength[:, None]).ravel().astype(np.float32),
            (np.repeat(np.arange(len(items)), many), place[lenders[nearest]].ravel()),
        ),
        shape=(len(items), len(ease.kept)),
    )
    lent: _Array = mixing @ ease.inner
    return lent


def complements_now(run: TrainingRun) -> Complements:
    """The tables by all purchases of a run's data and its texts, in the order of its catalogue."""
    columns = ["user_id", "item_id", "event_type", "timestamp", "basket_id"]
    events = run.dataset.frame("events", columns, dictionary=True, event_types=["purchase"])
    end = pd.Timestamp(run.dataset.as_of) + pd.Timedelta(microseconds=1)
    return complements_of(
        Baskets.of(events, run.item_ids, before=end),
        run.text_vectors(),
        progress=lambda done, total: run.progress("complements", done, total),
    )
