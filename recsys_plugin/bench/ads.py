"""A simulated day of ads: do budgets hold with many servers, is spend even, and what does pacing cost or earn."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.ads.operations import Campaigns
from recsys_plugin.ads.pacing import planned_share
from recsys_plugin.bench.ad_market import DAY_BEGINS, DAY_ENDS, AdMarket, MarketOptions
from recsys_plugin.bench.ads_driver import AdLog, AdPlan, AdServer, serve_day
from recsys_plugin.bench.machine import describe_machine, load_average, package_versions, redis_version
from recsys_plugin.bench.processes import SPAWN, answer_of, started
from recsys_plugin.bench.report import Report
from recsys_plugin.bench.shop import Tell
from recsys_plugin.bench.timing import Samples
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["GREEDY", "GRID", "PACED", "AdDay", "measure_ads"]

PACED, GREEDY = "paced", "greedy"
_Floats = NDArray[np.float64]

#: Seconds of the day at which spend is looked at: every ten minutes.
GRID: _Floats = np.arange(0.0, 86_401.0, 600.0)
#: Seconds that a process may take to become ready, and to answer after the last request.
_PATIENCE = 180.0
_LOOK = 0.5
_WHAT = "a process that serves ads"
#: Requests that one process serves alone.
_ALONE = 2_000


@dataclass(frozen=True, slots=True)
class AdDay:
    """What one way of serving made of the day.

    Attributes:
        book: the campaigns. spent: campaign → micro-units, as Redis counted them.
        charged: campaign → micro-units, as the servers were told.
        curves: share of what was spent by the end that was spent by each moment of :data:`GRID`, float64
            ``[campaigns, moments]``; 0 for a campaign that spent nothing.
        planned: the share that pacing plans, alike.
        log: what all servers saw together; clicks that came after midnight belong to the next day, and are left out.
        seconds: how long the day took.
    """

    book: CampaignBook
    spent: Mapping[str, int]
    charged: Mapping[str, int]
    curves: _Floats
    planned: _Floats
    log: AdLog
    seconds: float

    @property
    def limits(self) -> dict[str, int]:
        """What each campaign may spend on the day."""
        return {
            each.campaign_id: min(each.budget_per_day_micros, each.budget_micros or each.budget_per_day_micros)
            for each in self.book.campaigns
        }

    @property
    def over_by_bids(self) -> _Floats:
        """How much more than its budget each campaign spent, in bids; below 0 for what was left. ``[campaigns]``"""
        return np.array([
            (max(self.spent[each.campaign_id], self.charged[each.campaign_id]) - self.limits[each.campaign_id])
            / each.bid_micros
            for each in self.book.campaigns
        ])  # fmt: skip

    @property
    def used_up(self) -> NDArray[np.bool_]:
        """Campaigns that spent their budget but for one bid. ``[campaigns]``"""
        return self.over_by_bids > -1.0

    @property
    def deviations(self) -> _Floats:
        """The largest distance between what a campaign spent and what was planned, as a share of its budget.

        ``[campaigns]``
        """
        limits, spent = (np.array(list(each.values()), np.float64) for each in (self.limits, self.spent))
        return np.asarray(np.abs(self.curves * (spent / limits)[:, None] - self.planned).max(axis=1))


def measure_ads(market: MarketOptions, *, clients: int, seed: int, tell: Tell) -> tuple[Report, dict[str, AdDay]]:
    """Serve the same day twice, with pacing and without, each by so many processes at once.

    Args:
        market: what is simulated. clients: processes that serve. seed: fixes users, clicks and chance.
        tell: told what is under way, how much is done, and of how much.

    Raises:
        StepFailed: if a process ends. StoreUnavailable: if Redis fails.
    """
    machine = {**describe_machine(), "load_average_before": load_average()}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-")))
        url = stack.enter_context(Services(Settings(home=folder)).ensure_redis())
        report = Report("Ads", machine, {**package_versions(), "redis-server": redis_version(url)})
        report.add_samples("alone.auction", _alone(AdPlan(url, "alone", market, seed)))
        days = {
            way: _serve(AdPlan(url, way, market, seed), way == PACED, clients=clients, tell=tell)
            for way in (PACED, GREEDY)
        }
    for way, day in days.items():
        _add_figures(report, way, day)
    paced, greedy = (sum(days[way].spent.values()) for way in (PACED, GREEDY))
    report.add("paced_to_greedy.revenue_ratio", paced / greedy)
    report.add(
        "paced_to_greedy.clicks_per_spend_ratio",
        (len(days[PACED].log.clicks) / paced) / (len(days[GREEDY].log.clicks) / greedy),
    )
    report.machine["load_average_after"] = load_average()
    report.notes += [
        f"seed {seed}; {market.auctions:,} requests for {market.slots} ads each by {clients} processes on one Redis of "
        f"their own, {market.campaigns} campaigns, {market.users:,} users; clicks come {market.click_delay:g} s after "
        "the ad on average; the clock is simulated, auctions and budgets are the served code",
        "greedy: the same campaigns and users without pacing: each takes part until its budget is spent",
        "deviation: the largest distance between the curve of what a campaign spent and its plan, in shares of its "
        "budget, over campaigns that spent theirs but for one bid with pacing; both ways over the same campaigns",
        "auction: a whole request without the click model; arithmetic: without the two round trips to Redis as well; "
        "alone: by one process before the day, of which nothing else is kept; client_cpu_ms is the servers' processor "
        "time for each request, with the click model, the user and his clicks",
        "calibration: clicks that were expected for each click that there was, from noon on",
    ]
    evened = days[PACED].used_up
    for way, day in days.items():
        if evened.any():
            report.add(f"{way}.deviation.median", float(np.median(day.deviations[evened])))
            report.add(f"{way}.deviation.mean", float(day.deviations[evened].mean()))
            report.add(f"{way}.deviation.largest", float(day.deviations[evened].max()))
    return report, days


def _add_figures(report: Report, way: str, day: AdDay) -> None:
    clicks, shown = day.log.clicks, np.array(day.log.shown)
    over = day.over_by_bids
    report.add_samples(f"{way}.auction", _samples(day.log))
    report.add(f"{way}.client_cpu_ms", 1000 * day.log.cpu_seconds / len(day.log.milliseconds))
    report.add(f"{way}.auctions_per_second", len(day.log.milliseconds) / day.seconds)
    report.add(f"{way}.ads_shown", len(shown))
    report.add(f"{way}.clicks", len(clicks))
    report.add(f"{way}.revenue", sum(day.spent.values()) / 1e6)
    report.add(f"{way}.free_clicks_value", sum(price - charged for _, _, price, charged in clicks) / 1e6)
    report.add(f"{way}.campaigns_over_budget", int((over > 0.0).sum()))
    report.add(f"{way}.most_over_budget_in_bids", max(0.0, float(over.max())))
    report.add(f"{way}.campaigns_used_up", int(day.used_up.sum()))
    report.add(f"{way}.counted_differently", sum(day.spent[each] != day.charged[each] for each in day.spent))
    late = shown[shown[:, 0] >= DAY_BEGINS + 43_200] if len(shown) else shown
    clicked = sum(moment >= DAY_BEGINS + 43_200 for moment, *_ in clicks)
    if clicked:
        report.add(f"{way}.calibration.model", float(late[:, 2].sum()) / clicked)
        report.add(f"{way}.calibration.calibrated", float(late[:, 3].sum()) / clicked)


def _alone(plan: AdPlan) -> Samples:
    """Requests from the middle of the day, one after the other."""
    with Campaigns(plan.redis_url, plan.project) as campaigns:
        campaigns.load(AdMarket(plan.market, plan.seed).book(pace=True))
    first = plan.market.auctions // 2
    with contextlib.closing(AdServer(plan)) as server:
        for number in range(first, first + min(_ALONE, plan.market.auctions - first)):
            server.serve(number)
    return _samples(server.log)


def _samples(log: AdLog) -> Samples:
    whole, inner = np.array(log.milliseconds).T
    return Samples(whole, {"arithmetic": inner})


def _serve(plan: AdPlan, pace: bool, *, clients: int, tell: Tell) -> AdDay:
    """One day, by processes that know nothing of one another."""
    market = AdMarket(plan.market, plan.seed)
    book = market.book(pace=pace)
    with Campaigns(plan.redis_url, plan.project, clock=lambda: DAY_ENDS - 1.0) as campaigns:
        campaigns.load(book)
        logs, seconds = _drive(plan, clients, tell, f"a day, {plan.project}")
        spent = {each.campaign_id: each.spent_today for each in campaigns.status()}
    log = AdLog()
    for each in logs:
        log.shown += each.shown
        log.clicks += [click for click in each.clicks if click[0] < DAY_ENDS]
        log.milliseconds += each.milliseconds
        log.cpu_seconds += each.cpu_seconds
    return _day(book, spent, log, seconds)


def _day(book: CampaignBook, spent: Mapping[str, int], log: AdLog, seconds: float) -> AdDay:
    charged = dict.fromkeys(spent, 0)
    ids = list(spent)
    curves = np.zeros((len(ids), len(GRID)))
    for moment, number, _, micros in log.clicks:
        charged[ids[number]] += micros
        curves[number, moment - DAY_BEGINS <= GRID] += micros
    curves /= np.maximum(curves[:, -1:], 1.0)
    planned = np.array([
        [planned_share(second, each.window(DAY_BEGINS), book.settings.forecast) for second in GRID.tolist()]
        for each in book.campaigns
    ])  # fmt: skip
    return AdDay(book, spent, charged, curves, planned, log, seconds)


def _drive(plan: AdPlan, clients: int, tell: Tell, what: str) -> tuple[list[AdLog], float]:
    counter = SPAWN.Value("q", 0)
    total = plan.market.auctions
    with started(serve_day, [(plan, counter)] * clients, what=_WHAT, patience=_PATIENCE) as connections:
        began = time.monotonic()
        for connection in connections:
            connection.send("go")
        busy = set(connections)
        while busy:
            # The connection of a process that ended can be read, too, and says so below.
            busy.difference_update(each for each in wait(busy, timeout=_LOOK) if isinstance(each, Connection))
            tell(what, min(counter.value, total), total)
        seconds = time.monotonic() - began
        return [answer_of(each, AdLog, what=_WHAT, patience=_PATIENCE) for each in connections], seconds
