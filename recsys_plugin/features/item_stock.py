"""Telling the feature store how many of an item are left, from a shop's backend: the view ``item_stock``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from recsys_plugin.features.codec import entity_key_prefix, entity_key_value, hash_field, timestamp_field
from recsys_plugin.features.item_facts import STOCK_FEATURE
from recsys_plugin.features.value_encoding import encode_timestamp, encode_value

__all__ = ["stock_commands"]


def stock_commands(project: str, stock: Mapping[str, int], *, now: float) -> tuple[tuple[Any, ...], ...]:
    """The Redis commands that store the stock of items, byte for byte as a push through Feast would.

    Unlike such a push they take effect even if the store holds a later time.

    Args:
        project: the Feast project. stock: item id → units that can be sold. now: unix seconds.
    """
    prefix, suffix = entity_key_prefix("item_id"), project.encode()
    view, field = STOCK_FEATURE.partition(":")[0], hash_field(STOCK_FEATURE)
    stamp = encode_timestamp(datetime.fromtimestamp(now, UTC))
    return tuple(
        ("HSET", prefix + entity_key_value(item_id) + suffix, field, encode_value("INT64", units),
         timestamp_field(view), stamp)
        for item_id, units in stock.items()
    )  # fmt: skip
