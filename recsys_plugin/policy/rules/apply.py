"""From candidates and rules to a page: pure functions over columns.

The steps, each of which keeps the order of the one before where its rule says nothing else:

1. ``rescored``: objectives and freshness change what the page is ordered by.
2. ``filtered``: what may not be shown leaves.
3. (exploration chooses among what is left, see :mod:`recsys_plugin.policy.exploration`)
4. ``diversified``: unlike items come forward, see :mod:`recsys_plugin.policy.diversity`.
5. ``arranged``: pins and sponsored items take their positions, caps hold back the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.policy.rules.document import Caps, Freshness, Objectives, ShelfRules
from recsys_plugin.policy.rules.pool import Codes, Pool

__all__ = ["Arrangement", "Barred", "arranged", "filtered", "rescored"]

_DAY = 86_400.0


def rescored(rules: ShelfRules, pool: Pool, *, now: float, are_rates: bool) -> NDArray[np.float64]:
    """What a page is ordered by under the rules: float64 ``[n]``.

    Args:
        now: unix seconds, from which ages count.
        are_rates: whether the scores are the click model's, between 0 and a ceiling that they stay below; otherwise
            they are cosines or the like, which objectives leave alone.
    """
    scores = pool.scores
    if rules.objectives is not None and are_rates:
        scores = _by_objectives(rules.objectives, pool)
    if rules.freshness is not None and rules.freshness.boost > 0 and len(pool):
        gain = rules.freshness.boost * _newness(rules.freshness, pool, now)
        # Rates are scaled such that none leaves its range: exploration takes their log-odds.
        scores = (
            scores * ((1.0 + gain) / (1.0 + rules.freshness.boost))
            if are_rates
            else scores + gain * (scores.max() - scores.min())
        )
    return scores


def _by_objectives(objectives: Objectives, pool: Pool) -> NDArray[np.float64]:
    """Weighted probabilities, scaled to what the model's own scores range over; a head never trained counts nothing."""
    # The model's own score is a sum of probabilities with weights that add up to the ceiling of its rates.
    weights = {"click": objectives.click, "cart": objectives.cart, "purchase": objectives.purchase}
    total = np.zeros(len(pool))
    for name, weight in weights.items():
        if weight > 0 and name in pool.probabilities:
            share = np.nan_to_num(pool.probabilities[name].astype(np.float64), nan=0.0) * weight
            if name == "purchase" and objectives.price_power > 0:
                share *= _price_factor(pool.prices, objectives.price_power)
            total += share
    return total / sum(weights.values())


