"""What the client returns: frozen values, ready for a template or, through ``to_dict``, for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, overload

from recsys_plugin.client.explanation import Explanation
from recsys_plugin.client.fallback import FULL, Fallback
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.query.intent import SearchIntent

__all__ = ["Page", "RankedItems", "RulesReport", "ScoredItem", "ServedBy", "Timings"]


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One item on a page."""

    item_id: str
    score: float
    """What the page is ordered by, unless it was explored; comparable within one page only."""
    position: int
    """1 is the first."""
    title: str
    category: str
    """Empty where the shop gave none."""
    price: float | None
    """In the shop's currency, as of the catalogue version; ``None`` where unknown."""
    purchase_probability: float | None = None
    """The model's estimate; ``None`` where it makes none."""
    click_probability: float | None = None
    """The model's estimate; ``None`` where it makes none, such as for data without clicks."""
    cart_probability: float | None = None
    """The model's estimate; ``None`` where it makes none, such as for data without carts."""
    propensity: float = 1.0
    """How likely the item was to stand here, given the items before it; 1 without exploration."""
    relevance: float | None = None
    """What the first stage found: retrieval score, cosine to the query, or similarity to the item."""
    original_position: int | None = None
    """Where the models alone would have put it among all that they found; ``None`` on a page without rules, and for an
    item that rules brought."""
    moved_by: tuple[str, ...] = ()
    """The rules that moved it, in the order in which they are applied: ``objectives``, ``freshness``, filters that took
    better ones away (``stock``, ``price``, ``exclude``, ``already``), ``exploration``, ``diversity``, ``caps``,
    ``pins``, ``sponsored``. Of an item that another one's pin moved aside it says ``pins`` too."""
    sponsored: bool = False
    """Whether somebody pays for its standing here: an ad, or an item that the request brought as a sponsored one. It is
    to be labelled as such."""
    explanation: Explanation | None = None
    """Why it has its score; ``None`` unless the request asked for it."""


class RankedItems(Sequence[ScoredItem]):
    """Items, best first, each made when it is looked at: of hundreds that were ranked a page shows a few.

    Args:
        count: how many.
        item_ids: gives the ids, best first; asked at most once.
        make: gives the item at a place counted from 0.
    """

    __slots__ = ("_count", "_ids", "_make", "_name")

    def __init__(
        self,
        count: int = 0,
        item_ids: Callable[[], Iterable[str]] = tuple,
        make: Callable[[int], ScoredItem] | None = None,
    ) -> None:
        self._count = count
        self._name = item_ids
        self._make = make
        self._ids: tuple[str, ...] | None = None

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The ids, best first."""
        if self._ids is None:
            self._ids = tuple(self._name())
        return self._ids

    def __len__(self) -> int:
        """How many items there are."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> ScoredItem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ScoredItem, ...]: ...
    def __getitem__(self, index: int | slice) -> ScoredItem | tuple[ScoredItem, ...]:
        """The item at a place counted from 0, or those of a slice."""
        places = range(self._count)[index]
        if self._make is None:
            return ()
        return self._make(places) if isinstance(places, int) else tuple(self._make(place) for place in places)

    def __eq__(self, other: object) -> bool:
        """Whether the items are equal, in order."""
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        """Of the ids."""
        return hash(self.item_ids)

    def __repr__(self) -> str:
        """As a tuple of the items."""
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What a page was computed with: one version of everything, never a mixture."""

    model: str
    version: int
    contract: str | None
    """Fingerprint of the feature contract; ``None`` for a model that takes no features."""
    catalogue_version: int
    catalogue_size: int
    arm: str | None = None
    """During a trial of a version: ``control`` or ``candidate``, whichever answered; ``None`` outside one."""


@dataclass(frozen=True, slots=True)
class RulesReport:
    """The rules that a page was made by."""

    digest: str
    """Names the shop's document, as ``recsys rules show`` does; empty if only the request had rules."""
    unmet: tuple[str, ...] = ()
    """What could not be done, one sentence each: a pinned item that is not known or may not be shown."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in milliseconds; for a call with several users, of the whole call."""

    features: float
    """Reading and decoding features."""
    inference: float
    """The models, with the way there and back."""
    policy: float
    """From scores to pages; of a search, understanding the query too."""
    total: float


@dataclass(frozen=True, slots=True)
class Page:
    """A ranked page; iterate over it, index it, or take its length."""

    request_id: str
    user_id: str | None
    items: RankedItems
    served_by: ServedBy
    features: FeatureReport | None
    """What the feature store had for the user; ``None`` where no features were read."""
    timings: Timings
    unknown_items: tuple[str, ...] = ()
    """Item ids asked about that are not in the catalogue, in the order given."""
    rules: RulesReport | None = None
    """``None`` if there were no rules for the shelf."""
    intent: SearchIntent | None = None
    """What was understood of a query; ``None`` where there was none to understand."""
    relaxed: tuple[str, ...] = ()
    """Filters of the query that would have left nothing, and were given up: ``category``, ``brand``, ``price``."""
    candidates: int | None = None
    """How many candidates ``recommend`` or ``search`` considered: as many as were asked for, or fewer while the client
    is slow, see :class:`~recsys_plugin.resilience.adaptive.LatencyTarget`; ``None`` for other pages."""
    fallback: Fallback = FULL
    """The level of the ladder that it was made on, and why not on a better one."""
    segments: tuple[tuple[str, str], ...] = ()
    """The segments of users whose popularity counted, such as ``("age_group", "25-34")``."""
    personalised: bool = True
    """``False`` if the user refuses pages made of what is known of him: he got that of somebody unknown."""

    def __iter__(self) -> Iterator[ScoredItem]:
        """The items, best first."""
        return iter(self.items)

    def __len__(self) -> int:
        """How many items are on the page."""
        return len(self.items)

    def __getitem__(self, index: int) -> ScoredItem:
        """The item at a place counted from 0."""
        return self.items[index]

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The ids of the items, best first."""
        return self.items.item_ids

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, tuples, strings, numbers and ``None``, for JSON; never NaN."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("served_by", "features", "timings", "rules", "intent", "fallback"):
            plain[name] = None if plain[name] is None else asdict(plain[name])
        return {**plain, "items": tuple(asdict(item) for item in self.items)}
