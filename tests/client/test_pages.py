"""Pages worked out by hand, from real servers: the tiny shop of :mod:`tiny_shop`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_shop import CONTRACT, ITEM_IDS, NOW, SCHEMA, TinyShop

from recsys_plugin import AsyncRecommender, Page, Recommender, SearchBlend
from recsys_plugin.errors import (
    ConfigurationError,
    DeadlineExceeded,
    FeatureContractError,
    InferenceUnavailable,
    InvalidInput,
    StoreUnavailable,
)


def test_recommend(recommender: Recommender) -> None:
    page = recommender.recommend("mug-lover", 4)
    # base + taste: mug 1.3, tea 0.6 and box 0.6 tie and go by row, cup 0.5; the ranker doubles.
    assert page.item_ids == ("mug", "tea", "box", "cup")
    first = page[0]
    assert (first.position, first.title, first.category, first.price) == (1, "Mug", "kitchen", 4.0)
    assert first.score == pytest.approx(2.6)
    assert first.relevance == pytest.approx(1.3)
    assert first.purchase_probability == pytest.approx(1 / (1 + math.exp(-2.6)))
    assert first.click_probability is None
    assert [item.position for item in page] == [1, 2, 3, 4]
    assert len(page) == 4
    assert page.user_id == "mug-lover"
    assert page.served_by.contract == CONTRACT.fingerprint
    assert (page.served_by.model, page.served_by.version) == ("recommend", 1)
    assert (page.served_by.catalogue_version, page.served_by.catalogue_size) == (1, 6)
    assert page.features is not None
    assert (page.features.known, page.features.present) == (True, 3)
    spent = page.timings
    assert 0 < spent.features + spent.inference + spent.policy <= spent.total


def test_unknown_user_and_whole_number_ids(recommender: Recommender) -> None:
    for user_id in ("nobody", 7, np.int64(7)):
        page = recommender.recommend(user_id, 2)
        assert page.item_ids == ("tea", "cup")
        assert page.user_id == str(user_id)
        assert page.features is not None
        assert not page.features.known
        assert page.features.missing == tuple(spec.reference for spec in CONTRACT.stored_features)


def test_unknown_price_is_none_and_json_has_no_nan(recommender: Recommender) -> None:
    page = recommender.recommend("nobody", 3)
    assert (page[2].item_id, page[2].price) == ("pot", None)
    document = json.loads(json.dumps(page.to_dict(), allow_nan=False))
    assert document["items"][0]["item_id"] == "tea"
    assert document["served_by"]["version"] == 1


def test_old_features_expire(tiny: TinyShop) -> None:
    with Recommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW + 7200) as late:
        page = late.recommend("mug-lover", 1)
    assert page.features is not None
    assert page.features.expired == ("profile:purchases",)
    assert page.item_ids == ("tea",)


def test_k(recommender: Recommender) -> None:
    assert recommender.recommend("nobody", 1000).item_ids == ITEM_IDS
    assert recommender.recommend("nobody", 5, candidates=1).item_ids == ITEM_IDS[:5]
    empty = recommender.recommend("nobody", 0)
    assert len(empty) == 0
    assert empty.features is None
    assert len(recommender.search(None, "x", 0)) == len(recommender.similar_items("tea", 0)) == 0


def test_exclude(recommender: Recommender) -> None:
    page = recommender.recommend("mug-lover", 6, exclude=["mug", "gone", "mug"])
    assert page.item_ids == ("tea", "box", "cup", "pot", "jar")
    assert recommender.recommend("nobody", 6, exclude=ITEM_IDS).item_ids == ()


def test_recommend_many_is_recommend_for_each(recommender: Recommender) -> None:
    users = ["mug-lover", "nobody", "mug-lover", *(f"guest-{number}" for number in range(150))]
    pages = recommender.recommend_many(users, 3)
    assert [page.user_id for page in pages] == users
    for user, page in zip(users[:4], pages, strict=False):
        assert page.items == recommender.recommend(user, 3).items
    assert len({page.request_id for page in pages}) == 1
    assert recommender.recommend_many([]) == []
    assert [len(page) for page in recommender.recommend_many(["a", "b"], 0)] == [0, 0]


def test_items_are_ranked_alike_however_they_are_given(recommender: Recommender) -> None:
    given = ["box", "mug", "tea", "mug", "box"]
    page = recommender.rank("mug-lover", given)
    assert page.item_ids == ("mug", "tea", "box")
    assert [item.item_id for item in page] == list(page.item_ids)
    every: list[Any] = [tuple(given), iter(given), np.array(given), dict.fromkeys(given), given[::-1], [*given, "gone"]]
    for items in every:
        other = recommender.rank("mug-lover", items)
        assert other.items == page.items
        assert other.unknown_items == (("gone",) if "gone" in items else ())
    with pytest.raises(InvalidInput, match=r"item_ids\[1\]"):
        recommender.rank("mug-lover", ["box", ["mug"]])


def test_rank(recommender: Recommender) -> None:
    page = recommender.rank("mug-lover", ["box", "mug", "gone", "mug", "tea", "away"])
    assert page.item_ids == ("mug", "tea", "box")
    assert page.unknown_items == ("gone", "away")
    assert page[0].score == pytest.approx(2.6)
    assert page[0].relevance is None


def test_rank_nothing_and_only_unknown_items(recommender: Recommender) -> None:
    for items in ([], ["gone"]):
        page = recommender.rank("mug-lover", items)
        assert len(page) == 0
        assert page.unknown_items == tuple(items)
        assert page.features is None
        assert page.timings.inference == 0


def test_rank_ten_thousand_candidates(recommender: Recommender) -> None:
    items = [*ITEM_IDS, *(f"none-{number}" for number in range(9994))]
    page = recommender.rank("nobody", items)
    assert (len(page), len(page.unknown_items)) == (6, 9994)
    with pytest.raises(InvalidInput, match="item_ids: more than 10000 ids"):
        recommender.rank("nobody", [*items, "one-more"])


def test_search_blends_a_little_taste_into_relevance(tiny: TinyShop, recommender: Recommender) -> None:
    assert recommender.search(None, "something to drink", 3).item_ids == ("tea", "cup", "pot")
    page = recommender.search("mug-lover", "something to drink", 4)
    # relevance + 0.1 * (score - lowest) / (highest - lowest); scores from jar 0.4 to mug 2.6.
    assert page.item_ids == ("tea", "cup", "pot", "mug")
    assert page[0].score == pytest.approx(0.6 + 0.1 * (1.2 - 0.4) / 2.2)
    assert page[0].relevance == pytest.approx(0.6)
    with Recommender(
        tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW, search_blend=SearchBlend(personal_weight=1.0)
    ) as personal:
        assert personal.search("mug-lover", "something to drink", 1).item_ids == ("mug",)
    nobody = recommender.search(None, "x" * 10_000, 1)
    assert nobody.user_id is None
    assert nobody.features is None


def test_similar_items(recommender: Recommender) -> None:
    page = recommender.similar_items("mug", 4)
    assert page.item_ids == ("pot", "jar", "cup", "box")
    assert page[0].score == page[0].relevance == -1
    assert page.served_by.contract is None
    assert recommender.similar_items("mug", 9, exclude=["pot"]).item_ids == ("jar", "cup", "box", "tea")
    unknown = recommender.similar_items("gone", 3)
    assert len(unknown) == 0
    assert unknown.unknown_items == ("gone",)


WRONG_IDS = [True, 1.5, None, "", b"tea", "a\nb", "a\x00", "x" * 257, "é" * 129, "\ud800", ["tea"], np.float32(1)]


@pytest.mark.parametrize("wrong", WRONG_IDS, ids=repr)
def test_wrong_ids_are_named(recommender: Recommender, wrong: Any) -> None:
    calls: dict[str, Callable[[], object]] = {
        "user_id": lambda: recommender.recommend(wrong),
        r"user_ids\[1\]": lambda: recommender.recommend_many(["a", wrong]),
        r"item_ids\[0\]": lambda: recommender.rank("a", [wrong]),
        r"exclude\[0\]": lambda: recommender.recommend("a", exclude=[wrong]),
        "item_id": lambda: recommender.similar_items(wrong),
    }
    for name, call in calls.items():
        with pytest.raises(InvalidInput, match=f"^{name}:"):
            call()


@pytest.mark.parametrize(
    "name, call",
    [
        ("k", lambda r: r.recommend("a", -1)),
        ("k", lambda r: r.recommend("a", 2.0)),
        ("k", lambda r: r.similar_items("a", True)),
        ("k", lambda r: r.search("a", "x", "3")),
        ("candidates", lambda r: r.recommend("a", candidates=0)),
        ("candidates", lambda r: r.recommend("a", candidates=10_001)),
        ("query", lambda r: r.search("a", "")),
        ("query", lambda r: r.search("a", " \n\t")),
        ("query", lambda r: r.search("a", None)),
        ("query", lambda r: r.search("a", "x" * 10_001)),
        ("query", lambda r: r.search("a", "\ud800")),
        ("timeout", lambda r: r.rank("a", [], timeout=0)),
        ("timeout", lambda r: r.rank("a", [], timeout=math.nan)),
        ("timeout", lambda r: r.recommend("a", timeout="1")),
        ("item_ids", lambda r: r.rank("a", "tea")),
        ("user_ids", lambda r: r.recommend_many(7)),
        ("exclude", lambda r: r.recommend("a", exclude="tea")),
    ],
)
def test_other_wrong_arguments_are_named(recommender: Recommender, name: str, call: Callable[[Any], object]) -> None:
    with pytest.raises(InvalidInput, match=f"^{name}:"):
        call(recommender)


def test_strange_but_allowed_text(recommender: Recommender) -> None:
    for text in ("🫖 tea", "'; DROP TABLE items; --", "茶", "a\nb"):
        assert len(recommender.search(None, text, 2)) == 2
    assert not recommender.recommend("🫖 '; --", 1).features.known  # type: ignore[union-attr]


async def test_async_pages_equal_blocking_ones(tiny: TinyShop, recommender: Recommender) -> None:
    def essence(page: Page) -> object:
        return (page.user_id, page.items, page.served_by, page.features, page.unknown_items)

    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW) as client:
        assert client.version == recommender.version
        pairs = [
            (await client.recommend("mug-lover", 3), recommender.recommend("mug-lover", 3)),
            (await client.rank("mug-lover", ["box", "gone"]), recommender.rank("mug-lover", ["box", "gone"])),
            (await client.search("mug-lover", "x"), recommender.search("mug-lover", "x")),
            (await client.search(None, "x"), recommender.search(None, "x")),
            (await client.similar_items("tea"), recommender.similar_items("tea")),
            (await client.similar_items("gone"), recommender.similar_items("gone")),
        ]
        many = await client.recommend_many(["mug-lover", "b"], 2)
        pairs += zip(many, recommender.recommend_many(["mug-lover", "b"], 2), strict=True)
        for ours, theirs in pairs:
            assert essence(ours) == essence(theirs)
        with pytest.raises(InvalidInput, match=r"^user_id:"):
            await client.recommend("")


async def test_async_client_loads_at_its_first_call_and_again_after_close(tiny: TinyShop) -> None:
    client = AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=10)
    assert client.version is None
    assert len(await client.recommend("a", 1)) == 1
    await client.close()
    assert len(await client.recommend("a", 1)) == 1
    await client.close()


def test_a_model_that_answers_nonsense_never_makes_a_page(recommender: Recommender) -> None:
    with pytest.raises(InferenceUnavailable, match="model recommend answered NaN"):
        recommender.recommend("broken", strict=True)
    with pytest.raises(InferenceUnavailable, match=r"model recommend answered row 10. of a catalogue of 6"):
        recommender.recommend("far", strict=True)


def test_request_ids_and_clock_are_passed_in(tiny: TinyShop) -> None:
    ids = iter(["one", "two"])
    with Recommender(tiny.redis_url, tiny.triton_url, timeout=10, request_ids=lambda: next(ids)) as client:
        assert [client.recommend("a", 1).request_id for _ in range(2)] == ["one", "two"]


def test_store_and_model_must_agree_at_start(tiny: TinyShop) -> None:
    try:
        tiny.write_schema({**SCHEMA, "profile:purchases": "INT64", "recent:item_ids": "STRING"})
        with pytest.raises(FeatureContractError) as caught:
            Recommender(tiny.redis_url, tiny.triton_url, timeout=10)
        assert "profile:purchases: the model wants FLOAT, the feature store has INT64" in str(caught.value)
        assert "recent:item_ids: the model wants STRING_LIST, the feature store has STRING" in str(caught.value)
        tiny.write_schema(None)
        Recommender(tiny.redis_url, tiny.triton_url, timeout=10).close()
    finally:
        tiny.write_schema(SCHEMA)
    with pytest.raises(FeatureContractError, match="trained on project 'recsys'"):
        Recommender(tiny.admin_url, tiny.triton_url, timeout=10, project="other")


def test_from_environment(tiny: TinyShop) -> None:
    environ = {
        "RECSYS_REDIS_URL": tiny.redis_url,
        "RECSYS_TRITON_URL": tiny.triton_url,
        "RECSYS_AS_OF": "2023-11-14T22:13:20Z",
    }
    with Recommender.from_environment(environ, timeout=10) as client:
        page = client.recommend("mug-lover", 1)
    assert page.features is not None
    assert page.features.expired == ()
    for missing in ("RECSYS_REDIS_URL", "RECSYS_TRITON_URL"):
        with pytest.raises(ConfigurationError, match=rf"{missing} not set.*recsys env"):
            Recommender.from_environment({**environ, missing: ""})
    with pytest.raises(ConfigurationError, match="Triton URL"):
        Recommender.from_environment({**environ, "RECSYS_TRITON_URL": "http://127.0.0.1:8000"})


def test_servers_that_are_away(tiny: TinyShop, free_port: int) -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        Recommender(f"redis://127.0.0.1:{free_port}", tiny.triton_url)
    with pytest.raises(InferenceUnavailable, match=rf"model recommend at grpc://127.0.0.1:{free_port}: UNAVAILABLE"):
        Recommender(tiny.redis_url, f"grpc://127.0.0.1:{free_port}")


def test_a_call_without_enough_time(recommender: Recommender) -> None:
    with pytest.raises(DeadlineExceeded):
        recommender.recommend("mug-lover", timeout=1e-6, strict=True)


def test_serving_needs_none_of_the_pipelines_packages(tiny: TinyShop) -> None:
    code = (
        "import sys\n"
        "for name in ('feast', 'torch', 'transformers', 'pandas', 'pyarrow', 'onnx', 'click', 'rich', 'mmh3'):\n"
        "    sys.modules[name] = None\n"
        "from recsys_plugin import Recommender\n"
        f"with Recommender({tiny.redis_url!r}, {tiny.triton_url!r}, timeout=10, clock=lambda: {NOW}) as client:\n"
        "    print(*client.recommend('mug-lover', 2).item_ids)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["mug", "tea"]
