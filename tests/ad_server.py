"""A server of ads without models: every item is clicked with the same probability."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from recsys_plugin.ads.book import AuctionSettings, CampaignBook
from recsys_plugin.ads.campaign import Campaign
from recsys_plugin.ads.operations import Campaigns
from recsys_plugin.ads.serving import AdRequest, KnownCampaigns, ShownAd, click_ad, serve_ads
from recsys_plugin.ads.store import AdClick
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.reader import FeatureReader

__all__ = ["NOON", "AdServer", "campaign", "load"]

_Result = TypeVar("_Result")

#: Of 14 November 2023, UTC.
NOON = 1_699_963_200.0


def campaign(name: str, *items: str, bid: int = 100, budget: int = 10_000, **more: Any) -> Campaign:
    return Campaign(
        campaign_id=name,
        items=items or (f"{name}-item",),
        bid_micros=bid,
        budget_per_day_micros=budget,
        **more,
    )


def load(url: str, *campaigns: Campaign, **settings: Any) -> None:
    """Without pacing and exploration unless said otherwise."""
    with Campaigns(url) as there:
        there.load(CampaignBook(campaigns, AuctionSettings(**{"pace": False, "explore": False, **settings})))


class AdServer:
    """One of any number of servers on a Redis."""

    def __init__(self, url: str, *, reads: Sequence[tuple[Any, ...]] = ()) -> None:
        self.known = KnownCampaigns(EventKeys("recsys"))
        self.round_trips = 0
        self._reads = reads
        self._reader = FeatureReader(RedisAddress.parse(url), timeout=30.0)
        self._generator = np.random.default_rng(1)

    def ads(
        self,
        request_id: str,
        slots: int = 1,
        *,
        user: str = "ann",
        now: float = NOON,
        context: Mapping[str, str] | None = None,
        excluded: Sequence[str] = (),
    ) -> list[ShownAd]:
        request = AdRequest(
            request_id, user, slots, now, self._generator, context=context or {}, excluded=frozenset(excluded)
        )

        def score(items: Sequence[str]) -> Generator[Any, Any, Mapping[str, float]]:
            yield from ()
            return dict.fromkeys(items, 0.1)

        return self.run(serve_ads(self.known, request, reads=self._reads, admit=lambda *given: given[-1], score=score))

    def shown(self, request_id: str, slots: int = 1, **more: Any) -> list[str]:
        """The campaigns that are shown."""
        return [ad.placement.bid.campaign_id for ad in self.ads(request_id, slots, **more)]

    def click(self, impression_id: str, *, now: float = NOON) -> AdClick:
        return self.run(click_ad(self.known, impression_id, now=now))

    def close(self) -> None:
        self._reader.close()

    def run(self, flow: Generator[Any, Any, _Result]) -> _Result:
        try:
            call = next(flow)
            while True:
                self.round_trips += 1
                call = flow.send(self._reader.execute(call.commands, timeout=30.0))
        except StopIteration as end:
            result: _Result = end.value
            return result
