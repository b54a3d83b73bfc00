"""Explored pages: chosen as the policy says, with its propensities, and the same again by their ids."""

from __future__ import annotations

import math
from collections import Counter
from itertools import count

import numpy as np
import pytest
from shops import Shop

from recsys_plugin import EpsilonGreedy, Exploration, GumbelTopK, InvalidInput, Page, Recommender
from recsys_plugin.policy.exploration import calibrated_logits

PAGES = 300


def pages_of(small_shop: Shop, exploration: Exploration, number: int, k: int = 2) -> list[Page]:
    numbers = count()
    with Recommender(
        small_shop.client_url, small_shop.triton_url, timeout=30.0, clock=small_shop.as_of.timestamp,
        exploration=exploration, request_ids=lambda: f"request {next(numbers)}",
    ) as recommender:  # fmt: skip
        return [recommender.recommend(small_shop.some_users[0], k) for _ in range(number)]


def test_pages_follow_the_policy(small_shop: Shop) -> None:
    best = pages_of(small_shop, Exploration(), 1, k=6)[0]
    logits = calibrated_logits(np.array([item.score for item in best], np.float32))
    weights = np.exp(logits - logits.max())
    pages = pages_of(small_shop, Exploration(GumbelTopK(1.0), pool=6), PAGES)
    first = Counter(page[0].item_id for page in pages)
    for item, weight in zip(best, weights / weights.sum(), strict=True):
        expected = PAGES * float(weight)
        assert abs(first[item.item_id] - expected) < 5 * math.sqrt(expected) + 3, item.item_id
    for page in pages:
        assert len(set(page.item_ids)) == 2
        place = best.item_ids.index(page[0].item_id)
        assert page[0].propensity == pytest.approx(float(weights[place] / weights.sum()), rel=1e-4)
        assert page[0].position == 1


def test_the_ids_of_request_and_user_fix_a_page(small_shop: Shop) -> None:
    pages = [pages_of(small_shop, Exploration(EpsilonGreedy(0.5), pool=6, seed=seed), 50) for seed in (3, 3, 4)]
    assert [page.items for page in pages[0]] == [page.items for page in pages[1]]
    assert [page.item_ids for page in pages[0]] != [page.item_ids for page in pages[2]]


def test_without_exploration_a_page_could_not_be_otherwise(small_shop: Shop) -> None:
    (page,) = pages_of(small_shop, Exploration(), 1)
    assert [item.propensity for item in page] == [1.0, 1.0]


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a pool of 0 items is empty"):
        Exploration(pool=0)
