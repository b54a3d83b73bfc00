"""Which version serves: the promoted one, else the newest, taken up beside the requests."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from tiny_shop import ITEM_IDS, NOW, TinyShop
from waiting import holds_within

from recsys_plugin import AsyncRecommender, Recommender
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.requests import promotion_key

KEY = promotion_key("recsys")


@pytest.fixture
def shop_of_two_versions(disposable_shop: TinyShop) -> TinyShop:
    disposable_shop.publish(2, ITEM_IDS)
    return disposable_shop


def test_promote_and_roll_back(shop_of_two_versions: TinyShop, caplog: pytest.LogCaptureFixture) -> None:
    tiny = shop_of_two_versions
    with (
        RedisAddress.parse(tiny.admin_url).connect(2) as redis,
        Recommender(tiny.redis_url, tiny.triton_url, timeout=10, refresh_every=0.02, clock=lambda: NOW) as client,
    ):
        assert client.version == 2
        redis.set(KEY, 1)
        assert holds_within(lambda: client.version == 1, 20)
        assert client.recommend("mug-lover").served_by.version == 1
        redis.set(KEY, 2)
        assert holds_within(lambda: client.version == 2, 20)
        # A version that is not there is not waited for: the newest serves.
        redis.set(KEY, 1)
        assert holds_within(lambda: client.version == 1, 20)
        redis.set(KEY, 7)
        assert holds_within(lambda: client.version == 2, 20)
        # What makes no sense changes nothing, and is said once.
        with caplog.at_level(logging.WARNING, logger="recsys_plugin"):
            redis.set(KEY, "soon")
            assert holds_within(lambda: "recsys models promote" in caplog.text, 20)
            assert client.recommend("mug-lover").served_by.version == 2
            redis.set(KEY, 1)
            assert holds_within(lambda: client.version == 1, 20)
        assert caplog.text.count("not a version") == 1
        redis.delete(KEY)
        assert holds_within(lambda: client.version == 2, 20)

        async def awaiting() -> None:
            async with AsyncRecommender(
                tiny.redis_url, tiny.triton_url, timeout=10, refresh_every=0.02, clock=lambda: NOW
            ) as other:
                assert other.version == 2
                redis.set(KEY, 1)
                deadline = time.monotonic() + 20
                while other.version != 1 and time.monotonic() < deadline:
                    await asyncio.sleep(0.01)
                assert (await other.recommend("mug-lover")).served_by.version == 1

        asyncio.run(awaiting())
