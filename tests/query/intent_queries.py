"""Thirty queries to the demo shop with what a person reads in them; written before the parser, and kept since.

Whoever changes the parser may not change what is expected here to suit it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QUERIES", "Reading"]


@dataclass(frozen=True)
class Reading:
    """What a person takes from a query; what is left out must not be read into it."""

    lowest: float | None = None
    highest: float | None = None
    level: str | None = None
    categories: frozenset[str] = frozenset()
    brands: frozenset[str] = frozenset()
    colours: frozenset[str] = frozenset()
    sizes: frozenset[str] = frozenset()
    recipient: str | None = None
    excluded: frozenset[str] = frozenset()
    corrections: frozenset[tuple[str, str]] = frozenset()


def _set(*values: str) -> frozenset[str]:
    return frozenset(values)


_WINE = _set("Domestic wine", "Imported wine", "Miscellaneous wine")
_CHEESE = _set("Cheese", "Cheeses")

QUERIES: dict[str, Reading] = {
    "red wine under 10 dollars": Reading(highest=10, categories=_WINE, colours=_set("red")),
    "cheap frozen pizza": Reading(level="cheap", categories=_set("Frozen pizza")),
    "beer without alcohol": Reading(categories=_set("Beers/ales"), excluded=_set("alcohol")),
    "cereal for my daughter between 2 and 4": Reading(
        lowest=2, highest=4, categories=_set("Cold cereal", "Hot cereal", "Cereal/breakfast"), recipient="daughter"
    ),
    "private label milk": Reading(categories=_set("Fluid milk products", "Canned milk"), brands=_set("Private")),
    "no nuts granola bars": Reading(excluded=_set("nuts")),
    "dog food 20 lb": Reading(categories=_set("Dog foods"), sizes=_set("20 lb")),
    "tortila chips": Reading(categories=_set("Chips & snacks"), corrections=frozenset({("tortila", "tortilla")})),
    "soft drinks less than $5": Reading(highest=5, categories=_set("Soft drinks")),
    "at least 3 dollars cheese": Reading(lowest=3, categories=_CHEESE),
    "shampoo for my baby": Reading(recipient="baby"),
    "yogurt, not strawberry": Reading(categories=_set("Yogurt"), excluded=_set("strawberry")),
    "green olives not black": Reading(categories=_set("Olives"), colours=_set("green"), excluded=_set("black")),
    "national brand coffee over 8": Reading(lowest=8, categories=_set("Coffee"), brands=_set("National")),
    "orange juice over 50% juice": Reading(
        categories=_set("Juice", "Canned juices", "Refrigerated juices/drinks")  # no price is meant
    ),
    "sugar free gum": Reading(excluded=_set("sugar")),
    "bread without gluten": Reading(
        categories=_set("Bread", "Frozen bread/dough", "Baked bread/buns/rolls"), excluded=_set("gluten")
    ),
    "something cheap for my dog": Reading(level="cheap", recipient="dog"),
    "manufacturer 69 ice cream": Reading(
        categories=_set("Ice cream/milk/sherbets"), brands=_set("manufacturer 69")
    ),
    "frozen meat or fish under 7": Reading(highest=7, categories=_set("Frozen meat/meat dinners", "Frozen meat")),
    "beers between £5 and £10": Reading(lowest=5, highest=10, categories=_set("Beers/ales")),
    "paper towels 8 ct for the kitchen": Reading(categories=_set("Paper towels"), sizes=_set("8 ct")),
    "not too expensive red apples": Reading(level="cheap", categories=_set("Apples"), colours=_set("red")),
    "snacks except chocolate, max 3": Reading(
        highest=3,
        categories=_set(
            "Snacks", "Bag snacks", "Warehouse snacks", "Convenient breakfast/wholesome snacks", "Chips & snacks",
            "Packaged natural snacks", "Sweet goods & snacks", "Snacks/cookies/crackers/candy",
        ),
        excluded=_set("chocolate"),
    ),
    "chesse": Reading(categories=_CHEESE, corrections=frozenset({("chesse", "cheese")})),
    "wine for my wife around 12": Reading(lowest=9, highest=15, categories=_WINE, recipient="wife"),
    "gift for a 5 year old": Reading(recipient="child"),
    "2 liter cola that isn't diet": Reading(sizes=_set("2 l"), excluded=_set("diet")),
    "premium ice cream under five dollars": Reading(highest=5, categories=_set("Ice cream/milk/sherbets")),
    "frozen vegetables": Reading(categories=_set("Frozen vegetable/vegetable dish")),
}  # fmt: skip
