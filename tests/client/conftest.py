"""The tiny shop on real servers: its models in Triton, its users in Redis."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from tiny_servers import serve_in
from tiny_shop import NOW, TinyShop

from recsys_plugin import Recommender


@contextmanager
def serve(tmp_path_factory: pytest.TempPathFactory, *, traces_endpoint: str | None = None) -> Iterator[TinyShop]:
    """The tiny shop's version 1 on servers of its own."""
    state, models = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("models")
    with serve_in(state, models, traces_endpoint=traces_endpoint) as shop:
        yield shop


@pytest.fixture(scope="session")
def traced_shop_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], AbstractContextManager[TinyShop]]:
    """The tiny shop on a Triton that sends its spans to a collector."""
    return lambda traces_endpoint: serve(tmp_path_factory, traces_endpoint=traces_endpoint)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyShop]:
    """Shared by all tests; leave its versions as they are."""
    with serve(tmp_path_factory) as shop:
        yield shop


@pytest.fixture
def disposable_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyShop]:
    """For tests that publish versions or stop servers."""
    with serve(tmp_path_factory) as shop:
        yield shop


@pytest.fixture(scope="module")
def module_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyShop]:
    """For the tests of one module."""
    with serve(tmp_path_factory) as shop:
        yield shop


@pytest.fixture
def other_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyShop]:
    """A second one like it, with the same items, models and users."""
    with serve(tmp_path_factory) as shop:
        yield shop


@pytest.fixture(scope="session")
def recommender(tiny: TinyShop) -> Iterator[Recommender]:
    """A client whose clock stands still, with generous time for a busy machine."""
    with Recommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW) as client:
        yield client


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody listens on, unless the test does: held, lest a connection or somebody else is given it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port
