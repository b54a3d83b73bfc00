"""A process that serves ads in a simulated day: one of many that share the campaigns and a Redis, and nothing else."""

from __future__ import annotations

import heapq
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np

from recsys_plugin.ads.serving import AdRequest, Creatives, KnownCampaigns, click_ad, serve_ads
from recsys_plugin.bench.ad_market import AdMarket, MarketOptions
from recsys_plugin.errors import RecsysError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.reader import FeatureReader

__all__ = ["AdLog", "AdPlan", "AdServer", "serve_day"]

_Result = TypeVar("_Result")
_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class AdPlan:
    """What a process serves; it is sent to it, so it is plain data."""

    redis_url: str
    project: str
    market: MarketOptions
    seed: int


@dataclass(slots=True)
class AdLog:
    """What a process saw.

    Attributes:
        shown: for each ad: moment, campaign number, probability of a click by the model, and calibrated.
        clicks: for each click: moment, campaign number, price and what was charged, micro-units.
        milliseconds: for each request: without the click model, and without waiting for Redis as well.
        cpu_seconds: processor time of the process, for requests, users and clicks.
    """

    shown: list[tuple[float, int, float, float]] = field(default_factory=list)
    clicks: list[tuple[float, int, int, int]] = field(default_factory=list)
    milliseconds: list[tuple[float, float]] = field(default_factory=list)
    cpu_seconds: float = 0.0


def serve_day(connection: Connection, plan: AdPlan, counter: Any) -> None:
    """Serve requests of the day, whichever comes next, until there are none left; send back what was seen.

    Time is what the number of the request says, and all processes take their numbers from one counter: so their clocks
    agree, as those of servers do, though the day is over in minutes.

    Args:
        connection: takes the :class:`AdLog`, or the error that ended it. The first thing sent says that it is ready.
        counter: the number of requests begun, shared between the processes, with its lock.
    """
    try:
        server = AdServer(plan)
        connection.send("ready")
        connection.recv()
        began = time.process_time()
        while True:
            with counter.get_lock():
                number = counter.value
                counter.value += 1
            if number >= plan.market.auctions:
                break
            server.serve(number)
        server.click_until(np.inf)
        server.log.cpu_seconds = time.process_time() - began
        server.close()
        connection.send(server.log)
    except RecsysError as error:
        connection.send(error)


class AdServer:
    """One server of ads, and the users in front of it.

    Args:
        plan: names Redis, where the campaigns must be loaded, and the market.
    """

    def __init__(self, plan: AdPlan) -> None:
        self.log = AdLog()
        self._market = AdMarket(plan.market, plan.seed)
        self._plan = plan
        self._known = KnownCampaigns(EventKeys(plan.project))
        self._reader = FeatureReader(RedisAddress.parse(plan.redis_url), timeout=_TIMEOUT)
        self._waiting: list[tuple[float, str]] = []
        # Seconds of a request in the click model and waiting for Redis.
        self._modelling = self._waited = 0.0

    def serve(self, number: int) -> None:
        """One request, after the clicks that were due before it."""
        now = self._market.moment(number)
        self.click_until(now)
        user, page = self._market.caller(number)
        request = AdRequest(
            request_id=f"{self._plan.seed}-{number}",
            user_id=f"user-{user}",
            slots=self._plan.market.slots,
            now=now,
            generator=self._market.generator(number, 1),
            context={"page": page},
        )

        def score(items: Sequence[str]) -> Generator[Any, Any, Mapping[str, float]]:
            yield from ()  # a model in this process: nobody is asked
            began = time.perf_counter()
            said = self._market.model(user, items)
            self._modelling += time.perf_counter() - began
            return said

        self._modelling = self._waited = 0.0
        began = time.perf_counter()
        ads = self._run(serve_ads(self._known, request, reads=(), admit=_everybody, score=score))
        taken = time.perf_counter() - began - self._modelling
        self.log.milliseconds.append((1000 * taken, 1000 * (taken - self._waited)))
        behaviour = self._market.generator(number, 2)
        for place, ad in enumerate(ads):
            bid, looked = ad.placement.bid, self._market.examined(place)
            campaign = int(bid.campaign_id.rpartition("-")[2])
            self.log.shown.append((now, campaign, ad.model_probability, bid.probability))
            (rate,) = self._market.click_rates(user, [bid.item_id])
            if behaviour.random() < rate * looked:
                due = now + behaviour.exponential(self._plan.market.click_delay)
                heapq.heappush(self._waiting, (due, ad.impression_id))

    def click_until(self, moment: float) -> None:
        """The clicks that are due before a moment."""
        while self._waiting and self._waiting[0][0] < moment:
            due, impression_id = heapq.heappop(self._waiting)
            click = self._run(click_ad(self._known, impression_id, now=due))
            campaign = int(str(click.campaign_id).rpartition("-")[2])
            self.log.clicks.append((due, campaign, click.price_micros, click.charged_micros))

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def _run(self, flow: Generator[Any, Any, _Result]) -> _Result:
        try:
            call = next(flow)
            while True:
                began = time.perf_counter()
                answer = self._reader.execute(call.commands, timeout=_TIMEOUT)
                self._waited += time.perf_counter() - began
                call = flow.send(answer)
        except StopIteration as end:
            result: _Result = end.value
            return result


def _everybody(_: Any, __: Sequence[Any], campaigns: Creatives) -> Creatives:
    """No campaign here has conditions on users, and all items are known."""
    return campaigns
