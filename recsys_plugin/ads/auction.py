"""The auction: which ads stand in which slots, and what a click on each costs.

Creatives are ordered by probability of a click times bid, the expected revenue of showing them (eCPM, where it is told
for a thousand times). The price is that of the generalised second-price auction (Edelman, Ostrovsky and Schwarz 2007;
Varian 2007) with quality scores: the least that the campaign could have bid and still stand there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

__all__ = ["Bid", "Placement", "hold_auction"]

#: What is a whole number but for the rounding of doubles is not rounded up to the next.
_ROUNDED = 1.0 - 1e-12


@dataclass(frozen=True, slots=True)
class Bid:
    """A creative that takes part: one item of one campaign."""

    campaign_id: str
    item_id: str
    bid_micros: int
    """The most that a click may cost; above 0."""
    probability: float
    """Of a click, calibrated: 0 to 1."""
    spread: float = 0.0
    """Standard deviation of the logarithm of what the probability was multiplied with; 0 without exploration."""
    draw: float = 0.0
    """The standard normal draw of this auction."""
    pass_rate: float = 1.0
    """The probability with which its campaign took part."""

    @property
    def drawn(self) -> float:
        """The probability that it bids with: as it is, or with exploration as drawn, at most 1."""
        return min(1.0, self.probability * math.exp(self.spread * self.draw - 0.5 * self.spread**2))

    def chance_between(self, low: float, high: float) -> float:
        """P(low <= drawn probability times bid <= high), over the draw, the bid being as it is."""
        return self._chance_below(high, equal=True) - self._chance_below(low, equal=False)

    def _chance_below(self, score: float, *, equal: bool) -> float:
        if score <= 0.0:
            return 0.0
        if self.spread == 0.0:
            mine = self.drawn * self.bid_micros
            return float(mine <= score if equal else mine < score)
        if score > self.bid_micros or (equal and score == self.bid_micros):
            return 1.0
        z = math.log(score / self.bid_micros / self.probability) / self.spread + 0.5 * self.spread
        return 0.5 * math.erfc(-z / math.sqrt(2.0))


@dataclass(frozen=True, slots=True)
class Placement:
    """A creative in a slot."""

    bid: Bid
    price_micros: int
    """Of one click: from the reserve to the bid."""
    score: float
    """Micro-units that showing it is expected to earn at its bid: what the auction is ordered by."""
    propensity: float
    """P(this creative stands in this slot | what was drawn for all others): over its own draw, and whether its
    campaign took part."""


def hold_auction(
    bids: Sequence[Bid], slots: int, *, reserve_micros: int = 1, quality_floor: float = 0.0
) -> list[Placement]:
    """Fill up to so many slots, best first.

    A campaign gets at most one slot and an item stands in at most one. Who bids less than the reserve, or whose
    calibrated probability is below the floor or 0, is left out. Equal scores are ordered by campaign and item id, so
    that the same bids in any order give the same result.

    Args:
        bids: at most one for each campaign and item.
        slots: 0 or more.
        reserve_micros: the least price of a click.
        quality_floor: the least calibrated probability.
    """
    running = [
        (-bid.drawn * bid.bid_micros, bid.campaign_id, bid.item_id, bid)
        for bid in bids
        if bid.bid_micros >= reserve_micros and bid.probability >= quality_floor and bid.probability > 0.0
    ]
    running.sort(key=lambda each: each[:3])
    placed: list[Placement] = []
    campaigns: set[str] = set()
    items: set[str] = set()
    above = math.inf
    for place, (negative, campaign_id, item_id, bid) in enumerate(running):
        if len(placed) >= slots:
            break
        if campaign_id in campaigns or item_id in items:
            continue
        # Whoever would stand here instead sets the price; a creative of the same campaign does not, but it would
        # stand here, too, if this one had drawn less.
        rival = sibling = 0.0
        for below, other_campaign, other_item, _ in islice(running, place + 1, None):
            if other_campaign in campaigns or other_item in items:
                continue
            if other_campaign != campaign_id:
                rival = -below
                break
            sibling = sibling or -below
        score = -negative
        price = min(bid.bid_micros, max(reserve_micros, math.ceil(rival / bid.drawn * _ROUNDED)))
        chance = bid.pass_rate * bid.chance_between(max(rival, sibling), above)
        placed.append(Placement(bid, price, score, chance))
        campaigns.add(campaign_id)
        items.add(item_id)
        above = score
    return placed
