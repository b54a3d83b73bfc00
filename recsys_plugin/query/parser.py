"""From what somebody typed to what he wants: :class:`~recsys_plugin.query.intent.SearchIntent`.

A parser of patterns and tables rather than a model: it takes some ten microseconds where a model takes milliseconds,
it never invents, and why it read something can be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from recsys_plugin.query.chinese import CHINESE
from recsys_plugin.query.english import ENGLISH
from recsys_plugin.query.intent import Correction, SearchIntent, Size
from recsys_plugin.query.language import Language
from recsys_plugin.query.shop_words import MOST_WORDS, ShopWords, named
from recsys_plugin.query.things import COLOURS
from recsys_plugin.query.words import is_cjk, normalised, singular, stems

__all__ = ["KEYWORDS", "LANGUAGES", "MOST_CHARACTERS", "Reading", "read_query"]

LANGUAGES = (ENGLISH, CHINESE)
#: Words of queries that are no misspelt names of things, in any language.
KEYWORDS = ENGLISH.keywords | CHINESE.keywords
_STOP_WORDS = ENGLISH.stop_words | CHINESE.stop_words
#: No more of a query is read; the text encoder takes no more either.
MOST_CHARACTERS = 400
#: How far "around 12" reaches, as a share.
_AROUND = 0.25
_SPACES = re.compile(r"\s+")
_LETTERS = re.compile(r"[^\W\d_]+")
_Value = TypeVar("_Value")
_COLOUR_OF = {word: colour for colour, names in COLOURS.items() for word in names}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a query says, and the words to look up."""

    intent: SearchIntent
    words: tuple[str, ...]
    """What the lexical index is asked for, as :func:`~recsys_plugin.query.words.stems` makes them."""


@dataclass(slots=True)
class _Draft:
    """What was understood so far, and the text that is left."""

    text: str
    lowest: float | None = None
    highest: float | None = None
    level: Literal["cheap", "expensive"] | None = None
    sizes: list[Size] = field(default_factory=list)
    recipient: str | None = None
    recipient_text: str = ""
    excluded: list[str] = field(default_factory=list)
    category_text: str = ""
    brand_text: str = ""

    def cut(self, match: re.Match[str]) -> None:
        """Take what was matched out of the text."""
        self.text = f"{self.text[: match.start()]} {self.text[match.end() :]}"


def read_query(query: str, shop: ShopWords) -> Reading:
    """Read a query with the words of a shop.

    Prices, levels of price, what is excluded, sizes and for whom it is to be are read by each language that the text
    may be of; categories, brands and colours are looked up. A word that neither shop nor language know is replaced by
    the nearest that the shop has.
    """
    typed = normalised(query[:MOST_CHARACTERS]).replace("’", "'")
    languages = [language for language in LANGUAGES if language.applies.search(typed)]
    corrected, corrections = _corrected(typed, shop)
    draft = _Draft(corrected)
    for language in languages:
        _read_prices(draft, language)
        _read_levels(draft, language)
        _read_excluded(draft, language, shop)
        _read_recipient(draft, language)
        _read_sizes(draft, language)
        _read_named(draft, language)
    kept, of_category = stems(draft.text), stems(draft.category_text)
    brands, brand_places = _brands(draft, kept, shop)
    # "Sugar free gum" is not of the category sugar.
    absent = {stem for name in draft.excluded for stem in stems(name)}
    free = ["" if place in brand_places or word in absent else word for place, word in enumerate(kept)]
    explicit = named(shop.categories, of_category)
    intent = SearchIntent(
        # As it was typed, if nothing was read from it: some encoders tell capitals apart.
        text=query[:MOST_CHARACTERS].strip() if draft.text == typed else _looked_for(draft, corrected),
        corrections=corrections,
        lowest_price=draft.lowest,
        highest_price=draft.highest,
        price_level=draft.level,
        categories=_distinct(name for _, _, names in explicit or named(shop.categories, free) for name in names),
        category_only=bool(explicit),
        brands=brands,
        colours=_distinct(_COLOUR_OF[word] for word in kept if word in _COLOUR_OF),
        sizes=_distinct(draft.sizes),
        recipient=draft.recipient,
        excluded=_distinct(draft.excluded),
    )
    return Reading(intent, tuple(word for word in (*kept, *of_category) if word not in _STOP_WORDS))


def _looked_for(draft: _Draft, corrected: str) -> str:
    """What is left to look for; all of it, if nothing is left."""
    left = " ".join((draft.text, draft.category_text, draft.recipient_text))
    text = _SPACES.sub(" ", left).strip(" ,;.:-的")
    return text if _LETTERS.search(text) else _SPACES.sub(" ", corrected).strip()


def _distinct(values: Iterable[_Value]) -> tuple[_Value, ...]:
    return tuple(dict.fromkeys(values))


def _corrected(text: str, shop: ShopWords) -> tuple[str, tuple[Correction, ...]]:
    """The text with each word that nobody knows replaced by the nearest one that the shop has."""
    corrections: dict[str, Correction] = {}

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        stem = singular(word)
        if word in KEYWORDS or stem in KEYWORDS or stem in shop.index.vocabulary or is_cjk(word):
            return word
        nearest = shop.spelling.nearest(stem)
        if nearest is None:
            return word
        corrections.setdefault(word, Correction(word, nearest))
        return nearest

    corrected = re.sub(r"(?<![\w'-])[^\W\d_]+(?![\w'])", replace, text)
    return corrected, tuple(corrections.values())


