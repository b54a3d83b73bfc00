"""Pages for somebody who chose a few items: like those of a user who has just put them into the cart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_shop import CONTRACT as TINY_CONTRACT
from tiny_shop import ITEM_IDS, NOW, TinyShop

from recsys_plugin import AsyncRecommender, Recommender
from recsys_plugin.client.onboarding import with_chosen
from recsys_plugin.errors import InvalidInput
from recsys_plugin.events.event import EVENT_TYPE_CODES
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec
from recsys_plugin.features.plan import FeatureTensors
from recsys_plugin.pipeline.feast_repository import open_store

WIDTH = 4
CONTRACT = FeatureContract(
    (
        FeatureSpec("user_recent_items:item_ids", "STRING_LIST", -1, encoding=Encoding.ROW, length=WIDTH),
        FeatureSpec("user_recent_items:event_type_codes", "INT64_LIST", 0, length=WIDTH),
        FeatureSpec("user_recent_items:timestamps", "UNIX_TIMESTAMP_LIST", 0, length=WIDTH),
        FeatureSpec("profile:purchases", "FLOAT", 0.0),
        FeatureSpec("profile:country", "STRING", "?"),
    ),
)


def tensors(*values: list[int]) -> FeatureTensors:
    packed = np.array([[value for part in values for value in part]], np.int64)
    return FeatureTensors(np.zeros((1, 0), np.float32), packed, np.empty((1, 0), object))


@given(st.lists(st.integers(0, 99), max_size=6), st.lists(st.integers(0, 99), max_size=WIDTH))
def test_chosen_items_come_before_the_latest_acts(chosen: list[int], recent: list[int]) -> None:
    def padded(values: list[int], default: int) -> list[int]:
        return (values + [default] * WIDTH)[:WIDTH]

    before = tensors(padded(recent, -1), padded([2] * len(recent), 0), padded([7] * len(recent), 0))
    kept = before.user_int.copy()
    after = with_chosen(CONTRACT, before, np.array(chosen, np.int64), now=NOW)
    rows, types, times = np.split(after.user_int[0], 3)
    assert rows.tolist() == padded(chosen + recent, -1)
    assert types.tolist() == padded([EVENT_TYPE_CODES["cart"]] * len(chosen) + [2] * len(recent), 0)
    assert times.tolist() == padded([int(NOW)] * len(chosen) + [7] * len(recent), 0)
    # What was read of the user stays as it was: other pages of the request are made of it.
    np.testing.assert_array_equal(before.user_int, kept)


def test_a_contract_without_acts_is_left_alone() -> None:
    before = FeatureTensors(np.zeros((1, 1), np.float32), np.zeros((1, 3), np.int64), np.empty((1, 1), object))
    assert with_chosen(TINY_CONTRACT, before, np.array([1]), now=NOW) is before


def test_arguments(recommender: Recommender) -> None:
    page = recommender.onboard(["tea", "gone", "tea"], k=10)
    assert (page.unknown_items, page.user_id, page.features) == (("gone",), None, None)
    assert set(page.item_ids) == set(ITEM_IDS) - {"tea"}
    assert page.served_by.model == "onboard"
    assert len(recommender.onboard([], k=3)) == 3
    assert len(recommender.onboard(list(ITEM_IDS))) == 0
    nothing = recommender.onboard(["gone"], k=0, user_id="mug-lover")
    assert (len(nothing), nothing.unknown_items) == (0, ("gone",))
    known = recommender.onboard(["tea"], k=1, user_id="mug-lover")
    assert known.item_ids == ("mug",)
    assert known.features is not None
    assert recommender.onboard(["tea"], k=1, user_id="mug-lover", exclude=["mug"]).item_ids != ("mug",)
    for wrong, said in (("tea", "chosen: expected a list"), ([1.5], r"chosen\[0\]"), (["a\nb"], "control character")):
        with pytest.raises(InvalidInput, match=said):
            recommender.onboard(wrong)
    with pytest.raises(InvalidInput, match="user_id"):
        recommender.onboard(["tea"], user_id="\x00")


async def test_the_awaiting_client_answers_alike(tiny: TinyShop, recommender: Recommender) -> None:
    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW) as client:
        for user in (None, "mug-lover"):
            page = await client.onboard(["pot"], 4, user_id=user)
            assert page.items == recommender.onboard(["pot"], 4, user_id=user).items


@pytest.fixture
def trained(small_shop: Any) -> Iterator[Recommender]:
    options = {"timeout": 10.0, "clock": small_shop.as_of.timestamp}
    with Recommender(small_shop.client_url, small_shop.triton_url, **options) as made:
        yield made


def test_the_page_is_that_of_a_user_who_just_put_them_into_the_cart(trained: Recommender, small_shop: Any) -> None:
    chosen, user = ["item-010", "item-020", "item-030"], "user-who-chose"
    store, moment = open_store(small_shop.settings, small_shop.redis_url), pd.Timestamp(small_shop.as_of)
    acts = {
        "user_id": user,
        "item_ids": chosen,
        "event_type_codes": [EVENT_TYPE_CODES["cart"]] * 3,
        "timestamps": [moment] * 3,
        "event_timestamp": moment,
    }
    before = trained.recommend(user, 20, exclude=chosen)
    store.write_to_online_store("user_recent_items", pd.DataFrame([acts]))
    try:
        wanted = trained.recommend(user, 20, exclude=chosen)
    finally:
        with RedisAddress.parse(small_shop.redis_url).connect(5) as client:
            client.delete(entity_key_prefix("user_id") + entity_key_value(user) + b"recsys")
    page = trained.onboard(chosen, 20)
    assert page.item_ids == wanted.item_ids
    assert [item.score for item in page] == pytest.approx([item.score for item in wanted])
    assert [item.score for item in page] != [item.score for item in before]
