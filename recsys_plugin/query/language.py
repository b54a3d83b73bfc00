"""How a language says prices, negations and for whom a thing is: patterns and tables, as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Language", "PriceKind"]

PriceKind = str
"""``between`` (groups ``a`` and ``b``), ``highest``, ``lowest`` or ``around`` (group ``a``)."""


@dataclass(frozen=True, slots=True)
class Language:
    """One language. All patterns are matched against normalised text, and in linear time.

    Attributes:
        applies: found in every text that may be of this language.
        number: reads what a price or an amount has as its number.
        prices: patterns of bounds, tried in order; what one matches is gone for the next.
        cents: in what follows a number: that it counts hundredths.
        cheap, expensive: words for a level of price.
        excludes: what comes before something that is not wanted; the text after it names that.
        joins: what joins several unwanted things.
        free_of: a whole phrase that says what is not in something (group ``target``); it stays in the text, as the
            shop may say it too.
        in_category: what makes a category, named in group ``target``, a filter.
        made_by: what makes a brand, named in group ``target``, certain.
        recipient: for whom, in group ``target``. recipients: its words → names in :data:`~things.RECIPIENTS`.
        age: an age in years, in group ``a``.
        size: group ``a`` is the amount, ``unit`` the measure. units: its words → names in :data:`~things.UNITS`.
        ingredients: a language's words for :data:`~things.INGREDIENTS`.
        stop_words: words that say nothing about an item.
    """

    applies: re.Pattern[str]
    number: Callable[[str], float | None]
    prices: tuple[tuple[PriceKind, re.Pattern[str]], ...]
    cheap: re.Pattern[str]
    expensive: re.Pattern[str]
    excludes: re.Pattern[str]
    joins: re.Pattern[str]
    recipient: re.Pattern[str]
    recipients: Mapping[str, str]
    size: re.Pattern[str]
    units: Mapping[str, str]
    ingredients: Mapping[str, str]
    stop_words: frozenset[str]
    cents: re.Pattern[str] | None = None
    free_of: re.Pattern[str] | None = None
    in_category: re.Pattern[str] | None = None
    made_by: re.Pattern[str] | None = None
    age: re.Pattern[str] | None = None
    keywords: frozenset[str] = field(default_factory=frozenset)
    """Words of the patterns, which are no misspelt names of things."""
