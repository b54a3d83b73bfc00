"""What goes with a basket, and what is of new categories, on the tiny shop: answers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_shop import ITEM_IDS, NOW, TinyShop

from recsys_plugin import AsyncRecommender, Recommender, Timeout
from recsys_plugin.errors import InvalidInput

WEIRD = ["🫖" * 40, "'; DROP TABLE items; --", "x" * 256]


@pytest.mark.parametrize(
    ("basket", "expected"),
    [
        # The tables of tiny_graphs.complements_of_tiny_shop; ties go to the lower row.
        (["tea"], ["pot", "cup", "jar", "box", "mug"]),
        (["pot"], ["tea", "cup", "jar", "box", "mug"]),
        (["tea", "pot"], ["cup", "jar", "box", "mug"]),
        (["tea", "tea"], ["pot", "cup", "jar", "box", "mug"]),
        (["mug"], ["jar", "box", "tea", "cup", "pot"]),
        ([], ["jar", "box", "tea", "cup", "pot", "mug"]),
        (list(ITEM_IDS), []),
    ],
)
def test_a_basket_is_answered_by_what_goes_with_it(
    recommender: Recommender, basket: list[str], expected: list[str]
) -> None:
    page = recommender.cross_sell(basket)
    assert list(page.item_ids) == expected
    assert page.unknown_items == ()
    assert (page.served_by.model, page.user_id, page.features) == ("complements", None, None)


def test_scores_are_the_weights_and_the_prior_added_up(recommender: Recommender) -> None:
    page = recommender.cross_sell(["tea", "pot"], k=2)
    assert [(item.item_id, item.score) for item in page] == [("cup", 0.75), ("jar", 0.125)]


def test_excluded_items_and_those_of_the_basket_do_not_come_back(recommender: Recommender) -> None:
    assert recommender.cross_sell(["tea"], k=2, exclude=["pot", "nothing"]).item_ids == ("cup", "jar")


@pytest.mark.parametrize("unknown", [*WEIRD, "unknown"])
def test_unknown_items_are_listed_and_the_others_count(recommender: Recommender, unknown: str) -> None:
    page = recommender.cross_sell([unknown, "tea", unknown], k=1)
    assert (page.item_ids, page.unknown_items) == (("pot",), (unknown,))
    assert recommender.cross_sell([unknown], k=1).item_ids == ("jar",)


def test_how_many(recommender: Recommender) -> None:
    assert recommender.cross_sell(["tea", "gone"], k=0).unknown_items == ("gone",)
    assert len(recommender.cross_sell(["tea"], k=0)) == 0
    assert len(recommender.cross_sell(["tea"], k=10_000)) == len(ITEM_IDS) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"basket": "tea"}, "basket: expected a list of ids"),
        ({"basket": ["a\nb"]}, r"basket\[0\]: .* holds a control character"),
        ({"basket": [1.5]}, r"basket\[0\]: an id is a string"),
        ({"basket": ["y" * 10_000]}, "longer than 256 bytes"),
        ({"basket": ["tea"] * 10_001}, "at most 10000"),
        ({"basket": ["tea"], "k": -1}, "k: -1 is less than 0"),
        ({"basket": ["tea"], "candidates": 0}, "candidates: 0 is less than 1"),
    ],
)
def test_wrong_arguments_are_named(recommender: Recommender, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        recommender.cross_sell(**arguments)


def test_categories_that_the_user_has_nothing_of(recommender: Recommender) -> None:
    """mug-lover's latest items are a mug and one that is gone, so kitchen is known; the jar has no category."""
    page = recommender.cross_category("mug-lover")
    assert page.item_ids == ("tea", "box")
    assert page.features is not None
    assert page.features.known
    assert page.served_by.model == "cross_category"
    assert page.served_by.contract is not None
    assert recommender.cross_category("mug-lover", exclude=["box"]).item_ids == ("tea",)
    assert len(recommender.cross_category("mug-lover", exclude=["box", "tea"])) == 0


def test_to_a_new_user_every_category_is_new(recommender: Recommender) -> None:
    page = recommender.cross_category("never seen")
    assert page.item_ids == ("tea", "cup", "pot", "box")
    assert page.features is not None
    assert not page.features.known
    assert recommender.cross_category("never seen", per_category=1).item_ids == ("tea", "cup", "box")
    assert recommender.cross_category("never seen", per_category=9).item_ids == ("tea", "cup", "pot", "mug", "box")
    assert recommender.cross_category("never seen", 2).item_ids == ("tea", "cup")
    assert recommender.cross_category("never seen", 10_000).item_ids == page.item_ids
    assert len(recommender.cross_category("never seen", 0)) == 0


@pytest.mark.parametrize("user_id", WEIRD)
def test_any_id_may_be_a_user(recommender: Recommender, user_id: str) -> None:
    assert len(recommender.cross_category(user_id, 3)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user_id": ""}, "user_id: an id must not be empty"),
        ({"user_id": "a\x00b"}, "holds a control character"),
        ({"user_id": "u", "per_category": 0}, "per_category: 0 is less than 1"),
        ({"user_id": "u", "k": 1.5}, "k: 1.5 is not a whole number"),
    ],
)
def test_wrong_arguments_of_cross_category(recommender: Recommender, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        recommender.cross_category(**arguments)


async def test_the_awaiting_client_answers_alike(tiny: TinyShop, recommender: Recommender) -> None:
    allowed = Timeout(10, connect=10)
    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=allowed, clock=lambda: NOW) as client:
        page = await client.cross_sell(["tea", "gone"], exclude=["jar"])
        assert page.items == recommender.cross_sell(["tea", "gone"], exclude=["jar"]).items
        assert page.unknown_items == ("gone",)
        assert (await client.cross_category("mug-lover")).item_ids == ("tea", "box")
