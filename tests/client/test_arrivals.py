"""An item that is pushed to the feature store is recommendable within seconds, without an export."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
from waiting import comes_true_within, holds_within

from recsys_plugin import AsyncRecommender, Recommender, Timeout
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.pipeline.feast_repository import open_store

USER = "user-003"


@pytest.fixture
def push(small_shop: Any) -> Iterator[Callable[..., None]]:
    """Writes an item with Feast's own SDK, and takes it away in the end."""
    store = open_store(small_shop.settings, small_shop.redis_url)
    pushed: list[str] = []

    def write(item_id: str, title: str, **facts: Any) -> None:
        pushed.append(item_id)
        row = {"category": "mugs", "subcategory": "", "brand": "", "price": 3.5} | facts
        moment = pd.Timestamp(small_shop.as_of) + pd.Timedelta(seconds=len(pushed))
        frame = pd.DataFrame([{"item_id": item_id, "title": title, "event_timestamp": moment, **row}])
        store.write_to_online_store("item_catalogue", frame)

    yield write
    with RedisAddress.parse(small_shop.redis_url).connect(5) as client:
        for item_id in pushed:
            client.delete(entity_key_prefix("item_id") + entity_key_value(item_id) + b"recsys")
    if set(pushed) & set(small_shop.some_items):
        small_shop.command.run("materialize", "--force")


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it holds within the seconds that the shop is promised."""
    return holds_within(holds, seconds)


@pytest.fixture
def client(small_shop: Any) -> Iterator[Recommender]:
    options = {"timeout": Timeout(10, connect=10), "clock": small_shop.as_of.timestamp}
    with Recommender(small_shop.client_url, small_shop.triton_url, **options) as made:
        yield made


def test_a_new_item_comes_up(client: Recommender, push: Callable[..., None], small_shop: Any) -> None:
    before = client.recommend(USER, 1000)
    assert client.rank(USER, ["brand-new"]).unknown_items == ("brand-new",)
    push("brand-new", "Blue enamel mug", price=4.2)
    assert eventually(lambda: "brand-new" in client.recommend(USER, 1000).item_ids)
    page = client.recommend(USER, 1000)
    assert len(page) == len(before) + 1
    (item,) = (item for item in page if item.item_id == "brand-new")
    assert (item.title, item.category, item.price) == ("Blue enamel mug", "mugs", 4.2)
    assert item.relevance is not None
    assert item.purchase_probability is not None
    assert 0 < item.purchase_probability < 1
    # The others are scored as before, and the order is by score.
    scores = {item.item_id: item.score for item in page}
    for known in before:
        assert scores[known.item_id] == pytest.approx(known.score, abs=1e-5)
    assert [item.score for item in page] == sorted(scores.values(), reverse=True)
    # The same item, ranked alone, among others, and searched for.
    assert client.rank(USER, ["brand-new"])[0].score == pytest.approx(item.score, abs=1e-5)
    ranked = client.rank(USER, [*small_shop.some_items[:5], "brand-new", "unheard of"])
    assert set(ranked.item_ids) == {*small_shop.some_items[:5], "brand-new"}
    assert ranked.unknown_items == ("unheard of",)
    assert "brand-new" in client.search(USER, "blue enamel mug", 5).item_ids
    assert "brand-new" in client.search(None, "blue enamel mug", 5).item_ids
    assert "brand-new" not in client.recommend(USER, 1000, exclude=["brand-new"]).item_ids
    many = client.recommend_many([USER, "nobody"], 1000)
    assert all("brand-new" in page.item_ids for page in many)


def test_items_similar_to_a_new_one_are_those_with_a_similar_text(
    client: Recommender, push: Callable[..., None], small_shop: Any
) -> None:
    assert client.similar_items("twin").unknown_items == ("twin",)
    known = client.rank(USER, small_shop.some_items)[0]
    push("twin", known.title, category=known.category)
    push("other twin", known.title, category=known.category)
    assert eventually(lambda: {"twin", "other twin"} <= set(client.recommend(USER, 1000).item_ids))
    page = client.similar_items("twin", 5)
    assert (len(page), page.unknown_items, page.served_by.model) == (5, (), "similar")
    # The other has the very same text; that of the known one differs by its brand at most.
    assert "other twin" in page.item_ids
    assert page[0].score == page[0].relevance == pytest.approx(1, abs=1e-3)
    assert known.item_id in client.similar_items("twin", 1000).item_ids[:5]
    assert [item.score for item in page] == sorted((item.score for item in page), reverse=True)
    everything = client.similar_items("twin", 1000, candidates=10_000)
    assert "twin" not in everything.item_ids
    assert len(everything) == len(client.recommend(USER, 1000)) - 1
    assert page.item_ids[0] not in client.similar_items("twin", 5, exclude=[page.item_ids[0]]).item_ids
    assert len(client.similar_items("twin", 0)) == 0


def test_what_goes_with_a_new_item_is_what_goes_with_the_one_that_reads_like_it(
    client: Recommender, push: Callable[..., None], small_shop: Any
) -> None:
    assert client.cross_sell(["newcomer"], 5).unknown_items == ("newcomer",)
    push("newcomer", client.rank(USER, small_shop.some_items)[0].title)
    assert eventually(lambda: client.cross_sell(["newcomer"], 5).unknown_items == ())
    (nearest,) = client.similar_items("newcomer", 1).item_ids
    other = small_shop.some_items[1]
    for basket in (["newcomer"], ["newcomer", other]):
        page = client.cross_sell(basket, 5)
        # The one that stands in for it is no complement of it either.
        assert page.items == client.cross_sell([nearest, *basket[1:]], 5).items
        assert not {"newcomer", nearest, *basket} & set(page.item_ids)
    push("only one of its kind", "Garden gnome", category="gnomes")
    assert eventually(lambda: "only one of its kind" in client.cross_category(USER, 1000).item_ids)


def test_what_was_pushed_before_the_start_is_taken_up(push: Callable[..., None], small_shop: Any) -> None:
    push("earlier", "Green tea pot", price=float("nan"), category=None)
    options = {"timeout": Timeout(10, connect=10), "clock": small_shop.as_of.timestamp}

    async def awaiting() -> Any:
        async with AsyncRecommender(small_shop.client_url, small_shop.triton_url, **options) as other:
            pages = []

            async def is_there() -> bool:
                pages.append(await other.recommend(USER, 1000))
                return "earlier" in pages[-1].item_ids

            await comes_true_within(is_there, 5)
            return pages[-1]

    (item,) = (item for item in asyncio.run(awaiting()) if item.item_id == "earlier")
    assert (item.title, item.category, item.price) == ("Green tea pot", "", None)
    with Recommender(small_shop.client_url, small_shop.triton_url, **options) as client:
        assert eventually(lambda: "earlier" in client.recommend(USER, 1000).item_ids)
        assert client.refresh() == client.version


def test_a_known_item_shows_its_present_price(client: Recommender, push: Callable[..., None], small_shop: Any) -> None:
    item_id = small_shop.some_items[0]
    row = client.rank(USER, [item_id])[0]
    push(item_id, "Now on sale", price=0.79)
    assert eventually(lambda: client.rank(USER, [item_id])[0].price == 0.79)
    shown = client.rank(USER, [item_id])[0]
    assert shown.title == "Now on sale"
    assert shown.score == pytest.approx(row.score, abs=1e-6)
