"""The client's own record, and the pages that it logs: what was served is what the log says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_shop import CONTRACT, ITEM_IDS, NOW, TinyShop

from recsys_plugin import AsyncRecommender, Event, ImpressionLog, Page, Recommender
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.impressions import Impression

KEYS = EventKeys("recsys")
EVERYTHING = ImpressionLog(candidates_sample=1.0, features_sample=1.0)


@pytest.fixture
def redis(tiny: TinyShop) -> Iterator[Any]:
    client = RedisAddress.parse(tiny.admin_url).connect(5)
    stream = KEYS.events(KEYS.partition("mug-lover"))
    client.delete(KEYS.impressions, stream)
    yield client
    client.delete(KEYS.impressions, stream)
    client.close()


def logged(redis: Any) -> list[Impression]:
    return [Impression.decode(fields[b"page"]) for _, fields in redis.xrange(KEYS.impressions)]


def same(page: Page, found: Impression) -> bool:
    """Whether the log says of a page what the page says."""
    assert found.request_id == page.request_id
    assert found.user_id == page.user_id
    assert found.items == list(page.item_ids)
    assert np.array_equal(np.array(found.scores, np.float32), np.array([item.score for item in page], np.float32))
    assert (found.model, found.version, found.contract) == (
        page.served_by.model,
        page.served_by.version,
        page.served_by.contract,
    )
    assert found.propensities == [1.0] * len(page)
    return True


def test_pages_are_logged_as_served(tiny: TinyShop, redis: Any) -> None:
    options: dict[str, Any] = {"timeout": 10, "clock": lambda: NOW, "impressions": EVERYTHING}
    with Recommender(tiny.redis_url, tiny.triton_url, **options) as recommender:
        pages = recommender.recommend_many(["mug-lover", "nobody"], 3, exclude=["tea"])
        pages += [recommender.rank("mug-lover", ["cup", "pot", "gone"]), recommender.search(None, "cups", 2)]
        pages += [recommender.similar_items("mug", 2)]
        recommender.recommend("mug-lover", 0)  # an empty page is no impression
        with pytest.raises(InferenceUnavailable, match=r"(?i)broken|nan"):
            recommender.recommend("broken", strict=True)  # and what was not served is none
        pages.append(recommender.recommend("broken", 2))
    found = logged(redis)
    assert len(found) == len(pages)
    assert all(same(page, one) for page, one in zip(pages, found, strict=True))
    first = found[0]
    assert first.served_at == int(NOW * 1e6)
    assert first.contract == CONTRACT.fingerprint
    assert first.candidates is not None
    assert sorted(first.candidates) == sorted(set(ITEM_IDS) - {"tea"})
    assert first.candidate_scores is not None
    scores = dict(zip(first.candidates, first.candidate_scores, strict=True))
    assert [scores[item] for item in first.items] == first.scores
    assert first.features is not None
    assert first.features["user_float"] == [1.0]
    assert first.features["user_string"] == ["DE"]
    assert first.features["user_int"][-1] == int(NOW) or len(first.features["user_int"]) == 3
    assert found[3].features is found[4].features is None, "nobody's features are not logged"
    assert [one.fallback for one in found] == ["full"] * 5 + ["popularity"]


async def test_the_awaiting_client_logs_and_records_too(tiny: TinyShop, redis: Any) -> None:
    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=10, impressions=EVERYTHING) as recommender:
        page = await recommender.recommend("mug-lover", 3)
        event = Event(user_id="mug-lover", item_id=page[0].item_id, event_type="click", request_id=page.request_id)
        assert (await recommender.record(event)).state == "recorded"
        assert len(await recommender.record_many([event, event])) == 2
    (found,) = logged(redis)
    assert same(page, found)
    assert redis.xlen(KEYS.events(KEYS.partition("mug-lover"))) == 3


def test_events_are_recorded_by_the_client(tiny: TinyShop, redis: Any, tmp_path: Path) -> None:
    environ = {
        "RECSYS_REDIS_URL": tiny.redis_url,
        "RECSYS_TRITON_URL": tiny.triton_url,
        "RECSYS_SPOOL": str(tmp_path / "spool"),
        "RECSYS_IMPRESSIONS": "1",
    }
    with Recommender.from_environment(environ, timeout=10) as recommender:
        page = recommender.recommend("mug-lover", 3)
        event = Event(user_id="mug-lover", item_id=page[0].item_id, event_type="click", request_id=page.request_id)
        assert recommender.record(event).state == "recorded"
        assert len(recommender.record_many([event])) == 1
    assert (tmp_path / "spool").is_dir()
    assert same(page, logged(redis)[0])


def test_without_the_option_nothing_is_logged(tiny: TinyShop, redis: Any) -> None:
    with Recommender(tiny.redis_url, tiny.triton_url, timeout=10) as recommender:
        recommender.recommend("mug-lover", 3)
    assert logged(redis) == []
