"""Acts of users in order of time, and the columns that features are: what history and the live stream share.

A feature function takes :class:`Acts` and returns columns, one row for each moment. It cannot tell whether it was given
all of history, every moment of it, or one user's latest acts and only the last moment: the same function makes the
training table and the live row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.arrays import microseconds, moment_column, second_column, sorted_codes
from recsys_plugin.events.event import EVENT_TYPE_CODES

__all__ = ["ACT_TYPES", "LOOKBACK", "Acts", "Column", "Columns", "in_user_order", "rows_of", "table_of"]

#: What a user does; being shown an item is no act of his.
ACT_TYPES = ("click", "cart", "purchase", "return")
#: Live features look back over so many acts of a user at most, so that a live profile is bounded.
LOOKBACK = 1000

_Array = np.ndarray[Any, np.dtype[Any]]
_ARROW: dict[str, pa.DataType] = {"INT64": pa.int64(), "FLOAT": pa.float32(), "STRING": pa.string()}


@dataclass(frozen=True, slots=True)
class Column:
    """A feature at each moment.

    Args:
        dtype: Feast's type: INT64, FLOAT, STRING or UNIX_TIMESTAMP (``values`` are then microseconds, of which features
            keep whole seconds), or a list of these (``INT64_LIST`` ...).
        values: [m], or for lists all elements one after another.
        lengths: int64 [m], how long each list is; ``None`` for scalars.
    """

    dtype: Literal[
        "INT64", "FLOAT", "STRING", "UNIX_TIMESTAMP", "INT64_LIST", "FLOAT_LIST", "STRING_LIST", "UNIX_TIMESTAMP_LIST"
    ]
    values: _Array
    lengths: _Array | None = None


#: Feature -> column, all of the same number of moments.
Columns = dict[str, Column]


@dataclass(frozen=True, slots=True)
class Acts:
    """Acts by user, then time, then event id, and the moments that features are wanted for.

    Attributes:
        user_ids: object (str) [u]. users: int64 [n], the position of each act's user, ascending.
        times: int64 [n], microseconds since the epoch. types: int64 [n], codes of event types.
        item_ids: object (str) [i]. items: int64 [n], the position of each act's item.
        queries: object (str or None) [n], the search text that led to each act.
        starts: int64 [n], where the acts of each act's user begin. ends: int64 [m], the last act of each moment.
    """

    user_ids: _Array
    users: _Array
    times: _Array
    types: _Array
    item_ids: _Array
    items: _Array
    queries: _Array
    starts: _Array
    ends: _Array

    @classmethod
    def of(cls, events: pd.DataFrame, types: tuple[str, ...] = ACT_TYPES) -> Acts:
        """History: every moment at which a user acted.

        Args:
            events: columns ``user_id``, ``item_id``, ``event_type``, ``event_id`` (str), ``timestamp`` (UTC) and, if
                there are any, ``query``; in any order.
            types: the event types that count as acts.
        """
        return cls.of_ordered(in_user_order(events[events["event_type"].isin(types)]))

    @classmethod
    def of_ordered(cls, events: pd.DataFrame) -> Acts:
        """:meth:`of` for acts that are in user order."""
        users, user_ids = sorted_codes(events["user_id"])
        items, item_ids = sorted_codes(events["item_id"])
        types, names = sorted_codes(events["event_type"])
        queries = events["query"].to_numpy(object) if "query" in events else np.full(len(events), None, object)
        return cls.of_arrays(
            user_ids, users, microseconds(events["timestamp"]),
            np.array([EVENT_TYPE_CODES[name] for name in names], np.int64)[types], item_ids, items, queries,
        )  # fmt: skip

    @classmethod
    def of_arrays(
        cls, user_ids: _Array, users: _Array, times: _Array, types: _Array, item_ids: _Array, items: _Array,
        queries: _Array,
    ) -> Acts:  # fmt: skip
        """Acts in user order, every moment of them; see the attributes."""
        last = np.flatnonzero(np.r_[users[1:] != users[:-1], True][: len(users)])
        first = np.r_[0, last[:-1] + 1][: len(last)]
        starts = np.repeat(first, np.diff(np.r_[first, len(users)]))
        moves = np.r_[(users[1:] != users[:-1]) | (times[1:] != times[:-1]), True][: len(users)]
        return cls(user_ids, users, times, types, item_ids, items, queries, starts, np.flatnonzero(moves))

    def latest(self) -> Acts:
        """The same acts, of whose moments only each user's last is wanted."""
        return replace(self, ends=np.flatnonzero(np.r_[self.users[1:] != self.users[:-1], True][: len(self.users)]))

    @property
    def earliest(self) -> _Array:
        """Where the acts begin that features of each moment may look at: int64 [m]; see :data:`LOOKBACK`."""
        earliest: _Array = np.maximum(self.starts[self.ends], self.ends - LOOKBACK + 1)
        return earliest


def in_user_order(events: pd.DataFrame) -> pd.DataFrame:
    """The events by user, then time, then id: the order in which feature functions need them.

    They bring events into it themselves; events that are in it already are sorted no more.
    """
    users, ids = (sorted_codes(events[name])[0] for name in ("user_id", "event_id"))
    order = np.lexsort((ids, microseconds(events["timestamp"]), users))
    if (np.diff(order) > 0).all():
        return events.reset_index(drop=True)
    return events.take(order).reset_index(drop=True)


def table_of(acts: Acts, columns: Columns) -> pa.Table:
    """The columns as a table of history: ``user_id``, ``event_timestamp`` (microseconds, UTC), then each feature."""
    names = pa.array(acts.user_ids, pa.string())
    made = {
        "user_id": names.take(pa.array(acts.users[acts.ends])),
        "event_timestamp": moment_column(acts.times[acts.ends]),
    }
    for name, column in columns.items():
        dtype = column.dtype.removesuffix("_LIST")
        values = second_column(column.values) if dtype == "UNIX_TIMESTAMP" else pa.array(column.values, _ARROW[dtype])
        if column.lengths is not None:
            offsets = np.zeros(len(column.lengths) + 1, np.int32)
            offsets[1:] = np.cumsum(column.lengths)
            values = pa.ListArray.from_arrays(pa.array(offsets), values)
        made[name] = values
    return pa.table(made)


def rows_of(columns: Columns) -> list[dict[str, Any]]:
    """The columns as one row of Python values for each moment; times in whole seconds since the epoch."""
    made: dict[str, list[Any]] = {}
    for name, column in columns.items():
        values = column.values
        if column.dtype.startswith("UNIX_TIMESTAMP"):
            values = values // 1_000_000
        plain = values.tolist()
        if column.lengths is not None:
            bounds = [0, *np.cumsum(column.lengths).tolist()]
            plain = [plain[start:end] for start, end in pairwise(bounds)]
        made[name] = plain
    return [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]
