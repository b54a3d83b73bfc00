"""What is popular, as the version that serves tells it: loaded with a release, kept in process."""

from __future__ import annotations

from collections.abc import Collection, Generator

import numpy as np

from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.tensors import Array
from recsys_plugin.policy.popularity import Popularity, nothing_popular

__all__ = ["load_popularity"]

_BASKETS = "complements"
#: Items whose share is asked for; the others of a larger catalogue count as bought by nobody.
_MOST_ITEMS = 100_000


def load_popularity(
    version: int, items: int, shelves: Collection[str]
) -> Generator[Infer, dict[str, Array], Popularity]:
    """What is popular in a version's catalogue.

    Args:
        items: the size of the catalogue. shelves: which of the models that not every version has there are.

    Raises:
        InferenceUnavailable: if Triton fails, or answers something else.
    """
    if _BASKETS in shelves and items:
        return (yield from _of_baskets(version, items))
    return nothing_popular(items)


def _of_baskets(version: int, items: int) -> Generator[Infer, dict[str, Array], Popularity]:
    """With everybody, from a version that tells no more: what goes with an empty basket is what is in many."""
    nothing = np.array([[-1]], np.int64)
    answer = yield Infer(
        _BASKETS,
        version,
        {
            "basket_rows": nothing,
            "excluded_rows": nothing,
            "counts": np.full((1, 2), min(items, _MOST_ITEMS), np.int64),
        },
        {"rows": OutputSpec("INT64", (1, -1)), "scores": OutputSpec("FP32", (1, -1))},
    )
    rows, scores = answer["rows"][0], answer["scores"][0]
    found = (rows >= 0) & (rows < items) & np.isfinite(scores) & (scores > 0)
    if len(rows) != len(scores) or (rows >= items).any():
        raise InferenceUnavailable(f"model {_BASKETS} version {version}: its answer does not fit {items} items")
    shares = np.zeros(items, np.float32)
    shares[rows[found]] = scores[found]
    return Popularity(shares)
