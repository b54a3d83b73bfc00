"""The ladder under every shelf, against real servers that are stopped: each level is reached, named and explained."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killable_redis import KillableRedis
from tiny_shop import NOW, SCHEMA, TinyShop
from waiting import wait_until

from recsys_plugin import AsyncRecommender, Recommender, Timeout
from recsys_plugin.client.fallback import Fallback, FallbackCache, Level, Remembered
from recsys_plugin.client.flows import Flow
from recsys_plugin.client.trying import Trying, serve
from recsys_plugin.errors import InferenceUnavailable, InvalidInput, ServiceUnavailable, StoreUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.requests import schema_key
from recsys_plugin.trials.tally import Tally
from recsys_plugin.trials.trial import Phase, Trial

OPTIONS: dict[str, Any] = {
    "timeout": Timeout(10, connect=10),
    "clock": lambda: NOW,
    "refresh_every": None,
    "follow_items": False,
}
EVERY = ["tea", "cup", "pot", "mug", "jar", "box"]


@pytest.fixture
def redis(module_shop: TinyShop, tmp_path: Path) -> Iterator[KillableRedis]:
    """A Redis of its own with the tiny shop's user, beside the shop's Triton."""
    server = KillableRedis(tmp_path / "redis")
    server.start()
    copy_users(module_shop.admin_url, server.url)
    try:
        yield server
    finally:
        server.stop()


def copy_users(source: str, target: str) -> None:
    """Copy the tiny shop's users to another server, with what types their features have."""
    one, other = (RedisAddress.parse(url).connect(5) for url in (source, target))
    for key in one.scan_iter():
        if one.type(key) == b"hash":
            values: Any = one.hgetall(key)
            other.hset(key, mapping=values)
    other.set(schema_key("recsys"), json.dumps(SCHEMA))
    one.close()
    other.close()


def test_cached_features_stand_in_for_redis(module_shop: TinyShop, redis: KillableRedis) -> None:
    with Recommender(redis.url, module_shop.triton_url, **OPTIONS) as client:
        page = client.recommend("mug-lover", 3)
        assert (page.fallback.level, page.fallback.reason, page.fallback.degraded) == ("full", "", False)
        redis.kill()
        again = client.recommend("mug-lover", 3)
        assert again.item_ids == page.item_ids
        assert again.features == page.features
        assert again.fallback.level == "cached_features"
        assert "features read" in again.fallback.reason
        assert again.fallback.age is not None
        assert 0 <= again.fallback.age < 60
        assert again.to_dict()["fallback"]["level"] == "cached_features"
        # Of a user who never came, the contract's defaults.
        nobody, known = client.recommend_many(["far", "mug-lover"], 3)
        assert (nobody.fallback.level, known.fallback.level) == ("cached_features", "cached_features")
        assert "the contract's defaults" in nobody.fallback.reason
        assert nobody.features is not None
        assert not nobody.features.known
        assert nobody.item_ids == ("tea", "cup", "pot")
        assert client.rank("mug-lover", EVERY).fallback.level == "cached_features"
        assert client.search("mug-lover", "tea").fallback.level == "cached_features"
        assert client.similar_items("mug", 2).fallback.level == "full"
        with pytest.raises(StoreUnavailable):
            client.recommend("mug-lover", 3, strict=True)
        redis.start()
        wait_until(lambda: client.recommend("mug-lover", 3).fallback.level == "full")


