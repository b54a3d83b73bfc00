"""What is understood of queries: thirty to the demo shop as a person reads them, and others one thing at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from intent_queries import QUERIES, Reading
from shop_of_things import index_of

from recsys_plugin.data.adapters import Places
from recsys_plugin.data.adapters.complete_journey import CompleteJourney
from recsys_plugin.data.files import RawTable
from recsys_plugin.inference.labels import Labels
from recsys_plugin.query.intent import SearchIntent
from recsys_plugin.query.parser import read_query
from recsys_plugin.query.search_index import words_of
from recsys_plugin.query.searched_items import SearchedItems
from recsys_plugin.query.shop_words import ShopWords

#: Of the thirty, so many must be read as a person does.
WANTED = 27


@pytest.fixture(scope="module")
def demo_shop(tmp_path_factory: pytest.TempPathFactory) -> ShopWords:
    """The names and words of the demo shop, as its adapter makes them from the package."""
    adapter = CompleteJourney()
    places = Places(path=None, data=None, downloads=tmp_path_factory.mktemp("downloads"))
    found = adapter.read(adapter.locate(places, lambda *_: None)).tables["items"]
    assert isinstance(found, RawTable)
    columns = {
        name: ["" if pd.isna(text) else text for text in found.data[name].to_pylist()] for name in found.column_names
    }
    items = SearchedItems.of(
        columns["title"],
        Labels(columns["category"]),
        Labels(columns["subcategory"]),
        Labels(columns["brand"]),
        np.array(found.data["price"].to_pylist(), np.float64),
    )
    return words_of(items)


def reading_of(intent: SearchIntent) -> Reading:
    return Reading(
        lowest=intent.lowest_price,
        highest=intent.highest_price,
        level=intent.price_level,
        categories=frozenset(intent.categories),
        brands=frozenset(intent.brands),
        colours=frozenset(intent.colours),
        sizes=frozenset(map(str, intent.sizes)),
        recipient=intent.recipient,
        excluded=frozenset(intent.excluded),
        corrections=frozenset((one.typed, one.taken) for one in intent.corrections),
    )


def test_queries_to_the_demo_shop_are_read_as_a_person_reads_them(demo_shop: ShopWords) -> None:
    assert len(QUERIES) == 30
    wrong = {
        query: (read, wanted)
        for query, wanted in QUERIES.items()
        if (read := reading_of(read_query(query, demo_shop).intent)) != wanted
    }
    assert len(QUERIES) - len(wrong) >= WANTED, wrong


def read(query: str) -> SearchIntent:
    return index_of().parse(query).intent


@pytest.mark.parametrize(
    "query, low, high",
    [
        ("wine under 20", None, 20),
        ("wine below £7.50", None, 7.5),
        ("wine between 5 and 10 pounds", 5, 10),
        ("wine 10 to 5 dollars", 5, 10),
        ("wine $5-$10", 5, 10),
        ("wine over 1,200", 1200, None),
        ("wine for no more than twenty euros", None, 20),
        ("wine 50 cents or less", None, 0.5),
        ("wine at least 3 and at most 9", 3, 9),
        ("wine about 8", 6, 10),
        ("20元以下的红酒", None, 20),
        ("红酒 50到100元", 50, 100),
        ("不超过二十五块的啤酒", None, 25),
        ("100元以上的酒", 100, None),
        ("wine over 12% alcohol", None, None),
        ("wine under 750 ml", None, None),
        ("more than just wine", None, None),
        ("wine 2015", None, None),
    ],
)
def test_bounds_of_the_price(query: str, low: float | None, high: float | None) -> None:
    intent = read(query)
    assert (intent.lowest_price, intent.highest_price) == (low, high)
    if low is not None or high is not None:
        assert not any(character.isdigit() for character in intent.text)


@pytest.mark.parametrize(
    "query, excluded",
    [
        ("beer without alcohol", ("alcohol",)),
        ("bars with no nuts or chocolate", ("nuts", "chocolate")),
        ("wine, not red", ("red",)),
        ("alcohol-free beer", ("alcohol",)),
        ("drinks excluding beer and wine", ("beer", "wine")),
        ("cola that doesn't contain caffeine", ("caffeine",)),
        ("不要酒精的饮料", ("酒精",)),
        ("无糖可乐", ("糖",)),
        ("无线耳机", ()),
        ("not without", ()),
        ("hands free mug", ()),
        ("free range eggs", ()),
        ("no", ()),
    ],
)
def test_negations(query: str, excluded: tuple[str, ...]) -> None:
    assert read(query).excluded == excluded


@pytest.mark.parametrize(
    "query, wanted",
    [
        ("gift for my daughter", {"recipient": "daughter"}),
        ("something for the kids", {"recipient": "kid"}),
        ("给女儿的礼物", {"recipient": "daughter"}),
        ("toy for an 8-year-old", {"recipient": "child"}),
        ("5 year warranty", {"recipient": None}),
        ("cheapest wine", {"price_level": "cheap"}),
        ("便宜的红酒", {"price_level": "cheap", "text": "红酒"}),
        ("luxury wine", {"price_level": "expensive"}),
        ("red mug", {"colours": ("red",)}),
        ("红色的杯子", {"colours": ("red",)}),
        ("wine by hill farm", {"brands": ("Hill Farm",)}),
        ("fizz cola", {"brands": ("Fizz",)}),
        # Bars of two brands are of chocolate, and "choc" is short for one of them only.
        ("choc bar", {"brands": ("Choc",)}),
        ("oat bars", {"brands": ()}),
        ("granloa bar", {"text": "granola bar"}),
        ("in the soft drinks section: cola", {"categories": ("Soft drinks",), "category_only": True}),
        ("cola soft drink", {"categories": ("Soft drinks",), "category_only": False}),
        ("beer", {"categories": ("Beers/ales",)}),
    ],
)
def test_other_wishes(query: str, wanted: dict[str, Any]) -> None:
    intent = read(query)
    assert {name: getattr(intent, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    "query", ["the of and", "without nuts", "🫖", "'; DROP TABLE items; --", "\x00\x1b[31m", "%s{}"]
)
def test_something_is_always_looked_for(query: str) -> None:
    assert read(query).text


@given(st.one_of(st.text(max_size=60), st.text("wine under 20 without not for my £$%-, 元不要红", max_size=80)))
def test_any_text_is_read(query: str) -> None:
    intent = read(query)
    assert intent.lowest_price is None or intent.highest_price is None or intent.lowest_price <= intent.highest_price


@pytest.mark.parametrize("piece", ["not ", "a", "for my ", "9", "under 5 ", "free-", "不要", "no nuts or "])
def test_ten_thousand_characters_are_read_in_no_time(piece: str) -> None:
    query = (piece * 10_000)[:10_000]
    assert read(query).text


def test_a_brand_that_is_a_common_word_must_be_said_to_be_one() -> None:
    items = [(f"i{number}", f"Apple juice {number}", "Juice", "Orchard", 1.0) for number in range(5)]
    index = index_of([*items, ("phone", "Phone", "Phones", "Apple", 99.0)])
    assert index.parse("apple juice").intent.brands == ()
    assert index.parse("phone by apple").intent.brands == ("Apple",)
    assert index.parse("apple brand phone").intent.brands == ("Apple",)
