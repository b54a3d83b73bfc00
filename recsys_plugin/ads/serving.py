"""One request for ads, from campaigns to what is shown: written once, for whoever knows the users and the odds.

A flow (see :mod:`recsys_plugin.client.flows`): it yields calls and is sent their answers. The counters of all campaigns
come in one round trip, together with what the caller reads anyway, so that a campaign that was paused, changed or ran
out is gone at the next request; the ads that won are noted in a second one, before they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.ads.auction import Bid, Placement, hold_auction
from recsys_plugin.ads.book import AuctionSettings, CampaignBook
from recsys_plugin.ads.calibration import draw_spread, shrunk_factor
from recsys_plugin.ads.campaign import Campaign
from recsys_plugin.ads.pacing import pass_rate
from recsys_plugin.ads.store import AdClick, Served, State, StateQuery, charge_click, note_served, read_book
from recsys_plugin.digits import stored_number
from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.commands import Commands

__all__ = [
    "AdRequest",
    "KnownCampaigns",
    "Score",
    "ShownAd",
    "Taker",
    "click_ad",
    "factors_of",
    "serve_ads",
    "take_part",
]

#: Campaigns may be changed while a request reads them; more often than this it is no coincidence.
_ATTEMPTS = 5

#: Campaign id → items of it that may be shown.
Creatives = Mapping[str, Sequence[str]]
#: Given all campaigns, what the caller's own reads were answered with, and creatives: those that suit the user.
Admit = Callable[[CampaignBook, Sequence[Any], Creatives], Creatives]
#: Given distinct items, their probabilities of a click by the model.
Score = Callable[[Sequence[str]], Generator[Any, Any, Mapping[str, float]]]


@dataclass(slots=True)
class KnownCampaigns:
    """The campaigns as a server knows them between two requests; each request asks whether they are still so."""

    keys: EventKeys
    current: tuple[int, CampaignBook] | None = None
    """Their revision and what they are; ``None`` until they are read."""
    unreadable: set[str] = field(default_factory=set)
    """Features that campaigns target by and that cannot be read, as far as it was said."""

    def read(self) -> Generator[Commands, list[Any], tuple[int, CampaignBook]]:
        """Read them anew. Raises ``StoreUnavailable``."""
        self.current = yield from read_book(self.keys)
        return self.current


@dataclass(frozen=True, slots=True)
class AdRequest:
    """Who asks for ads, and for how many.

    Attributes:
        request_id: names the ads that are shown, so it must be new.
        now: unix seconds.
        context: what the call says about itself, for targeting. excluded: items not to be shown.
        generator: for pacing and exploration.
    """

    request_id: str
    user_id: str
    slots: int
    now: float
    generator: np.random.Generator
    context: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Taker:
    """A campaign that takes part in an auction."""

    campaign: Campaign
    bid_micros: int
    """Its bid, or what is left of its budget."""
    pass_rate: float
    """The probability with which it takes part."""


@dataclass(frozen=True, slots=True)
class ShownAd:
    """An ad that is shown and noted as such."""

    impression_id: str
    placement: Placement
    model_probability: float
    """Of a click, before calibration."""


def serve_ads(
    known: KnownCampaigns, request: AdRequest, *, reads: Sequence[tuple[Any, ...]], admit: Admit, score: Score
) -> Generator[Any, Any, list[ShownAd]]:
    """The ads for one request, best first, noted as shown.

    Args:
        reads: commands of the caller, sent along with the reading of the counters.
        admit: see :data:`Admit`; it is called once, even if no campaign runs.
        score: see :data:`Score`; it is not called if no campaign takes part.

    Raises:
        StoreUnavailable, DeadlineExceeded: for Redis; and what the caller's functions raise.
    """
    revision, book = known.current or (yield from known.read())
    for _ in range(_ATTEMPTS):
        running = _running(book, request)
        day, second = book.settings.day(request.now)
        query = StateQuery(running, day, request.user_id)
        replies = yield Commands((*reads, *query.commands(known.keys)))
        state = query.parse(replies[len(reads) :])
        if state.revision == revision:
            break
        revision, book = yield from known.read()
    else:
        raise StoreUnavailable(f"the campaigns were changed {_ATTEMPTS} times within one request; call again")
    admitted = admit(book, replies[: len(reads)], running)
    takers = {
        campaign_id: taker
        for campaign_id, taker in take_part(book, state, admitted, request, day, second).items()
        if admitted[campaign_id]
    }
    if not takers:
        return []
    items = list(dict.fromkeys(item for campaign_id in takers for item in admitted[campaign_id]))
    probabilities = yield from score(items)
    bids = _bids(takers, admitted, probabilities, query, state, book.settings, request.generator)
    placed = hold_auction(
        bids, request.slots, reserve_micros=book.settings.reserve_micros, quality_floor=book.settings.quality_floor
    )
    shown = [
        ShownAd(f"{request.request_id}:{place}", placement, probabilities[placement.bid.item_id])
        for place, placement in enumerate(placed, 1)
    ]
    taken = yield from note_served(
        known.keys,
        [_served(ad, book) for ad in shown],
        user_id=request.user_id,
        day=day,
        click_window=60 * book.settings.click_window_minutes,
    )
    return [ad for ad, is_taken in zip(shown, taken, strict=True) if is_taken]


def click_ad(known: KnownCampaigns, impression_id: str, *, now: float) -> Generator[Commands, list[Any], AdClick]:
    """Charge the click on an ad, once.

    Args:
        now: unix seconds; the click belongs to the day of this moment.

    Raises:
        StoreUnavailable, DeadlineExceeded: for Redis; the click may be counted, and calling again is safe.
    """
    revision, book = known.current or (yield from known.read())
    (text,) = yield Commands((("GET", known.keys.ads_revision),))
    if stored_number(text, "the campaigns' revision") != revision:
        _, book = yield from known.read()
    day, _ = book.settings.day(now)
    return (yield from charge_click(known.keys, impression_id, day=day))


def take_part(
    book: CampaignBook, state: State, campaigns: Creatives, request: AdRequest, day: int, second: float
) -> dict[str, Taker]:
    """Of some campaigns those that may and do take part: they have budget, the user's cap is not reached, and pacing
    lets them.

    Args:
        state: has counts of all these campaigns.
        day, second: the moment of the request, see :meth:`AuctionSettings.day`.
    """
    settings = book.settings
    begins = settings.day_begins(day)
    takers = {}
    draws = request.generator.random(len(campaigns))
    for campaign_id, draw in zip(campaigns, draws.tolist(), strict=True):
        campaign = book.by_id[campaign_id]
        today, spent, shown = (
            0 if counts is None else counts[campaign_id] for counts in (state.today, state.spent, state.shown)
        )
        budget = campaign.budget_of_day(spent - today)
        bid = min(campaign.bid_micros, budget - today)
        capped = campaign.most_per_user_per_day is not None and shown >= campaign.most_per_user_per_day
        if bid < settings.reserve_micros or capped:
            continue
        rate = 1.0
        if settings.pace:
            rate = pass_rate(
                second,
                campaign.window(begins),
                settings.forecast,
                spent=today,
                budget=budget,
                bid=campaign.bid_micros,
                ahead=60 * settings.ahead_minutes,
            )
        if draw < rate:
            takers[campaign_id] = Taker(campaign, bid, rate)
    return takers


def factors_of(query: StateQuery, state: State, prior_clicks: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the model's probabilities are to be multiplied with.

    Returns:
        For each item of each campaign of the query, in order, its factor and how far that may be off (see
        :func:`draw_spread`): two of float64 ``[creatives]``.
    """
    clicks, expected = np.array(state.clicks, np.float64), np.array(state.expected, np.float64)
    first = 1 + len(query.campaigns)
    sizes = [len(items) for items in query.campaigns.values()]
    overall = shrunk_factor(1.0, prior_clicks, clicks[0], expected[0])
    campaigns = shrunk_factor(overall, prior_clicks, clicks[1:first], expected[1:first])
    factors = shrunk_factor(np.repeat(campaigns, sizes), prior_clicks, clicks[first:], expected[first:])
    return factors, draw_spread(prior_clicks, clicks[first:])


