"""Ads of the tiny shop on real servers: who is shown what, at which price, and what a click does."""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_shop import BASE, ITEM_IDS, NOW, TinyShop

from recsys_plugin import AdItem, AdsPage, AsyncRecommender, InvalidInput, Page, Recommender, Timeout, mix_ads
from recsys_plugin.ads.book import AuctionSettings, CampaignBook
from recsys_plugin.ads.campaign import Campaign, Targeting, UserCondition
from recsys_plugin.ads.operations import Campaigns
from recsys_plugin.features.connection import RedisAddress

TIMEOUT = Timeout(30.0, connect=30.0)
_names = (f"request-{number}" for number in itertools.count())


def campaign(name: str, *items: str, bid: int = 1_000, **more: Any) -> Campaign:
    return Campaign(campaign_id=name, items=items, bid_micros=bid, budget_per_day_micros=1_000_000, **more)


def load(shop: TinyShop, *campaigns: Campaign, **settings: Any) -> None:
    with Campaigns(shop.operations_url) as there:
        there.load(CampaignBook(campaigns, AuctionSettings(**{"pace": False, "explore": False, **settings})))


@pytest.fixture
def shop(tiny: TinyShop) -> Iterator[TinyShop]:
    """The tiny shop without campaigns of other tests, nor what they spent."""
    yield tiny
    with RedisAddress.parse(tiny.admin_url).connect(5) as client:
        for key in client.scan_iter(match="recsys:{recsys}:ads*"):
            if key != b"recsys:{recsys}:ads:revision":  # clients trust that it only grows
                client.delete(key)
        client.incr("recsys:{recsys}:ads:revision")


@pytest.fixture(scope="module")
def client(tiny: TinyShop) -> Iterator[Recommender]:
    with Recommender(
        tiny.redis_url, tiny.triton_url, timeout=TIMEOUT, clock=lambda: NOW, request_ids=lambda: next(_names)
    ) as made:
        yield made


def chance(item: str) -> float:
    """The tiny ranker's probability of a purchase for a user without purchases; it has none for clicks."""
    return 1 / (1 + math.exp(-2 * BASE[ITEM_IDS.index(item)]))


def test_the_best_ads_first_at_second_prices(shop: TinyShop, client: Recommender) -> None:
    load(shop, campaign("tea-week", "tea", "cup"), campaign("jars", "jar", bid=900), campaign("gifts", "box", bid=10))
    page = client.ads("somebody new", 2)
    assert isinstance(page, AdsPage)
    assert [(ad.campaign_id, ad.item_id, ad.position, ad.sponsored) for ad in page] == [
        ("tea-week", "tea", 1, True),
        ("jars", "jar", 2, True),
    ]
    tea, jar = page
    assert tea.purchase_probability == pytest.approx(chance("tea"), rel=1e-5)
    assert tea.click_probability is None
    assert tea.calibrated_probability == pytest.approx(tea.purchase_probability)
    assert tea.price_per_click_micros == pytest.approx(900 * chance("jar") / chance("tea"), abs=1)
    assert jar.price_per_click_micros == pytest.approx(10 * chance("box") / chance("jar"), abs=1)
    assert tea.ecpm_micros == pytest.approx(1000 * chance("tea") * tea.price_per_click_micros, rel=1e-5)
    assert (tea.title, tea.category, tea.price, tea.propensity) == ("Green tea", "food", 2.5, 1.0)
    assert page[0] == tea
    assert page.item_ids == ("tea", "jar")
    assert page.served_by.model == "ads"
    assert page.served_by.version == client.version
    assert page.features is not None
    assert not page.features.known
    document = json.loads(json.dumps(page.to_dict(), allow_nan=False))
    assert document["items"][0]["campaign_id"] == "tea-week"


def test_a_users_taste_decides(shop: TinyShop, client: Recommender) -> None:
    load(shop, campaign("teas", "tea"), campaign("mugs", "mug"))
    assert client.ads("somebody new").item_ids == ("tea",)
    assert client.ads("mug-lover").item_ids == ("mug",)


def test_clicks_are_charged_and_counted_once(shop: TinyShop, client: Recommender) -> None:
    load(shop, campaign("teas", "tea", bid=500), campaign("mugs", "mug", bid=400))
    (ad,) = client.ads("ann")
    first, again = client.record_ad_click(ad.impression_id), client.record_ad_click(ad.impression_id)
    assert (first.state, first.charged_micros) == ("charged", ad.price_per_click_micros)
    assert (first.campaign_id, first.item_id) == ("teas", "tea")
    assert again.state == "duplicate"
    assert client.record_ad_click("no such impression").state == "unknown"
    for wrong in ("", "a\nb", "x" * 300, None, 1.5):
        with pytest.raises(InvalidInput, match=r"^impression_id"):
            client.record_ad_click(wrong)


