"""From canonical tables to the Parquet tables behind the Feast views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_plugin.aggregation.acts import ACT_TYPES, Acts, in_user_order, table_of
from recsys_plugin.aggregation.item import item_statistics, weekly_moments
from recsys_plugin.aggregation.item_activity import ITEM_ACTS, item_activity
from recsys_plugin.aggregation.live import LIVE_USER_VIEWS, Categories
from recsys_plugin.aggregation.user import user_statistics
from recsys_plugin.data.dictionaries import dictionary_frame
from recsys_plugin.data.partitions import partitions
from recsys_plugin.data.schema import TABLES
from recsys_plugin.data.store import Dataset

__all__ = [
    "EMBEDDING_SCHEMAS",
    "FEATURE_TABLES",
    "FORECAST_TABLES",
    "PART_ROWS",
    "SHOP_SCHEMAS",
    "build_feature_tables",
    "write_table",
    "write_tables",
]

_EVENT_TIME = ("event_timestamp", pa.timestamp("us", tz="UTC"))
_VECTOR = pa.list_(pa.float32())

#: Tables that training fills; empty until then, so that Feast can apply and materialise at any time.
EMBEDDING_SCHEMAS = {
    "user_text": pa.schema([("user_id", pa.string()), _EVENT_TIME, ("texts", pa.int64()), ("vector", _VECTOR)]),
    "user_embedding": pa.schema([("user_id", pa.string()), _EVENT_TIME, ("vector", _VECTOR)]),
    "item_embedding": pa.schema([("item_id", pa.string()), _EVENT_TIME, ("vector", _VECTOR), ("text_vector", _VECTOR)]),
}

#: Tables that the shop fills, if it keeps a history of what it pushes; empty until then.
SHOP_SCHEMAS = {"item_stock": pa.schema([("item_id", pa.string()), _EVENT_TIME, ("stock", pa.int64())])}

#: Tables that :mod:`recsys_plugin.forecasting` makes, a step of its own: they are made anew every day.
FORECAST_TABLES = ("item_demand_forecast", "category_demand_forecast", "user_purchase_forecast")

#: Every table behind a feature view.
FEATURE_TABLES = (
    "user_profile", "user_statistics", "user_recent_items", "user_session", "user_activity", "user_text",
    "user_embedding", "item_catalogue", "item_statistics", "item_activity", "item_embedding",
    "item_stock", *FORECAST_TABLES,
)  # fmt: skip

#: Events that are aggregated at a time: about 1 GiB of memory, whatever the size of the data.
PART_ROWS = 500_000
#: Rows of one row group: small, so that a join for a few users skips the others' rows.
_GROUP = 1 << 15

_USER_COLUMNS = ("user_id", "item_id", "event_type", "timestamp", "event_id", "quantity", "price", "query")
_SALES = ("purchase", "return")
_ITEM_COLUMNS = ("user_id", "item_id", "event_type", "timestamp", "price")
_ITEM_EVENTS = {*_SALES, *ITEM_ACTS}

_PROFILE = ("country", "gender", "age_group", "income_group", "household", "segment")
_CATALOGUE = ("title", "category", "subcategory", "brand")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file so that readers see the old one or the new one, never a part."""
    with write_tables({path: table.schema}) as writers:
        writers[path].write_table(table, row_group_size=_GROUP)


