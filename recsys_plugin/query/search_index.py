"""What a client knows of its catalogue's texts, and what it makes of a query with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.inference.catalogue import Catalogue
from recsys_plugin.inference.labels import Labels
from recsys_plugin.inference.new_items import NewItems
from recsys_plugin.query.intent import SearchIntent
from recsys_plugin.query.parser import KEYWORDS, MOST_CHARACTERS, Reading, read_query
from recsys_plugin.query.recent import Recent
from recsys_plugin.query.searched_items import SearchedItems
from recsys_plugin.query.shop_words import ShopWords

__all__ = ["MOST_LEXICAL", "SearchIndex", "SearchPlan", "words_of"]

#: How many rows that match by their words are candidates, whatever their cosine.
MOST_LEXICAL = 64
#: A row that fits less than this share of the best fits by words that say little.
_NEARLY_BEST = np.float32(1 / 3)
#: Queries whose reading is kept.
_KEPT = 2048
#: A word of so many characters with a digit may be an item's id; a shorter one is a number of something.
_SHORTEST_ID = 4

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class SearchPlan:
    """What is asked of the models for one query, and how their answer is to be weighed.

    Rows from the catalogue's size on are new items.
    """

    intent: SearchIntent
    relaxed: tuple[str, ...]
    """The filters that would have left nothing, and were given up: ``category``, ``brand``, ``price``."""
    matches: NDArray[np.float32]
    """``[N]``, from 0 to 1: how well each row fits the words."""
    lexical_rows: NDArray[np.int64]
    """Of the catalogue, those that fit best, at most :data:`MOST_LEXICAL`."""
    allowed: NDArray[np.bool_] | None
    """``[N]``: the rows that the filters let through; ``None`` if there is no filter."""
    _old: SearchedItems
    _new: SearchedItems | None

    def boosts(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """How well some rows fit the wishes, float32 ``[n]`` from 0 to 1; rows below 0 are none."""
        boosts = self._old.boosts(self.intent, np.clip(rows, 0, len(self._old) - 1))
        if self._new is not None:
            is_new = rows >= len(self._old)
            boosts[is_new] = self._new.boosts(self.intent, rows[is_new] - len(self._old))
        return boosts


class SearchIndex:
    """The texts of one version's catalogue, indexed; safe to share between threads.

    Built once for each version. A title that changes afterwards is found by its former words until the next version;
    prices, categories and brands count as they are at the time of the query.
    """

    __slots__ = ("_items", "_new", "_readings", "_rows", "_words")

    def __init__(self, items: SearchedItems, words: ShopWords, rows: Mapping[str, int]) -> None:
        self._items, self._words, self._rows = items, words, rows
        self._new: tuple[NewItems, SearchedItems] | None = None
        self._readings: Recent[str, Reading] = Recent(_KEPT)

    @classmethod
    def of(cls, catalogue: Catalogue) -> Self:
        """Index a catalogue: about a second of processor time for 100,000 items."""
        items = SearchedItems.of(
            catalogue.titles.tolist(),
            catalogue.categories,
            catalogue.subcategories,
            catalogue.brands,
            catalogue.prices,
        )
        return cls(items, words_of(items), catalogue.rows)

    def parse(self, query: str) -> Reading:
        """What a query says."""
        return read_query(query, self._words)

    def read(self, query: str) -> Reading:
        """:meth:`parse`, done once for a query that is asked again and again."""
        reading = self._readings.get(query)
        if reading is None:
            reading = self.parse(query)
            self._readings.put(query, reading)
        return reading

    def plan(self, query: str, new_items: NewItems, unwanted: NDArray[np.int64]) -> SearchPlan:
        """What to ask for.

        Filters are given up one after the other if all of them together leave nothing: first as few as will do, and
        of those the ones that say least. What is excluded stays excluded, even if that leaves nothing: a page without
        what somebody may be allergic to is better than a full one.

        Args:
            query: what was typed.
            new_items: items that the catalogue lacks.
            unwanted: rows that cannot be on the page for other reasons.
        """
        reading = self.read(query)
        old, new = self._items, self._beside(new_items)
        every = (old,) if new is None else (old, new)
        intent = reading.intent
        matches = _joined(items.index.scores(reading.words) for items in every)
        for row in self._named(query, new_items):
            matches[row] = 1.0
        allowed, relaxed = _allowed(intent, every, unwanted) if intent.filters else (None, ())
        best = matches[: len(old)] if allowed is None else np.where(allowed[: len(old)], matches[: len(old)], 0)
        return SearchPlan(intent, relaxed, matches, _best(best), allowed, old, new)

    def _named(self, query: str, new_items: NewItems) -> Iterator[int]:
        """The rows of the items whose ids were typed: they fit perfectly."""
        whole = query[:MOST_CHARACTERS].strip()
        parts = (word for word in whole.split() if len(word) >= _SHORTEST_ID and any(map(str.isdigit, word)))
        for word in {whole, *parts}:
            if (row := self._rows.get(word)) is not None:
                yield row
            elif (place := new_items.places.get(word)) is not None:
                yield len(self._items) + place

    def _beside(self, new_items: NewItems) -> SearchedItems | None:
        """The new items, indexed; again whenever there are others."""
        if not new_items:
            return None
        known = self._new
        if known is None or known[0] is not new_items:
            facts = new_items.facts
            searched = SearchedItems.of(
                [fact.title for fact in facts],
                Labels(fact.category for fact in facts),
                Labels(fact.subcategory for fact in facts),
                Labels(fact.brand for fact in facts),
                np.array([fact.price for fact in facts], np.float64),
                beside=self._items.index,
            )
            known = self._new = (new_items, searched)
        return known[1]


def words_of(items: SearchedItems) -> ShopWords:
    """The vocabulary of the shop that has these items."""
    categories, brands = (filter(None, column.names) for column in (items.categories, items.brands))
    return ShopWords.of(categories, brands, items.index, KEYWORDS, is_mostly=items.is_mostly)


def _allowed(
    intent: SearchIntent, every: tuple[SearchedItems, ...], unwanted: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """The rows that the filters let through, and the names of the filters that were given up for there to be some."""
    always = _joined(items.free_of(intent.excluded) for items in every)
    filters = [dict(items.filters(intent)) for items in every]
    masks = {name: _joined(found[name] for found in filters) for name in filters[0]}
    there = always.copy()
    there[unwanted] = False
    # A bound that leaves only what nobody asked for leaves nothing.
    asked = _joined(items.in_categories(intent.categories) for items in every)
    if intent.categories and "category" not in masks and (there & asked).any():
        there &= asked
    for given_up in _fewest_first(tuple(masks)):
        kept = [mask for name, mask in masks.items() if name not in given_up]
        if not kept or np.logical_and.reduce([there, *kept]).any():
            return np.logical_and.reduce([always, *kept]), given_up
    raise AssertionError("giving up all filters always ends it")


def _fewest_first(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for count in range(len(names) + 1):
        yield from combinations(names, count)


def _joined(arrays: Iterable[NDArray[_Scalar]]) -> NDArray[_Scalar]:
    found = list(arrays)
    return found[0] if len(found) == 1 else np.concatenate(found)


def _best(matches: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rows that fit best, at most :data:`MOST_LEXICAL`, and none that fits much less than the best."""
    best = matches.max(initial=0.0)
    if best == 0:
        return np.empty(0, np.int64)
    found = np.flatnonzero(matches >= _NEARLY_BEST * best)
    if len(found) > MOST_LEXICAL:
        found = found[np.argpartition(matches[found], -MOST_LEXICAL)[-MOST_LEXICAL:]]
    return found
