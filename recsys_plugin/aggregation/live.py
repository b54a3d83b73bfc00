"""The live views of users: what each was doing just now, as of the moment just after each of his acts.

A row stamped ``t`` holds what was known once the act at ``t`` had happened. A point-in-time join for a decision at
``t`` must therefore ask for a moment before ``t``; training asks one microsecond earlier.

Counts and sums are made of whole numbers, so that a row does not depend on the order in which events arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.acts import Acts, Column, Columns, table_of
from recsys_plugin.aggregation.arrays import first_after
from recsys_plugin.events.event import EVENT_TYPE_CODES

__all__ = [
    "ACTIVITY_WINDOWS",
    "AFFINITY_WINDOW_DAYS",
    "CATEGORIES_LENGTH",
    "LIVE_USER_VIEWS",
    "RECENT_LENGTH",
    "SESSION_GAP_SECONDS",
    "Categories",
    "activity",
    "recent_items",
    "session",
    "user_activity",
    "user_recent_items",
    "user_sessions",
]

#: Items kept in ``user_recent_items``.
RECENT_LENGTH = 50
#: A visit ends after this long without an act.
SESSION_GAP_SECONDS = 1800
#: Windows of ``user_activity`` and ``item_activity``, in microseconds.
ACTIVITY_WINDOWS = {"1h": 3_600_000_000, "24h": 86_400_000_000, "7d": 7 * 86_400_000_000}
#: Categories kept in ``user_activity:categories``.
CATEGORIES_LENGTH = 5
#: An act counts towards its category's affinity for so many days, less from day to day.
AFFINITY_WINDOW_DAYS = 30

_COUNTED = {"click": "clicks", "cart": "carts", "purchase": "purchases"}
#: What an act says about the taste for its category, against a click.
_TASTE = {"click": 1, "cart": 3, "purchase": 5, "return": 0}
_TASTE_BY_CODE = np.zeros(max(EVENT_TYPE_CODES.values()) + 1, np.int64)
for _name, _weight in _TASTE.items():
    _TASTE_BY_CODE[EVENT_TYPE_CODES[_name]] = _weight
#: Pairs of a moment and an act before it that are looked at together.
_PAIRS = 1 << 21

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Categories:
    """To which category items belong.

    Args:
        names: object (str) [c], ascending by code point.
        of_items: int64 [i], for each item of the :class:`~recsys_plugin.aggregation.acts.Acts` the position of its
            category; -1 if it has none.
    """

    names: _Array
    of_items: _Array

    @classmethod
    def of(cls, item_ids: _Array, category_of: dict[str, str]) -> Categories:
        """Of these items, by a mapping of item to category; an empty category is none."""
        told = [category_of.get(item_id) or None for item_id in item_ids]
        names = sorted({name for name in told if name is not None})
        place = {name: at for at, name in enumerate(names)}
        return cls(
            np.array(names, object),
            np.array([-1 if name is None else place[name] for name in told], np.int64).reshape(len(told)),
        )


def recent_items(acts: Acts) -> Columns:
    """The last :data:`RECENT_LENGTH` acts, newest first: ``item_ids``, ``event_type_codes``, ``timestamps``."""
    lengths = np.minimum(acts.ends - acts.starts[acts.ends] + 1, RECENT_LENGTH)
    back = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = np.repeat(acts.ends, lengths) - back
    return {
        "item_ids": Column("STRING_LIST", acts.item_ids[acts.items[positions]], lengths),
        "event_type_codes": Column("INT64_LIST", acts.types[positions], lengths),
        "timestamps": Column("UNIX_TIMESTAMP_LIST", acts.times[positions], lengths),
    }


def session(acts: Acts) -> Columns:
    """Counters of the visit that is under way; it ended :data:`SESSION_GAP_SECONDS` after its last act."""
    positions = np.arange(len(acts.times))
    pause = np.diff(acts.times, prepend=0) > SESSION_GAP_SECONDS * 1_000_000
    start = np.maximum.accumulate(np.where((positions == acts.starts) | pause, positions, 0))
    begun = np.maximum(start[acts.ends], acts.earliest)
    columns: Columns = {}
    for kind, name in _COUNTED.items():
        so_far = np.r_[0, np.cumsum(acts.types == EVENT_TYPE_CODES[kind])]
        columns[f"session_{name}"] = Column("INT64", so_far[acts.ends + 1] - so_far[begun])
    columns["session_started_at"] = Column("UNIX_TIMESTAMP", acts.times[begun])
    spoken = np.fromiter((isinstance(query, str) and bool(query) for query in acts.queries), bool, len(acts.queries))
    newest = np.maximum.accumulate(np.where(spoken, positions, -1))[acts.ends]
    queries = np.where(newest >= begun, acts.queries[newest], "") if len(acts.queries) else acts.queries[:0]
    columns["last_query"] = Column("STRING", queries)
    return columns


def activity(acts: Acts, categories: Categories) -> Columns:
    """How much a user did lately, and in which categories.

    For each window and kind of act the number of acts (``clicks_1h`` ...) and their decayed sum
    (``decayed_clicks_1h`` ...): an act counts 1 just now and less as time passes, in a straight line down to 0 at the
    window's far end. ``categories`` are those of the most taste, weightiest first, and ``category_weights`` say how
    much: the sum over the acts of :data:`AFFINITY_WINDOW_DAYS` days, a click worth 1, a cart 3, a purchase 5, each
    decayed in the same way.
    """
    now, earliest = acts.times[acts.ends], acts.earliest
    columns: Columns = {}
    counts = {name: np.r_[0, np.cumsum(acts.types == EVENT_TYPE_CODES[kind])] for kind, name in _COUNTED.items()}
    # Sums of times wrap around; their differences, of LOOKBACK acts at the most, do not.
    moments = {
        name: np.r_[0, np.cumsum(np.where(acts.types == EVENT_TYPE_CODES[kind], acts.times, 0))]
        for kind, name in _COUNTED.items()
    }
    for window, width in ACTIVITY_WINDOWS.items():
        begun = first_after(acts.times, earliest, acts.ends, now - width)
        for name in _COUNTED.values():
            count = counts[name][acts.ends + 1] - counts[name][begun]
            age = count * now - (moments[name][acts.ends + 1] - moments[name][begun])
            columns[f"{name}_{window}"] = Column("INT64", count)
            columns[f"decayed_{name}_{window}"] = Column("FLOAT", ((count * width - age) / width).astype(np.float32))
    columns |= _affinity(acts, categories)
    return columns


def _affinity(acts: Acts, categories: Categories) -> Columns:
    width = AFFINITY_WINDOW_DAYS * 86_400_000_000
    now = acts.times[acts.ends]
    begun = first_after(acts.times, acts.earliest, acts.ends, now - width)
    lengths = acts.ends - begun + 1
    names: list[_Array] = []
    weights: list[_Array] = []
    kept = np.zeros(len(acts.ends), np.int64)
    size = len(categories.names)
    for first, last in _chunks(lengths):
        part = slice(first, last)
        inside = np.arange(lengths[part].sum()) - np.repeat(np.cumsum(lengths[part]) - lengths[part], lengths[part])
        positions = np.repeat(begun[part], lengths[part]) + inside
        moment = np.repeat(np.arange(first, last), lengths[part])
        category = categories.of_items[acts.items[positions]]
        weight = _TASTE_BY_CODE[acts.types[positions]] * (width - (now[moment] - acts.times[positions]))
        counts = (category >= 0) & (weight > 0)
        keys, place = np.unique(moment[counts] * size + category[counts], return_inverse=True)
        total = np.zeros(len(keys), np.int64)
        np.add.at(total, place, weight[counts])
        owner, category = np.divmod(keys, max(size, 1))
        order = np.lexsort((category, -total, owner))
        owner, category, total = owner[order], category[order], total[order]
        begins = np.searchsorted(owner, owner, side="left")
        top = np.arange(len(owner)) - begins < CATEGORIES_LENGTH
        names.append(categories.names[category[top]])
        weights.append((total[top] / width).astype(np.float32))
        kept += np.bincount(owner[top], minlength=len(kept))
    return {
        "categories": Column("STRING_LIST", np.concatenate(names) if names else np.empty(0, object), kept),
        "category_weights": Column("FLOAT_LIST", np.concatenate(weights) if names else np.empty(0, np.float32), kept),
    }


def _chunks(lengths: _Array) -> list[tuple[int, int]]:
    """Ranges of moments that have about :data:`_PAIRS` acts before them together."""
    if not len(lengths):
        return []
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _PAIRS)) + 1
    bounds = [0, *cuts.tolist(), len(lengths)]
    return list(pairwise(bounds))


def user_recent_items(events: pd.DataFrame) -> pa.Table:
    """History of the view ``user_recent_items``; see :meth:`Acts.of` for the events."""
    acts = Acts.of(events)
    return table_of(acts, recent_items(acts))


def user_sessions(events: pd.DataFrame) -> pa.Table:
    """History of the view ``user_session``; see :meth:`Acts.of` for the events."""
    acts = Acts.of(events)
    return table_of(acts, session(acts))


def user_activity(events: pd.DataFrame, category_of: dict[str, str]) -> pa.Table:
    """History of the view ``user_activity``; see :meth:`Acts.of` for the events.

    Args:
        category_of: item -> category, as the catalogue has it now.
    """
    acts = Acts.of(events)
    return table_of(acts, activity(acts, Categories.of(acts.item_ids, category_of)))


#: The live views of users, and what makes their columns.
LIVE_USER_VIEWS: dict[str, Callable[[Acts, Categories], Columns]] = {
    "user_recent_items": lambda acts, categories: recent_items(acts),
    "user_session": lambda acts, categories: session(acts),
    "user_activity": activity,
}
