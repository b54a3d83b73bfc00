"""The tiny shop behind proxies, to be broken: one for all tests of this folder, mended after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_servers import serve_in
from tiny_shop import TinyShop

from recsys_plugin.chaos.target import TRITON, FragileRedis, Target, proxied


@pytest.fixture(scope="session")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyShop]:
    """Its servers run and are well; a test that breaks one mends it."""
    state = tmp_path_factory.mktemp("state")
    with serve_in(state, tmp_path_factory.mktemp("models"), FragileRedis(state)) as shop:
        yield shop


@pytest.fixture(scope="session")
def target(fragile: TinyShop) -> Iterator[Target]:
    """The same with what breaks it."""
    with proxied(fragile.redis, fragile.triton) as made:
        yield made
        # With connections left half open, it would wait for them.
        made.kill(TRITON)
