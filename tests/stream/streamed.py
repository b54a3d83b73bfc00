"""Sending events to a stream and reading the live features that come of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from recsys_plugin.events.event import Event, microseconds_of
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.codec import decode_timestamp, decode_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.worker import StreamWorker

__all__ = ["NOW", "PROJECT", "SCHEMA", "act", "live_row", "send", "work"]

PROJECT = "recsys"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = LiveRows(PROJECT)
SCHEMA = {
    f"{layout.view}:{name}": dtype
    for layout in (*ROWS.user_views.values(), ROWS.item_view)
    for name, dtype in layout.features.items()
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def act(number: int, user_id: str = "u1", item_id: str = "i1", kind: str = "click", **more: Any) -> Event:
    """An event, ``number`` seconds after :data:`NOW` unless said otherwise."""
    more.setdefault("timestamp", NOW + timedelta(seconds=number))
    more.setdefault("event_id", f"e{number:06d}")
    return Event(user_id=user_id, item_id=item_id, event_type=kind, **more)


def send(client: Any, events: Iterable[Event], recorded_at: datetime | None = None) -> None:
    """Add events to their streams, as recorded at their own times."""
    keys, pipeline = EventKeys(PROJECT), client.pipeline(transaction=False)
    for event in events:
        assert event.timestamp is not None
        at = microseconds_of(recorded_at or event.timestamp)
        pipeline.xadd(keys.events(keys.partition(event.user_id)), {"event": event.encode(), "recorded_at": at})
    pipeline.execute()


def work(address: RedisAddress) -> StreamWorker:
    """Let one worker do what there is to do."""
    worker = StreamWorker(address, PROJECT, schema=SCHEMA, clock=lambda: NOW.timestamp())
    worker.run(until_idle=True)
    worker.close()
    return worker


def live_row(client: Any, view: str, entity_id: str) -> dict[str, Any] | None:
    """A row of a live view as Feast's format has it, its ``event_timestamp`` to the microsecond."""
    layout: ViewLayout = ROWS.item_view if view == ROWS.item_view.view else ROWS.user_views[view]
    key = ROWS.item_key(entity_id) if layout is ROWS.item_view else ROWS.user_key(entity_id)
    stamp, *values = client.hmget(key, layout.fields)
    if stamp is None:
        return None
    moment = _EPOCH + timedelta(microseconds=round(decode_timestamp(stamp) * 1_000_000))
    row = {name: decode_value(value)[1] for name, value in zip(layout.features, values, strict=True)}
    return {"event_timestamp": moment, **row}
