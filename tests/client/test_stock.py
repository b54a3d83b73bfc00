"""What is sold out leaves every page at once, without an export."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tiny_shop import NOW, TinyShop

from recsys_plugin import AsyncRecommender, Recommender
from recsys_plugin.errors import InvalidInput, StoreUnavailable
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value, hash_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.value_encoding import encode_value

USER = "mug-lover"
OPTIONS: dict[str, Any] = {"timeout": 10.0, "clock": lambda: NOW, "refresh_every": None}

SetStock = Callable[..., None]


@pytest.fixture
def set_stock(module_shop: TinyShop) -> Iterator[SetStock]:
    """Writes the stock of an item as Feast does; ``None`` takes it away, as everything is in the end."""
    keys = []
    with RedisAddress.parse(module_shop.admin_url).connect(5) as client:

        def write(item_id: str, stock: int | None, dtype: str = "INT64") -> None:
            key = entity_key_prefix("item_id") + entity_key_value(item_id) + b"recsys"
            keys.append(key)
            field = hash_field("item_stock:stock")
            if stock is None:
                client.hdel(key, field)
            else:
                client.hset(key, field, encode_value(dtype, stock))

        yield write
        for key in keys:
            client.delete(key)


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


def shelves(client: Recommender) -> dict[str, set[str]]:
    """What is on each shelf."""
    return {
        "recommend": set(client.recommend(USER, 10).item_ids),
        "nobody": set(client.recommend("never seen", 10).item_ids),
        "search": set(client.search(USER, "tea", 10).item_ids),
        "similar": set(client.similar_items("cup", 10).item_ids),
    }


def test_an_item_leaves_and_comes_back(module_shop: TinyShop, set_stock: SetStock) -> None:
    with Recommender(module_shop.redis_url, module_shop.triton_url, **OPTIONS) as client:
        before = shelves(client)
        assert all("tea" in items for items in before.values())
        set_stock("tea", 0)
        assert eventually(lambda: "tea" not in client.recommend(USER, 10).item_ids)
        assert shelves(client) == {name: items - {"tea"} for name, items in before.items()}
        # Who asks for given items is told of these, sold out or not.
        assert set(client.rank(USER, ["tea", "cup"]).item_ids) == {"tea", "cup"}
        set_stock("tea", 1)
        assert eventually(lambda: "tea" in client.recommend(USER, 10).item_ids)
        assert shelves(client) == before
        set_stock("cup", -3)
        assert eventually(lambda: "cup" not in client.recommend(USER, 10).item_ids)
        set_stock("cup", None)  # not told any more: it can be sold
        assert eventually(lambda: "cup" in client.recommend(USER, 10).item_ids)


def test_what_was_sold_out_before_the_start_is_on_no_page(module_shop: TinyShop, set_stock: SetStock) -> None:
    set_stock("mug", 0)
    with Recommender(module_shop.redis_url, module_shop.triton_url, follow_items=False, **OPTIONS) as client:
        assert all("mug" not in items for items in shelves(client).values())
        assert len(client.recommend(USER, 10)) == 5
        assert "mug" not in client.recommend(USER, 10, exclude=["tea"]).item_ids

    async def awaiting() -> set[str]:
        async with AsyncRecommender(module_shop.redis_url, module_shop.triton_url, **OPTIONS) as other:
            assert "mug" not in (await other.recommend(USER, 10)).item_ids
            set_stock("mug", 5)
            deadline = time.monotonic() + 20
            while "mug" not in (page := await other.recommend(USER, 10)).item_ids and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
            return set(page.item_ids)

    assert "mug" in asyncio.run(awaiting())


def test_a_backend_tells_its_stock(module_shop: TinyShop, set_stock: SetStock) -> None:
    with Recommender(module_shop.redis_url, module_shop.triton_url, **OPTIONS) as client:
        client.set_stock({"tea": 0, "cup": 0, 7: 3})
        client.set_stock({})
        assert eventually(lambda: not {"tea", "cup"} & set(client.recommend(USER, 10).item_ids))
        for wrong in ({"tea": -1}, {"tea": 1.5}, {"tea": True}, {"": 1}, {"a\x00": 1}, ["tea"], {"tea": 2**63}):
            with pytest.raises(InvalidInput, match="stock"):
                client.set_stock(wrong)  # type: ignore[arg-type]

        async def awaiting() -> None:
            async with AsyncRecommender(module_shop.redis_url, module_shop.triton_url, **OPTIONS) as other:
                await other.set_stock({"tea": 4, "cup": 1})

        asyncio.run(awaiting())
        assert eventually(lambda: {"tea", "cup"} <= set(client.recommend(USER, 10).item_ids))
    for item_id in ("tea", "cup", "7"):
        set_stock(item_id, None)


def test_a_shop_that_is_sold_out_has_empty_pages(module_shop: TinyShop, set_stock: SetStock) -> None:
    for item_id in ("tea", "cup", "pot", "mug", "jar", "box"):
        set_stock(item_id, 0)
    with Recommender(module_shop.redis_url, module_shop.triton_url, **OPTIONS) as client:
        assert not any(shelves(client).values())


def test_stock_of_another_type_is_an_error_that_names_it(module_shop: TinyShop, set_stock: SetStock) -> None:
    set_stock("tea", "many", "STRING")
    with pytest.raises(StoreUnavailable, match=r"item_stock:stock of item 'tea' holds a str .* push Int64"):
        Recommender(module_shop.redis_url, module_shop.triton_url, **OPTIONS)
