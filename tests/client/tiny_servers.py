"""The tiny shop on servers of its own: its models in Triton, its users in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_repository
import tiny_shop
from feast.protos.feast.types.Value_pb2 import StringList, Value
from google.protobuf.timestamp_pb2 import Timestamp
from tiny_shop import NOW, SCHEMA, TinyShop
from watched_redis import make_role_users, url_of_role

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadPlan
from recsys_plugin.features.requests import schema_key
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.runtime.triton_server import EmbeddedTriton
from recsys_plugin.settings import Settings

__all__ = ["serve_in"]


@contextmanager
def serve_in(
    state: Path, repository: Path, redis_server: EmbeddedRedis | None = None, *, traces_endpoint: str | None = None
) -> Iterator[TinyShop]:
    """Version 1, in two empty folders; ``redis_server`` is a server of the first, if not the usual one."""
    tiny_repository.write_repository(repository, 1)
    redis_server = redis_server or EmbeddedRedis(state)
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
        make_role_users(redis_server.url)
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
            url_of_role(redis_server.url, "client"),
            url_of_role(redis_server.url, "operations"),
            redis_server.url,
            triton.url,
            write_user,
            write_schema,
            publish,
            stop_triton,
            start_triton,
            redis_server,
            triton,
        )
    finally:
        if client is not None:
            client.close()
        stop_triton()
        with redis_server.process.lock():
            redis_server.stop()
