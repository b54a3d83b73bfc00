"""What is popular, with everybody and by segment: the shelf, new users, and users on the lower levels of the ladder."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_shop import NOW, TinyShop

from recsys_plugin import AsyncRecommender, InvalidInput, Recommender

DE, YOUNG = {"country": "DE"}, {"age_group": "18-24"}


def test_popular(recommender: Recommender) -> None:
    page = recommender.popular(3)
    assert page.item_ids == ("tea", "cup", "pot")
    assert (page.fallback.level, page.segments, page.served_by.model) == ("full", (), "popular")
    assert [item.score for item in page] == pytest.approx([0.4, 0.3, 0.15])
    german = recommender.popular(3, segment=DE)
    assert (german.item_ids, german.segments) == (("mug", "cup", "tea"), (("country", "DE"),))
    assert recommender.popular(2, segment={**DE, **YOUNG}).segments == (("age_group", "18-24"), ("country", "DE"))
    assert recommender.popular(1, segment=YOUNG).item_ids == ("tea",)
    assert "box" in recommender.popular(4, segment=YOUNG).item_ids
    assert recommender.popular(6).item_ids[-1] == "box"
    # Of whom nothing is told, what everybody buys.
    assert recommender.popular(3, segment={"country": "FR"}).item_ids == page.item_ids
    assert recommender.popular(9, category="kitchen").item_ids == ("cup", "pot", "mug")
    rules = {"price": {"lowest": 3.5, "keep_unknown": False}}
    assert recommender.popular(9, category="kitchen", rules=rules).item_ids == ("mug",)
    assert not recommender.popular(9, category="nothing")
    assert not recommender.popular(0)
    assert recommender.popular(2, beside=[page]).item_ids == ("mug", "jar")


@pytest.mark.parametrize(
    "wrong",
    [{"segment": {"contry": "DE"}}, {"segment": "DE"}, {"segment": {"country": 1}}, {"category": 1}, {"k": -1}],
)
def test_wrong_arguments_are_named(recommender: Recommender, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        recommender.popular(**wrong)


async def test_awaiting(tiny: TinyShop) -> None:
    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, clock=lambda: NOW, timeout=10) as client:
        assert (await client.popular(1, segment=DE)).item_ids == ("mug",)
        assert (await client.recommend("nobody", 1, segment=DE)).item_ids == ("mug",)


def test_a_user_who_is_not_known_gets_what_his_segment_buys(recommender: Recommender) -> None:
    as_ever = recommender.recommend("nobody", 3)
    assert as_ever.item_ids == ("tea", "cup", "pot")
    page = recommender.recommend("nobody", 3, segment=DE)
    assert page.features is not None
    assert not page.features.known
    # The model's score times how much more the segment buys it: 2 * 0.3 * 6 against 2 * 0.5 and 2 * 0.6 / 2.
    assert page.item_ids == ("mug", "cup", "pot")
    assert page.fallback.level == "full"
    # Of a user who is known his features tell more.
    assert (
        recommender.recommend("mug-lover", 3, segment=YOUNG).item_ids == recommender.recommend("mug-lover", 3).item_ids
    )
    assert recommender.recommend("nobody", 3, segment={"country": "FR"}).item_ids == as_ever.item_ids
    with pytest.raises(InvalidInput, match="segment"):
        recommender.recommend("nobody", 3, segment={"contry": "DE"})


def test_on_the_level_of_popularity_a_users_segment_counts(module_shop: TinyShop) -> None:
    options: dict[str, Any] = {"timeout": 10, "clock": lambda: NOW, "refresh_every": None, "follow_items": False}
    with Recommender(module_shop.redis_url, module_shop.triton_url, **options) as client:
        client.rank("mug-lover", ["tea"])  # keeps his features, of which one is his country
        module_shop.stop_triton()
        page = client.recommend("mug-lover", 2)
        assert (page.fallback.level, page.item_ids) == ("popularity", ("mug", "cup"))
        assert page.segments == (("country", "DE"),)
        assert client.recommend("nobody", 2, segment=DE).item_ids == ("mug", "cup")
        assert client.recommend("nobody", 2).item_ids == ("tea", "cup")
        assert client.rank("mug-lover", ["tea", "cup", "mug"]).item_ids == ("mug", "cup", "tea")
        assert client.popular(1, segment=DE).fallback.level == "full"