def _price_factor(prices: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """``(price / highest) ** power``, from 0 to 1; an unknown price counts as the median of the others."""
    known = prices[np.isfinite(prices)]
    if not known.size or known.max() <= 0:
        return np.ones(len(prices))
    filled = np.where(np.isfinite(prices), prices, np.median(known))
    factor: NDArray[np.float64] = (filled / known.max()) ** power
    return factor


def _newness(freshness: Freshness, pool: Pool, now: float) -> NDArray[np.float64]:
    """1 for a brand-new item, halved with every half-life, 0 for one of unknown age."""
    ages = np.maximum(now - pool.available_since, 0.0) / _DAY
    halved: NDArray[np.float64] = np.where(pool.available_since > 0, 0.5 ** (ages / freshness.half_life_days), 0.0)
    return halved


@dataclass(frozen=True, slots=True, eq=False)
class Barred:
    """What filters need beside the rules: their names as numbers, and what a user has had already."""

    items: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows."""
    categories: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    subcategories: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    brands: Codes = field(default_factory=lambda: np.empty(0, np.int32))
    already: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows."""


def filtered(rules: ShelfRules, pool: Pool, barred: Barred, *, now: float) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which candidates may be shown, bool ``[n]``, and the rules that took some away.

    Args:
        now: unix seconds, from which ages count.
    """
    allowed = np.ones(len(pool), dtype=np.bool_)
    removing: list[str] = []

    def bar(rule: str, wrong: NDArray[np.bool_]) -> None:
        if (wrong & allowed).any():
            removing.append(rule)
            allowed[wrong] = False

    if rules.least_stock > 0:
        bar("stock", (pool.stock >= 0) & (pool.stock < rules.least_stock))
    if (price := rules.price) is not None:
        outside = pool.prices < price.lowest
        if price.highest is not None:
            outside |= pool.prices > price.highest
        bar("price", outside if price.keep_unknown else outside | np.isnan(pool.prices))
    for column, wrong in (
        (pool.rows, barred.items),
        (pool.categories, barred.categories),
        (pool.subcategories, barred.subcategories),
        (pool.brands, barred.brands),
    ):
        if wrong.size:
            bar("exclude", np.isin(column, wrong))
    if barred.already.size:
        bar("already", np.isin(pool.rows, barred.already))
    if rules.freshness is not None and rules.freshness.oldest_days is not None:
        bar("freshness", pool.available_since < now - rules.freshness.oldest_days * _DAY)
    return allowed, tuple(dict.fromkeys(removing))


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """A page: places in a pool, first position first, and how those came there that were not the next best."""

    places: NDArray[np.intp]
    placed: Mapping[int, str]
    """Place → ``pins`` or ``sponsored``."""
    capped: tuple[int, ...]
    """Places of pins that caps kept off the page."""


def arranged(
    rules: ShelfRules,
    pool: Pool,
    order: Sequence[int],
    k: int,
    *,
    pins: Mapping[int, int] | None = None,
    sponsored: Sequence[int] = (),
) -> Arrangement:
    """Up to k of the pool: pins and sponsored items at their positions, the others in order between them.

    Pins come first, then sponsored items, then the rest, and each takes of what the caps allow. A position without an
    item, because there are too few of them, is closed up.

    Args:
        order: places that may be shown, in order. pins: position → place, of those that may be shown.
        sponsored: places, of those that may be shown, in the order in which they take the reserved positions.
    """
    counts = _Counts(rules.caps, pool)
    slots: dict[int, int] = {}
    placed: dict[int, str] = {}
    capped: list[int] = []
    for position, place in sorted((pins or {}).items()):
        if position > k:
            continue
        if counts.takes(place):
            slots[position] = place
            placed[place] = "pins"
        else:
            capped.append(place)
    waiting = iter(sponsored)
    for position in sorted(rules.sponsored):
        if position > k:
            break
        taken = next((place for place in waiting if place not in placed and counts.takes(place)), None)
        if taken is None:
            break
        slots[position] = taken
        placed[taken] = "sponsored"
    others: list[int] = []
    wanted = k - len(slots)
    for place in order:
        if len(others) >= wanted:
            break
        if place not in placed and counts.takes(place):
            others.append(place)
    rest = iter(others)
    last = min(k, max(slots, default=0) + len(others))  # no position after it has an item, however many are wanted
    page = [slots[position] if position in slots else next(rest, None) for position in range(1, last + 1)]
    return Arrangement(np.array([place for place in page if place is not None], np.intp), placed, tuple(capped))


class _Counts:
    """How many of each category and the like are on the page so far."""

    def __init__(self, caps: Caps | None, pool: Pool) -> None:
        columns = (("category", pool.categories), ("subcategory", pool.subcategories), ("brand", pool.brands))
        limits = [(getattr(caps, name), codes.tolist()) for name, codes in columns] if caps is not None else []
        self._limits = [(limit, codes, dict[int, int]()) for limit, codes in limits if limit is not None]

    def takes(self, place: int) -> bool:
        """Whether one more fits, which is then counted."""
        if any(codes[place] >= 0 and so_far.get(codes[place], 0) >= limit for limit, codes, so_far in self._limits):
            return False
        for _, codes, so_far in self._limits:
            so_far[codes[place]] = so_far.get(codes[place], 0) + 1
        return True
