"""Pages with ads: what an ad on a page is, and how ads and organic items share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from recsys_plugin.client.results import Page, RankedItems, ScoredItem
from recsys_plugin.errors import InvalidInput
from recsys_plugin.limits import MOST_CANDIDATES

__all__ = ["AdItem", "AdsPage", "mix_ads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdItem(ScoredItem):
    """One item that is advertised. Money is in micro-units of the shop's currency.

    ``score`` is what the auction was ordered by: the micro-units that showing it is expected to earn at its bid.
    ``click_probability`` and the others are the model's estimates, as they are. ``propensity`` is the probability that
    it stands in its slot, given what was drawn for all other creatives: over its own draw and whether pacing let its
    campaign take part.
    """

    campaign_id: str
    impression_id: str
    """Give it to ``record_ad_click`` when the ad is clicked."""
    price_per_click_micros: int
    """What a click on it costs the campaign."""
    ecpm_micros: int
    """What a thousand impressions are expected to earn at this price, by the calibrated probability."""
    calibrated_probability: float
    """Of a click: the model's, corrected by how this creative, its campaign and all ads were clicked so far."""


class AdsPage(Page):
    """The ads for one request, best first; iterate over it, index it, or take its length.

    ``unknown_items`` lists advertised items that are not in the catalogue, so that they cannot be shown.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[AdItem]:
        """The ads, best first."""
        return iter(cast(Sequence[AdItem], self.items))

    def __getitem__(self, index: int) -> AdItem:
        """The ad at a place counted from 0."""
        return cast(AdItem, self.items[index])


def mix_ads(page: Page, ads: AdsPage, positions: Sequence[int]) -> Page:
    """A page of organic items with ads at given positions.

    The rule: the best ad stands at the first of the positions, the next one at the next; organic items fill the others
    in their order. An item that is advertised stands there once, as an ad. The page stays as long as it was: organic
    items that are pushed off its end are left out. On a page that is too short for a position, the ad comes last.

    Args:
        page: organic items. ads: at most one for each position.
        positions: counted from 1, ascending; those beyond the number of ads stay organic.

    Returns:
        ``page`` with other items, their positions counted anew; ads have ``sponsored`` set.

    Raises:
        InvalidInput: if the positions are not whole numbers from 1, ascending, or there are more ads than positions.
    """
    places = list(positions)
    for place, before in zip(places, [0, *places], strict=False):
        if isinstance(place, bool) or not isinstance(place, int) or not before < place <= MOST_CANDIDATES:
            raise InvalidInput(f"positions: {places!r:.80} are not whole numbers from 1, ascending")
    if len(ads) > len(places):
        raise InvalidInput(f"ads: {len(ads)} for {len(places)} positions; ask for as many slots as there are positions")
    advertised = set(ads.item_ids)
    mixed: list[ScoredItem] = [item for item in page if item.item_id not in advertised]
    del mixed[max(0, len(page) - len(ads)) :]
    for ad, place in zip(ads, places, strict=False):
        mixed.insert(place - 1, ad)
    placed = [replace(item, position=place) for place, item in enumerate(mixed, 1)]
    return replace(page, items=RankedItems(len(placed), lambda: (item.item_id for item in placed), placed.__getitem__))
