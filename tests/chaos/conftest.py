"""The tiny shop behind proxies, to be broken: one for all tests of this folder, mended after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_servers import serve_in

from recsys_plugin.chaos.target import FragileRedis, Target, proxied


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Its servers run and are well; a test that breaks one mends it."""
    state = tmp_path_factory.mktemp("state")
    shop = serve_in(state, tmp_path_factory.mktemp("models"), FragileRedis(state))
    with shop as served, proxied(served.redis, served.triton) as made:
        yield made
