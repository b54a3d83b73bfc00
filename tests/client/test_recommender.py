"""The client on the shop's trained models: what must hold whatever the models have learnt."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from recsys_plugin import AsyncRecommender, InvalidInput, Page, Recommender

# The trained shop's first calls on a busy machine of two cores take longer than a request in production may.
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def client(shop: Any) -> Iterator[Recommender]:
    moment = shop.as_of.timestamp()
    with Recommender(shop.client_url, shop.triton_url, timeout=TIMEOUT, clock=lambda: moment) as recommender:
        yield recommender


def check(page: Page, *, most: int) -> None:
    """What every page promises."""
    assert len(page) <= most
    assert len(set(page.item_ids)) == len(page)
    assert [item.position for item in page] == list(range(1, len(page) + 1))
    scores = [item.score for item in page]
    assert scores == sorted(scores, reverse=True)
    for item in page:
        assert item.item_id
        assert item.title
        assert math.isfinite(item.score)
        for probability in (item.purchase_probability, item.click_probability):
            assert probability is None or 0 <= probability <= 1
        assert item.price is None or item.price >= 0
    assert page.served_by.version == page.served_by.catalogue_version
    json.dumps(page.to_dict(), allow_nan=False)


def test_recommend_known_users(client: Recommender, shop: Any) -> None:
    for user in shop.some_users:
        page = client.recommend(user, 20)
        check(page, most=20)
        assert len(page) == 20
        assert page.features is not None
        assert page.features.known
        assert page.features.present > 0
    differing = {client.recommend(user, 20).item_ids for user in shop.some_users}
    assert len(differing) > 1 or len(shop.some_users) == 1


def test_recommend_unknown_user(client: Recommender) -> None:
    page = client.recommend("nobody has this id", 20)
    check(page, most=20)
    assert len(page) == 20
    assert page.features is not None
    assert not page.features.known
    assert page.features.present == 0


def test_the_same_question_has_the_same_answer(client: Recommender, shop: Any) -> None:
    user = shop.some_users[0]
    assert client.recommend(user, 20).items == client.recommend(user, 20).items


def test_recommend_many_is_recommend_for_each(client: Recommender, shop: Any) -> None:
    users = [*shop.some_users, "nobody has this id"]
    for user, page in zip(users, client.recommend_many(users, 10), strict=True):
        alone = client.recommend(user, 10)
        assert page.user_id == user
        assert page.features == alone.features
        # Sums of a batch may be rounded in another order than those of a single user.
        assert [item.score for item in page] == pytest.approx([item.score for item in alone], rel=1e-4, abs=1e-5)


def test_exclude_and_k(client: Recommender, shop: Any) -> None:
    user = shop.some_users[0]
    first = client.recommend(user, 10)
    second = client.recommend(user, 10, exclude=first.item_ids)
    check(second, most=10)
    assert not set(first.item_ids) & set(second.item_ids)
    assert len(client.recommend(user, 0)) == 0
    everything = client.recommend(user, 10**9)
    check(everything, most=everything.served_by.catalogue_size)
    assert len(everything) == everything.served_by.catalogue_size


def test_rank(client: Recommender, shop: Any) -> None:
    user, items = shop.some_users[0], list(shop.some_items)
    page = client.rank(user, [*items, "no such item", *items])
    check(page, most=len(items))
    assert set(page.item_ids) == set(items)
    assert page.unknown_items == ("no such item",)
    assert client.rank(user, items[::-1]).items == page.items
    assert len(client.rank(user, [])) == 0


def test_rank_ten_thousand_candidates(client: Recommender, shop: Any) -> None:
    known = client.recommend(shop.some_users[0], 5_000).item_ids
    page = client.rank(shop.some_users[0], [*known, *(f"none-{n}" for n in range(10_000 - len(known)))])
    check(page, most=10_000)
    assert len(page) == len(known)
    assert len(page.unknown_items) == 10_000 - len(known)


def test_rank_and_recommend_agree(client: Recommender, shop: Any) -> None:
    """An item has one score for a user, whichever way it was asked for."""
    page = client.recommend(shop.some_users[0], 20)
    ranked = client.rank(shop.some_users[0], page.item_ids)
    ours = {item.item_id: item.score for item in ranked}
    assert [ours[item.item_id] for item in page] == pytest.approx([item.score for item in page], rel=1e-3, abs=1e-4)


def test_search(client: Recommender, shop: Any) -> None:
    title = client.rank(shop.some_users[0], shop.some_items[:1])[0].title
    for user in (shop.some_users[0], "nobody has this id", None):
        page = client.search(user, title, 10)
        check(page, most=10)
        assert len(page) == 10
        assert title in [item.title for item in page]
        assert all(item.relevance is not None and -1.001 <= item.relevance <= 1.001 for item in page)
    for query in ("🫖", "'; DROP TABLE items; --", "x" * 10_000, "茶", "a\x00b"):
        assert len(client.search(None, query, 3)) == 3


def test_similar_items(client: Recommender, shop: Any) -> None:
    for item in shop.some_items:
        page = client.similar_items(item, 10)
        check(page, most=10)
        assert len(page) == 10
        assert item not in page.item_ids
    unknown = client.similar_items("no such item")
    assert len(unknown) == 0
    assert unknown.unknown_items == ("no such item",)


def test_cross_sell(client: Recommender, shop: Any) -> None:
    popular = client.cross_sell([], 10)
    check(popular, most=10)
    for item in shop.some_items:
        page = client.cross_sell([item, "no such item"], 10)
        check(page, most=10)
        assert len(page) == 10
        assert item not in page.item_ids
        assert page.unknown_items == ("no such item",)
    assert client.cross_sell(["no such item"], 10).items == popular.items
    both = client.cross_sell(shop.some_items[:2], 10_000)
    assert len(both) == min(10_000, both.served_by.catalogue_size - 2)


def test_categories_that_are_new(client: Recommender, shop: Any) -> None:
    for user in (*shop.some_users, "nobody has this id"):
        page = client.cross_category(user, 10)
        check(page, most=10)
        # A shop without categories has none that could be new.
        assert all(item.category for item in page)


def test_wrong_arguments(client: Recommender) -> None:
    with pytest.raises(InvalidInput, match=r"^user_id"):
        client.recommend(1.5)
    with pytest.raises(InvalidInput, match=r"^k"):
        client.recommend("a", -1)
    with pytest.raises(InvalidInput, match=r"^query"):
        client.search("a", "  ")


async def test_async_pages_equal_blocking_ones(client: Recommender, shop: Any) -> None:
    moment = shop.as_of.timestamp()
    user, item = shop.some_users[0], shop.some_items[0]
    async with AsyncRecommender(shop.client_url, shop.triton_url, timeout=TIMEOUT, clock=lambda: moment) as other:
        pairs = [
            (await other.recommend(user, 20), client.recommend(user, 20)),
            (await other.rank(user, shop.some_items), client.rank(user, shop.some_items)),
            (await other.search(user, "a gift"), client.search(user, "a gift")),
            (await other.similar_items(item), client.similar_items(item)),
            ((await other.recommend_many([user]))[0], client.recommend_many([user])[0]),
        ]
    for ours, theirs in pairs:
        assert ours.items == theirs.items
        assert ours.served_by == theirs.served_by
        assert ours.features == theirs.features
