"""What a shop calls its things: its categories, its brands, and all words of its catalogue."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from recsys_plugin.query.lexical import LexicalIndex
from recsys_plugin.query.name_parts import parts_of
from recsys_plugin.query.spelling import SpellingIndex
from recsys_plugin.query.words import stems

__all__ = ["MOST_WORDS", "ShopWords", "named"]

#: A name of more words than this is not looked for in a query.
MOST_WORDS = 6
_PARTS = re.compile(r"\s*[/,;:&>|+]\s*|\s+(?:and|-|–)\s+")
#: Words that end a category's name and add nothing to it; by themselves they name no category.
_EMPTY_WORDS = "all accessory general good item misc miscellaneous need other product service specialty supply various"
_EMPTY = frozenset(_EMPTY_WORDS.split())

#: Words of a name, joined by a blank → the names, as the shop writes them.
Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class ShopWords:
    """The vocabulary against which queries are read."""

    categories: Names
    """Also under their parts ("beer" of "Beers/ales") and under what these end with ("wine" of "Domestic wine")."""
    brands: Names
    """Also under the parts between commas."""
    doubtful_brands: frozenset[str]
    """Brands of one word that is more often said of other brands' items."""
    index: LexicalIndex
    """Of the texts of all items."""
    spelling: SpellingIndex

    @classmethod
    def of(
        cls,
        categories: Iterable[str],
        brands: Iterable[str],
        index: LexicalIndex,
        keywords: Iterable[str],
        *,
        is_mostly: Callable[[str, Sequence[str]], bool],
    ) -> ShopWords:
        """Learn a shop's words.

        Args:
            categories, brands: the distinct names, as the shop writes them.
            index: of the texts of all items.
            keywords: words of queries that are no misspelt names of things.
            is_mostly: whether most items that have a word are of some brands.
        """
        known = {word: index.frequency(word) for word in index.vocabulary}
        for word in keywords:
            known.setdefault(word, 1)
        by_words = _brand_names(brands)
        doubtful = (way for way, names in by_words.items() if " " not in way and not is_mostly(way, names))
        return cls(_category_names(categories), by_words, frozenset(doubtful), index, SpellingIndex(known))


def named(names: Names, words: Sequence[str]) -> list[tuple[int, int, tuple[str, ...]]]:
    """Where a sequence of words holds names, the longest first: start, end, and the names; no two overlap."""
    found: list[tuple[int, int, tuple[str, ...]]] = []
    taken = [False] * len(words)
    for length in range(min(MOST_WORDS, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            here = names.get(" ".join(words[start : start + length]))
            if here is not None and not any(taken[start : start + length]):
                found.append((start, start + length, here))
                taken[start : start + length] = [True] * length
    return sorted(found)


def _category_names(categories: Iterable[str]) -> Names:
    found: dict[str, list[str]] = {}
    for category in categories:
        ways = {" ".join(stems(category))}
        for part in _PARTS.split(category):
            words = stems(part)
            while len(words) > 1 and words[-1] in _EMPTY:
                words.pop()
            ways.update(" ".join(words[start:]) for start in range(len(words)))
        for way in ways - _EMPTY - {""}:
            found.setdefault(way, []).append(category)
    return {way: tuple(sorted(names)) for way, names in found.items()}


def _brand_names(brands: Iterable[str]) -> Names:
    found: dict[str, dict[str, None]] = {}
    for brand in brands:
        for name in parts_of(brand):
            if way := " ".join(stems(name)):
                found.setdefault(way, {})[name] = None
    return {way: tuple(names) for way, names in found.items()}
