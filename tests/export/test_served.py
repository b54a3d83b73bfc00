"""What the exported models answer through the real server."""

from __future__ import annotations

import pytest
from shops import Shop

from recsys_plugin import Recommender


def open_client(shop: Shop) -> Recommender:
    return Recommender(shop.redis_url, shop.triton_url, timeout=10, clock=shop.as_of.timestamp)


def test_clicks_in_the_data_give_click_probabilities(small_shop: Shop) -> None:
    with open_client(small_shop) as client:
        page = client.recommend("user-003", 20)
        ranked = client.rank("user-003", small_shop.some_items[:20])
    assert len(page.items) == len(ranked.items) == 20
    for item in (*page.items, *ranked.items):
        assert item.click_probability is not None
        assert item.purchase_probability is not None
        assert item.cart_probability is not None
        assert 0 < item.click_probability < 1
        counted = 0.1 * item.click_probability + 0.3 * item.cart_probability + item.purchase_probability
        assert item.score == pytest.approx(counted, abs=1e-5)


def test_no_clicks_in_the_data_give_none(shop: Shop) -> None:
    with open_client(shop) as client:
        page = client.recommend(shop.some_users[0], 20)
    assert len(page.items) == 20
    for item in page.items:
        assert item.click_probability is None
        assert item.cart_probability is None
        assert item.purchase_probability is not None
        assert 0 < item.purchase_probability < 1
