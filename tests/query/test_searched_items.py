"""From what is understood to items: filters, what they are relaxed to, boosts, and what matches by its words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop_of_things import ITEMS, catalogue_of, index_of

from recsys_plugin.inference.new_items import ItemFacts, NewItems
from recsys_plugin.query.search_index import MOST_LEXICAL, SearchIndex, SearchPlan

IDS = tuple(item[0] for item in ITEMS)
NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def index() -> SearchIndex:
    return index_of()


def allowed(plan: SearchPlan) -> set[str]:
    assert plan.allowed is not None
    return {IDS[row] for row in np.flatnonzero(plan.allowed).tolist()}


def plan_of(index: SearchIndex, query: str, unwanted: tuple[str, ...] = ()) -> SearchPlan:
    return index.plan(query, NewItems(), np.array([IDS.index(item_id) for item_id in unwanted], np.int64))


@pytest.mark.parametrize(
    "query, wanted",
    [
        (
            "wine under 10",
            {"wine-1", "beer-1", "beer-2", "soda-1", "soda-2", "bar-1", "bar-2", "bar-3", "cereal-1", "mug-77b"},
        ),
        ("anything between 7 and 8", {"wine-1", "beer-1"}),
        ("over 8", {"wine-1", "wine-2"}),
        ("bottle by hill farm", {"wine-1", "beer-1", "beer-2"}),
        ("drinks without alcohol", set(IDS) - {"wine-1", "wine-2", "beer-1"}),
        ("不要酒精的饮料", set(IDS) - {"wine-1", "wine-2", "beer-1"}),
        ("bar without nuts", set(IDS) - {"bar-1"}),
        ("wine, not red", set(IDS) - {"wine-1"}),
        ("cola without caffeine", set(IDS)),
        ("drinks in the soft drinks section", {"soda-1", "soda-2"}),
        ("beer under 6.50 from the beers section", {"beer-2"}),
    ],
)
def test_filters(index: SearchIndex, query: str, wanted: set[str]) -> None:
    plan = plan_of(index, query)
    assert allowed(plan) == wanted
    assert plan.relaxed == ()


@pytest.mark.parametrize(
    "query, wanted, relaxed",
    [
        # No wine costs less, and other things under 5 are not what was asked for.
        ("wine under 5", set(IDS), ("price",)),
        ("fizz over 100", {"soda-1", "soda-2"}, ("price",)),
        ("soft drinks by hill farm under 3", {"soda-1", "soda-2"}, ("brand",)),
        ("in the kitchen category under 1", {"bar-3"}, ("category",)),
        ("in the kitchen category by choc over 90", {"bar-3"}, ("category", "price")),
    ],
)
def test_filters_that_leave_nothing_are_given_up(
    index: SearchIndex, query: str, wanted: set[str], relaxed: tuple[str, ...]
) -> None:
    plan = plan_of(index, query)
    assert plan.relaxed == relaxed
    assert wanted <= allowed(plan)


def test_what_is_excluded_stays_excluded(index: SearchIndex) -> None:
    plan = plan_of(index, "chocolate bar without chocolate or granola in the snacks category")
    assert not {"bar-1", "bar-2", "bar-3"} & allowed(plan)
    assert plan.relaxed == ("category",)
    only = index_of([ITEMS[0]])
    plan = only.plan("no wine", NewItems(), NOTHING)
    assert plan.allowed is not None
    assert not plan.allowed.any()
    assert plan.relaxed == ()


def test_what_cannot_be_on_the_page_counts_as_missing(index: SearchIndex) -> None:
    assert plan_of(index, "beer under 7").relaxed == ()
    assert plan_of(index, "beer under 6.50", unwanted=("beer-2",)).relaxed == ("price",)


def test_words_match(index: SearchIndex) -> None:
    plan = plan_of(index, "granola bars")
    best = np.argsort(-plan.matches, kind="stable")[:2]
    assert {IDS[row] for row in best} == {"bar-1", "bar-2"}
    assert set(plan.lexical_rows.tolist()) == set(np.flatnonzero(plan.matches).tolist())
    assert plan.allowed is None
    assert plan_of(index, "the of and").matches.max() == 0
    assert plan_of(index, "🫖").lexical_rows.size == 0


def test_an_id_is_found(index: SearchIndex) -> None:
    for query in ("mug-77b", "the mug-77b please"):
        plan = plan_of(index, query)
        assert IDS[int(plan.matches.argmax())] == "mug-77b"
        assert plan.matches.max() == 1


def test_rows_that_a_filter_bars_are_no_candidates(index: SearchIndex) -> None:
    plan = plan_of(index, "granola bar under 3.20")
    assert {IDS[row] for row in plan.lexical_rows.tolist()} == {"bar-1", "bar-3"}


@pytest.mark.parametrize(
    "query, best",
    [
        ("something in red", "wine-1"),
        ("red mug in the kitchen", "mug-77b"),
        ("cheap wine", "wine-1"),
        ("something cheap", "bar-3"),
        ("expensive wine", "wine-2"),
        ("cereal for my daughter", "cereal-1"),
        ("cereal 12 oz", "cereal-1"),
        ("something for 0.34 kg", "cereal-1"),
    ],
)
def test_boosts(index: SearchIndex, query: str, best: str) -> None:
    plan = plan_of(index, query)
    rows = np.arange(len(IDS))
    boosts = plan.boosts(rows)
    assert boosts.min() >= 0
    assert boosts.max() <= 1
    assert IDS[int(boosts.argmax())] == best
    assert plan_of(index, "mug").boosts(rows).max() == 0


def test_new_items_are_found_and_filtered_alike() -> None:
    catalogue = catalogue_of()
    index = SearchIndex.of(catalogue)
    facts = (
        ItemFacts("new-1", "Sparkling wine", "Domestic wine", "", "Hill Farm", 9.0),
        ItemFacts("new-2", "Sparkling water", "Soft drinks", "", "Fizz", 30.0),
    )
    new = NewItems().with_items(facts, np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32))
    plan = index.plan("sparkling wine under 10", new, NOTHING)
    assert len(plan.matches) == len(catalogue) + 2
    assert plan.matches.argmax() == len(catalogue)
    assert plan.allowed is not None
    assert plan.allowed[-2:].tolist() == [True, False]
    assert plan.lexical_rows.max() < len(catalogue)
    boosts = plan.boosts(np.array([0, len(catalogue), len(catalogue) + 1, -1]))
    assert boosts[:3].tolist() == [1, 1, 0]
    assert index.plan("new-2", new, NOTHING).matches[-1] == 1
    # What nobody in the catalogue sells counts as little known, not as nothing.
    assert index.plan("sparkling", new, NOTHING).matches[-1] > 0


def test_prices_count_as_they_are_now() -> None:
    catalogue = catalogue_of()
    index = SearchIndex.of(catalogue)
    assert plan_of(index, "wine under 5").relaxed == ("price",)
    catalogue.prices[0] = 4.0
    assert plan_of(index, "wine under 5").relaxed == ()


def test_no_more_than_so_many_rows_are_sent() -> None:
    index = index_of([(f"i{number}", f"mug {number % 7}", "", "", 1.0) for number in range(500)])
    plan = index.plan("mug 3", NewItems(), NOTHING)
    assert len(plan.lexical_rows) == MOST_LEXICAL
    assert set(plan.matches[plan.lexical_rows].tolist()) == {plan.matches.max()}


@given(st.text(max_size=40))
def test_any_query_has_a_plan(query: str) -> None:
    plan = PLANNER.plan(query, NewItems(), NOTHING)
    assert np.isfinite(plan.matches).all()
    assert np.isfinite(plan.boosts(np.arange(len(IDS)))).all()


PLANNER = index_of()


def test_a_chinese_shop() -> None:
    index = index_of(
        [
            ("a", "红色马克杯 350毫升", "杯子", "山月", 25.0),
            ("b", "蓝色马克杯 350毫升", "杯子", "山月", 18.0),
            ("c", "无糖可乐 2升", "饮料", "清泉", 6.0),
            ("d", "可乐（含糖） 2升", "饮料", "清泉", 5.0),
        ]
    )
    plan = index.plan("20元以下的马克杯", NewItems(), NOTHING)
    assert plan.allowed is not None
    assert plan.allowed.tolist() == [False, True, True, True]
    assert (plan.intent.text, plan.intent.highest_price, plan.relaxed) == ("马克杯", 20, ())
    assert plan.matches.argmax() in (0, 1)
    assert plan.matches[2:].max() == 0
    plan = index.plan("不要红色的杯子", NewItems(), NOTHING)
    assert plan.allowed is not None
    assert plan.allowed.tolist() == [False, True, True, True]
    assert plan.intent.categories == ("杯子",)
    plan = index.plan("清泉 可乐 2升", NewItems(), NOTHING)
    assert (plan.intent.brands, [str(size) for size in plan.intent.sizes]) == (("清泉",), ["2 l"])
    assert plan.boosts(np.arange(4)).tolist() == [0, 0, 1, 1]
    for query in ("无糖可乐", "不要糖的可乐"):
        plan = index.plan(query, NewItems(), NOTHING)
        assert plan.intent.excluded == ("糖",)
        assert plan.allowed is not None
        assert plan.allowed.tolist() == [True, True, True, False]
