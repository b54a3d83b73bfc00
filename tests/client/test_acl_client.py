"""What the clients ask of Redis is what the documented user may do, no less and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tiny_people import KEY
from tiny_shop import CONTRACT, ITEM_IDS, NOW, SCHEMA, TinyShop
from waiting import wait_until
from watched_redis import WatchedRedis

from recsys_plugin import AsyncRecommender, Event, ImpressionLog, Recommender, Timeout
from recsys_plugin.ads.book import AuctionSettings, CampaignBook
from recsys_plugin.ads.campaign import Campaign
from recsys_plugin.ads.operations import Campaigns
from recsys_plugin.errors import DeadlineExceeded
from recsys_plugin.features import item_changes
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadPlan
from recsys_plugin.features.requests import promotion_key, schema_key
from recsys_plugin.security.acl import CONNECTING, role
from recsys_plugin.trials.operations import Trials


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedRedis]:
    with WatchedRedis(tmp_path_factory.mktemp("watched")) as server:
        yield server


@pytest.fixture(scope="module")
def shop(watched: WatchedRedis, tiny: TinyShop) -> None:
    """Ads and a trial, as operations make them."""
    with watched.connect() as admin:
        admin.set(schema_key("recsys"), json.dumps(SCHEMA))
        admin.set(promotion_key("recsys"), 1)
        with RedisAddress.parse(tiny.admin_url).connect(5) as store:
            known = ReadPlan(CONTRACT).key("mug-lover")
            admin.restore(known, 0, store.dump(known))
    campaign = Campaign(
        campaign_id="tea", items=("tea",), bid_micros=1_000, budget_per_day_micros=10**6, most_per_user_per_day=3
    )
    with Campaigns(watched.url("operations")) as campaigns:
        campaigns.load(CampaignBook((campaign,), AuctionSettings(pace=False, explore=False)))
    with Trials(watched.url("operations")) as trials:
        trials.start(control=1, candidate=7, share=0.5, salt="any")


def _event(number: int) -> Event:
    moment = datetime.fromtimestamp(NOW, UTC)
    return Event(user_id="u", item_id="tea", event_type="click", timestamp=moment, event_id=f"e{number}")


async def _everything(watched: WatchedRedis, triton_url: str) -> None:
    """All that both clients do with Redis."""
    url = watched.url("client")
    options: dict[str, Any] = {
        "timeout": Timeout(10, connect=10),
        "clock": lambda: NOW,
        "pseudonym_key": KEY,
        "impressions": ImpressionLog(),
    }
    with Recommender(url, triton_url, refresh_every=0.02, **options) as client:
        for user in ("mug-lover", "b", "c", "d", "e"):
            client.recommend(user, 2)
        client.rank("mug-lover", ITEM_IDS[:2])
        client.search(None, "cup", 2)
        client.cross_category("mug-lover", 2)
        client.onboard(["cup"], k=2)
        client.similar_users("mug-lover", 2)
        client.record(_event(1))
        with pytest.raises(DeadlineExceeded):  # no worker runs, so nobody says that it is visible
            client.record(_event(2), visible=True, timeout=0.2)
        client.set_stock({"tea": 3})
        client.set_consent("e", personalised=False)
        client.set_consent("e")
        (ad,) = client.ads("u", 1)
        client.record_ad_click(ad.impression_id)
        with watched.connect() as admin, Trials(watched.url("operations")) as trials:
            admin.set(promotion_key("recsys"), 9)  # which ends the trial
            wait_until(lambda: not (found := trials.read()) or not found.running)
            # What is asked last of all beside the requests; MONITOR does not show how this is seen.
            wait_until(lambda: any(one["cmd"] == "ping" and "t" in one["flags"] for one in admin.client_list()))
    async with AsyncRecommender(url, triton_url, **options) as other:
        await other.recommend("mug-lover", 2)
        with pytest.raises(DeadlineExceeded):
            await other.record(_event(3), visible=True, timeout=0.2)
        await other.set_stock({"tea": 4})
        await other.set_consent("e", tracking=False)
        await other.ads("u", 1)


async def test_the_clients_do_all_that_they_may_and_no_more(
    watched: WatchedRedis, shop: None, tiny: TinyShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_changes, "_CHECK_SECONDS", 0.0)  # a silent connection is asked at once
    watched.refusals()
    with watched.watched() as asked:
        await _everything(watched, tiny.triton_url)
    assert watched.refusals() == []
    allowed = role("client")
    assert asked.commands - {"auth"} | set(CONNECTING) == set(allowed.commands)
    patterns = (*allowed.read, *allowed.change, *allowed.channels)
    assert [pattern for pattern in patterns if not asked.touches(pattern)] == []