def test_what_is_kept_is_bounded_and_ages() -> None:
    kept = Remembered(FallbackCache(most_bytes=2_000, longest=10))
    for number in range(10):
        kept.put(("features", f"user-{number}"), number, 500, now=float(number))
        assert kept.bytes <= 2_000
    assert len(kept) == 2
    assert kept.get(("features", "user-0"), 10.0) is None
    assert kept.get(("features", "user-9"), 10.0) == (9, 1.0)
    assert kept.get(("features", "user-9"), 19.5) is None  # too old, and gone
    kept.put(("features", "user-8"), "again", 500, now=20.0)
    kept.put(("features", "large"), "never", 5_000, now=20.0)
    assert (len(kept), kept.get(("features", "user-8"), 20.0)) == (1, ("again", 0.0))
    kept.put(("recommend", "user-8"), "page", 100, now=20.0)
    assert (kept.forget("user-8"), len(kept), kept.bytes) == (2, 0, 0)
    kept.put(("recommend", "user-8"), "page", 100, now=20.0)
    kept.clear()
    assert (len(kept), kept.bytes) == (0, 0)
    nothing = Remembered(FallbackCache(most_bytes=0))
    nothing.put(("features", "user"), 1, 0, now=0.0)
    assert not len(nothing)
    for wrong in ({"most_bytes": -1}, {"longest": True}, {"longest": float("nan")}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            FallbackCache(**wrong)


@pytest.fixture
def away(module_shop: TinyShop) -> Iterator[Recommender]:
    """A client that asked some pages, whose Triton then stopped."""
    module_shop.start_triton()
    with Recommender(module_shop.redis_url, module_shop.triton_url, **OPTIONS) as client:
        client.recommend("mug-lover", 3)
        client.similar_items("mug", 2)
        client.cross_sell(["tea"], 2)
        module_shop.stop_triton()
        yield client
    module_shop.start_triton()


def test_every_shelf_answers_without_triton(away: Recommender) -> None:
    kept = away.recommend("mug-lover", 2)
    assert (kept.fallback.level, kept.item_ids) == ("retrieval", ("mug", "tea"))
    assert "mug" in away.recommend("mug-lover", 6).item_ids[:3]
    assert len(away.recommend("mug-lover", 6)) == 6  # filled up
    popular = away.recommend("far", 6, exclude=["tea"])
    assert popular.fallback.level == "popularity"
    assert set(popular.item_ids) == set(EVERY) - {"tea"}
    assert "Triton" in popular.fallback.reason or "grpc" in popular.fallback.reason
    assert [item.position for item in popular] == [1, 2, 3, 4, 5]
    assert popular[0].title
    assert popular[0].purchase_probability is None
    ranked = away.rank("far", [*reversed(EVERY), "new"])
    assert (ranked.fallback.level, ranked.unknown_items, set(ranked.item_ids)) == ("popularity", ("new",), set(EVERY))
    found = away.search(None, "tea pot", 4)
    assert found.fallback.level == "lexical"
    assert found.item_ids[0] == "pot"
    assert "mug" not in found.item_ids
    assert found.intent is not None
    assert away.search(None, "tea under 3", 4).item_ids == ("tea", "cup")
    assert away.similar_items("mug", 2).fallback.level == "retrieval"
    near = away.similar_items("cup", 3)
    assert (near.fallback.level, set(near.item_ids)) == ("popularity", {"pot", "mug"})
    assert away.similar_items("new", 3).unknown_items == ("new",)
    assert away.cross_sell(["tea"], 2).fallback.level == "retrieval"
    basket = away.cross_sell(["cup", "new"], 6)
    assert (basket.fallback.level, basket.unknown_items) == ("popularity", ("new",))
    assert set(basket.item_ids) == set(EVERY) - {"cup"}
    assert away.onboard(["cup"], 3).item_ids[:2] in (("pot", "mug"), ("mug", "pot"))
    spread = away.cross_category("mug-lover", 5, per_category=1)
    assert spread.fallback.level == "popularity"
    assert spread.item_ids == ("tea", "box")  # the kitchen is what he knows
    assert not away.recommend("mug-lover", 0)
    with pytest.raises(InvalidInput):
        away.recommend("mug-lover", -1)
    with pytest.raises(InvalidInput):
        away.search(None, "")
    with pytest.raises(InvalidInput):
        away.rank("mug-lover", [1.5])
    with pytest.raises(InferenceUnavailable):
        away.recommend("mug-lover", 3, strict=True)


def test_rules_hold_without_triton(away: Recommender) -> None:
    rules = {"exclude": {"categories": ["kitchen"]}, "price": {"highest": 5.5, "keep_unknown": False}}
    page = away.recommend("far", 6, rules=rules)
    assert set(page.item_ids) == {"tea", "jar"}
    assert set(away.recommend("mug-lover", 6, rules=rules).item_ids) == {"tea", "jar"}
    capped = away.recommend("far", 6, rules={"caps": {"category": 1}, "pins": [{"item": "box", "position": 1}]})
    assert capped.item_ids[0] == "box"
    assert [item.category for item in capped].count("kitchen") == 1
    unlike = away.recommend("far", 3, rules={"diversity": {"strength": 0.5}})
    assert len(unlike) == 3
    assert unlike.rules is not None
    assert "diversity" in unlike.rules.unmet[0]
    assert away.similar_items("mug", 3, beside=[page]).fallback.degraded
    assert not set(away.similar_items("mug", 3, beside=[page]).item_ids) & set(page.item_ids)


async def test_awaiting_clients_fall_back_too(module_shop: TinyShop, redis: KillableRedis) -> None:
    module_shop.start_triton()
    async with AsyncRecommender(redis.url, module_shop.triton_url, **OPTIONS) as client:
        page = await client.recommend("mug-lover", 3)
        redis.kill()
        again = await client.recommend("mug-lover", 3)
        assert (again.item_ids, again.fallback.level) == (page.item_ids, "cached_features")
        module_shop.stop_triton()
        both = await client.recommend("mug-lover", 3)
        assert (both.item_ids, both.fallback.level) == (page.item_ids, "retrieval")
        assert (await client.recommend("far", 3)).fallback.level == "popularity"
        assert (await client.search(None, "tea pot", 1)).item_ids == ("pot",)
        ads = await client.ads("mug-lover", 2)
        assert (len(ads), ads.fallback.level, ads.user_id) == (0, "empty", "mug-lover")
        with pytest.raises(ServiceUnavailable):
            await client.recommend("mug-lover", 3, strict=True)
        module_shop.start_triton()
        redis.start()
        deadline = time.monotonic() + 20
        while (await client.recommend("mug-lover", 3)).fallback.level != "full":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)  # calls that are not made do not wait, and nothing else would have its turn


@pytest.mark.parametrize("level, failed", [("full", 0), ("cached_features", 1), ("popularity", 1)])
def test_in_a_trial_a_page_of_a_lower_level_counts_as_failed(
    recommender: Recommender, level: Level, failed: int
) -> None:
    trial = Trial("t", 1, 2, "salt", (Phase(0.0, 0.0),))
    trying = Trying(trial, None, Tally("recsys", trial))
    page = replace(recommender.recommend("mug-lover", 2), fallback=Fallback(level))

    def control(users: Sequence[str]) -> Flow:
        yield from ()
        return [page]

    flow = serve(
        trying, ["mug-lover"], lambda users: pytest.fail("of nobody"), control, timeout=1.0, timer=time.perf_counter
    )
    with pytest.raises(StopIteration) as end:
        next(flow)
    assert [served.item_ids for served in end.value.value] == [page.item_ids]
    counted = {command[2]: command[3] for command in trying.tally.drain() if command[0] == "HINCRBY"}
    assert (counted["requests"], counted.get("errors", 0)) == (1, failed)
