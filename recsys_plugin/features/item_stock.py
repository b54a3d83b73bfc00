"""Telling the feature store how many of an item are left, from a shop's backend: the view ``item_stock``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from recsys_plugin.errors import InvalidInput
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value, hash_field, timestamp_field
from recsys_plugin.features.item_facts import STOCK_FEATURE
from recsys_plugin.features.value_encoding import encode_timestamp, encode_value
from recsys_plugin.identifiers import checked_ids

__all__ = ["stock_commands"]

#: Items in one call.
_MOST_ITEMS = 10_000
_MOST_UNITS = 2**62


def stock_commands(project: str, stock: Mapping[Any, int], *, now: float) -> tuple[tuple[Any, ...], ...]:
    """The Redis commands that store the stock of items, byte for byte as a push through Feast would.

    Unlike such a push they take effect even if the store holds a later time.

    Args:
        project: the Feast project. stock: item id → units that can be sold. now: unix seconds.

    Raises:
        InvalidInput: for anything that is no id or no whole number from 0 on; it names the item.
    """
    if not isinstance(stock, Mapping):
        raise InvalidInput(f"stock: expected item ids and units, not {type(stock).__name__} ({stock!r:.60})")
    item_ids = checked_ids(list(stock), "stock", most=_MOST_ITEMS)
    for item_id, units in zip(item_ids, stock.values(), strict=True):
        if isinstance(units, bool) or not isinstance(units, int) or not 0 <= units <= _MOST_UNITS:
            raise InvalidInput(f"stock: {units!r:.60} of item {item_id!r} is not a whole number of 0 or more")
    prefix, suffix = entity_key_prefix("item_id"), project.encode()
    view, field = STOCK_FEATURE.partition(":")[0], hash_field(STOCK_FEATURE)
    stamp = encode_timestamp(datetime.fromtimestamp(now, UTC))
    return tuple(
        ("HSET", prefix + entity_key_value(item_id) + suffix, field, encode_value("INT64", units),
         timestamp_field(view), stamp)
        for item_id, units in zip(item_ids, stock.values(), strict=True)
    )  # fmt: skip
