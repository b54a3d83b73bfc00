"""Items as a query sees them: which a filter lets through, which fit its words, which deserve a boost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.inference.labels import Labels
from recsys_plugin.query.chinese import CHINESE
from recsys_plugin.query.english import ENGLISH
from recsys_plugin.query.intent import SearchIntent, Size
from recsys_plugin.query.lexical import LexicalIndex
from recsys_plugin.query.name_parts import NameParts
from recsys_plugin.query.recent import Recent
from recsys_plugin.query.things import (
    COLOURS,
    INGREDIENT_NAMES,
    INGREDIENTS,
    NOT_INGREDIENTS,
    RECIPIENT_WORDS,
    RECIPIENTS,
    UNITS,
)
from recsys_plugin.query.words import atoms, is_cjk, normalised, singular, stems

__all__ = ["SearchedItems"]

_KINDS = {kind: number for number, kind in enumerate(dict.fromkeys(kind for kind, _ in UNITS.values()), start=1)}
#: Sizes that differ by no more than this share are the same, written in other units.
_SAME_SIZE = 0.02
#: What a text says of something that is not in it: "caffeine free", "no sugar", "non-alcoholic".
_FREE_AFTER, _FREE_BEFORE = (
    frozenset(("free",)),
    frozenset(("no", "non", "without", "zero", "less", "无", "免", "零", "不含", "不加")),
)

#: Exclusions whose rows are kept.
_KEPT = 64

_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class SearchedItems:
    """Columns of some items, in row order; those that may change are shared with who changes them."""

    titles: Sequence[str]
    categories: Labels
    subcategories: Labels
    brands: Labels
    prices: NDArray[np.float64]
    """In the shop's currency, NaN where unknown."""
    index: LexicalIndex
    size_kinds: NDArray[np.int8]
    """What the size in each title measures; 0 where it has none."""
    size_amounts: NDArray[np.float32]
    """In grams, millilitres or pieces."""
    _brand_parts: NameParts
    _excluded: Recent[str, NDArray[np.int64]] = field(default_factory=lambda: Recent(_KEPT))

    @classmethod
    def of(
        cls,
        titles: Sequence[str],
        categories: Labels,
        subcategories: Labels,
        brands: Labels,
        prices: NDArray[np.float64],
        *,
        beside: LexicalIndex | None = None,
    ) -> Self:
        """Index items.

        Args:
            titles, categories, subcategories, brands, prices: a value for each row.
            beside: the index of the many among which these few are to be found.
        """
        texts = _texts(titles, categories, subcategories, brands)
        index = LexicalIndex(texts) if beside is None else beside.beside(texts)
        kinds, amounts = _sizes(titles)
        return cls(titles, categories, subcategories, brands, prices, index, kinds, amounts, NameParts(brands))

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.titles)

    def filters(self, intent: SearchIntent) -> Iterator[tuple[str, _Mask]]:
        """The filters of an intent: what each is called, and which rows it lets through, bool ``[N]``.

        In the order in which they are given up when nothing is left. An item whose price is not known passes no bound.
        """
        if intent.category_only:
            yield "category", _having(self.categories, intent.categories)
        if intent.brands:
            yield "brand", self._of_brands(intent.brands)
        if intent.lowest_price is not None or intent.highest_price is not None:
            low = -np.inf if intent.lowest_price is None else intent.lowest_price
            high = np.inf if intent.highest_price is None else intent.highest_price
            # Prices are written with few decimals, and bounds include themselves.
            yield "price", (self.prices >= low - 1e-6) & (self.prices <= high + 1e-6)

    def free_of(self, excluded: Iterable[str]) -> _Mask:
        """Which rows have nothing in them of what is excluded, as far as their texts tell, bool ``[N]``."""
        free = np.ones(len(self), np.bool_)
        for name in excluded:
            free[self._having(name)] = False
        return free

    def in_categories(self, categories: Sequence[str]) -> _Mask:
        """Which rows are in one of the categories, bool ``[N]``."""
        return _having(self.categories, categories)

    def is_mostly(self, word: str, brands: Sequence[str]) -> bool:
        """Whether at least half of the items whose texts have a word are of some brands."""
        codes = self.brands.codes[self.index.rows(word)]
        return 2 * int(np.isin(codes, [*self._brand_parts.codes(brands)]).sum()) >= len(codes)

    def boosts(self, intent: SearchIntent, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """How well some rows fit what an intent wishes for without demanding it, float32 ``[n]`` from 0 to 1.

        The mean over its wishes: category, colour, size, level of price among these rows, for whom it is. The category
        counts twice: red wine is wine before it is red.
        """
        wishes: list[NDArray[np.float32]] = []
        if intent.categories:
            wishes += 2 * [_having(self.categories, intent.categories)[rows].astype(np.float32)]
        for colour in intent.colours:
            wishes.append(self._has_any(COLOURS[colour])[rows].astype(np.float32))
        for size in intent.sizes:
            wishes.append(self._of_size(size)[rows].astype(np.float32))
        if intent.recipient is not None and (group := RECIPIENTS.get(intent.recipient)) is not None:
            wishes.append(self._has_any(RECIPIENT_WORDS[group])[rows].astype(np.float32))
        if intent.price_level is not None:
            wishes.append(_level(self.prices[rows], cheap=intent.price_level == "cheap"))
        return np.mean(wishes, axis=0, dtype=np.float32) if wishes else np.zeros(len(rows), np.float32)

    def _of_brands(self, brands: Sequence[str]) -> _Mask:
        """Brands are recognised by their whole names and by the parts between commas."""
        return _coded(self.brands, self._brand_parts.codes(brands))

    def _of_size(self, size: Size) -> _Mask:
        kind, factor = UNITS[size.unit]
        wanted = size.amount * factor
        near = np.abs(self.size_amounts - wanted) <= _SAME_SIZE * wanted
        same: _Mask = near & (self.size_kinds == _KINDS[kind])
        return same

    def _has_any(self, words: Iterable[str]) -> _Mask:
        """Which rows have at least one of some words, or words side by side, in their texts."""
        mask = np.zeros(len(self), np.bool_)
        for word in words:
            mask[self._rows_of(word)] = True
        return mask

    def _having(self, name: str) -> NDArray[np.int64]:
        """The rows of the items that have something in them, as far as their texts tell; worked out once."""
        rows = self._excluded.get(name)
        if rows is None:
            rows = self._looked_up(name)
            self._excluded.put(name, rows)
        return rows

    def _looked_up(self, name: str) -> NDArray[np.int64]:
        stem = " ".join(singular(word) for word in normalised(name).split())
        thing = ENGLISH.ingredients.get(stem) or CHINESE.ingredients.get(stem)
        colour = next((colour for colour, words in COLOURS.items() if stem in words), None)
        words = INGREDIENTS[thing] if thing is not None else COLOURS[colour] if colour is not None else ()
        names = {stem, *INGREDIENT_NAMES.get(thing or "", ())}
        names.update(word for word, meant in CHINESE.ingredients.items() if meant == thing)
        innocent = NOT_INGREDIENTS.get(thing or "", ())
        found = self._has_any((stem, *words))
        # Few texts say that something is not in the item, and only these are read; in Chinese no word tells them apart.
        doubtful = self._has_any((*_FREE_AFTER, *_FREE_BEFORE, *innocent, *filter(is_cjk, (stem, *words))))
        terms, freed, others = (list(map(atoms, texts)) for texts in ((stem, *words), names, innocent))
        for row in np.flatnonzero(found & doubtful).tolist():
            text = self._row_text(row)
            # "Non-alcoholic beer" has no alcohol, though beer has.
            free = any(_says_free(text, parts) for parts in freed)
            found[row] = not free and any(_says(text, parts, others) for parts in terms)
        return np.flatnonzero(found)

    def _rows_of(self, word: str) -> NDArray[np.int64]:
        """The rows that have a word, or several side by side."""
        if len(word) == 1 and is_cjk(word):
            pairs = (known for known in self.index.vocabulary if word in known)
            return np.unique(np.concatenate([self.index.rows(word), *map(self.index.rows, pairs)])).astype(np.int64)
        parts = stems(word)
        rows = self.index.rows_with_all(parts).astype(np.int64)
        if len(parts) == 1:
            return rows
        wanted = atoms(word)
        return np.array([row for row in rows.tolist() if _places(self._row_text(row), wanted)], np.int64)

    def _row_text(self, row: int) -> list[str]:
        return atoms(_said(self.titles[row], self.categories[row], self.subcategories[row], self.brands[row]))


def _texts(titles: Sequence[str], categories: Labels, subcategories: Labels, brands: Labels) -> Iterator[str]:
    """The text of each item."""
    columns = zip(categories.codes.tolist(), subcategories.codes.tolist(), brands.codes.tolist(), strict=True)
    for title, (category, subcategory, brand) in zip(titles, columns, strict=True):
        yield _said(title, categories.names[category], subcategories.names[subcategory], brands.names[brand])


def _said(title: str, *others: str) -> str:
    """All that is said of an item in words; what the title says already, once."""
    return " | ".join((title, *(text for text in others if text not in title)))


def _sizes(titles: Sequence[str]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The last size in each title: its kind, and how much in the kind's unit."""
    kinds = np.zeros(len(titles), np.int8)
    amounts = np.zeros(len(titles), np.float32)
    for row, title in enumerate(titles):
        text = title.lower()
        if any(character.isdigit() for character in text):
            for language in (ENGLISH, CHINESE):
                for match in language.size.finditer(text):
                    kind, factor = UNITS[language.units[match["unit"]]]
                    kinds[row], amounts[row] = _KINDS[kind], (language.number(match["a"]) or 0.0) * factor
    return kinds, amounts


def _having(column: Labels, names: Iterable[str]) -> _Mask:
    return _coded(column, (code for name in names if (code := column.known(name)) is not None))


def _coded(column: Labels, codes: Iterable[int]) -> _Mask:
    # A look-up by number is several times quicker than looking for each row's number in a list.
    wanted = np.zeros(len(column.names), np.bool_)
    wanted[[*codes]] = True
    return wanted[column.codes]


def _places(text: Sequence[str], parts: Sequence[str]) -> list[int]:
    """Where a text has some words side by side."""
    return [
        place for place in range(len(text) - len(parts) + 1) if list(text[place : place + len(parts)]) == list(parts)
    ]


def _says(text: Sequence[str], parts: Sequence[str], innocent: Sequence[Sequence[str]]) -> bool:
    """Whether a text names something other than to say that it is not there, or as a part of another name."""
    covered = {place + step for other in innocent for place in _places(text, other) for step in range(len(other))}
    return any(
        not _is_freed(text, place, len(parts)) and not covered.issuperset(range(place, place + len(parts)))
        for place in _places(text, parts)
    )


def _says_free(text: Sequence[str], parts: Sequence[str]) -> bool:
    return any(_is_freed(text, place, len(parts)) for place in _places(text, parts))


def _is_freed(text: Sequence[str], place: int, length: int) -> bool:
    """Whether the words at a place are said not to be in the item."""
    after, before = text[place + length : place + length + 1], text[max(0, place - 2) : place]
    # One word before it, or in Chinese two characters.
    return bool(_FREE_AFTER.intersection(after) or _FREE_BEFORE.intersection((*before[-1:], "".join(before))))


def _level(prices: NDArray[np.float64], *, cheap: bool) -> NDArray[np.float32]:
    """The share of the others that are dearer (or cheaper); 0 where the price is not known."""
    order = np.argsort(np.argsort(np.nan_to_num(prices, nan=np.inf), kind="stable"), kind="stable")
    share = order.astype(np.float32) / max(1, len(prices) - 1)
    level: NDArray[np.float32] = np.where(np.isnan(prices), 0.0, 1.0 - share if cheap else share).astype(np.float32)
    return level