def _running(book: CampaignBook, request: AdRequest) -> dict[str, list[str]]:
    """The campaigns that run now and suit the call, and which of their items may be shown."""
    return {
        campaign.campaign_id: [item for item in campaign.items if item not in request.excluded]
        for campaign in book.campaigns
        if not campaign.paused
        and campaign.starts_at <= request.now < campaign.ends_at
        and campaign.targeting.admits(request.context)
    }


def _bids(
    takers: Mapping[str, Taker],
    admitted: Creatives,
    probabilities: Mapping[str, float],
    query: StateQuery,
    state: State,
    settings: AuctionSettings,
    generator: np.random.Generator,
) -> list[Bid]:
    """A bid for each creative of each campaign that takes part."""
    factors, spreads = (each.tolist() for each in factors_of(query, state, settings.prior_clicks))
    draws = generator.standard_normal(len(factors)).tolist()
    if not settings.explore:
        spreads = draws = [0.0] * len(factors)
    bids, first = [], 0
    for campaign_id, items in query.campaigns.items():
        if (taker := takers.get(campaign_id)) is not None:
            allowed = admitted[campaign_id]
            for at, item in enumerate(items, first):
                if item in allowed:
                    chance = min(1.0, probabilities[item] * factors[at])
                    bids.append(
                        Bid(campaign_id, item, taker.bid_micros, chance, spreads[at], draws[at], taker.pass_rate)
                    )
        first += len(items)
    return bids


def _served(ad: ShownAd, book: CampaignBook) -> Served:
    bid = ad.placement.bid
    cap = book.by_id[bid.campaign_id].most_per_user_per_day
    return Served(ad.impression_id, bid.campaign_id, bid.item_id, ad.placement.price_micros, ad.model_probability, cap)
