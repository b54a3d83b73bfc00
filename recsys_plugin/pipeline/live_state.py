"""What the stream's workers must know of the past: each user's latest acts and each item's counters, from history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.aggregation.acts import ACT_TYPES, LOOKBACK, in_user_order
from recsys_plugin.aggregation.arrays import microseconds, sorted_codes
from recsys_plugin.aggregation.item_activity import ITEM_ACTS, ItemCounts
from recsys_plugin.aggregation.live import ACTIVITY_WINDOWS, AFFINITY_WINDOW_DAYS, RECENT_LENGTH
from recsys_plugin.data.dictionaries import dictionary_frame
from recsys_plugin.data.partitions import partitions
from recsys_plugin.data.store import Dataset
from recsys_plugin.events.event import EVENT_TYPE_CODES
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.stream.items import item_commands
from recsys_plugin.stream.user_acts import encode_act

__all__ = ["latest_acts", "seed_live_state"]

_COLUMNS = ("user_id", "item_id", "event_type", "timestamp", "event_id", "query")
_PART_ROWS = 500_000
#: Commands sent at a time.
_BATCH = 500
#: No window of an item reaches further back than its widest one.
_ITEM_REACH = max(ACTIVITY_WINDOWS.values())


def latest_acts(events: pd.DataFrame) -> pd.DataFrame:
    """The acts that live features depend on: those that :class:`~recsys_plugin.stream.user_acts.UserActs` keeps.

    Args:
        events: as for :meth:`~recsys_plugin.aggregation.acts.Acts.of`.
    """
    acts = in_user_order(events[events["event_type"].isin(ACT_TYPES)])
    users, times = sorted_codes(acts["user_id"])[0], microseconds(acts["timestamp"])
    last = np.searchsorted(users, users, side="right") - 1
    place = last - np.arange(len(acts))
    near = times > times[last] - AFFINITY_WINDOW_DAYS * 86_400_000_000
    return acts[(place < RECENT_LENGTH) | (near & (place < LOOKBACK))]


def seed_live_state(
    dataset: Dataset,
    client: Any,
    keys: EventKeys,
    *,
    as_of: datetime,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> dict[str, int]:
    """Write what the stream goes on from: it then counts as if it had seen all events up to a moment.

    Acts that are there already stay, and so do the counters of items that the stream has written, so that it may run
    meanwhile and this may be done again.

    Args:
        client: redis-py's, of one server. keys: of the project. as_of: aware; later events are left out.

    Returns:
        How many ``acts`` and ``items`` were written.
    """
    total, done, acts = dataset.counts["events"], 0, 0
    moment = pd.Timestamp(as_of)
    progress("live state", done, total)
    recent: list[pd.DataFrame] = []
    with TemporaryDirectory(prefix="recsys-live-") as scratch:
        for part in partitions(
            lambda: dataset.batches("events", _COLUMNS), "user_id", rows=_PART_ROWS, scratch=Path(scratch)
        ):
            events = dictionary_frame(part)
            events = events[events["timestamp"] <= moment]
            acts += _write_acts(client, keys, latest_acts(events))
            fresh = events["timestamp"] > moment - pd.Timedelta(microseconds=2 * _ITEM_REACH)
            recent.append(events[fresh & events["event_type"].isin(ITEM_ACTS)][["item_id", "event_type", "timestamp"]])
            done += part.num_rows
            progress("live state", done, total)
    items = _write_items(
        client, keys, pd.concat([frame.astype({"item_id": str, "event_type": str}) for frame in recent])
    )
    return {"acts": acts, "items": items}


def _write_acts(client: Any, keys: EventKeys, acts: pd.DataFrame) -> int:
    columns = (
        microseconds(acts["timestamp"]).tolist(),
        acts["event_id"].astype(str).tolist(),
        acts["item_id"].astype(str).tolist(),
        [EVENT_TYPE_CODES[name] for name in acts["event_type"]],
        [query if isinstance(query, str) else None for query in acts["query"].astype(object)],
    )
    by_user: dict[str, dict[bytes, int]] = {}
    for user_id, *act in zip(acts["user_id"].astype(str), *columns, strict=True):
        at, event_id, item_id, code, query = act
        by_user.setdefault(user_id, {})[encode_act((at, event_id, item_id, code, query))] = at
    pipeline = client.pipeline(transaction=False)
    for number, (user_id, members) in enumerate(by_user.items(), start=1):
        pipeline.zadd(keys.user(user_id), members)
        if number % _BATCH == 0:
            pipeline.execute()
    pipeline.execute()
    return len(acts)


def _write_items(client: Any, keys: EventKeys, events: pd.DataFrame) -> int:
    counts: dict[str, ItemCounts] = {}
    codes = [EVENT_TYPE_CODES[name] for name in events["event_type"]]
    for item_id, at, code in zip(events["item_id"], microseconds(events["timestamp"]).tolist(), codes, strict=True):
        counts.setdefault(item_id, ItemCounts()).add(at, code)
    item_ids = list(counts)
    written = 0
    for first in range(0, len(item_ids), _BATCH):
        batch = item_ids[first : first + _BATCH]
        pipeline = client.pipeline(transaction=False)
        for item_id in batch:
            pipeline.exists(keys.item(item_id))
        there = pipeline.execute()
        for item_id, known in zip(batch, there, strict=True):
            if not known:
                written += 1
                for command in item_commands(keys, item_id, counts[item_id], counts[item_id].steps):
                    pipeline.execute_command(*command)
        pipeline.execute()
    return written
