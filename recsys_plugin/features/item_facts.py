"""What the feature store says of items: the views ``item_catalogue`` and ``item_stock``, read straight from Redis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.features.codec import (
    MalformedValueError,
    Value,
    decode_value,
    entity_key_prefix,
    entity_key_value,
    hash_field,
    timestamp_field,
)
from recsys_plugin.features.plan import ReadFeatures, Reply

__all__ = ["STOCK_FEATURE", "ItemPlan"]

_VIEW = "item_catalogue"
_TEXTS = ("title", "category", "subcategory", "brand")
#: How many of an item there are.
STOCK_FEATURE = "item_stock:stock"


class ItemPlan:
    """Which keys and fields to ask for, and what the replies say.

    Args:
        project: the Feast project. join_key: of the item entity, whose ids are strings.
    """

    def __init__(self, project: str, join_key: str = "item_id") -> None:
        self._prefix, self._suffix = entity_key_prefix(join_key), project.encode()
        names = [f"{_VIEW}:{name}" for name in (*_TEXTS, "price")]
        self._stock = hash_field(STOCK_FEATURE)
        self._fields = (*(hash_field(name) for name in names), self._stock, timestamp_field(_VIEW))

    def read(self, item_ids: Sequence[str]) -> ReadFeatures:
        """The call that reads these items."""
        return ReadFeatures(self._keys(item_ids), self._fields)

    def read_stock(self, item_ids: Sequence[str]) -> ReadFeatures:
        """The call that reads the stock of these items, and nothing else."""
        return ReadFeatures(self._keys(item_ids), (self._stock,))

    def _keys(self, item_ids: Sequence[str]) -> list[bytes]:
        return [self._prefix + entity_key_value(item_id) + self._suffix for item_id in item_ids]

    def stock(self, item_id: str, reply: Reply) -> int | None:
        """How many there are, by the reply to either call; ``None`` if nobody told. Below 0 counts as 0.

        Raises:
            StoreUnavailable: if the value is corrupt or of another type.
        """
        data = reply[0] if len(reply) == 1 else reply[-2]
        value = self._value(item_id, STOCK_FEATURE, data)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise StoreUnavailable(
                f"{STOCK_FEATURE} of item {item_id!r} holds a {type(value).__name__} in Redis, not a whole number; "
                "push Int64"
            )
        return max(0, value)

    def decode(self, item_id: str, reply: Reply) -> tuple[str, str, str, str, float] | None:
        """Title, category, subcategory, brand and price; ``None`` if the view has no row of the item.

        Texts are empty and the price NaN where they are not known.

        Raises:
            StoreUnavailable: if a value is corrupt or of another type.
        """
        if reply[-1] is None:
            return None
        names = (f"{_VIEW}:{name}" for name in (*_TEXTS, "price"))
        values = [self._value(item_id, name, data) for name, data in zip(names, reply, strict=False)]
        texts = ["" if value is None else value for value in values[:-1]]
        price = math.nan if values[-1] is None else values[-1]
        if not all(isinstance(text, str) for text in texts) or not isinstance(price, float):
            raise StoreUnavailable(
                f"{_VIEW} of item {item_id!r} holds {[type(value).__name__ for value in values]} in Redis, not four "
                "texts and a float; run `recsys apply` and `recsys materialize`"
            )
        title, category, subcategory, brand = (str(text) for text in texts)
        return title, category, subcategory, brand, price

    @staticmethod
    def _value(item_id: str, reference: str, data: bytes | None) -> Value:
        if data is None:
            return None
        try:
            return decode_value(data)[1]
        except MalformedValueError as error:
            raise StoreUnavailable(f"{reference} of item {item_id!r} is corrupt in Redis: {error}") from error
