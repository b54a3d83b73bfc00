"""Several Tritons behind one client: turns, one that is down, one that is back, and versions that only some have."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_shop import ITEM_IDS, NOW, TinyShop
from waiting import holds_within

from recsys_plugin import AsyncRecommender, Recommender
from recsys_plugin.errors import ConfigurationError, InferenceUnavailable, ReleaseChanged
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.replicas import Replicas
from recsys_plugin.inference.turns import Turns, common_versions
from recsys_plugin.runtime.triton_client import TritonManager

OPTIONS: dict[str, Any] = {"timeout": 10.0, "clock": lambda: NOW, "refresh_every": None, "follow_items": False}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that a busy machine holds up for a second is not to be taken for one that is away."""
    monkeypatch.setattr("recsys_plugin.inference.replicas.LOOK", 20.0)


@pytest.fixture
def both(disposable_shop: TinyShop, other_shop: TinyShop) -> str:
    """One URL of both servers."""
    return f"{disposable_shop.triton_url},{other_shop.triton_url.removeprefix('grpc://')}"


@pytest.fixture
def client(both: str, disposable_shop: TinyShop) -> Iterator[Recommender]:
    with Recommender(disposable_shop.redis_url, both, **OPTIONS) as made:
        yield made


def asked(url: str, model: str = "similar") -> int:
    """How many requests for a model a server has answered, in all versions."""
    with TritonManager(url) as triton:
        statistics = triton.client.get_inference_statistics(model)
    return sum(int(found.inference_stats.success.count) for found in statistics.model_stats)


@given(st.integers(1, 5), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)))
def test_those_that_can_answer_take_turns_and_come_first(count: int, away: set[int], lacking: set[int]) -> None:
    turns, wanted = Turns(count, clock=lambda: 0.0), ("recommend", 3)
    away, lacking = ({server for server in chosen if server < count} for chosen in (away, lacking))
    for server in away:
        turns.went(server)
    for server in lacking:
        turns.lacks(server, wanted)
    usable = set(range(count)) - away - lacking
    orders = [turns.order(wanted) for _ in range(12 * max(1, len(usable)))]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert all(set(order[: len(usable)]) == usable for order in orders)
    if usable:
        assert Counter(order[0] for order in orders) == dict.fromkeys(usable, 12)
    # What it lacks of one version says nothing of another.
    assert set(turns.order(("recommend", 4))[: count - len(away)]) == set(range(count)) - away
    assert turns.reachable() == sorted(set(range(count)) - away or range(count))


def test_a_server_that_is_away_is_asked_again_after_a_pause() -> None:
    moment = [0.0]
    turns = Turns(2, clock=lambda: moment[0])
    turns.went(1)
    assert turns.to_ask() == []
    moment[0] = 0.2
    assert (turns.to_ask(), turns.to_ask()) == ([1], [])
    turns.says(1, ready=False)
    assert [turns.order()[0] for _ in range(4)] == [0] * 4
    moment[0] = 0.4
    assert turns.to_ask() == [1]
    turns.says(1, ready=True)
    assert {turns.order()[0] for _ in range(4)} == {0, 1}
    turns.lacks(0, ("rank", 1))
    assert {turns.order(("rank", 1))[0] for _ in range(4)} == {1}
    moment[0] = 1.5
    assert {turns.order(("rank", 1))[0] for _ in range(4)} == {0, 1}


@pytest.mark.parametrize(
    "found, common",
    [([(1, 2), (1,)], (1,)), ([(2, 3), (1, 3), (3,)], (3,)), ([(1,), (2,)], (1, 2)), ([(1,), ()], (1,)), ([()], ())],
)
def test_common_versions(found: Sequence[Sequence[int]], common: tuple[int, ...]) -> None:
    assert common_versions(found) == common


def test_what_manages_a_server_takes_one_at_a_time() -> None:
    with pytest.raises(ConfigurationError, match="several servers"):
        TritonManager("grpc://first:8001,second:8001")


