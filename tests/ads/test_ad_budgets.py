"""Campaigns in a real Redis: budgets, caps, clicks and changes, by several servers at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ad_server import NOON, AdServer, campaign, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.ads.campaign import Targeting
from recsys_plugin.ads.operations import Campaigns, CampaignStatus
from recsys_plugin.ads.store import Served, note_served
from recsys_plugin.errors import InvalidInput, StoreUnavailable
from recsys_plugin.events.keys import EventKeys

DAY = 86_400.0
KEYS = EventKeys("recsys")


@pytest.fixture
def server(event_redis: Any) -> Iterator[AdServer]:
    made = AdServer(event_redis.url)
    yield made
    made.close()


def status(url: str, *, now: float = NOON) -> dict[str, CampaignStatus]:
    with Campaigns(url, clock=lambda: now) as campaigns:
        return {each.campaign_id: each for each in campaigns.status()}


def test_a_click_is_charged_once(event_redis: Any, server: AdServer) -> None:
    load(event_redis.url, campaign("tea", bid=100), campaign("cup", bid=80))
    (ad,) = server.ads("r1")
    assert (ad.placement.bid.campaign_id, ad.placement.price_micros) == ("tea", 80)
    first, again = server.click(ad.impression_id), server.click(ad.impression_id)
    assert (first.state, first.charged_micros, first.price_micros) == ("charged", 80, 80)
    assert (first.campaign_id, first.item_id) == ("tea", "tea-item")
    assert (again.state, again.charged_micros) == ("duplicate", 80)
    assert server.click("never shown").state == "unknown"
    found = status(event_redis.url)["tea"]
    assert (found.spent_today, found.spent, found.shown_today, found.clicks_today) == (80, 80, 1, 1)
    assert status(event_redis.url, now=NOON + DAY)["tea"].spent_today == 0


def test_without_campaigns_there_are_no_ads(event_redis: Any, server: AdServer) -> None:
    assert server.ads("r1") == []
    load(event_redis.url)
    assert server.ads("r2") == []
    assert status(event_redis.url) == {}


def test_one_round_trip_reads_and_one_notes(event_redis: Any, server: AdServer) -> None:
    load(event_redis.url, campaign("tea"), campaign("cup"))
    server.ads("r1", 2)
    before = server.round_trips
    server.ads("r2", 2)
    assert server.round_trips == before + 2


def test_a_paused_campaign_is_gone_at_the_next_request(event_redis: Any, server: AdServer) -> None:
    load(event_redis.url, campaign("tea", bid=200), campaign("cup"))
    assert server.shown("r1", 2) == ["tea", "cup"]
    clicked_later = server.ads("r2")[0]
    with Campaigns(event_redis.url) as campaigns:
        campaigns.set_paused("tea", True)
        assert server.shown("r3", 2) == ["cup"]
        assert server.click(clicked_later.impression_id).state == "charged"
        assert status(event_redis.url)["tea"].state == "paused"
        campaigns.set_paused("tea", False)
        assert server.shown("r4", 2) == ["tea", "cup"]
        with pytest.raises(InvalidInput, match="there is no campaign 'pot'"):
            campaigns.set_paused("pot", True)


def test_a_campaign_that_is_paused_within_a_request_is_not_noted(event_redis: Any, server: AdServer) -> None:
    """Between reading the counters and noting what won, others may change everything."""
    load(event_redis.url, campaign("tea", paused=True), campaign("cup"))
    ads = [Served("i1", "tea", "x", 5, 0.1, None), Served("i2", "cup", "x", 5, 0.1, None)]
    ads.append(Served("i3", "gone", "x", 5, 0.1, None))
    assert server.run(note_served(KEYS, ads, user_id="ann", day=1, click_window=60)) == [False, True, False]
    # An impression id is used once.
    assert server.run(note_served(KEYS, ads[1:2], user_id="ann", day=1, click_window=60)) == [False]


def test_a_campaign_that_runs_out_is_gone_at_the_next_request(event_redis: Any, server: AdServer) -> None:
    load(event_redis.url, campaign("tea", bid=200, budget=250), campaign("cup", bid=150, budget=10_000))
    (first,) = server.ads("r1")
    assert first.placement.price_micros == 150
    assert server.click(first.impression_id).charged_micros == 150
    # 100 are left, so that is what it can bid now.
    placed = {ad.placement.bid.campaign_id: ad for ad in server.ads("r2", 2)}
    assert placed["tea"].placement.bid.bid_micros == 100
    clicked = 0
    while "tea" in placed:
        clicked += server.click(placed["tea"].impression_id).charged_micros
        placed = {ad.placement.bid.campaign_id: ad for ad in server.ads(f"s{clicked}", 2)}
    assert clicked == 100
    assert status(event_redis.url)["tea"].spent_today == 250
    assert server.shown("r3", 2) == ["cup"]
    assert status(event_redis.url)["tea"].state == "spent today"
    assert server.shown("r4", 2, now=NOON + DAY) == ["tea", "cup"]


def test_the_budget_of_all_days(event_redis: Any, server: AdServer) -> None:
    """150 in all: a day spends 100, the next the other 50."""
    load(event_redis.url, campaign("tea", bid=100, budget=100, budget_micros=150), reserve_micros=50)
    for day, states in ((0, ("running", "spent today")), (1, ("spent",))):
        now = NOON + day * DAY
        for number, state in enumerate(states):
            (ad,) = server.ads(f"{day}-{number}", now=now)
            assert server.click(ad.impression_id, now=now).charged_micros == 50
            assert status(event_redis.url, now=now)["tea"].state == state
        assert server.ads(f"{day}-none", now=now) == []
    assert server.ads("later", now=NOON + 2 * DAY) == []
    load(event_redis.url, campaign("tea", bid=100, budget=100, budget_micros=200), reserve_micros=50)
    assert server.shown("more", now=NOON + 2 * DAY) == ["tea"]


def test_budgets_hold_when_many_click_at_once(event_redis: Any) -> None:
    """400 ads of a campaign that can pay 10: shown by 16 servers before any click, clicked twice by all of them."""
    load(event_redis.url, campaign("tea", bid=100, budget=1_000), reserve_micros=100)
    servers = [AdServer(event_redis.url) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        shown = list(pool.map(lambda n: servers[n % 16].ads(f"r{n}", user=f"u{n}")[0], range(400)))
        twice = list(pool.map(lambda n: servers[n % 16].click(shown[n % 400].impression_id), range(800)))
    assert {ad.placement.bid.campaign_id for ad in shown} == {"tea"}
    assert sum(click.charged_micros for click in twice if click.state == "charged") == 1_000
    assert sum(click.state == "charged" for click in twice) == 400
    found = status(event_redis.url)["tea"]
    assert (found.spent_today, found.spent, found.clicks_today, found.free_today) == (1_000, 1_000, 400, 39_000)
    for server in servers:
        server.close()


def test_frequency_caps_hold_when_one_user_asks_at_once(event_redis: Any) -> None:
    load(event_redis.url, campaign("tea", most_per_user_per_day=3), campaign("cup", bid=50))
    servers = [AdServer(event_redis.url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        shown = list(pool.map(lambda n: servers[n % 8].shown(f"r{n}"), range(40)))
    assert sum("tea" in each for each in shown) == 3
    assert servers[0].shown("after") == ["cup"]
    assert servers[0].shown("other", user="bob") == ["tea"]
    assert servers[0].shown("tomorrow", now=NOON + DAY) == ["tea"]
    with event_redis.connect() as client:
        assert 0 < client.ttl(KEYS.ads_shown(19_675, "ann")) <= 2 * DAY
    for server in servers:
        server.close()


def test_what_is_not_for_this_call_is_left_out(event_redis: Any, server: AdServer) -> None:
    load(
        event_redis.url,
        campaign("home", targeting=Targeting(context={"page": ("home",)})),
        campaign("later", start="2023-11-14T13:00:00Z"),
        campaign("past", end="2023-11-14T12:00:00Z"),
        campaign("two", "x", "y"),
    )
    assert server.shown("r1", 9) == ["two"]
    assert set(server.shown("r2", 9, context={"page": "home"})) == {"home", "two"}
    assert set(server.shown("r3", 9, now=NOON + 3600)) == {"later", "two"}
    assert [ad.placement.bid.item_id for ad in server.ads("r4", excluded=["x"])] == ["y"]
    assert server.ads("r5", excluded=["x", "y"]) == []


def test_clicks_move_the_calibration(event_redis: Any, server: AdServer) -> None:
    """Two campaigns alike to the model; the one that is clicked comes first from then on, though it bids less."""
    load(event_redis.url, campaign("tea", bid=100, budget=10**6), campaign("cup", bid=70, budget=10**6))
    assert server.shown("first", 2) == ["tea", "cup"]
    for number in range(100):
        for ad in server.ads(f"r{number}", 2):
            if ad.placement.bid.campaign_id == "cup":
                server.click(ad.impression_id)
    assert server.shown("last", 2) == ["cup", "tea"]
    found = status(event_redis.url)
    assert found["tea"].calibration == 0.0
    assert found["cup"].calibration == pytest.approx(100 / (102 * 0.1), rel=1e-6)  # "last" was shown, too


@pytest.mark.parametrize("explore", [True, False])
def test_exploring_shows_what_is_nearly_as_good(event_redis: Any, server: AdServer, explore: bool) -> None:
    """Bids that differ by 1 %, probabilities that are known to 3 %."""
    load(event_redis.url, campaign("tea", bid=100), campaign("cup", bid=99), explore=explore, prior_clicks=1000)
    shown = [server.ads(f"r{number}")[0] for number in range(20)]
    assert {ad.placement.bid.campaign_id for ad in shown} == ({"tea", "cup"} if explore else {"tea"})
    assert all((0 < ad.placement.propensity < 1) if explore else ad.placement.propensity == 1 for ad in shown)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 200)), min_size=1, max_size=4),
    st.lists(st.tuples(st.sampled_from("sck"), st.integers(0, 30)), max_size=30),
)
def test_budgets_hold_whatever_happens(
    event_redis: Any, terms: list[tuple[int, int]], acts: list[tuple[str, int]]
) -> None:
    """Any order of showing, clicking (again) and changing budgets never spends more than a budget."""
    with event_redis.connect() as client:
        client.flushall()
    made = [campaign(f"c{n}", bid=bid, budget=bid + extra) for n, (bid, extra) in enumerate(terms)]
    load(event_redis.url, *made)
    server = AdServer(event_redis.url)
    shown: list[str] = []
    charged: dict[str, int] = {}
    try:
        for number, (act, which) in enumerate(acts):
            if act == "s":
                shown += [ad.impression_id for ad in server.ads(f"r{number}", 1 + which % 3)]
            elif act == "c" and shown:
                click = server.click(shown[which % len(shown)])
                if click.state == "charged":
                    charged[str(click.campaign_id)] = charged.get(str(click.campaign_id), 0) + click.charged_micros
            elif act == "k":
                with Campaigns(event_redis.url) as campaigns:
                    campaigns.set_paused(f"c{which % len(made)}", which % 2 == 0)
    finally:
        server.close()
    for name, found in status(event_redis.url).items():
        assert found.spent_today == found.spent == charged.get(name, 0) <= found.budget_per_day


def test_pacing_holds_back_and_lets_go(event_redis: Any, server: AdServer) -> None:
    load(event_redis.url, campaign("tea", bid=100, budget=10_000), pace=True)
    midnight = NOON - DAY / 2
    early = [server.ads(f"a{n}", now=midnight + 60) for n in range(3)]
    for (ad,) in early:
        server.click(ad.impression_id, now=midnight + 60)
    # Alone it pays 1 for a click; the plan for a minute after midnight is 7, and 111 in 15 minutes.
    assert server.ads("b", now=midnight + 60)
    with event_redis.connect() as client:
        client.hset(KEYS.ads_day(19_675), "spent:tea", 200)
    assert [server.ads(f"c{n}", now=midnight + 60) for n in range(20)] == [[]] * 20
    assert server.ads("d", now=midnight + DAY / 2)
    found = status(event_redis.url, now=midnight + DAY / 4)["tea"]
    assert found.planned_today == pytest.approx(2_500)


def test_what_is_no_document_is_said(event_redis: Any, server: AdServer) -> None:
    with event_redis.connect() as client:
        client.set(KEYS.ads, "{}")
        client.incr(KEYS.ads_revision)
    with pytest.raises(StoreUnavailable, match="is missing\nRun `recsys ads load` again"):
        server.ads("r1")
    load(event_redis.url, campaign("tea"))
    assert server.shown("r2") == ["tea"]


def test_changes_of_others_are_not_lost(event_redis: Any) -> None:
    made = [campaign(f"c{number}") for number in range(6)]
    load(event_redis.url, *made)

    def pause(number: int) -> None:
        with Campaigns(event_redis.url) as campaigns:
            campaigns.set_paused(f"c{number}", True)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(pause, range(6)))
    with Campaigns(event_redis.url) as campaigns:
        book: CampaignBook = campaigns.read()
    assert all(each.paused for each in book.campaigns)
