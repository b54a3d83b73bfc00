"""A shop's rules for its pages, as data: a tree of frozen values, read from a JSON document and checked as it is read.

A document has rules for all shelves and, where a shelf's are others, for that shelf::

    {
      "format": 1,
      "default": {"caps": {"category": 4}, "already": {"bought_days": 14}},
      "shelves": {"search": {"already": null}, "recommend": {"pins": [{"item": "tea", "position": 1}]}}
    }

What a shelf says of a rule takes the place of what the default says of the same rule; ``null`` takes a rule away.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, get_args

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.limits import MOST_DOCUMENT_BYTES
from recsys_plugin.policy.diversity import DiversityMethod

__all__ = [
    "NO_RULES",
    "SHELVES",
    "Already",
    "Caps",
    "Diversity",
    "Exclusions",
    "Freshness",
    "MalformedRules",
    "Objectives",
    "PageRules",
    "Pin",
    "PriceRange",
    "ShelfRules",
]

_FORMAT = 1
#: What rules can be made for. ``rank`` orders items that the caller names, so the default is not for it.
SHELVES = ("recommend", "search", "similar", "rank", "cross_sell", "cross_category", "onboard", "popular")
#: More items, categories or brands than this are not excluded one by one.
_MOST_NAMES = 10_000
_MOST_POSITION = 10_000
_Section = TypeVar("_Section")


class MalformedRules(ConfigurationError):
    """A document of rules is not one; the message names the rule and the field."""


def _number(name: str, value: object, *, low: float, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (low <= value <= high):
        bounds = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or more"
        raise InvalidInput(f"{name}: {value!r:.60} is not a number {bounds}")
    if value > sys.float_info.max:
        raise InvalidInput(f"{name}: {value!r} is not finite")


def _whole(name: str, value: object, *, low: int, high: int = _MOST_POSITION) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInput(f"{name}: {value!r:.60} is not a whole number from {low} to {high}")


def _names(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(text, str) and text for text in value):
        raise InvalidInput(f"{name}: {value!r:.60} is not a list of texts with something in each")
    if len(value) > _MOST_NAMES:
        raise InvalidInput(f"{name}: {len(value)} are more than {_MOST_NAMES}")


@dataclass(frozen=True, slots=True)
class PriceRange:
    """Which prices are shown, both ends included, in the shop's currency."""

    lowest: float = 0.0
    highest: float | None = None
    keep_unknown: bool = True
    """Whether an item without a price is shown."""

    def __post_init__(self) -> None:
        _number("lowest", self.lowest, low=0.0)
        if self.highest is not None:
            _number("highest", self.highest, low=0.0)
            if self.highest < self.lowest:
                raise InvalidInput(f"highest: {self.highest} is below lowest, {self.lowest}")
        if not isinstance(self.keep_unknown, bool):
            raise InvalidInput(f"keep_unknown: {self.keep_unknown!r:.60} is not true or false")


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What is never shown."""

    items: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subcategories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("items", "categories", "subcategories", "brands"):
            _names(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Already:
    """Not again what the user's latest events (the 50 that the feature store keeps) are about; ``None`` for no limit
    of either kind."""

    bought_days: float | None = None
    """Days that a purchase counts."""
    seen_days: float | None = None
    """Days that a click or a place in the cart counts."""

    def __post_init__(self) -> None:
        for name in ("bought_days", "seen_days"):
            if (value := getattr(self, name)) is not None:
                _number(name, value, low=0.0)


@dataclass(frozen=True, slots=True)
class Caps:
    """How many items of one category, subcategory or brand may be on a page; those of an unknown one are not capped."""

    category: int | None = None
    subcategory: int | None = None
    brand: int | None = None

    def __post_init__(self) -> None:
        for name in ("category", "subcategory", "brand"):
            if (value := getattr(self, name)) is not None:
                _whole(name, value, low=1)


@dataclass(frozen=True, slots=True)
class Pin:
    """An item at a position whatever it scores; 1 is the first."""

    item: str
    position: int

    def __post_init__(self) -> None:
        if not isinstance(self.item, str) or not self.item:
            raise InvalidInput(f"item: {self.item!r:.60} is not an item id")
        _whole("position", self.position, low=1)


@dataclass(frozen=True, slots=True)
class Freshness:
    """Newer items first, or only. An item whose age is not known counts as old."""

    oldest_days: float | None = None
    """Older items are not shown."""
    boost: float = 0.0
    """How much a brand-new item gains: 0.2 makes its score 1.2 times what it was (of shelves ordered by similarity or
    relevance, it adds 0.2 times the spread of the candidates)."""
    half_life_days: float = 30.0
    """After so many days half of that is left."""

    def __post_init__(self) -> None:
        if self.oldest_days is not None:
            _number("oldest_days", self.oldest_days, low=0.0)
        _number("boost", self.boost, low=0.0, high=100.0)
        _number("half_life_days", self.half_life_days, low=0.001)


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a page is to bring: a weight for each event, and how much the price of what is bought matters.

    The score is ``(click * P(click) + cart * P(cart) + purchase * P(purchase) * price ** price_power)``, up to a factor
    common to the candidates; shelves ordered by similarity or relevance are left as they are. Weighted sums: Zhao et
    al. 2019, "Recommending what video to watch next", section 4.
    """

    click: float = 0.0
    cart: float = 0.0
    purchase: float = 0.0
    price_power: float = 0.0

    def __post_init__(self) -> None:
        for name in ("click", "cart", "purchase"):
            _number(name, getattr(self, name), low=0.0)
        _number("price_power", self.price_power, low=0.0, high=4.0)
        if not self.click + self.cart + self.purchase > 0:
            raise InvalidInput("click, cart, purchase: one of the weights must be above 0")