def _read_prices(draft: _Draft, language: Language) -> None:
    for kind, pattern in language.prices:
        match = pattern.search(draft.text)
        if match is None:
            continue
        groups = match.groupdict()
        bounds = [language.number(text) for name in ("a", "b") if (text := groups.get(name)) is not None]
        values = [value for value in bounds if value is not None]
        if not values:
            continue
        if language.cents is not None and language.cents.search(match[0]):
            values = [value / 100 for value in values]
        if kind == "between":
            draft.lowest, draft.highest = min(values), max(values)
        elif kind == "highest":
            draft.highest = values[0]
        elif kind == "lowest":
            draft.lowest = values[0]
        else:
            draft.lowest, draft.highest = values[0] * (1 - _AROUND), values[0] * (1 + _AROUND)
        draft.cut(match)


def _read_levels(draft: _Draft, language: Language) -> None:
    if (match := language.cheap.search(draft.text)) is not None:
        draft.level = "cheap"
    elif (match := language.expensive.search(draft.text)) is not None:
        draft.level = "expensive"
    if match is not None:
        draft.cut(match)


def _read_excluded(draft: _Draft, language: Language, shop: ShopWords) -> None:
    if language.free_of is not None:
        draft.excluded += [match["target"] for match in language.free_of.finditer(draft.text)]
    place = 0
    while (match := language.excludes.search(draft.text, place)) is not None:
        end, targets = match.end(), list[str]()
        while (target := _target(draft.text, end, language, shop)) is not None:
            targets.append(draft.text[end:target])
            joined = language.joins.match(draft.text, target)
            if joined is None or _target(draft.text, joined.end(), language, shop) is None:
                end = target
                break
            end = joined.end()
        if not targets:
            place = match.end()
            continue
        draft.excluded += targets
        # "Non-dairy" and the like name what the shop sells, too, so they stay.
        if match[0].startswith("non"):
            place = end
        else:
            draft.text = f"{draft.text[: match.start()]} {draft.text[end:]}"
            place = match.start()


def _target(text: str, start: int, language: Language, shop: ShopWords) -> int | None:
    """Where the name of what is not wanted ends, if one begins at a place: one word, or two that belong together."""
    first = _LETTERS.match(text, start)
    if first is None:
        return None
    if is_cjk(first[0]):
        run = first[0].split("的")[0][:MOST_WORDS]
        for length in range(len(run), 0, -1):
            part = run[:length]
            if part in language.ingredients or part in _COLOUR_OF or shop.index.rows_with_all(stems(part)).size:
                return start + length
        return start + len(run) if run else None
    word = first[0]
    if language.stop_words.intersection((word, singular(word))) or language.excludes.match(word):
        return None
    second = re.compile(r"[\s-]+([^\W\d_]+)").match(text, first.end())
    if second is not None and singular(word) not in language.ingredients and second[1] not in language.stop_words:
        pair = [singular(word), singular(second[1])]
        if singular(second[1]) in language.ingredients or _side_by_side(shop, pair):
            return second.end()
    return first.end()


def _side_by_side(shop: ShopWords, pair: list[str]) -> bool:
    """Whether two words are a name of their own: most items that have the first have the second, too."""
    both = shop.index.rows_with_all(pair).size
    return both > 0 and 2 * both >= shop.index.frequency(pair[0])


def _read_recipient(draft: _Draft, language: Language) -> None:
    if language.age is not None and (match := language.age.search(draft.text)) is not None:
        years = int(match["a"])
        draft.recipient = "baby" if years < 2 else "child" if years < 13 else None
        draft.recipient_text = match[0].strip()
        draft.cut(match)
    match = language.recipient.search(draft.text)
    if match is None:
        return
    groups = match.groupdict()
    word = groups["target"] or groups.get("other")
    if word is not None and draft.recipient is None:
        draft.recipient = language.recipients[word]
        draft.recipient_text = match[0].strip()
        draft.cut(match)


def _read_sizes(draft: _Draft, language: Language) -> None:
    for match in reversed(list(language.size.finditer(draft.text))):
        amount = language.number(match["a"])
        if amount:
            draft.sizes.insert(0, Size(amount, language.units[match["unit"]]))


def _read_named(draft: _Draft, language: Language) -> None:
    """What is said to be a category or a brand."""
    if language.in_category is not None and (match := language.in_category.search(draft.text)) is not None:
        draft.category_text = match["target"] or match["other"]
        draft.cut(match)
    if language.made_by is not None and (match := language.made_by.search(draft.text)) is not None:
        draft.brand_text = match["target"]


def _brands(draft: _Draft, kept: Sequence[str], shop: ShopWords) -> tuple[tuple[str, ...], set[int]]:
    """The brands that a text names, and the places of their words.

    A word that is a brand may be just a word ("apple juice"). It is taken for the brand where the text says so, or if
    no category goes by it and most items that have it are of the brand.
    """
    said = set(stems(draft.brand_text))
    brands: dict[str, None] = {}
    places: set[int] = set()
    for start, end, names in named(shop.brands, kept):
        way = kept[start:end]
        certain = said.issuperset(way) or "brand" in kept[end : end + 1] or len(way) > 1
        if certain or not (way[0] in shop.categories or way[0] in shop.doubtful_brands):
            brands.update(dict.fromkeys(names))
            places.update(range(start, end))
    return tuple(brands), places
