"""What a query says, besides the words to look for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Correction", "SearchIntent", "Size"]


@dataclass(frozen=True, slots=True)
class Correction:
    """A word that the shop does not know, and the one that was looked for instead."""

    typed: str
    taken: str


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is in a package, such as 16 oz; as it was written."""

    amount: float
    unit: str
    """``g``, ``kg``, ``oz``, ``lb``, ``ml``, ``cl``, ``l``, ``fl oz``, ``pt``, ``qt``, ``gal`` or ``ct`` (pieces)."""

    def __str__(self) -> str:
        """Amount and unit."""
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class SearchIntent:
    """What was understood of a query.

    Bounds of the price, brands, what is excluded, and a category that was asked for as one ("in the category tea")
    are filters: nothing else is on the page, unless the page says that one was relaxed. All else are boosts: what
    fits comes earlier.
    """

    text: str
    """What is searched for: the query, corrected, without what became a filter."""
    corrections: tuple[Correction, ...] = ()
    lowest_price: float | None = None
    """In the shop's currency, as all prices: no currency is converted."""
    highest_price: float | None = None
    price_level: Literal["cheap", "expensive"] | None = None
    categories: tuple[str, ...] = ()
    """Categories that the query names."""
    category_only: bool = False
    """Whether the categories are a filter."""
    brands: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    """In English, whatever the query's language."""
    sizes: tuple[Size, ...] = ()
    recipient: str | None = None
    """For whom it is to be, such as ``daughter``; in English, and without what stands around it."""
    excluded: tuple[str, ...] = ()
    """What must not be in it, as it was written."""

    @property
    def filters(self) -> bool:
        """Whether anything in it is a filter."""
        bounded = self.lowest_price is not None or self.highest_price is not None
        return bounded or bool(self.brands or self.excluded) or self.category_only
