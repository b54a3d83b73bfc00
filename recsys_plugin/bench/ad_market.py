"""A shop with campaigns whose click model is known: who asks when, what the model says, and who clicks.

Users and items have tastes; how likely a click is follows from how well they agree. The model that the auction is given
is off: too high on the whole (as one of purchases is for clicks), wrong by a factor for each item, and noisy. Traffic
has a shape that the forecast knows only roughly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.ads.book import AuctionSettings, CampaignBook
from recsys_plugin.ads.campaign import Campaign, Targeting

__all__ = ["DAY_BEGINS", "DAY_ENDS", "AdMarket", "MarketOptions"]

_Floats = NDArray[np.float64]

#: The simulated day is the 1st of January 2026, UTC.
DAY_BEGINS = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_DAY = 86_400.0
DAY_ENDS = DAY_BEGINS + _DAY
#: Visits to a shop by the hour, in any unit: quiet at night, a lunch break, most in the evening.
_SHAPE = (3, 2, 1, 1, 1, 2, 4, 7, 9, 10, 11, 13, 14, 12, 11, 11, 12, 14, 17, 20, 21, 18, 12, 6)
#: A click on the second slot is so much less likely, and so on.
_EXAMINED = 0.75
_TASTES = 6
_PAGES = ("home", "category", "search")


@dataclass(frozen=True, slots=True)
class MarketOptions:
    """How large the market is.

    Attributes:
        auctions: requests for ads in the day. campaigns, users: how many. slots: ads asked for in a request.
        click_rate: of a typical ad in the first slot. bias: what the model's probabilities are too high by.
        click_delay: seconds from an ad to its click, on average.
    """

    auctions: int = 200_000
    campaigns: int = 40
    users: int = 20_000
    slots: int = 2
    click_rate: float = 0.02
    bias: float = 3.0
    click_delay: float = 30.0


class AdMarket:
    """One day of a market; the same options and seed make the same one in every process."""

    def __init__(self, options: MarketOptions, seed: int) -> None:
        self.options, self.seed = options, seed
        generator = np.random.default_rng(seed)
        sizes = generator.integers(1, 5, options.campaigns)
        items = int(sizes.sum())
        self._users = generator.standard_normal((options.users, _TASTES))
        self._items = generator.standard_normal((items, _TASTES)) / np.sqrt(_TASTES)
        self._noise = generator.standard_normal((items, _TASTES)) / np.sqrt(_TASTES)
        self._base = options.click_rate * np.exp(generator.normal(-0.3, 0.4, items))
        self._wrong = options.bias * np.exp(generator.normal(0.0, 0.4, items))
        self._traffic = np.array(_SHAPE) * np.exp(generator.normal(0.0, 0.1, 24))
        self.rows = {f"item-{number}": number for number in range(items)}
        ends = np.cumsum(sizes)
        self._campaigns = tuple(
            _campaign(number, tuple(f"item-{row}" for row in range(end - size, end)), options, generator)
            for number, (size, end) in enumerate(zip(sizes.tolist(), ends.tolist(), strict=True))
        )

    def book(self, *, pace: bool) -> CampaignBook:
        """The campaigns; without pacing each takes part in all auctions until its budget is spent."""
        return CampaignBook(
            self._campaigns, AuctionSettings(reserve_micros=10_000, traffic=tuple(map(float, _SHAPE)), pace=pace)
        )

    def moment(self, number: int) -> float:
        """When the request of a number, from 0, is made: unix seconds."""
        share = (number + 0.5) / self.options.auctions
        return DAY_BEGINS + float(np.interp(share, self._before, np.arange(25) * _DAY / 24))

    def caller(self, number: int) -> tuple[int, str]:
        """The user of a request and the page that it is for."""
        drawn = self.generator(number, 0)
        return int(drawn.integers(self.options.users)), _PAGES[int(drawn.integers(len(_PAGES)))]

    def generator(self, number: int, purpose: int) -> np.random.Generator:
        """The randomness of one request, for one purpose: the same whoever makes it."""
        return np.random.default_rng((self.seed, purpose, number))

    def click_rates(self, user: int, items: Sequence[str]) -> _Floats:
        """The probabilities that a user clicks items in the first slot, float64 ``[items]``."""
        rows = [self.rows[item] for item in items]
        rates: _Floats = np.minimum(0.5, self._base[rows] * np.exp(0.7 * self._items[rows] @ self._users[user]))
        return rates

    def model(self, user: int, items: Sequence[str]) -> Mapping[str, float]:
        """What the model says instead."""
        rows = [self.rows[item] for item in items]
        noise = np.exp(0.2 * self._noise[rows] @ self._users[user])
        said = np.minimum(0.95, self.click_rates(user, items) * self._wrong[rows] * noise)
        return dict(zip(items, said.tolist(), strict=True))

    def examined(self, place: int) -> float:
        """How likely a slot, counted from 0, is looked at."""
        return math.pow(_EXAMINED, place)

    @cached_property
    def _before(self) -> _Floats:
        """The share of the day's requests before each hour, and before its end."""
        return np.asarray(np.append(0.0, np.cumsum(self._traffic)) / self._traffic.sum(), np.float64)


def _campaign(number: int, items: tuple[str, ...], options: MarketOptions, generator: np.random.Generator) -> Campaign:
    """One campaign; every so many have a further restriction."""
    bid = int(200_000 * np.exp(generator.normal(0.0, 0.5)))
    clicks = generator.uniform(40, 500) * options.auctions / 200_000 * 40 / options.campaigns
    made = Campaign(
        campaign_id=f"campaign-{number:03}",
        items=items,
        bid_micros=bid,
        budget_per_day_micros=int(bid * max(3.0, clicks)),
    )
    match number % 8:
        case 1:
            return replace(made, targeting=Targeting(context={"page": _PAGES[:2]}))
        case 3:
            return replace(made, most_per_user_per_day=2)
        case 5:
            return replace(made, start="2026-01-01T09:00:00Z", end="2026-01-01T21:00:00Z")
        case 7:
            return replace(made, budget_micros=max(bid, int(0.8 * made.budget_per_day_micros)))
    return made
