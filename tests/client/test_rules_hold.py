"""Rules hold in every page: ten thousand random ones, each item of which is checked by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys_plugin.client.context import Exploration, RequestContext, RequestRules
from recsys_plugin.client.pages import page_items
from recsys_plugin.client.release import PersonalModel, Release, with_sold_out
from recsys_plugin.client.results import RankedItems
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec
from recsys_plugin.features.plan import FeatureTensors, ReadPlan
from recsys_plugin.inference.catalogue import Catalogue
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels
from recsys_plugin.inference.new_items import ItemFacts, NewItems
from recsys_plugin.policy.exploration_settings import parse_exploration
from recsys_plugin.policy.rules import (
    Already,
    Caps,
    Diversity,
    Exclusions,
    Freshness,
    Objectives,
    Pin,
    PriceRange,
    ShelfRules,
)

PAGES = 10_000
NOW = 1_700_000_040.0
DAY = 86_400
SIZE, NEW, RECENT = 60, 4, 6
CATEGORIES, BRANDS = ("tea", "cups", "pots", ""), ("leaf", "clay", "glass", "steel", "")
USER = "someone"

CONTRACT = FeatureContract(
    (
        FeatureSpec("profile:purchases", "FLOAT", 0.0),
        FeatureSpec("profile:country", "STRING", "?"),
        FeatureSpec("user_recent_items:item_ids", "STRING_LIST", -1, encoding=Encoding.ROW, length=RECENT),
        FeatureSpec("user_recent_items:event_type_codes", "INT64_LIST", 0, length=RECENT),
        FeatureSpec("user_recent_items:timestamps", "UNIX_TIMESTAMP_LIST", 0, length=RECENT),
    )
)


@pytest.fixture(scope="module")
def release() -> Release:
    """Sixty items and four newer ones, of every kind."""
    draw = np.random.default_rng(1)
    vectors = ItemVectors(SIZE)
    fetch = vectors.fetch(1, np.arange(SIZE))
    call = next(fetch)
    with pytest.raises(StopIteration):
        fetch.send({"item_vector": draw.normal(size=(len(call.inputs["item_row"]), 4)).astype(np.float32)})
    prices = np.where(draw.random(SIZE) < 0.1, np.nan, draw.uniform(1, 20, SIZE).round(2))
    catalogue = Catalogue(
        version=1,
        item_ids=tuple(f"i{row}" for row in range(SIZE)),
        rows={f"i{row}": row for row in range(SIZE)},
        titles=np.array([f"Item {row}" for row in range(SIZE)], object),
        categories=Labels(CATEGORIES[code] for code in draw.integers(0, len(CATEGORIES), SIZE)),
        subcategories=Labels(f"sub {code}" for code in draw.integers(0, 9, SIZE)),
        brands=Labels(BRANDS[code] for code in draw.integers(0, len(BRANDS), SIZE)),
        prices=prices,
        available_since=np.where(draw.random(SIZE) < 0.1, 0, NOW - draw.integers(0, 400, SIZE) * DAY - DAY // 2).astype(
            np.int64
        ),
        stock=draw.integers(-1, 6, SIZE),
        vectors=vectors,
    )
    facts = tuple(
        ItemFacts(f"n{number}", f"New {number}", CATEGORIES[number], "new", "fresh", 3.0 * number, number - 1)
        for number in range(NEW)
    )
    new = NewItems(
        facts,
        {fact.item_id: place for place, fact in enumerate(facts)},
        draw.normal(size=(NEW, 9)).astype(np.float32),
        np.zeros((NEW, 2), np.float32),
    )
    model = PersonalModel(ReadPlan(CONTRACT), 64, (), (), False)
    return with_sold_out(Release(1, catalogue, {"recommend": model, "search": model, "rank": model}, {}, new))


def facts_of(release: Release, item_id: str) -> dict[str, Any]:
    """What is known of an item, looked up in the plainest way."""
    row = release.row(item_id)
    assert row is not None
    if row >= SIZE:
        facts = release.new_items.facts[row - SIZE]
        return {
            "category": facts.category, "subcategory": facts.subcategory, "brand": facts.brand,
            "price": facts.price, "stock": facts.stock, "age": 0.0,
        }  # fmt: skip
    catalogue = release.catalogue
    since = int(catalogue.available_since[row])
    return {
        "category": catalogue.categories[row], "subcategory": catalogue.subcategories[row],
        "brand": catalogue.brands[row], "price": float(catalogue.prices[row]), "stock": int(catalogue.stock[row]),
        "age": (NOW - since) / DAY if since else np.inf,
    }  # fmt: skip


def random_rules(draw: np.random.Generator) -> ShelfRules:
    """Each rule is there in a third of the cases."""

    def maybe(make: Any, otherwise: Any = None) -> Any:
        return make() if draw.random() < 1 / 3 else otherwise

    def some(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(draw.choice(names, draw.integers(0, 3), replace=False).tolist())

    ids = tuple(f"i{row}" for row in range(SIZE)) + tuple(f"n{number}" for number in range(NEW)) + ("gone",)
    positions = draw.permutation(np.arange(1, 13)).tolist()
    pins = tuple(Pin(item, positions.pop()) for item in draw.choice(ids, draw.integers(0, 4), replace=False).tolist())
    return ShelfRules(
        least_stock=int(draw.integers(0, 4)),
        price=maybe(
            lambda: PriceRange(float(draw.uniform(0, 6)), float(draw.uniform(6, 20)), bool(draw.integers(0, 2)))
        ),
        exclude=maybe(
            lambda: Exclusions(
                some(ids), some(CATEGORIES[:3]), some(("sub 1", "sub 2", "new")), some(("leaf", "fresh"))
            )
        ),
        already=maybe(lambda: Already(maybe(lambda: 30.0), maybe(lambda: 3.0))),
        caps=maybe(
            lambda: Caps(*(maybe(lambda: int(draw.integers(1, 4))) for _ in ("category", "subcategory", "brand")))
        ),
        pins=maybe(lambda: pins, ()),
        sponsored=maybe(lambda: tuple(positions[: draw.integers(0, 4)]), ()),
        freshness=maybe(lambda: Freshness(maybe(lambda: 200.0), float(draw.uniform(0, 1)))),
        objectives=maybe(lambda: Objectives(*draw.uniform(0.1, 2, 4).tolist())),
        diversity=maybe(lambda: Diversity(("mmr", "dpp")[draw.integers(0, 2)], float(draw.random()), 20)),
    )


def may_be_shown(release: Release, rules: ShelfRules, item_id: str, acts: list[tuple[int, int, int]]) -> bool:
    """Whether filters let an item through, by the words of each rule."""
    facts = facts_of(release, item_id)
    if 0 <= facts["stock"] < rules.least_stock:
        return False
    if (price := rules.price) is not None:
        if np.isnan(facts["price"]):
            if not price.keep_unknown:
                return False
        elif not price.lowest <= facts["price"] <= (np.inf if price.highest is None else price.highest):
            return False
    if (exclude := rules.exclude) is not None and (
        item_id in exclude.items
        or facts["category"] in exclude.categories
        or facts["subcategory"] in exclude.subcategories
        or facts["brand"] in exclude.brands
    ):
        return False
    if (already := rules.already) is not None:
        for row, code, age in acts:
            days = {4: already.bought_days, 1: already.seen_days, 2: already.seen_days, 3: already.seen_days}.get(code)
            if row == release.row(item_id) and days is not None and age <= days:
                return False
    oldest = None if rules.freshness is None else rules.freshness.oldest_days
    return oldest is None or bool(facts["age"] <= oldest)


def one_page(
    release: Release, rules: ShelfRules, draw: np.random.Generator, exploration: Exploration
) -> tuple[RankedItems, dict[str, Any], RequestContext]:
    """A page of random candidates, and what it was asked for."""
    k = int(draw.integers(0, 13))
    rows = draw.choice(SIZE + NEW, draw.integers(0, SIZE + NEW + 1), replace=False).astype(np.int64)
    excluded = set(draw.choice(SIZE, draw.integers(0, 4), replace=False).tolist())
    sponsored = tuple(f"i{row}" for row in draw.choice(SIZE, draw.integers(0, 4), replace=False))
    acts = [(int(draw.integers(-1, SIZE)), int(draw.integers(0, 6)), int(draw.integers(0, 60))) for _ in range(RECENT)]
    line = [row for row, _, _ in acts] + [code for _, code, _ in acts] + [int(NOW) - age * DAY for *_, age in acts]
    heads = draw.uniform(0, 0.4, (3, len(rows))).astype(np.float32)
    outputs = {
        "rows": rows,
        "scores": heads.sum(axis=0),
        **{f"{name}_probability": heads[at] for at, name in enumerate(("click", "cart", "purchase"))},
    }
    context = RequestContext(release, "request", NOW, lambda: 0.0, exploration, logs_pages=True)
    context.asked = RequestRules(rules, sponsored)
    tensors = FeatureTensors(np.zeros((1, 1), np.float32), np.array([line]), np.array([[b"?"]], object))
    context.features = {USER: (tensors, 0)}
    explore = USER if exploration.explores else None
    items = page_items(
        context, "recommend", outputs, outputs["scores"], None, excluded, k, explore=explore, user_id=USER
    )
    return items, {"k": k, "rows": rows, "excluded": excluded, "sponsored": sponsored, "acts": acts}, context


def test_rules_hold_in_every_page(release: Release) -> None:
    draw = np.random.default_rng(20)
    explorations = [Exploration(), Exploration(parse_exploration("gumbel:0.3"), pool=30)]
    for number in range(PAGES):
        rules = random_rules(draw)
        items, asked, context = one_page(release, rules, draw, explorations[number % 4 == 0])
        ids = list(items.item_ids)
        assert len(ids) == len(set(ids)) <= asked["k"]
        candidates = {release.item_id(row) for row in asked["rows"].tolist()}
        brought = {pin.item for pin in rules.pins} | set(asked["sponsored"])
        for item_id in ids:
            assert may_be_shown(release, rules, item_id, asked["acts"]), (number, item_id, rules)
            assert release.row(item_id) not in asked["excluded"]
            assert item_id in candidates | brought
        for name in ("category", "subcategory", "brand"):
            cap = None if rules.caps is None else getattr(rules.caps, name)
            values = [value for item_id in ids if (value := facts_of(release, item_id)[name])]
            assert cap is None or all(values.count(value) <= cap for value in values), (number, name, rules)
        check_positions(release, rules, ids, asked, context, items)
        if rules.caps is None:
            shown = {
                item_id for item_id in candidates
                if release.row(item_id) not in asked["excluded"]
                and may_be_shown(release, rules, item_id, asked["acts"])
            }  # fmt: skip
            assert len(ids) >= min(asked["k"], len(shown)), (number, rules)
        logged = context.candidates
        assert logged is not None
        assert logged.rows[logged.order].tolist() == [release.row(item_id) for item_id in ids]


def check_positions(
    release: Release,
    rules: ShelfRules,
    ids: list[str],
    asked: dict[str, Any],
    context: RequestContext,
    items: RankedItems,
) -> None:
    """Pins and sponsored items stand where they should, or the page says why not."""
    if context.applied is None:
        assert rules == ShelfRules()  # nothing but that what is sold out is not shown
        assert not asked["sponsored"]
        return
    unmet = " ".join(context.applied.unmet)
    full = len(ids) == asked["k"]
    for pin in rules.pins:
        row = release.row(pin.item)
        able = row is not None and row not in asked["excluded"] and pin.position <= asked["k"]
        if able and may_be_shown(release, rules, pin.item, asked["acts"]):
            if full and pin.item not in unmet:
                assert ids[pin.position - 1] == pin.item
            if rules.caps is None:
                assert pin.item in ids
    for item in items:
        if item.sponsored:
            assert item.item_id in asked["sponsored"]
            assert not full or item.position in rules.sponsored
        if item.item_id in {release.item_id(row) for row in asked["rows"].tolist()}:
            assert item.original_position is not None
            assert item.moved_by or item.original_position == item.position
        else:
            assert item.original_position is None
            assert item.moved_by in (("pins",), ("sponsored",))
        assert np.isfinite(item.score)
        assert 0 < item.propensity <= 1
    if full and asked["sponsored"] and not unmet:
        taken = [position for position in rules.sponsored if position <= asked["k"]]
        assert sum(item.sponsored for item in items) <= min(len(taken), len(asked["sponsored"]))


def test_without_a_rule_that_reorders_the_best_stay_the_best(release: Release) -> None:
    draw = np.random.default_rng(3)
    for _ in range(300):
        whole = random_rules(draw)
        rules = replace(whole, caps=None, pins=(), sponsored=(), freshness=None, objectives=None, diversity=None)
        items, _, _ = one_page(release, rules, draw, Exploration())
        assert [item.score for item in items] == sorted((item.score for item in items), reverse=True)
        assert set(sum((item.moved_by for item in items), ())) <= {"stock", "price", "exclude", "already"}
