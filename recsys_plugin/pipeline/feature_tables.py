"""From canonical tables to the Parquet tables behind the Feast views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_plugin.aggregation.item import item_statistics, weekly_moments
from recsys_plugin.aggregation.user import user_recent_items, user_sessions, user_statistics

__all__ = ["EMBEDDING_SCHEMAS", "FEATURE_TABLES", "build_feature_tables", "write_table"]

_EVENT_TIME = ("event_timestamp", pa.timestamp("us", tz="UTC"))
_VECTOR = pa.list_(pa.float32())

#: Tables that training fills; empty until then, so that Feast can apply and materialise at any time.
EMBEDDING_SCHEMAS = {
    "user_embedding": pa.schema([("user_id", pa.string()), _EVENT_TIME, ("vector", _VECTOR)]),
    "item_embedding": pa.schema([("item_id", pa.string()), _EVENT_TIME, ("vector", _VECTOR), ("text_vector", _VECTOR)]),
}

#: Every table behind a feature view.
FEATURE_TABLES = (
    "user_profile", "user_statistics", "user_recent_items", "user_session", "user_embedding",
    "item_catalogue", "item_statistics", "item_embedding",
)  # fmt: skip

_PROFILE = ("country", "gender", "age_group", "income_group", "household", "segment")
_CATALOGUE = ("title", "category", "subcategory", "brand")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file so that readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    pq.write_table(table, draft, compression="zstd")
    draft.replace(path)


def _constant_time(rows: int, moment: pd.Timestamp) -> pa.Array:
    return pa.array(np.full(rows, moment.value // 1000)).cast(_EVENT_TIME[1])


def _user_profile(users: pd.DataFrame, first: pd.Timestamp) -> pa.Table:
    # A profile is known from the start of the data, or from when its user joined after that. An earlier date would only
    # let the profile of an old customer pass the view's ttl.
    signed_up = users["signed_up_at"]
    known = signed_up.where(signed_up > first, first).to_numpy("datetime64[us]").astype(np.int64)
    return pa.table(
        {
            "user_id": pa.array(users["user_id"], pa.string()),
            "event_timestamp": pa.array(known).cast(_EVENT_TIME[1]),
            **{name: pa.array(users[name], pa.string(), from_pandas=True) for name in _PROFILE},
            "signed_up_at": pa.Array.from_pandas(signed_up.dt.floor("s")).cast(pa.timestamp("s", tz="UTC")),
        }
    )


def _item_catalogue(items: pd.DataFrame, first: pd.Timestamp) -> pa.Table:
    return pa.table(
        {
            "item_id": pa.array(items["item_id"], pa.string()),
            "event_timestamp": _constant_time(len(items), first),
            **{name: pa.array(items[name], pa.string(), from_pandas=True) for name in _CATALOGUE},
            "price": pa.array(items["price"], pa.float32(), from_pandas=True),
        }
    )


def build_feature_tables(
    folder: Path,
    *,
    users: pd.DataFrame,
    items: pd.DataFrame,
    events: pd.DataFrame,
    as_of: pd.Timestamp,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Write all tables of :data:`FEATURE_TABLES` to ``folder``.

    Args:
        folder: the Feast repository's data folder.
        users: canonical users. items: canonical items. events: canonical events.
        as_of: the moment that counts as now for this data; the last item statistics are of then.
        progress: told the name of each table before it is made.

    Returns:
        Rows per table.
    """
    first = events["timestamp"].min()

    def tables() -> Iterator[tuple[str, Callable[[], pa.Table]]]:
        yield "user_profile", lambda: _user_profile(users, first)
        yield "user_statistics", lambda: user_statistics(events)
        yield "user_recent_items", lambda: user_recent_items(events)
        yield "user_session", lambda: user_sessions(events)
        yield "item_catalogue", lambda: _item_catalogue(items, first)
        yield "item_statistics", lambda: item_statistics(events, weekly_moments(first, as_of))

    rows: dict[str, int] = {}
    for name, make in tables():
        progress(name)
        table = make()
        write_table(table, folder / f"{name}.parquet")
        rows[name] = table.num_rows
    for name, schema in EMBEDDING_SCHEMAS.items():
        if not (folder / f"{name}.parquet").exists():
            write_table(schema.empty_table(), folder / f"{name}.parquet")
    return rows
