"""What rules look at of the items of a release, as columns of numbers: the catalogue's, and those of newer items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.release import Release
from recsys_plugin.inference.labels import Labels
from recsys_plugin.policy.rules import Barred, Exclusions, Pool

__all__ = ["barred_names", "every_item", "pool_of", "vectors_of"]

_Array = NDArray[Any]
_LABELS = ("categories", "subcategories", "brands")
#: Since when an item is there that came after the export: later than any moment that is asked about.
_JUST_NOW = 1 << 53


def pool_of(
    release: Release,
    rows: NDArray[np.int64],
    scores: NDArray[Any],
    probabilities: Mapping[str, NDArray[np.floating[Any]]],
) -> Pool:
    """Some rows as candidates, in the order given.

    Args:
        scores: of the rows. probabilities: see :class:`~recsys_plugin.policy.rules.Pool`.
    """
    size = len(release.catalogue)
    old = _catalogue_columns(release)
    if not release.new_items or not (rows >= size).any():
        columns = {name: column[rows] for name, column in old.items()}
    else:
        new, is_old = _new_columns(release), rows < size
        columns = {}
        for name, column in old.items():
            columns[name] = filled = np.empty(len(rows), column.dtype)
            filled[is_old] = column[rows[is_old]]
            filled[~is_old] = new[name][rows[~is_old] - size]
    return _pool(release, rows, scores.astype(np.float64), columns, probabilities)


def every_item(release: Release) -> Pool:
    """The whole catalogue as candidates without scores; newer items are not among them."""
    rows = np.arange(len(release.catalogue))
    return _pool(release, rows, np.zeros(len(rows)), _catalogue_columns(release), {})


def barred_names(release: Release, exclusions: Exclusions | None, already: NDArray[np.int64]) -> Barred:
    """The names of a rule as numbers; a name that no item has bars nothing.

    Args:
        already: rows of what the user has had.
    """
    if exclusions is None:
        return Barred(already=already)
    if release.new_items:
        _new_columns(release)  # gives numbers to the names that only they have
    rows = (release.row(item_id) for item_id in exclusions.items)
    items = np.array([row for row in rows if row is not None], np.int64)
    codes = {name: _numbers(_labels(release, name), getattr(exclusions, name)) for name in _LABELS}
    return Barred(items, already=already, **codes)


def vectors_of(release: Release, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Unit vectors of rows, ``[n, D]``, as far as they were fetched; zeros for the others.

    A newer item's vector is the beginning of its packed row, as ``new_item`` made it.
    """
    size, vectors = len(release.catalogue), release.catalogue.vectors
    found = np.zeros((len(rows), vectors.width), np.float32)
    is_old = rows < size
    found[is_old] = vectors.of(rows[is_old])
    if release.new_items and not is_old.all():
        found[~is_old] = release.new_items.packed[rows[~is_old] - size, : vectors.width]
    return found


def _pool(
    release: Release,
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    columns: Mapping[str, _Array],
    probabilities: Mapping[str, NDArray[np.floating[Any]]],
) -> Pool:
    known = dict(columns)
    for name in _LABELS:
        nothing = _labels(release, name).known("")
        if nothing is not None:
            known[name] = np.where(known[name] == nothing, np.int32(-1), known[name])
    return Pool(rows, scores, **known, probabilities=probabilities)


def _labels(release: Release, name: str) -> Labels:
    labels: Labels = getattr(release.catalogue, name)
    return labels


def _catalogue_columns(release: Release) -> dict[str, _Array]:
    catalogue = release.catalogue
    return {
        **{name: _labels(release, name).codes for name in _LABELS},
        "prices": catalogue.prices,
        "stock": catalogue.stock,
        "available_since": catalogue.available_since,
    }


def _new_columns(release: Release) -> dict[str, _Array]:
    """The columns of newer items; worked out once for a release, whose newer items never change."""
    found: dict[str, _Array] | None = release.memory.get("new columns")
    if found is None:
        facts = release.new_items.facts
        texts = {
            "categories": [fact.category for fact in facts],
            "subcategories": [fact.subcategory for fact in facts],
            "brands": [fact.brand for fact in facts],
        }
        found = {name: np.fromiter(map(_labels(release, name).number, of), np.int32) for name, of in texts.items()}
        found["prices"] = np.array([fact.price for fact in facts], np.float64)
        found["stock"] = np.array([fact.stock for fact in facts], np.int64)
        found["available_since"] = np.full(len(facts), _JUST_NOW, np.int64)
        release.memory["new columns"] = found
    return found


def _numbers(labels: Labels, names: tuple[str, ...]) -> NDArray[np.int32]:
    return np.array([number for name in names if (number := labels.known(name)) is not None], np.int32)
