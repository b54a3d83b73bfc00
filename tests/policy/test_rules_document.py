"""Rules as a document: what is read back, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.policy.rules import (
    NO_RULES,
    SHELVES,
    Already,
    Caps,
    MalformedRules,
    PageRules,
    Pin,
    PriceRange,
    ShelfRules,
)

WHOLE = st.integers(1, 50)
NUMBER = st.floats(0, 1e6, allow_nan=False)
NAMES = st.lists(st.text(min_size=1, max_size=4), max_size=3)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "least_stock": st.integers(0, 9),
        "price": st.fixed_dictionaries({"lowest": NUMBER}, optional={"keep_unknown": st.booleans()}),
        "exclude": st.fixed_dictionaries({}, optional={"items": NAMES, "categories": NAMES, "brands": NAMES}),
        "already": st.fixed_dictionaries({}, optional={"bought_days": NUMBER, "seen_days": st.none()}),
        "caps": st.fixed_dictionaries({}, optional={"category": WHOLE, "brand": WHOLE, "subcategory": WHOLE}),
        "pins": st.lists(st.builds(dict, item=st.text("ab", min_size=1), position=st.just(1)), max_size=1),
        "sponsored": st.lists(st.integers(2, 9), unique=True, max_size=3),
        "freshness": st.fixed_dictionaries({}, optional={"oldest_days": NUMBER, "boost": st.floats(0, 2)}),
        "objectives": st.fixed_dictionaries({"purchase": st.floats(0.1, 9)}, optional={"price_power": st.floats(0, 2)}),
        "diversity": st.fixed_dictionaries({}, optional={"method": st.sampled_from(["mmr", "dpp"]), "pool": WHOLE}),
    },
)


@given(RULES, st.dictionaries(st.sampled_from(SHELVES), RULES, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_document_is_read_and_written(default: dict[str, Any], shelves: dict[str, Any]) -> None:
    rules = PageRules.from_json(json.dumps({"format": 1, "default": default, "shelves": shelves}))
    again = PageRules.from_json(json.dumps(rules.to_dict()))
    assert (again.default, again.shelves) == (rules.default, rules.shelves)
    assert rules.of("cross_sell") == rules.shelves.get("cross_sell", rules.default)
    for shelf, own in shelves.items():
        for name in default.keys() - own.keys():
            if shelf != "rank":
                assert getattr(rules.of(shelf), name) == getattr(rules.default, name)


def test_a_shelf_has_the_default_but_for_what_it_says() -> None:
    rules = PageRules.from_json(
        """{"default": {"caps": {"category": 4}, "already": {"bought_days": 14}},
            "shelves": {"search": {"already": null, "price": {"highest": 9}}, "rank": {"caps": {"brand": 1}}}}"""
    )
    assert rules.of("recommend") == ShelfRules(caps=Caps(category=4), already=Already(bought_days=14))
    assert rules.of("search") == ShelfRules(caps=Caps(category=4), price=PriceRange(highest=9))
    # What is asked of by name is answered, sold out or not, and the default is not for it.
    assert rules.of("rank") == ShelfRules(least_stock=0, caps=Caps(brand=1))
    assert PageRules.from_json("{}").of("rank") == NO_RULES.of("rank") == ShelfRules(least_stock=0)
    assert PageRules.from_json('{"default": {"least_stock": null}}').of("search") == ShelfRules(least_stock=0)
    assert PageRules.from_json("{}").of("recommend") == NO_RULES.of("recommend") == ShelfRules()


def test_equal_documents_have_equal_names() -> None:
    first, second = (PageRules.from_json(text) for text in ('{"default": {}}', b'{"default": {}}'))
    assert first.digest == second.digest != PageRules.from_json("{}").digest
    assert len(first.digest) == 12


@pytest.mark.parametrize(
    "document, message",
    [
        ("nope", "rules: not a JSON document"),
        ("[" * 100_000, "rules: not a JSON document"),
        ("[]", "rules: not a JSON object"),
        ('{"rules": {}}', "rules: 'rules' is not known; there are format, default, shelves"),
        ('{"format": 2}', "rules: format 2 is not 1"),
        ('{"shelves": []}', "shelves: .* is not an object"),
        ('{"shelves": {"home": {}}}', "shelves: 'home' is not known; there are recommend, search, similar, rank"),
        ('{"default": 3}', "default: 3 is not an object of rules"),
        ('{"default": {"cap": 1}}', "default: 'cap' is not known; there are least_stock, price"),
        ('{"default": {"caps": 3}}', "default.caps: 3 is not an object"),
        ('{"default": {"caps": {"colour": 3}}}', "default.caps: 'colour' is not known; there are category"),
        (
            '{"shelves": {"search": {"caps": {"brand": 0}}}}',
            r"shelves.search.caps.brand: 0 is not a whole number from 1",
        ),
        ('{"default": {"caps": {"brand": 1.5}}}', r"default.caps.brand: 1.5 is not a whole number"),
        ('{"default": {"caps": {"brand": true}}}', r"default.caps.brand: True is not a whole number"),
        ('{"default": {"least_stock": -1}}', "default.least_stock: -1 is not"),
        ('{"default": {"price": {"lowest": 5, "highest": 2}}}', "default.price.highest: 2 is below lowest, 5"),
        ('{"default": {"price": {"lowest": NaN}}}', "NaN is not a number"),
        ('{"default": {"price": {"lowest": "5"}}}', "default.price.lowest: '5' is not a number of 0 or more"),
        ('{"default": {"exclude": {"items": "tea"}}}', "default.exclude.items: 'tea' is not a list of texts"),
        ('{"default": {"exclude": {"brands": [1]}}}', r"default.exclude.brands: \(1,\) is not a list of texts"),
        ('{"default": {"already": {"bought_days": -1}}}', "default.already.bought_days: -1 is not a number"),
        ('{"default": {"pins": {}}}', "default.pins: {} is not a list"),
        ('{"default": {"pins": [{"item": "a"}]}}', r"default.pins\[0\]: position is missing"),
        ('{"default": {"pins": [{"item": "", "position": 1}]}}', r"default.pins\[0\].item: '' is not an item id"),
        ('{"default": {"pins": [{"item": "a", "position": 0}]}}', r"default.pins\[0\].position: 0 is not"),
        ('{"default": {"sponsored": [3, 3]}}', "default.pins, sponsored: position 3 is given twice"),
        ('{"default": {"sponsored": 3}}', "default.sponsored: 3 is not a list"),
        ('{"default": {"freshness": {"half_life_days": 0}}}', "default.freshness.half_life_days: 0 is not"),
        ('{"default": {"objectives": {}}}', "default.objectives.click, cart, purchase: one of the weights"),
        ('{"default": {"objectives": {"click": -1}}}', "default.objectives.click: -1 is not a number"),
        (
            '{"default": {"diversity": {"method": "random"}}}',
            "default.diversity.method: 'random' is not one of mmr, dpp",
        ),
        ('{"default": {"diversity": {"strength": 2}}}', "default.diversity.strength: 2 is not a number from 0 to 1"),
    ],
)
def test_what_is_wrong_is_named(document: str, message: str) -> None:
    with pytest.raises(MalformedRules, match=message):
        PageRules.from_json(document)


def test_two_pins_of_one_item_are_refused() -> None:
    from recsys_plugin.errors import InvalidInput

    with pytest.raises(InvalidInput, match="item 'tea' is pinned twice"):
        ShelfRules(pins=(Pin("tea", 1), Pin("tea", 2)))
