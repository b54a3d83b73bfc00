"""Checking that the stream makes of history what the training tables say: ``recsys check replay``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.aggregation.live import LIVE_USER_VIEWS
from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import CheckFailed, InvalidInput
from recsys_plugin.events.event import Event
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.codec import decode_timestamp, decode_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.features.writer import BulkWriter
from recsys_plugin.pipeline.live_state import seed_live_state
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.worker import StreamWorker
from recsys_plugin.user_names import named_user

__all__ = ["Replay", "replay", "require_equal"]

Tell = Callable[[str, int, int], None]

_COLUMNS = ("user_id", "item_id", "event_type", "timestamp", "event_id", "quantity", "price", "basket_id", "query")
_BATCH = 1000
_SECONDS = pa.timestamp("s", tz="UTC")
_CATALOGUE = {"title": "STRING", "category": "STRING", "subcategory": "STRING", "brand": "STRING", "price": "FLOAT"}


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found.

    Attributes:
        events: how many went through the stream. users, items, moments: whose rows were compared, and how often.
        rows: rows compared. differences: the first of those that differ, in words; empty if none does.
        different: how many rows differ.
    """

    events: int
    users: int
    items: int
    moments: int
    rows: int
    different: int
    differences: tuple[str, ...]


def replay(
    dataset: Dataset,
    tables: Path,
    project: str,
    *,
    days: float,
    moments: int,
    users: int,
    items: int,
    seed: int,
    tell: Tell,
) -> Replay:
    """Send the last days of history through the stream, and at each of some moments compare live rows with history.

    A Redis of its own is filled with what was known when those days began. Every value of every live view must equal
    the newest row of the table that training joins, to the last bit.

    Args:
        dataset: canonical tables. tables: folder of the feature tables made from them. project: the Feast project.
        days: how long before the end of the data to begin.
        moments: how often to compare, evenly over the days.
        users, items: how many to compare, drawn with ``seed`` among those with events in these days.

    Raises:
        InvalidInput: if there are no events in these days.
        StoreUnavailable: if Redis fails.
    """
    start = dataset.as_of - timedelta(days=days)
    events = _events(dataset, start)
    if events.empty:
        raise InvalidInput(f"check replay: there are no events after {start.isoformat()}")
    rows = LiveRows(project)
    layouts = [*rows.user_views.values(), rows.item_view]
    schema = {f"{layout.view}:{name}": dtype for layout in layouts for name, dtype in layout.features.items()}
    generator = np.random.default_rng(seed)
    drawn = {
        column: generator.permutation(np.unique(events[column].to_numpy(object)))[:count]
        for column, count in (("user_id", users), ("item_id", items))
    }
    wanted = {layout.view: drawn[next(iter(layout.join_keys))] for layout in layouts}
    history = {layout.view: _history(tables, layout, wanted[layout.view]) for layout in layouts}
    compared, different, differences = 0, 0, []
    with (
        tempfile.TemporaryDirectory(prefix="recsys-replay-") as folder,
        Services(Settings(home=Path(folder))).ensure_redis() as url,
    ):
        address, keys = RedisAddress.parse(url), EventKeys(project)
        client: Any = address.connect(30.0)
        _fill(address, tables, project, layouts, start, tell)
        seed_live_state(dataset, client, keys, as_of=start, progress=tell)
        times = microseconds(events["timestamp"])
        last = round(dataset.as_of.timestamp() * 1_000_000)
        first = round(start.timestamp() * 1_000_000)
        worker = StreamWorker(address, project, schema=schema)
        sent = 0
        for number in range(1, moments + 1):
            moment = first + (last - first) * number // moments
            upto = int(np.searchsorted(times, moment, side="right"))
            _send(client, keys, events.iloc[sent:upto])
            sent = upto
            worker.run(until_idle=True)
            tell("replaying", sent, len(events))
            for layout in layouts:
                found = _live(client, rows, layout, wanted[layout.view])
                expected = _newest(history[layout.view], moment)
                for entity in wanted[layout.view]:
                    compared += 1
                    if found.get(entity) != expected.get(entity):
                        different += 1
                        differences.append(_difference(layout.view, entity, found, expected))
        worker.close()
        client.close()
    return Replay(
        sent, len(drawn["user_id"]), len(drawn["item_id"]), moments, compared, different, tuple(differences[:10])
    )


def require_equal(result: Replay) -> None:
    """Raise unless nothing differed.

    Raises:
        CheckFailed: naming the first rows that differ.
    """
    if result.different:
        raise CheckFailed(
            f"{result.different} of {result.rows} live rows differ from history: {'; '.join(result.differences[:3])}"
        )