def test_pausing_loading_and_running_out_hold_at_the_next_request(shop: TinyShop, client: Recommender) -> None:
    load(shop, campaign("teas", "tea"), campaign("mugs", "mug"))
    assert client.ads("ann", 5).item_ids == ("tea", "mug")
    with Campaigns(shop.operations_url) as campaigns:
        campaigns.set_paused("teas", True)
    assert client.ads("ann", 5).item_ids == ("mug",)
    load(shop, Campaign(campaign_id="jars", items=("jar",), bid_micros=9, budget_per_day_micros=9), reserve_micros=9)
    (ad,) = client.ads("ann", 5)
    assert (ad.item_id, client.record_ad_click(ad.impression_id).charged_micros) == ("jar", 9)
    assert len(client.ads("ann", 5)) == 0


def test_targeting(shop: TinyShop, client: Recommender, caplog: pytest.LogCaptureFixture) -> None:
    def to(*conditions: UserCondition, **context: tuple[str, ...]) -> Targeting:
        return Targeting(context=context or None, user=conditions)

    load(
        shop,
        campaign("germans", "tea", targeting=to(UserCondition("profile:country", one_of=("DE",)))),
        campaign("french", "cup", targeting=to(UserCondition("profile:country", one_of=("FR",)))),
        campaign("buyers", "mug", targeting=to(UserCondition("profile:purchases", at_least=1))),
        campaign("frugal", "pot", targeting=to(UserCondition("profile:purchases", at_most=0.5))),
        campaign("kitchen", "jar", targeting=to(category=("kitchen",))),
        campaign("unread", "box", targeting=to(UserCondition("profile:height", at_least=1))),
    )
    with caplog.at_level(logging.WARNING, "recsys_plugin"):
        assert set(client.ads("mug-lover", 9).item_ids) == {"tea", "mug"}
        assert set(client.ads("mug-lover", 9, context={"category": "kitchen"}).item_ids) == {"tea", "mug", "jar"}
    assert caplog.text.count("profile:height are shown to nobody") == 1
    # Of a user who is not known no feature is, whatever the default.
    assert client.ads("somebody new", 9).item_ids == ()
    assert client.ads("somebody new", 9, context={"category": "kitchen"}).item_ids == ("jar",)


def test_arguments(shop: TinyShop, client: Recommender) -> None:
    load(shop, campaign("all", *ITEM_IDS, "not in the catalogue"), campaign("gone", "also not there"))
    page = client.ads("ann", 10**6)
    assert len(page) == 1
    assert page.unknown_items == ("not in the catalogue", "also not there")
    assert len(client.ads("ann", 0)) == 0
    assert client.ads("ann", 1, exclude=ITEM_IDS).item_ids == ()
    assert client.ads("ann", 1, exclude=["tea", "no such item"]).item_ids == ("cup",)
    for user in ("🫖", "'; DROP TABLE items; --", "{braces}", 7, "x" * 256):
        assert len(client.ads(user)) == 1
    for wrong in ("", "a\x00b", "x" * 10_000, None, 1.5, True):
        with pytest.raises(InvalidInput, match=r"^user_id"):
            client.ads(wrong)
    for slots in (-1, 1.0, "2", None, True):
        with pytest.raises(InvalidInput, match=r"^slots"):
            client.ads("ann", slots)  # type: ignore[arg-type]
    for context in ("home", ["home"], {"page": 1}, {1: "home"}, {str(number): "" for number in range(101)}):
        with pytest.raises(InvalidInput, match=r"^context"):
            client.ads("ann", context=context)  # type: ignore[arg-type]
    odd = {"page": "'; DROP TABLE x; --", "🫖": "x" * 10_000, "": "\x00"}
    assert len(client.ads("ann", context=odd)) == 1


def test_without_campaigns_the_page_is_empty(shop: TinyShop, client: Recommender) -> None:
    page = client.ads("ann", 3)
    assert (len(page), list(page), page.item_ids, page.user_id) == (0, [], (), "ann")


async def test_the_awaiting_client_serves_the_same(shop: TinyShop, client: Recommender) -> None:
    load(shop, campaign("teas", "tea", "cup"), campaign("mugs", "mug"), explore=True, prior_clicks=1e6)
    async with AsyncRecommender(
        shop.redis_url, shop.triton_url, timeout=TIMEOUT, clock=lambda: NOW, request_ids=lambda: next(_names)
    ) as awaiting:
        theirs, ours = await awaiting.ads("ann", 2), client.ads("ann", 2)
        assert theirs.item_ids == ours.item_ids == ("tea", "mug")
        click = await awaiting.record_ad_click(theirs[0].impression_id)
        assert click.state == "charged"
        assert client.record_ad_click(theirs[0].impression_id).state == "duplicate"
        assert await awaiting.ads("ann", 0) is not None


def test_ads_beside_organic_items(shop: TinyShop, client: Recommender) -> None:
    load(shop, campaign("mugs", "mug"), campaign("jars", "jar"))
    organic, ads = client.recommend("ann", 4), client.ads("ann", 2)
    assert organic.item_ids == ("tea", "cup", "pot", "mug")
    page = mix_ads(organic, ads, positions=[1, 3])
    assert type(page) is Page
    assert page.item_ids == ("mug", "tea", "jar", "cup")
    assert [item.position for item in page] == [1, 2, 3, 4]
    assert [item.sponsored for item in page] == [True, False, True, False]
    assert isinstance(page[0], AdItem)
    assert page.request_id == organic.request_id
    assert mix_ads(organic, client.ads("ann", 0), positions=[1, 3]).items == organic.items
