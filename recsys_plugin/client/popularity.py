"""What is popular, as the version that serves tells it: loaded with a release, kept in process."""

from __future__ import annotations

from collections.abc import Collection, Generator

import numpy as np

from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.tensors import Array
from recsys_plugin.policy.popularity import PopularItems, Popularity, Segment, nothing_popular

__all__ = ["load_popularity"]

_MODEL, _BASKETS = "popularity", "complements"
#: How many lines are asked for at a time; they are numbers, and decoded in no time.
_PAGE_ROWS = 50_000
#: Items of which an older version is asked; the others of a larger catalogue count as bought by nobody.
_MOST_ITEMS = 100_000
_OUTPUTS = {
    "segments": OutputSpec("INT64", (-1,)),
    "rows": OutputSpec("INT64", (-1,)),
    "shares": OutputSpec("FP32", (-1,)),
    "attributes": OutputSpec("BYTES", (-1,)),
    "values": OutputSpec("BYTES", (-1,)),
    "size": OutputSpec("INT64", (1,)),
}

_Loading = Generator[Infer, dict[str, Array], Popularity]


def load_popularity(version: int, items: int, shelves: Collection[str]) -> _Loading:
    """What is popular in a version's catalogue.

    Args:
        items: the size of the catalogue. shelves: which of the models that not every version has there are.

    Raises:
        InferenceUnavailable: if Triton fails, or what it tells does not fit the catalogue.
    """
    if _MODEL in shelves:
        return (yield from _table(version, items))
    if _BASKETS in shelves and items:
        return (yield from _of_baskets(version, items))
    return nothing_popular(items)


def _table(version: int, items: int) -> _Loading:
    where, pages, loaded, size = f"model {_MODEL} version {version}", [], 0, 1
    while loaded < size:
        inputs = {"offset": np.array([loaded], np.int64), "count": np.array([_PAGE_ROWS], np.int64)}
        page = yield Infer(_MODEL, version, inputs, _OUTPUTS)
        size, count = int(page["size"][0]), len(page["rows"])
        if not count or loaded + count > size or not count == len(page["segments"]) == len(page["shares"]):
            raise InferenceUnavailable(f"{where}: {count} lines at line {loaded} of {size}")
        pages.append(page)
        loaded += count
    segments, rows, shares = (np.concatenate([page[name] for page in pages]) for name in ("segments", "rows", "shares"))
    try:
        names = [[text.decode() for text in pages[0][name]] for name in ("attributes", "values")]
    except UnicodeDecodeError as error:
        raise InferenceUnavailable(f"{where}: a segment's name is not UTF-8: {error}") from error
    fits = len(names[0]) == len(names[1]) and bool((segments >= 0).all() and (segments < len(names[0])).all())
    fits = fits and bool((rows >= 0).all() and (rows < max(1, items)).all())
    if not (fits and np.isfinite(shares).all() and (shares >= 0).all()):
        raise InferenceUnavailable(f"{where}: its lines do not fit {items} items and {len(names[0])} segments")
    overall = np.zeros(items, np.float32)
    everybody = segments == 0
    if items:
        overall[rows[everybody]] = shares[everybody]
    told: dict[Segment, PopularItems] = {}
    for number, segment in enumerate(zip(*names, strict=True)):
        mine = segments == number
        if number and mine.any():
            told[segment] = PopularItems(rows[mine], shares[mine])
    return Popularity(overall, told)


def _of_baskets(version: int, items: int) -> _Loading:
    """With everybody, from a version that has no table: what goes with an empty basket is what is in many."""
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
    if len(rows) != len(scores) or (rows >= items).any():
        raise InferenceUnavailable(f"model {_BASKETS} version {version}: its answer does not fit {items} items")
    found = (rows >= 0) & np.isfinite(scores) & (scores > 0)
    shares = np.zeros(items, np.float32)
    shares[rows[found]] = scores[found]
    return Popularity(shares)
