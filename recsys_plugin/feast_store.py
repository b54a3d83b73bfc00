"""The bulk writer as Feast's online store: stock ``feast materialize`` and pushes write by it, and reads stay Feast's.

In ``feature_store.yaml``::

    online_store:
      type: recsys_plugin.feast_store.BulkRedisOnlineStore
      connection_string: localhost:6379

Every other setting is as of ``type: redis``, and so is what lies in Redis. Importing this module imports Feast.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.ahead import ahead
from recsys_plugin.features.codec import hash_field, timestamp_field
from recsys_plugin.features.encoding import encode_timestamps, framed, framed_parts
from recsys_plugin.features.write_lanes import ClusterLanes, Piece, SingleLane

__all__ = ["BulkRedisOnlineStore", "BulkRedisOnlineStoreConfig"]

_Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
#: Rows that are encoded at a time.
_ROWS = 2048
_AHEAD = 2
#: Bytes of commands that may await their answers.
_LIMIT = 4 << 20


class BulkRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """The settings of Feast's own Redis store."""

    type: Literal["recsys_plugin.feast_store.BulkRedisOnlineStore"] = "recsys_plugin.feast_store.BulkRedisOnlineStore"  # type: ignore[assignment]


class BulkRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store with writes in one pass: each row is compared with what is stored and written in one step.

    Feast's own reads all stored event times first and then writes, so that a row pushed in between may be lost, and it
    waits for the server while it encodes. Two things differ in what is written: of rows with the event time that is
    stored, Feast drops the new one and this takes it, as corrected rows must; and ``skip_dedup`` changes nothing, as no
    second pass is to be saved. The asynchronous write is Feast's.
    """

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows, each unless the store holds a later event time for its entity and view.

        Args:
            config: Feast's.
            table: the view.
            data: entity key, values by feature, event time (UTC where it has no zone), and the creation time, which is
                not looked at.
            progress: told how many rows more are done; the last time when all were answered for.

        Raises:
            ConfigurationError: if two names of the view share a hash field.
            redis.RedisError: as from Feast's own.
        """
        settings = config.online_store
        view = compute_versioned_name(table, config.registry.enable_online_feature_view_versioning)
        expiry = settings.key_ttl_seconds or 0
        told = progress or (lambda rows: None)
        kind = ClusterLanes if settings.redis_type == RedisType.redis_cluster else SingleLane
        lanes = kind(self._get_client(settings), _LIMIT, lambda written, older: told(written + older))
        pieces = _encoded(view, config, data, expiry)
        with closing(lanes), closing(ahead(pieces, _AHEAD)) as made:
            for piece in made:
                lanes.write(piece)
            lanes.drain()


def _encoded(view: str, config: RepoConfig, data: Sequence[_Row], expiry: int) -> Iterator[Piece]:
    """Rows as the lanes send them, a bounded amount at a time, in order."""
    project, version = config.project.encode(), config.entity_key_serialization_version
    # Feast gives all rows the same features in the same order, but promises it nowhere.
    for names, group in itertools.groupby(data, lambda row: tuple(row[1])):
        fields = _fields(view, names)
        while rows := list(itertools.islice(group, _ROWS)):
            keys = [serialize_entity_key(row[0], entity_key_serialization_version=version) + project for row in rows]
            times = encode_timestamps(pa.array([row[2] for row in rows], pa.timestamp("us", tz="UTC")), view)
            cells = [pa.array([row[1][name].SerializeToString() for row in rows], pa.binary()) for name in names]
            key_ends, key_bytes = framed_parts(framed(pa.array(keys, pa.binary())))
            row_ends, row_bytes = framed_parts(framed(times, *cells, names=fields))
            yield Piece(key_bytes, key_ends, row_bytes, row_ends, 2 * len(fields), expiry)


def _fields(view: str, names: Sequence[str]) -> list[bytes]:
    """The hash fields of a row: that of the event time, then one for each feature."""
    fields = [timestamp_field(view), *(hash_field(f"{view}:{name}") for name in names)]
    taken: dict[bytes, str] = {}
    for field, name in zip(fields, ("the event time", *names), strict=True):
        if field in taken:
            raise ConfigurationError(
                f"{view}: {taken[field]} and {name} share the hash field {field.hex()} in Redis, so one would "
                "overwrite the other; rename one of them"
            )
        taken[field] = name
    return fields