def test_calls_are_spread_and_go_round_a_server_that_is_down(
    client: Recommender, disposable_shop: TinyShop, other_shop: TinyShop
) -> None:
    urls = disposable_shop.triton_url, other_shop.triton_url
    before = [asked(url) for url in urls]
    page = client.similar_items("mug", 3)
    for _ in range(9):
        assert client.similar_items("mug", 3).item_ids == page.item_ids
    # Triton counts a call a moment after it has answered.
    deadline = time.monotonic() + 20
    while (counts := [asked(url) - start for url, start in zip(urls, before, strict=True)]) != [5, 5]:
        assert time.monotonic() < deadline, counts
    other_shop.stop_triton()
    began = time.monotonic()
    for _ in range(20):
        assert client.similar_items("mug", 3).item_ids == page.item_ids
        assert client.recommend("mug-lover", 2).item_ids[0] == "mug"
    assert time.monotonic() - began < 10  # no call waited for the one that is down
    assert client.refresh() == 1
    other_shop.start_triton()
    first = asked(other_shop.triton_url)

    def is_back() -> bool:
        client.similar_items("mug", 3)
        return asked(other_shop.triton_url) > first

    assert holds_within(is_back, 20)
    disposable_shop.stop_triton()
    assert client.similar_items("mug", 3).item_ids == page.item_ids
    other_shop.stop_triton()
    with pytest.raises(InferenceUnavailable, match="model similar version 1 at grpc"):
        client.similar_items("mug", 3, strict=True)


async def test_awaiting_clients_go_round_it_too(both: str, disposable_shop: TinyShop, other_shop: TinyShop) -> None:
    async with AsyncRecommender(disposable_shop.redis_url, both, **OPTIONS) as client:
        page = await client.similar_items("mug", 3)
        for _ in range(5):
            assert (await client.similar_items("mug", 3)).item_ids == page.item_ids
        # Triton counts a call a moment after it has answered.
        assert holds_within(lambda: asked(other_shop.triton_url) > 0, 20)
        disposable_shop.stop_triton()
        for _ in range(10):
            assert (await client.similar_items("mug", 3)).item_ids == page.item_ids
        assert await client.refresh() == 1
        disposable_shop.start_triton()
        first, deadline = asked(disposable_shop.triton_url), time.monotonic() + 20
        while asked(disposable_shop.triton_url) == first and time.monotonic() < deadline:
            await client.similar_items("mug", 3)
        assert asked(disposable_shop.triton_url) > first
    # One that is down at the start is no obstacle either.
    other_shop.stop_triton()
    async with AsyncRecommender(disposable_shop.redis_url, both, **OPTIONS) as client:
        assert (await client.similar_items("mug", 3)).item_ids == page.item_ids


def test_a_version_serves_once_all_servers_have_it_and_calls_go_to_those_that_do(
    client: Recommender, both: str, disposable_shop: TinyShop, other_shop: TinyShop
) -> None:
    disposable_shop.publish(2, (*ITEM_IDS, "new"))
    assert client.refresh() == 1
    replicas = Replicas(TritonAddress.parse_several(both))
    inputs = {
        "item_row": np.array([[6]], dtype=np.int64),
        "excluded_rows": np.array([[-1]], dtype=np.int64),
        "counts": np.array([[2, 2]], dtype=np.int64),
    }
    outputs = {"rows": OutputSpec("INT64", (1, -1))}
    for _ in range(6):
        assert replicas.infer(Infer("similar", 2, inputs, outputs), timeout=10)["rows"][0, 0] == 6
    with pytest.raises(ReleaseChanged, match="version 9"):
        replicas.infer(Infer("similar", 9, inputs, outputs), timeout=10)
    replicas.close()
    other_shop.publish(2, (*ITEM_IDS, "new"))
    assert client.refresh() == 2
    for _ in range(2):
        assert client.similar_items("new", 3).served_by.version == 2