def _events(dataset: Dataset, start: datetime) -> pd.DataFrame:
    pieces = [
        piece.filter(pc.greater(piece["timestamp"], pa.scalar(start, pa.timestamp("us", tz="UTC"))))
        for piece in dataset.batches("events", _COLUMNS)
    ]
    events: pd.DataFrame = pa.concat_tables(pieces).to_pandas()
    return events


def _history(tables: Path, layout: ViewLayout, entities: Iterable[str]) -> pd.DataFrame:
    """Rows of a feature table for some entities: entity, moment (microseconds) and all features as a tuple."""
    (join_key,) = layout.join_keys
    path = tables / f"{layout.view}.parquet"
    table = pq.read_table(path, filters=[(join_key, "in", list(entities))])
    values = [_plain(table[name].combine_chunks()) for name in layout.features]
    moments = table["event_timestamp"].cast(pa.int64()).to_numpy()
    frame = pd.DataFrame({"entity": table[join_key].to_pandas(), "moment": moments})
    frame["row"] = pd.Series(list(zip(moments.tolist(), *values, strict=True)), dtype=object)
    return frame.sort_values("moment", kind="stable", ignore_index=True)


def _plain(column: pa.Array) -> list[Any]:
    """Values as the store decodes them: times in whole seconds."""
    kind = column.type
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        column = column.cast(pa.list_(_SECONDS)).cast(pa.list_(pa.int64()))
    elif pa.types.is_timestamp(kind):
        column = column.cast(_SECONDS).cast(pa.int64())
    plain: list[Any] = column.to_pylist()
    return plain


def _newest(history: pd.DataFrame, moment: int) -> dict[str, tuple[Any, ...]]:
    upto = history[history["moment"] <= moment]
    newest = upto.drop_duplicates("entity", keep="last")
    return dict(zip(newest["entity"], newest["row"], strict=True))


def _live(client: Any, rows: LiveRows, layout: ViewLayout, entities: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    key = rows.item_key if layout is rows.item_view else rows.user_key
    pipeline = client.pipeline(transaction=False)
    for entity in entities:
        pipeline.hmget(key(entity), layout.fields)
    found: dict[str, tuple[Any, ...]] = {}
    for entity, (stamp, *values) in zip(entities, pipeline.execute(), strict=True):
        if stamp is not None:
            moment = round(decode_timestamp(stamp) * 1_000_000)
            found[entity] = (moment, *(None if value is None else decode_value(value)[1] for value in values))
    return found


def _difference(view: str, entity: str, found: dict[str, Any], expected: dict[str, Any]) -> str:
    shown = named_user(entity) if view in LIVE_USER_VIEWS else repr(entity)
    return f"{view} of {shown} is {found.get(entity)!r:.300}, history has {expected.get(entity)!r:.300}"


def _fill(
    address: RedisAddress, tables: Path, project: str, layouts: list[ViewLayout], start: datetime, tell: Tell
) -> None:
    """What the store held when the days began: the newest row of each live view, and the catalogue."""
    catalogue = ViewLayout("item_catalogue", project, {"item_id": "STRING"}, _CATALOGUE)
    with BulkWriter(address) as writer:
        for number, layout in enumerate([catalogue, *layouts]):
            tell("filling a store of its own", number, len(layouts) + 1)
            (join_key,) = layout.join_keys
            columns = [join_key, "event_timestamp", *layout.features]
            table = pq.read_table(tables / f"{layout.view}.parquet", columns=columns)
            table = table.filter(
                pc.less_equal(table["event_timestamp"], pa.scalar(start, pa.timestamp("us", tz="UTC")))
            )
            order = pc.sort_indices(table, [("event_timestamp", "ascending")])
            newest = pd.Series(table[join_key].take(order).to_pandas()).drop_duplicates(keep="last").index
            for batch in table.take(order.take(pa.array(newest))).combine_chunks().to_batches():
                writer.write(layout, batch)
        writer.drain()


def _send(client: Any, keys: EventKeys, events: pd.DataFrame) -> None:
    """Events into their streams, as recorded when they happened."""
    pipeline = client.pipeline(transaction=False)
    for number, values in enumerate(events.to_dict("records"), start=1):
        told = {str(name): value for name, value in values.items() if value is not None and value == value}
        told["timestamp"] = values["timestamp"].value // 1000
        event = Event.of(told)
        fields = {"event": event.encode(), "recorded_at": told["timestamp"]}
        pipeline.xadd(keys.events(keys.partition(event.user_id)), fields)
        if number % _BATCH == 0:
            pipeline.execute()
    pipeline.execute()