@dataclass(frozen=True, slots=True)
class Diversity:
    """How unlike each other the items of a page are to be, see :mod:`recsys_plugin.policy.diversity`."""

    method: DiversityMethod = "mmr"
    strength: float = 0.3
    """From 0, the best items, to 1, the most unlike ones."""
    pool: int = 100
    """Of so many of the best candidates."""

    def __post_init__(self) -> None:
        if self.method not in get_args(DiversityMethod):
            raise InvalidInput(f"method: {self.method!r:.60} is not one of {', '.join(get_args(DiversityMethod))}")
        _number("strength", self.strength, low=0.0, high=1.0)
        _whole("pool", self.pool, low=1, high=1000)


@dataclass(frozen=True, slots=True)
class ShelfRules:
    """The rules of one shelf; ``None`` or nothing where there is none.

    Filters (``least_stock``, ``price``, ``exclude``, ``already``, ``freshness.oldest_days``) and ``caps`` hold for
    every item of a page, for pinned and sponsored ones too: a pin that breaks one is left out, and the page says so.
    """

    least_stock: int = 1
    """Items with a known stock below it are not shown."""
    price: PriceRange | None = None
    exclude: Exclusions | None = None
    already: Already | None = None
    caps: Caps | None = None
    pins: tuple[Pin, ...] = ()
    sponsored: tuple[int, ...] = ()
    """Positions reserved for the sponsored items that a request brings; without them they are the others'."""
    freshness: Freshness | None = None
    objectives: Objectives | None = None
    diversity: Diversity | None = None

    def __post_init__(self) -> None:
        _whole("least_stock", self.least_stock, low=0, high=2**31)
        if not isinstance(self.sponsored, tuple):
            raise InvalidInput(f"sponsored: {self.sponsored!r:.60} is not a list of positions")
        for position in self.sponsored:
            _whole("sponsored", position, low=1)
        taken = [pin.position for pin in self.pins] + list(self.sponsored)
        if twice := sorted({position for position in taken if taken.count(position) > 1}):
            raise InvalidInput(f"pins, sponsored: position {twice[0]} is given twice")
        items = [pin.item for pin in self.pins]
        if same := [item for item in items if items.count(item) > 1]:
            raise InvalidInput(f"pins: item {same[0]!r:.60} is pinned twice")

    def overridden(self, document: Mapping[str, Any], where: str) -> ShelfRules:
        """These rules with those of a document in place of their own; ``None`` takes a rule away.

        Args:
            document: rule → value, as in JSON. where: its place, for messages.

        Raises:
            InvalidInput: naming the rule and the field.
        """
        if not isinstance(document, Mapping):
            raise InvalidInput(f"{where}: {document!r:.60} is not an object of rules")
        _check_keys(document, [rule.name for rule in fields(ShelfRules)], where)
        changed: dict[str, Any] = {}
        for rule, value in document.items():
            here = f"{where}.{rule}" if where else rule
            if value is None:
                changed[rule] = _NOTHING[rule]
            elif rule in _SECTIONS:
                changed[rule] = _section(_SECTIONS[rule], value, here)
            elif rule == "pins":
                changed[rule] = tuple(
                    _section(Pin, pin, f"{here}[{number}]") for number, pin in enumerate(_list(value, here))
                )
            elif rule == "sponsored":
                changed[rule] = tuple(_list(value, here))
            else:
                changed[rule] = value
        try:
            return replace(self, **changed)
        except InvalidInput as error:
            raise InvalidInput(f"{where}.{error}" if where else str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """The rules that there are, as a document says them; that of the stock is always said."""
        plain = asdict(self)
        return {
            name: value
            for name, value in plain.items()
            if name == "least_stock" or getattr(self, name) != _NOTHING[name]
        }


_SECTIONS: dict[str, type] = {
    "price": PriceRange,
    "exclude": Exclusions,
    "already": Already,
    "caps": Caps,
    "freshness": Freshness,
    "objectives": Objectives,
    "diversity": Diversity,
}
_NOTHING: dict[str, Any] = {"least_stock": 0, "pins": (), "sponsored": (), **dict.fromkeys(_SECTIONS)}


@dataclass(frozen=True, slots=True)
class PageRules:
    """All rules of a shop."""

    default: ShelfRules = field(default_factory=ShelfRules)
    shelves: Mapping[str, ShelfRules] = field(default_factory=dict)
    """Shelf → its rules, those of the default among them."""
    digest: str = ""
    """Names the document: the beginning of its SHA-256; empty without one."""

    def of(self, shelf: str) -> ShelfRules:
        """The rules of a shelf."""
        found = self.shelves.get(shelf)
        return found if found is not None else _RANKED if shelf == "rank" else self.default

    @classmethod
    def from_json(cls, text: str | bytes) -> PageRules:
        """Read a document.

        Raises:
            MalformedRules: if it is not JSON, or a rule in it is wrong: the message names rule and field.
        """
        if len(text) > MOST_DOCUMENT_BYTES:
            raise MalformedRules(f"rules: more than {MOST_DOCUMENT_BYTES} bytes")
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise MalformedRules(f"rules: not a JSON document: {error}") from error
        try:
            if not isinstance(document, dict):
                raise InvalidInput("rules: not a JSON object")
            _check_keys(document, ("format", "default", "shelves"), "rules")
            if document.get("format", _FORMAT) != _FORMAT:
                raise InvalidInput(f"rules: format {document['format']!r:.60} is not {_FORMAT}")
            default = ShelfRules().overridden(document.get("default", {}), "default")
            shelves = document.get("shelves", {})
            if not isinstance(shelves, dict):
                raise InvalidInput(f"shelves: {shelves!r:.60} is not an object of shelves")
            _check_keys(shelves, SHELVES, "shelves")
            made = {
                shelf: (_RANKED if shelf == "rank" else default).overridden(rules, f"shelves.{shelf}")
                for shelf, rules in shelves.items()
            }
        except InvalidInput as error:
            raise MalformedRules(str(error)) from error
        return cls(default, made, cls.digest_of(text))

    @staticmethod
    def digest_of(text: str | bytes) -> str:
        """Names a document: the beginning of its SHA-256."""
        data = text.encode() if isinstance(text, str) else text
        return hashlib.sha256(data).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """A document with these rules: each shelf with all of its own, those of the default written out."""
        default = self.default.to_dict()
        taken_away = {shelf: {} if shelf == "rank" else dict.fromkeys(default) for shelf in self.shelves}
        return {
            "format": _FORMAT,
            "default": default,
            "shelves": {shelf: taken_away[shelf] | rules.to_dict() for shelf, rules in self.shelves.items()},
        }


#: What is asked of by name is answered, sold out or not.
_RANKED = ShelfRules(least_stock=0)
#: A shop without a document: whatever is not sold out, best first.
NO_RULES = PageRules()


def _section(kind: type[_Section], value: object, where: str) -> _Section:
    """One rule's object as its dataclass."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where}: {value!r:.60} is not an object")
    _check_keys(value, [each.name for each in fields(kind)], where)  # type: ignore[arg-type]
    try:
        return kind(**{name: tuple(found) if isinstance(found, list) else found for name, found in value.items()})
    except InvalidInput as error:
        raise InvalidInput(f"{where}.{error}") from error
    except TypeError as error:
        missing = [each.name for each in fields(kind) if each.name not in value]  # type: ignore[arg-type]
        raise InvalidInput(f"{where}: {', '.join(missing)} is missing") from error


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"{where}: {value!r:.60} is not a list")
    return list(value)


def _check_keys(document: Mapping[str, Any], known: Any, where: str) -> None:
    """A rule that is not understood must not be skipped in silence."""
    if unknown := sorted(str(key) for key in document if key not in known):
        raise InvalidInput(f"{where}: {unknown[0]!r:.60} is not known; there are {', '.join(known)}")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")
