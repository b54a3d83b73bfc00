"""A few hundred cases of everything that is fuzzed; ``scripts/fuzz.py`` runs as many as one likes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from fuzz_clients import client_targets
from fuzz_targets import PURE_TARGETS, FuzzTarget
from fuzz_values import KEY
from hypothesis import HealthCheck, given, settings
from tiny_servers import serve_in
from tiny_shop import NOW

from recsys_plugin import AsyncRecommender, Recommender

QUICK = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@pytest.mark.parametrize("target", PURE_TARGETS, ids=lambda target: target.name)
def test_only_documented_errors_and_no_secret(target: FuzzTarget) -> None:
    QUICK(given(target.values)(target.check))()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FuzzTarget, ...]]:
    """Both clients on a tiny shop of their own, which they write to."""
    with (
        serve_in(tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("models")) as shop,
        Recommender(shop.redis_url, shop.triton_url, timeout=2, clock=lambda: NOW, pseudonym_key=KEY) as client,
        asyncio.Runner() as runner,
    ):
        awaiting = AsyncRecommender(
            shop.redis_url,
            shop.triton_url,
            timeout=2,
            clock=lambda: NOW,
            refresh_every=None,
            follow_items=False,
            pseudonym_key=KEY,
        )
        try:
            yield client_targets(client, awaiting, runner)
        finally:
            runner.run(awaiting.close())


@pytest.mark.parametrize("place", [0, 1], ids=["blocking", "awaiting"])
def test_every_method_takes_anything(clients: tuple[FuzzTarget, ...], place: int) -> None:
    target = clients[place]
    QUICK(given(target.values)(target.check))()
