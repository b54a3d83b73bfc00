"""The live view of items: what shoppers did with each just now, over windows that move in twelve steps.

A window covers the step of time that is under way and the eleven before it, so that an item's state is a few counters
and not its events, however popular it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.acts import Column, Columns
from recsys_plugin.aggregation.arrays import first_after, microseconds, moment_column, sorted_codes
from recsys_plugin.aggregation.live import ACTIVITY_WINDOWS
from recsys_plugin.events.event import EVENT_TYPE_CODES

__all__ = ["ITEM_ACTS", "STEPS", "ItemCounts", "activity_columns", "item_activity", "window_start"]

#: What counts, in this order.
ITEM_ACTS = ("click", "cart", "purchase")
#: Steps of a window.
STEPS = 12

_NAMES = {"click": "clicks", "cart": "carts", "purchase": "purchases"}
_CODES = tuple(EVENT_TYPE_CODES[name] for name in ITEM_ACTS)
_Array = np.ndarray[Any, np.dtype[Any]]


def _step_of(window: str) -> int:
    """How long a step of a window takes, in microseconds."""
    return ACTIVITY_WINDOWS[window] // STEPS


def window_start(moment: Any, window: str) -> Any:
    """Where the window that ends at a moment begins: microseconds since the epoch, an int or int64 [m] as given."""
    step = _step_of(window)
    return (moment // step - (STEPS - 1)) * step


def activity_columns(counts: _Array) -> Columns:
    """Features of how often what was done: ``clicks_1h`` ..., and ``conversion_1h`` ..., purchases for each click.

    Args:
        counts: int64 [m, 3 windows, 3 acts of :data:`ITEM_ACTS`].
    """
    columns: Columns = {}
    for at, window in enumerate(ACTIVITY_WINDOWS):
        for place, act in enumerate(ITEM_ACTS):
            columns[f"{_NAMES[act]}_{window}"] = Column("INT64", counts[:, at, place])
    for at, window in enumerate(ACTIVITY_WINDOWS):
        clicks, purchases = counts[:, at, 0], counts[:, at, 2]
        rate = np.where(clicks > 0, purchases / np.maximum(clicks, 1), 0.0)
        columns[f"conversion_{window}"] = Column("FLOAT", rate.astype(np.float32))
    return columns


class ItemCounts:
    """How often what was done with one item, step by step; the order in which events come does not matter."""

    __slots__ = ("latest", "steps")

    def __init__(self, latest: int = 0, steps: dict[tuple[int, int, int], int] | None = None) -> None:
        #: Time of the latest act, microseconds since the epoch.
        self.latest = latest
        #: (window, step since the epoch, act) -> count; the first and the last count from 0 as in the counts' axes.
        self.steps = {} if steps is None else steps

    def add(self, moment: int, act: int) -> list[tuple[int, int, int]]:
        """Count an act.

        Args:
            moment: microseconds since the epoch.
            act: the code of its type.

        Returns:
            The steps that changed, or are over (then they are not in :attr:`steps` any more).
        """
        if act not in _CODES:
            return []
        place, changed = _CODES.index(act), []
        moved = moment > self.latest
        self.latest = max(self.latest, moment)
        for at, window in enumerate(ACTIVITY_WINDOWS):
            step = _step_of(window)
            if moment >= window_start(self.latest, window):
                key = (at, moment // step, place)
                self.steps[key] = self.steps.get(key, 0) + 1
                changed.append(key)
        if moved:
            changed += self._forget()
        return changed

    def _forget(self) -> list[tuple[int, int, int]]:
        first = [window_start(self.latest, window) // _step_of(window) for window in ACTIVITY_WINDOWS]
        over = [key for key in self.steps if key[1] < first[key[0]]]
        for key in over:
            del self.steps[key]
        return over

    def counts(self) -> _Array:
        """As of the latest act: int64 [3 windows, 3 acts]."""
        counts = np.zeros((len(ACTIVITY_WINDOWS), len(ITEM_ACTS)), np.int64)
        for (at, _, place), number in self.steps.items():
            counts[at, place] += number
        return counts


def item_activity(events: pd.DataFrame) -> pa.Table:
    """History of the view ``item_activity``: a row for each item and moment at which something was done with it.

    Args:
        events: columns ``item_id``, ``event_type`` and ``timestamp`` (UTC), in any order.
    """
    events = events[events["event_type"].isin(ITEM_ACTS)]
    items, item_ids = sorted_codes(events["item_id"])
    types, names = sorted_codes(events["event_type"])
    codes = np.array([EVENT_TYPE_CODES[name] for name in names], np.int64)[types]
    times = microseconds(events["timestamp"])
    order = np.lexsort((times, items))
    items, codes, times = items[order], codes[order], times[order]
    ends = np.flatnonzero(np.r_[(items[1:] != items[:-1]) | (times[1:] != times[:-1]), True][: len(items)])
    first = np.searchsorted(items, items[ends], side="left")
    counts = np.zeros((len(ends), len(ACTIVITY_WINDOWS), len(ITEM_ACTS)), np.int64)
    so_far = [np.r_[0, np.cumsum(codes == code)] for code in _CODES]
    for at, window in enumerate(ACTIVITY_WINDOWS):
        begun = first_after(times, first, ends, window_start(times[ends], window) - 1)
        for place, total in enumerate(so_far):
            counts[:, at, place] = total[ends + 1] - total[begun]
    made = {
        "item_id": pa.array(item_ids, pa.string()).take(pa.array(items[ends])),
        "event_timestamp": moment_column(times[ends]),
    }
    for name, column in activity_columns(counts).items():
        made[name] = pa.array(column.values)
    return pa.table(made)
