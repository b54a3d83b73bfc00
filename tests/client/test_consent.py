"""What a user refuses holds at his next request, on every shelf, and costs no further round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_shop import NOW, TinyShop
from waiting import wait_until

from recsys_plugin import AsyncRecommender, ImpressionLog, InvalidInput, Page, Recommender, StoreUnavailable, Timeout
from recsys_plugin.consent.consent import CONSENT_FIELD, EVERYTHING, Consent
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress

KEYS = EventKeys("recsys")
USER = "mug-lover"


@pytest.fixture(scope="module")
def client(module_shop: TinyShop) -> Iterator[Recommender]:
    log = ImpressionLog(sample=1.0)
    with Recommender(
        module_shop.redis_url, module_shop.triton_url, timeout=10, clock=lambda: NOW, impressions=log
    ) as made:
        yield made


@pytest.fixture
def redis(module_shop: TinyShop, client: Recommender) -> Iterator[Any]:
    with RedisAddress.parse(module_shop.admin_url).connect(5) as connection:
        yield connection
        client.set_consent(USER)
        connection.delete(KEYS.impressions)


def test_who_refuses_gets_the_page_of_somebody_unknown(client: Recommender, redis: Any) -> None:
    assert client.recommend(USER).personalised
    ours, unknown = client.recommend(USER), client.recommend("never seen")
    assert ours[0].score != unknown[0].score
    client.set_consent(USER, personalised=False)
    page = client.recommend(USER)
    assert not page.personalised
    assert page.features is not None
    assert not page.features.known
    assert tuple(page) == tuple(unknown)
    assert page.to_dict()["personalised"] is False
    assert tuple(client.rank(USER, ["mug", "tea"])) == tuple(client.rank("never seen", ["mug", "tea"]))
    assert tuple(client.search(USER, "tea")) == tuple(client.search("never seen", "tea"))
    both = client.recommend_many([USER, "far"])
    assert [one.personalised for one in both] == [False, True]
    client.set_consent(USER)
    assert tuple(client.recommend(USER)) == tuple(ours)
    assert redis.hexists(KEYS.consent, USER) == 0


def test_no_round_trip_is_added(client: Recommender, redis: Any) -> None:
    def calls() -> int:
        return int(redis.info("commandstats")["cmdstat_hmget"]["calls"])

    before = calls()
    client.recommend_many([USER])
    assert calls() - before == 1


def test_pages_of_who_refuses_tracking_are_not_logged(client: Recommender, redis: Any) -> None:
    client.set_consent(USER, tracking=False)
    refused = client.recommend(USER)
    assert refused.personalised
    other = client.recommend("far")

    def is_logged(page: Page) -> bool:
        logged = [fields[b"page"] for _, fields in redis.xrange(KEYS.impressions)]
        return any(page.request_id.encode() in one for one in logged)

    # Pages are logged in order, those of the tests before among them.
    wait_until(lambda: is_logged(other))
    assert not is_logged(refused)


def test_a_consent_that_says_nothing_is_not_taken_for_one(client: Recommender, redis: Any) -> None:
    client.set_consent(USER, personalised=False)
    (key,) = [key for key in redis.scan_iter() if redis.type(key) == b"hash" and redis.hexists(key, CONSENT_FIELD)]
    redis.hset(key, CONSENT_FIELD, "maybe")
    with pytest.raises(StoreUnavailable, match="says nothing"):
        client.recommend(USER, strict=True)
    page = client.recommend(USER)
    assert tuple(item.score for item in page) == tuple(item.score for item in client.recommend("never seen"))


def test_what_is_kept_in_process_goes_when_somebody_is_forgotten(client: Recommender, redis: Any) -> None:
    """The client looks once a second."""
    # What other tests changed is to be seen before, lest it is what clears the memory.
    wait_until(lambda: client._refusals == redis.get(KEYS.refusals))
    client.recommend(USER)
    assert len(client._memory) > 0
    redis.incr(KEYS.refusals)
    wait_until(lambda: len(client._memory) == 0)


def test_for_asyncio_too(module_shop: TinyShop, redis: Any) -> None:
    async def ask() -> tuple[bool, bool]:
        async with AsyncRecommender(
            module_shop.redis_url, module_shop.triton_url, timeout=Timeout(10, connect=10), clock=lambda: NOW
        ) as client:
            await client.set_consent(USER, personalised=False)
            refused = (await client.recommend(USER)).personalised
            await client.set_consent(USER)
            return refused, (await client.recommend(USER)).personalised

    assert asyncio.run(ask()) == (False, True)


def test_what_is_no_consent_is_refused(client: Recommender) -> None:
    with pytest.raises(InvalidInput, match="personalised"):
        client.set_consent(USER, personalised="no")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="user_id"):
        client.set_consent("")
    for one in (EVERYTHING, Consent(False, True), Consent(True, False), Consent(False, False)):
        assert Consent.decode(one.encode()) == one
