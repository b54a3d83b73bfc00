"""Rows of the live views, as Feast stores them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from recsys_plugin.aggregation.acts import Acts, Columns, rows_of
from recsys_plugin.aggregation.item_activity import activity_columns
from recsys_plugin.aggregation.live import LIVE_USER_VIEWS, Categories
from recsys_plugin.errors import FeatureContractError
from recsys_plugin.features.codec import entity_key_value
from recsys_plugin.features.value_encoding import encode_timestamp, encode_value
from recsys_plugin.features.view_layout import ViewLayout

__all__ = ["ITEM_VIEW", "LiveRows"]

#: The live view of items.
ITEM_VIEW = "item_activity"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOTHING = Acts.of_arrays(
    *(np.empty(0, dtype) for dtype in (object, np.int64, np.int64, np.int64, object, np.int64, object))
)
_NO_CATEGORIES = Categories(np.empty(0, object), np.empty(0, np.int64))


class LiveRows:
    """Encodes rows of the live views.

    Args:
        project: the Feast project.
    """

    def __init__(self, project: str) -> None:
        self.user_views = {
            name: _layout(name, "user_id", project, columns(_NOTHING, _NO_CATEGORIES))
            for name, columns in LIVE_USER_VIEWS.items()
        }
        counts = np.zeros((0, 3, 3), np.int64)
        self.item_view = _layout(ITEM_VIEW, "item_id", project, activity_columns(counts))

    def check(self, schema: dict[str, str]) -> None:
        """Compare with the types that the feature store has.

        Args:
            schema: reference → Feast's type name, as ``recsys apply`` published it.

        Raises:
            FeatureContractError: naming each feature that differs.
        """
        wanted = {
            f"{layout.view}:{name}": dtype
            for layout in (*self.user_views.values(), self.item_view)
            for name, dtype in layout.features.items()
        }
        if wrong := [f"{name} is {schema.get(name, 'missing')}, the stream writes {dtype}"
                     for name, dtype in wanted.items() if schema.get(name) != dtype]:  # fmt: skip
            raise FeatureContractError(f"feature store: {'; '.join(wrong)}. Run `recsys apply` with this version")

    def user_key(self, user_id: str) -> bytes:
        """The Redis key of a user's features."""
        return _key(next(iter(self.user_views.values())), user_id)

    def item_key(self, item_id: str) -> bytes:
        """The Redis key of an item's features."""
        return _key(self.item_view, item_id)

    def of_users(self, acts: Acts, categories: Categories) -> list[list[bytes]]:
        """The live views of each user after his last act: hash fields and values in turn, in the order of users."""
        latest = acts.latest()
        made: list[list[bytes]] = [[] for _ in latest.ends]
        stamps = [_stamp(moment) for moment in latest.times[latest.ends].tolist()]
        for name, columns in LIVE_USER_VIEWS.items():
            layout = self.user_views[name]
            for row, stamp, values in zip(made, stamps, rows_of(columns(latest, categories)), strict=True):
                row += _encoded(layout, stamp, values)
        return made

    def of_item(self, counts: np.ndarray[Any, np.dtype[np.int64]], latest: int) -> list[bytes]:
        """The live view of an item, its counts int64 [3, 3], after its latest act, in microseconds."""
        (values,) = rows_of(activity_columns(counts[np.newaxis]))
        return _encoded(self.item_view, _stamp(latest), values)


def _layout(view: str, join_key: str, project: str, columns: Columns) -> ViewLayout:
    features = {name: column.dtype for name, column in columns.items()}
    return ViewLayout(view=view, project=project, join_keys={join_key: "STRING"}, features=features)


def _key(layout: ViewLayout, entity_id: str) -> bytes:
    return layout.key_prefix + entity_key_value(entity_id) + layout.key_suffix


def _stamp(moment: int) -> bytes:
    return encode_timestamp(_EPOCH + timedelta(microseconds=moment))


def _encoded(layout: ViewLayout, stamp: bytes, values: dict[str, Any]) -> list[bytes]:
    row = [layout.fields[0], stamp]
    for field, (name, dtype) in zip(layout.fields[1:], layout.features.items(), strict=True):
        value = values[name]
        row += (field, _scalar(dtype, value) if type(value) in (int, float) else encode_value(dtype, value))
    return row


@lru_cache(maxsize=4096)
def _scalar(dtype: str, value: float) -> bytes:
    """Most numbers are small counts, and the same over and over."""
    return encode_value(dtype, value)
