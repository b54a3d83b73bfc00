"""Search pages from real servers, and the flow of a search call by call."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from tiny_shop import CONTRACT, ITEM_IDS, NOW, TinyShop

from recsys_plugin import AsyncRecommender, Recommender
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.release import PersonalModel, Release, load_version
from recsys_plugin.client.results import Page
from recsys_plugin.client.searching import search
from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.features.plan import ReadPlan, ReadSchema
from recsys_plugin.inference.calls import GetSettings, Infer, ModelSettings
from recsys_plugin.inference.catalogue import UNKNOWN_STOCK, Catalogue
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels
from recsys_plugin.policy.page import SearchBlend
from recsys_plugin.query.recent import Recent
from recsys_plugin.query.search_index import MOST_LEXICAL, SearchIndex


def test_what_matches_by_words_comes_before_what_is_only_near(recommender: Recommender) -> None:
    page = recommender.search(None, "gift box", 6)
    place = page.item_ids.index("box")
    assert place < page.item_ids.index("jar")
    assert page[place].relevance == pytest.approx(0.1)
    assert page[place].score > 0.25
    # Without the words only the cosine counts, which in this shop falls from row to row.
    assert recommender.search(None, "gift box", 6, understand=False).item_ids == ITEM_IDS


def test_filters_and_what_was_understood(recommender: Recommender) -> None:
    page = recommender.search("mug-lover", "something between 3 and 5 dollars", 6)
    # The pot's price is not known, so nobody can say that it is within the bounds.
    assert set(page.item_ids) == {"cup", "mug", "jar"}
    assert page.intent is not None
    assert (page.intent.lowest_price, page.intent.highest_price, page.relaxed) == (3, 5, ())
    document = json.loads(json.dumps(page.to_dict(), allow_nan=False))
    assert document["intent"]["highest_price"] == 5
    assert document["relaxed"] == []
    plain = recommender.search("mug-lover", "something between 3 and 5 dollars", 6, understand=False)
    assert (plain.intent, plain.relaxed, len(plain)) == (None, (), 6)
    assert plain.to_dict()["intent"] is None


def test_an_empty_result_is_relaxed_and_says_so(recommender: Recommender) -> None:
    page = recommender.search(None, "mug under 1", 3)
    assert page.relaxed == ("price",)
    assert "mug" in page.item_ids
    assert recommender.search(None, "mug under 3", 6, exclude=["tea", "cup"]).relaxed == ("price",)


def test_what_is_excluded_is_on_no_page(recommender: Recommender) -> None:
    assert set(recommender.search(None, "anything without tea", 6).item_ids) == {"cup", "mug", "jar", "box"}
    assert recommender.search(None, "no tea", 6, exclude=["cup", "mug", "jar", "box"]).item_ids == ()


def test_a_misspelt_word_is_corrected(recommender: Recommender) -> None:
    page = recommender.search(None, "gren tea in the kitchne", 2)
    assert page.intent is not None
    assert [(one.typed, one.taken) for one in page.intent.corrections] == [("kitchne", "kitchen")]


@pytest.mark.parametrize(
    "query",
    [
        "the of and",
        "without nuts",
        "🫖 🎁",
        "\x00\x1b[31m",
        "'; DROP TABLE items; --",
        "not " * 2500,
        "茶" * 10_000,
        "under",
    ],
)
def test_strange_queries_have_pages(recommender: Recommender, query: str) -> None:
    for user in (None, "mug-lover"):
        page = recommender.search(user, query, 3)
        assert len(page) == 3
        assert page.intent is not None


def test_bounds_of_k_and_empty_queries(recommender: Recommender) -> None:
    none = recommender.search("mug-lover", "tea under 3", 0)
    assert len(none) == 0
    assert none.intent is not None
    assert len(recommender.search("mug-lover", "tea", 1000)) == 6
    for query in ("", " \t"):
        with pytest.raises(InvalidInput, match=r"^query:"):
            recommender.search(None, query)


async def test_the_awaiting_client_understands_alike(tiny: TinyShop, recommender: Recommender) -> None:
    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW) as client:
        for query in ("gift box", "mug under 1", "no tea"):
            page, wanted = await client.search("mug-lover", query, 4), recommender.search("mug-lover", query, 4)
            assert (page.items, page.intent, page.relaxed) == (wanted.items, wanted.intent, wanted.relaxed)
        assert (await client.search(None, "tea", understand=False)).intent is None


def flow_of(query: str, kept: Recent[tuple[int, str], Any], size: int) -> Generator[Any, Any, list[Page]]:
    """A search among mugs whose model takes the vector of a text."""
    ids = tuple(f"mug-{row}" for row in range(size))
    catalogue = Catalogue(
        version=7,
        item_ids=ids,
        rows={item_id: row for row, item_id in enumerate(ids)},
        titles=np.array([f"mug {row % 5}" for row in range(size)], dtype=object),
        categories=Labels(["mugs"] * size),
        subcategories=Labels([""] * size),
        brands=Labels([""] * size),
        prices=np.arange(size, dtype=np.float64),
        available_since=np.zeros(size, np.int64),
        stock=np.full(size, UNKNOWN_STOCK, np.int64),
        vectors=ItemVectors(size),
    )
    model = PersonalModel(ReadPlan(CONTRACT), 64, ("rows", "relevance", "scores"), (), vector_width=2)
    release = Release(7, catalogue, {"search": model}, {}, search_index=SearchIndex.of(catalogue))
    context = RequestContext(release, "r", NOW, lambda: 0.0, query_vectors=kept)
    return search(
        context, None, query, 5, exclude=["mug-1"], candidates=20, blend=SearchBlend(), understand=True
    )  # fmt: skip


def finish(flow: Generator[Any, Any, list[Page]], rows: list[int], **further: Any) -> Page:
    """Answer the last call of a search: every row as near as the others."""
    numbers = np.array([rows], np.int64)
    equal = np.zeros(numbers.shape, np.float32)
    with pytest.raises(StopIteration) as end:
        flow.send({"rows": numbers, "relevance": equal, "scores": equal, **further})
    page = end.value.value[0]
    assert isinstance(page, Page)
    return page


def test_the_vector_of_a_query_is_made_once() -> None:
    kept: Recent[tuple[int, str], Any] = Recent(10)
    flow = flow_of("a mug under 30", kept, 100)
    tokens = {"input_ids": np.ones((1, 1), np.int64), "attention_mask": np.ones((1, 1), np.int64)}
    first = next(flow)
    assert isinstance(first, Infer)
    # The bound of the price is no part of what is looked for.
    assert (first.model, first.inputs["query"].item()) == ("tokenizer", b"a mug")
    second = flow.send(tokens)
    assert second.model == "search"
    assert (second.inputs["attention_mask"].tolist(), second.inputs["known_embedding"].tolist()) == ([[1]], [[0, 0]])
    assert "text_embedding" in second.outputs
    vector = np.array([[0.6, 0.8]], np.float32)
    finish(flow, [0, 2], text_embedding=vector)
    again = next(flow_of("a mug over 20", kept, 100))
    assert again.model == "search"
    assert again.inputs["known_embedding"].tolist() == vector.tolist()
    assert not again.inputs["attention_mask"].any()
    assert "text_embedding" not in again.outputs


def test_few_rows_are_sent_as_candidates_and_many_as_exclusions() -> None:
    kept: Recent[tuple[int, str], Any] = Recent(10)
    kept.put((7, "mug"), np.zeros((1, 2), np.float32))
    flow = flow_of("mug under 9", kept, 100)
    call = next(flow)
    told = set(call.inputs["lexical_rows"][0].tolist())
    assert told - {-1} == set(range(10))
    assert call.inputs["counts"].tolist() == [[10, 5]]
    assert set(call.inputs["excluded_rows"][0].tolist()) == {1}
    # The index fills up with what the filter bars, and the page does not show it.
    assert finish(flow, [0, 50, 2, -1, 99]).item_ids == ("mug-0", "mug-2")

    flow = flow_of("mug over 50", kept, 300)
    call = next(flow)
    assert set(call.inputs["excluded_rows"][0].tolist()) - {-1} == set(range(50))
    lexical = set(call.inputs["lexical_rows"][0].tolist()) - {-1}
    assert len(lexical) == MOST_LEXICAL
    assert min(lexical) >= 50
    assert call.inputs["counts"].tolist() == [[20 + MOST_LEXICAL, 5]]
    assert len(finish(flow, [*range(50, 100)])) == 5


def test_what_was_asked_for_least_recently_is_forgotten() -> None:
    recent: Recent[str, int] = Recent(2)
    for key, value in (("a", 1), ("b", 2)):
        recent.put(key, value)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert (recent.get("b"), recent.get("a"), recent.get("c"), len(recent)) == (None, 1, 3, 2)
    assert (recent.asked, recent.found) == (4, 3)
    nothing: Recent[str, int] = Recent(0)
    nothing.put("a", 1)
    assert nothing.get("a") is None


def test_a_search_model_of_an_older_export_is_refused_by_name() -> None:
    flow = load_version("recsys", 7, None)
    assert isinstance(next(flow), ReadSchema)
    call = flow.send(None)
    older = ModelSettings(64, {"feature_contract": CONTRACT.to_json()}, inputs={"text_embedding": (2,)})
    while isinstance(call, GetSettings) and call.model != "search":
        call = flow.send(older)
    with pytest.raises(ConfigurationError, match=r"search version 7 takes neither .* run `recsys export`"):
        flow.send(older)
