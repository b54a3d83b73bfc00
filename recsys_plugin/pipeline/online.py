"""The step behind ``recsys materialize``: the newest features in Redis, and what the event stream goes on from."""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import partial
from typing import Any

from recsys_plugin.consent.consent import restore_consents
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import ServiceUnavailable, StoreUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.pipeline.feature_tables import FEATURE_TABLES
from recsys_plugin.pipeline.steps import PROJECT, Progress, publish_schema, repository_digest, require_applied
from recsys_plugin.pipeline.workspace import Workspace, source_digest
from recsys_plugin.runtime.services import Services, public_url
from recsys_plugin.security.digests import sha256_of
from recsys_plugin.settings import Settings

__all__ = ["LIVE_STATE", "materialize"]

#: The modules that what is written to Redis depends on.
_WRITING = ("ahead", "codec", "encoding", "value_encoding", "view_layout", "write_lanes", "writer")
#: The acts that `recsys stream` goes on from; kept up to date like a view, and as old as these tables.
LIVE_STATE = "live_state"
_LIVE_TABLES = ("user_recent_items", "item_activity")


def materialize(settings: Settings, progress: Progress, *, as_of: Any = None, force: bool = False) -> dict[str, str]:
    """Materialise every view that the online store does not hold as of now; the store itself remembers what it holds.

    An interrupted view goes on near where it stopped (:mod:`recsys_plugin.pipeline.materialize`). Feast's registry
    records what was materialised, as after ``feast materialize``.

    What the event stream goes on from is written too (:mod:`recsys_plugin.pipeline.live_state`), but not into a
    cluster, where there is no stream.

    Returns:
        For each view, and for ``live_state``, ``"current"`` or ``"materialised"``.
    """
    import redis

    dataset = load_dataset(settings)
    moment = as_of or dataset.as_of
    workspace = Workspace(settings.state)
    key = f"recsys:materialized:{PROJECT}"
    result: dict[str, str] = {}
    with workspace.lock(), contextlib.ExitStack() as stack:
        require_applied(settings, dataset, workspace)
        redis_url = stack.enter_context(Services(settings).ensure_redis())
        address = RedisAddress.parse(redis_url)
        client = address.connect(timeout=5.0)
        stack.callback(client.close)
        try:
            held = _text_hash(client, key)
            wanted = {name: _view_state(settings, name, moment.isoformat()) for name in FEATURE_TABLES}
            stale = [name for name in FEATURE_TABLES if force or held.get(name) != wanted[name]]
            result = {name: "current" for name in FEATURE_TABLES if name not in stale}
            if stale:
                from recsys_plugin.features.writer import BulkWriter
                from recsys_plugin.pipeline.feast_repository import open_store
                from recsys_plugin.pipeline.materialize import Cursor, materialize_view

                progress("opening Feast", 0, 0)
                store = open_store(settings, redis_url)
                writer = BulkWriter(address, expiry_seconds=getattr(store.config.online_store, "key_ttl_seconds", None))
                stack.callback(writer.close)
                for name in stale:
                    cursor = Cursor(
                        client,
                        f"recsys:materializing:{PROJECT}",
                        name,
                        wanted[name],
                        kept=address.kind != "redis_cluster",
                    )
                    if held.get(name) == wanted[name]:
                        cursor.remove()  # forced: from the beginning
                    client.hdel(key, name)  # until it is whole, the store does not count as holding it
                    told = partial(progress, f"view {name}")
                    materialize_view(store, name, writer, cursor, as_of=moment, progress=told)
                    client.hset(key, name, wanted[name])
                    cursor.remove()
                    result[name] = "materialised"
            state = _live_state(settings, moment.isoformat())
            result[LIVE_STATE] = "current"
            if address.kind != "redis_cluster" and (force or held.get(LIVE_STATE) != state):
                from recsys_plugin.events.keys import EventKeys
                from recsys_plugin.pipeline.live_state import seed_live_state

                seed_live_state(dataset, client, EventKeys(PROJECT), as_of=moment, progress=progress)
                client.hset(key, LIVE_STATE, state)
                result[LIVE_STATE] = "materialised"
            restore_consents(client, PROJECT)
            publish_schema(settings, redis_url)
        except (redis.RedisError, ServiceUnavailable) as error:
            raise StoreUnavailable(
                f"Redis at {public_url(redis_url)} failed while views were materialised: {error}. "
                "What was done is kept; run `recsys materialize` again"
            ) from error
    return result


def _live_state(settings: Settings, moment: str) -> str:
    """What the acts that the stream goes on from depend on."""
    tables = [sha256_of(settings.feature_repo / "data" / f"{name}.parquet") for name in _LIVE_TABLES]
    described = json.dumps([tables, moment, source_digest("pipeline/live_state", "aggregation", "stream")])
    return hashlib.sha256(described.encode()).hexdigest()


def _text_hash(client: Any, key: str) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in client.hgetall(key).items()}


def _view_state(settings: Settings, view: str, moment: str) -> str:
    """What a view's rows depend on: its table, its definition and the moment."""
    described = json.dumps(
        [
            sha256_of(settings.feature_repo / "data" / f"{view}.parquet"),
            repository_digest(settings),
            moment,
            source_digest("pipeline/materialize", *(f"features/{name}" for name in _WRITING)),
        ]
    )
    return hashlib.sha256(described.encode()).hexdigest()