@contextmanager
def write_tables(schemas: Mapping[Path, pa.Schema]) -> Iterator[dict[Path, pq.ParquetWriter]]:
    """Yield writers for Parquet files that take their places together at the end of the block, if there was no error.

    Args:
        schemas: of each file, by the path that it takes in the end.
    """
    drafts = {path: path.with_name(f".{path.name}") for path in schemas}
    with ExitStack() as stack:
        for path, draft in drafts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(draft.unlink, missing_ok=True)
        with ExitStack() as open_files:
            yield {
                path: open_files.enter_context(pq.ParquetWriter(draft, schemas[path], compression="zstd"))
                for path, draft in drafts.items()
            }
        for path, draft in drafts.items():
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
    dataset: Dataset,
    *,
    part_rows: int = PART_ROWS,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, int]:
    """Write all tables of :data:`FEATURE_TABLES` but the forecasts to ``folder``.

    Events are read and aggregated in parts, all of a user's (or item's) events in one, so that memory depends on
    ``part_rows`` and on the events of the busiest user, not on how many events there are.

    Args:
        folder: the Feast repository's data folder.
        dataset: canonical tables; its ``as_of`` is the moment of the last item statistics.
        part_rows: events aggregated at a time.
        progress: told what is being made, events done and events in all (both 0 if it is not made of events).

    Returns:
        Rows per table.
    """
    first = pd.Timestamp(dataset.first_event)
    rows: dict[str, int] = {}
    for name, table in (("user_profile", _user_profile), ("item_catalogue", _item_catalogue)):
        progress(f"table {name}", 0, 0)
        made = table(dataset.frame("users" if name == "user_profile" else "items"), first)
        write_table(made, folder / f"{name}.parquet")
        rows[name] = made.num_rows
    rows |= _user_tables(folder, dataset, part_rows, progress)
    moments = weekly_moments(first, pd.Timestamp(dataset.as_of))
    rows |= _item_tables(folder, dataset, moments, part_rows, progress)
    for name, schema in {**EMBEDDING_SCHEMAS, **SHOP_SCHEMAS}.items():
        if not (folder / f"{name}.parquet").exists():
            write_table(schema.empty_table(), folder / f"{name}.parquet")
    return {name: rows[name] for name in FEATURE_TABLES if name in rows}


def _user_tables(
    folder: Path, dataset: Dataset, part_rows: int, progress: Callable[[str, int, int], None]
) -> dict[str, int]:
    total, done = dataset.counts["events"], 0
    progress("user tables", done, total)
    items = dataset.frame("items")
    category_of = dict(zip(items["item_id"], items["category"].fillna(""), strict=True))

    def made(events: pd.DataFrame) -> dict[str, pa.Table]:
        ordered = in_user_order(events)
        acts = Acts.of_ordered(ordered[ordered["event_type"].isin(ACT_TYPES)])
        categories = Categories.of(acts.item_ids, category_of)
        live = {name: table_of(acts, columns(acts, categories)) for name, columns in LIVE_USER_VIEWS.items()}
        return {"user_statistics": user_statistics(ordered), **live}

    empty = made(dictionary_frame(TABLES["events"].arrow_schema.empty_table()))
    paths = {name: folder / f"{name}.parquet" for name in empty}
    rows = dict.fromkeys(empty, 0)
    schemas = {paths[name]: table.schema for name, table in empty.items()}
    with write_tables(schemas) as writers, TemporaryDirectory(prefix=".parts-", dir=folder) as scratch:
        for part in partitions(
            lambda: dataset.batches("events", _USER_COLUMNS), "user_id", rows=part_rows, scratch=Path(scratch)
        ):
            for name, table in made(dictionary_frame(part)).items():
                writers[paths[name]].write_table(table, row_group_size=_GROUP)
                rows[name] += table.num_rows
            done += part.num_rows
            progress("user tables", done, total)
    return rows


def _item_tables(
    folder: Path,
    dataset: Dataset,
    moments: Sequence[pd.Timestamp],
    part_rows: int,
    progress: Callable[[str, int, int], None],
) -> dict[str, int]:
    total, done = sum(dataset.event_types.get(kind, 0) for kind in _ITEM_EVENTS), 0
    progress("item tables", done, total)

    def events() -> Iterator[pa.Table]:
        for batch in dataset.batches("events", _ITEM_COLUMNS):
            yield batch.filter(pc.is_in(batch["event_type"], pa.array(sorted(_ITEM_EVENTS))))

    def made(part: pd.DataFrame) -> dict[str, pa.Table]:
        return {"item_statistics": item_statistics(part, moments), "item_activity": item_activity(part)}

    empty = made(dictionary_frame(TABLES["events"].arrow_schema.empty_table()))
    paths = {name: folder / f"{name}.parquet" for name in empty}
    rows = dict.fromkeys(empty, 0)
    schemas = {paths[name]: table.schema for name, table in empty.items()}
    with write_tables(schemas) as writers, TemporaryDirectory(prefix=".parts-", dir=folder) as scratch:
        for part in partitions(events, "item_id", rows=part_rows, scratch=Path(scratch)):
            for name, table in made(dictionary_frame(part)).items():
                writers[paths[name]].write_table(table, row_group_size=_GROUP)
                rows[name] += table.num_rows
            done += part.num_rows
            progress("item tables", done, total)
    return rows
