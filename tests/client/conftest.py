"""The tiny shop on real servers: its models in Triton, its users in Redis."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import tiny_repository
import tiny_shop
from feast.protos.feast.types.Value_pb2 import StringList, Value
from google.protobuf.timestamp_pb2 import Timestamp
from tiny_shop import NOW, SCHEMA, TinyShop

from recsys_plugin import Recommender
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadPlan
from recsys_plugin.features.requests import schema_key
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.runtime.triton_server import EmbeddedTriton
from recsys_plugin.settings import Settings


@contextmanager
def serve(tmp_path_factory: pytest.TempPathFactory, *, traces_endpoint: str | None = None) -> Iterator[TinyShop]:
    """The tiny shop's version 1 on servers of its own."""
    state, repository = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("models")
    tiny_repository.write_repository(repository, 1)
    redis_server = EmbeddedRedis(state)
    interpreter = Settings.from_environment().triton_python
    triton = EmbeddedTriton(state, repository, interpreter, traces_endpoint=traces_endpoint)
    client: Any = None

    def start_triton() -> None:
        with triton.process.lock():
            triton.start()

    def stop_triton() -> None:
        with triton.process.lock():
            triton.stop()

    try:
        with redis_server.process.lock():
            redis_server.start()
        start_triton()
        client = RedisAddress.parse(redis_server.url).connect(5)
        plan = ReadPlan(tiny_shop.CONTRACT)

        def write_user(user_id: str, purchases: float, recent: list[str]) -> None:
            values = [
                Value(float_val=purchases),
                Value(string_list_val=StringList(val=recent)),
                Value(string_val="DE"),
            ]
            stamp = Timestamp(seconds=int(NOW) - 60).SerializeToString()
            contents = [value.SerializeToString() for value in values] + [stamp] * 2
            client.hset(plan.key(user_id), mapping=dict(zip(plan.fields, contents, strict=True)))

        def write_schema(schema: Mapping[str, str] | None) -> None:
            if schema is None:
                client.delete(schema_key("recsys"))
            else:
                client.set(schema_key("recsys"), json.dumps(schema))

        def publish(version: int, item_ids: tuple[str, ...], **made: float) -> None:
            tiny_repository.write_repository(repository, version, item_ids=item_ids, **made)
            start_triton()

        write_user("mug-lover", 1.0, ["mug", "gone", "tea"])
        write_user("broken", -1.0, [])
        write_user("far", 100.0, [])
        write_schema(SCHEMA)
        yield TinyShop(
            redis_server.url,
            triton.url,
            write_user,
            write_schema,
            publish,
            stop_triton,
            start_triton,
            triton.metrics_url,
        )
    finally:
        if client is not None:
            client.close()
        stop_triton()
        with redis_server.process.lock():
            redis_server.stop()


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
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
