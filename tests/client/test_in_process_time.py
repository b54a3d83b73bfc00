"""How long a page takes that is made in process, of 50,000 items: less than what is kept back for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from recsys_plugin.client import ladder
from recsys_plugin.client.context import RequestContext, RequestRules
from recsys_plugin.client.fallback import DEFAULT_CACHE, Remembered
from recsys_plugin.client.flows import Flow
from recsys_plugin.client.release import Release, index_of
from recsys_plugin.client.results import Page
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.catalogue import Catalogue
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels
from recsys_plugin.policy.page import DEFAULT_SEARCH_BLEND
from recsys_plugin.policy.popularity import PopularItems, Popularity

SIZE = 50_000
#: What :mod:`recsys_plugin.client.base` keeps back.
RESERVE = 0.002
RULES = RequestRules({"caps": {"category": 3}, "price": {"lowest": 5}, "exclude": {"categories": ["c7"]}})


@pytest.fixture(scope="module")
def release() -> Release:
    generator = np.random.default_rng(0)
    item_ids = tuple(f"item-{row}" for row in range(SIZE))
    words = np.array([f"word{number}" for number in range(3_000)])
    titles = np.array([" ".join(words[generator.integers(0, 3_000, 4)]) for _ in range(SIZE)], dtype=object)
    catalogue = Catalogue(
        version=1,
        item_ids=item_ids,
        rows={item_id: row for row, item_id in enumerate(item_ids)},
        titles=titles,
        categories=Labels(f"c{number}" for number in generator.integers(0, 200, SIZE)),
        subcategories=Labels([""] * SIZE),
        brands=Labels(f"b{number}" for number in generator.integers(0, 900, SIZE)),
        prices=generator.uniform(1, 100, SIZE),
        available_since=np.zeros(SIZE, np.int64),
        stock=np.where(generator.random(SIZE) < 0.05, 0, -1).astype(np.int64),
        vectors=ItemVectors(SIZE),
    )
    shares = (generator.random(SIZE) / SIZE).astype(np.float32)
    german = PopularItems(generator.permutation(SIZE)[:300], np.linspace(1e-3, 1e-4, 300, dtype=np.float32))
    popularity = Popularity(shares, {("country", "DE"): german})
    sold_out = np.flatnonzero(catalogue.stock == 0)
    return Release(1, catalogue, {}, {}, sold_out=sold_out, search_index=index_of(catalogue), popularity=popularity)


def recommend(context: RequestContext) -> Flow:
    return ladder.recommend(context, ["u"], 20, exclude=["item-1"], candidates=500)


def of_segment(context: RequestContext) -> Flow:
    return ladder.recommend(context, ["v"], 20, exclude=[], candidates=500, segment={"country": "DE"})


def by_rules(context: RequestContext) -> Flow:
    context.asked = RULES
    return recommend(context)


def rank(context: RequestContext) -> Flow:
    return ladder.rank(context, "u", [f"item-{row}" for row in range(0, SIZE, 100)])


def similar(context: RequestContext) -> Flow:
    return ladder.similar_items(context, "item-7", 20, exclude=[], candidates=500)


def search(context: RequestContext) -> Flow:
    return ladder.search(
        context, None, "word7 word8", 20, exclude=[], candidates=500, blend=DEFAULT_SEARCH_BLEND, understand=True
    )


@pytest.mark.parametrize("ask", [recommend, of_segment, by_rules, rank, similar, search], ids=lambda ask: ask.__name__)
def test_a_page_made_in_process_is_quick(release: Release, ask: Callable[[RequestContext], Flow]) -> None:
    memory = Remembered(DEFAULT_CACHE)

    def made() -> tuple[float, Page]:
        context = RequestContext(release, "id", 0.0, time.perf_counter, strict=False, memory=memory)
        began = time.thread_time()
        context.descend(InferenceUnavailable("Triton is away"))
        (page,) = answer(ask(context))
        return time.thread_time() - began, page

    # What is worked out once for a release or a query is then there.
    made()
    taken = [made() for _ in range(30)]
    assert all(len(page) and page.fallback.degraded for _, page in taken)
    assert min(seconds for seconds, _ in taken) < RESERVE


def answer(flow: Flow) -> list[Page]:
    """What a flow comes to that yields no call."""
    with pytest.raises(StopIteration) as end:
        next(flow)
    pages: list[Page] = end.value.value
    return pages
