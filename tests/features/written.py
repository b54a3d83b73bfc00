"""A small view, rows of it, and what a server then holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from recsys_plugin.features.codec import decode_value, entity_key_prefix, entity_key_value
from recsys_plugin.features.view_layout import ViewLayout

__all__ = ["EPOCH", "NOW", "SMALL", "key", "price", "small"]

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SMALL = ViewLayout("small", "shop", {"user_id": "STRING"}, {"price": "DOUBLE", "name": "STRING"})


def key(user_id: str, project: str = "shop") -> bytes:
    return entity_key_prefix("user_id") + entity_key_value(user_id) + project.encode()


def small(users: list[str], prices: list[float], moments: list[datetime]) -> pa.RecordBatch:
    columns = [pa.array(users), pa.array(prices), pa.array([f"at {price}" for price in prices])]
    columns.append(pa.array(moments, pa.timestamp("us", tz="UTC")))
    return pa.RecordBatch.from_arrays(columns, ["user_id", "price", "name", "event_timestamp"])


def price(client: Any, user_id: str) -> Any:
    return decode_value(client.hget(key(user_id), SMALL.fields[1]))[1]
