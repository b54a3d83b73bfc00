"""A client opened from its snapshot while no server can be reached, and the file itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_shop import NOW, TinyShop
from waiting import wait_until

from recsys_plugin import AsyncRecommender, Recommender, Timeout
from recsys_plugin.client.following import rules_commands
from recsys_plugin.client.release import Release, index_of
from recsys_plugin.client.snapshot import MalformedSnapshot, Snapshot, read_snapshot, write_snapshot
from recsys_plugin.errors import InferenceUnavailable, ServiceUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.inference.catalogue import Catalogue
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels
from recsys_plugin.policy.popularity import PopularItems, Popularity
from recsys_plugin.policy.rules import NO_RULES, PageRules

OPTIONS: dict[str, Any] = {"timeout": Timeout(10, connect=10), "clock": lambda: NOW, "follow_items": False}
RULES = '{"default": {"exclude": {"items": ["tea"]}}}'


@pytest.fixture
def nowhere(free_port: int) -> tuple[str, str]:
    """URLs of servers that are not there."""
    return f"redis://127.0.0.1:{free_port}", f"grpc://127.0.0.1:{free_port}"


@pytest.fixture
def written(tiny: TinyShop, tmp_path: Path) -> Path:
    """A snapshot that a client wrote."""
    path = tmp_path / "deep" / "snapshot"
    with Recommender(tiny.redis_url, tiny.triton_url, snapshot=path, refresh_every=None, **OPTIONS):
        assert path.exists()
    assert [each.name for each in path.parent.iterdir()] == ["snapshot"]
    return path


def test_a_client_opens_without_servers_and_serves_what_is_popular(written: Path, nowhere: tuple[str, str]) -> None:
    with pytest.raises(ServiceUnavailable):
        Recommender(*nowhere, **OPTIONS)
    with Recommender(*nowhere, snapshot=written, **OPTIONS) as client:
        assert client.version == 1
        page = client.recommend("mug-lover", 4, exclude=["tea"])
        assert (page.fallback.level, len(page), page.served_by.version) == ("popularity", 4, 1)
        assert "no server could be reached" in page.fallback.reason
        assert "tea" not in page.item_ids
        titles = {item.item_id: (item.title, item.category, item.price) for item in page}
        assert all(titles.get(name, facts) == facts for name, facts in {"cup": ("Cup", "kitchen", 3.0)}.items())
        assert client.search(None, "tea pot", 1).item_ids == ("pot",)
        assert client.rank("mug-lover", ["mug", "cup"]).fallback.level == "popularity"
        with pytest.raises(InferenceUnavailable, match="no server could be reached"):
            client.recommend("mug-lover", 4, strict=True)


async def test_an_awaiting_client_does_so_too(written: Path, nowhere: tuple[str, str]) -> None:
    async with AsyncRecommender(*nowhere, snapshot=written, **OPTIONS) as client:
        assert (await client.recommend("mug-lover", 4)).fallback.level == "popularity"


def test_it_gets_ready_once_the_servers_are_there(disposable_shop: TinyShop, tmp_path: Path) -> None:
    path, urls = tmp_path / "snapshot", (disposable_shop.redis_url, disposable_shop.triton_url)
    # Also if it is not to look for other versions by itself, and it takes up items once it has models for them.
    options = {**OPTIONS, "snapshot": path, "refresh_every": None, "follow_items": True}
    with RedisAddress.parse(disposable_shop.operations_url).connect(5) as redis:
        for command in rules_commands("recsys", RULES).commands:
            redis.execute_command(*command)
    Recommender(*urls, **options).close()
    disposable_shop.stop_triton()
    with Recommender(*urls, **options) as client:
        page = client.recommend("mug-lover", 6)
        assert page.fallback.level == "popularity"
        assert "tea" not in page.item_ids  # by the rules in the file
        disposable_shop.start_triton()
        wait_until(lambda: client.recommend("mug-lover", 6).fallback.level == "full")
        assert client.recommend("mug-lover", 6).item_ids[0] == "mug"
        disposable_shop.publish(2, ("tea", "cup", "pot"))
        client.refresh()
        assert read_snapshot(path, "recsys").release.version == 2


def test_what_is_no_snapshot_is_refused_by_name(
    written: Path, tiny: TinyShop, nowhere: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = written.read_bytes()
    for content, said in (
        (whole[:-1], "SHA-256"),
        (whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], "SHA-256"),
        (b"", "no snapshot"),
        (b"something else", "no snapshot"),
    ):
        written.write_bytes(content)
        with pytest.raises(MalformedSnapshot, match=f"{written}.*{said}"):
            Recommender(*nowhere, snapshot=written, **OPTIONS)
    written.write_bytes(whole)
    with pytest.raises(MalformedSnapshot, match="project 'recsys'"):
        Recommender(*nowhere, snapshot=written, project="other", **OPTIONS)
    # With servers it is not needed: it is written anew.
    written.write_bytes(whole[:-1])
    with caplog.at_level(logging.WARNING, "recsys_plugin"):
        Recommender(tiny.redis_url, tiny.triton_url, snapshot=written, refresh_every=None, **OPTIONS).close()
    assert str(written) in caplog.text
    assert read_snapshot(written, "recsys").release.version == 1


def test_a_file_that_cannot_be_written_disturbs_nobody(
    tiny: TinyShop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "snapshot"
    with Recommender(tiny.redis_url, tiny.triton_url, snapshot=path, refresh_every=None, **OPTIONS) as client:
        assert client.recommend("mug-lover", 2).fallback.level == "full"
    assert str(path) in caplog.text


def release_of(
    titles: list[str], categories: list[str], prices: list[float], segments: dict[tuple[str, str], int]
) -> Release:
    size = len(titles)
    item_ids = tuple(f"item-{row}" for row in range(size))
    catalogue = Catalogue(
        version=7,
        item_ids=item_ids,
        rows={item_id: row for row, item_id in enumerate(item_ids)},
        titles=np.array(titles, dtype=object),
        categories=Labels(categories),
        subcategories=Labels([""] * size),
        brands=Labels(titles),
        prices=np.array(prices, np.float64),
        available_since=np.arange(size, dtype=np.int64),
        stock=np.arange(size, dtype=np.int64) - 1,
        vectors=ItemVectors(size),
    )
    told = {
        segment: PopularItems(np.arange(min(count, size)), np.linspace(1, 0.5, min(count, size), dtype=np.float32))
        for segment, count in segments.items()
    }
    shares = np.linspace(0, 1, size, dtype=np.float32)
    return Release(7, catalogue, {}, {}, search_index=index_of(catalogue), popularity=Popularity(shares, told))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(st.tuples(_TEXT, st.sampled_from(["", "a", "b"]), st.floats(width=32)), max_size=12),
    st.dictionaries(st.tuples(_TEXT, _TEXT), st.integers(0, 5), max_size=3),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    items: list[tuple[str, str, float]],
    segments: dict[tuple[str, str], int],
) -> None:
    path = tmp_path_factory.getbasetemp() / "roundtrip"
    titles, categories, prices = ([item[at] for item in items] for at in range(3))
    release = release_of(titles, categories, prices, segments)  # type: ignore[arg-type]
    write_snapshot(path, "recsys", release, PageRules.from_json(RULES))
    found: Snapshot = read_snapshot(path, "recsys")
    one, other = release.catalogue, found.release.catalogue
    assert other.item_ids == one.item_ids
    assert other.titles.tolist() == one.titles.tolist()
    assert list(other.categories) == list(one.categories)
    assert list(other.brands) == list(one.brands)
    np.testing.assert_array_equal(other.prices, one.prices)
    np.testing.assert_array_equal(other.stock, one.stock)
    np.testing.assert_array_equal(found.release.sold_out, np.flatnonzero(one.stock == 0))
    np.testing.assert_array_equal(found.release.popularity.shares, release.popularity.shares)
    assert found.release.popularity.segments.keys() == segments.keys()
    for segment, told in release.popularity.segments.items():
        np.testing.assert_array_equal(found.release.popularity.segments[segment].rows, told.rows)
        np.testing.assert_array_equal(found.release.popularity.segments[segment].shares, told.shares)
    rules = PageRules.from_json(RULES)
    assert (found.rules.default, found.rules.digest) == (rules.default, rules.digest)
    write_snapshot(path, "recsys", release, NO_RULES)
    assert read_snapshot(path, "recsys").rules is NO_RULES
