"""The moments that rankers learn from: pages that the shop might have shown, and what their users did afterwards.

One moment a week for every user who came back within the horizon, so that frequent and rare shoppers count alike; and
where the shop records clicks or carts, moments in the middle of visits as well, since those pages must follow the
last click.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.training.contexts import Contexts, moments_of

__all__ = ["page_contexts"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Acts within a visit: where the data has them, half of the pages are asked in the middle of visits.
_VISIT_TYPES = ("click", "cart")


def page_contexts(
    events: Iterable[pd.DataFrame],
    moments: Sequence[pd.Timestamp],
    *,
    types: Sequence[str],
    horizon: pd.Timedelta,
    end: pd.Timestamp,
    most: int,
    seed: int,
) -> tuple[Contexts, _Array]:
    """Draw the moments; their positives are left empty.

    Args:
        events: pieces of the events table with ``user_id``, ``event_type``, ``timestamp``. moments: of the item
            snapshots of the training time, ascending.
        types: what counts as coming back. horizon: how long a user may take for it.
        end: nothing from then on is looked at; a moment whose horizon passes it is used only if there is no other.
        most: moments kept. seed: of the draw.

    Returns:
        The contexts in order of time, asked one microsecond before their moment, and int64 [n], the snapshot of each.
    """
    starts = np.array([moment.value // 1000 for moment in moments], np.int64)
    if not len(starts):
        return _contexts([], np.empty(0, np.int64)), np.empty(0, np.int64)
    reach, last = horizon.value // 1000, end.value // 1000
    whole = starts[starts + reach <= last]
    weekly = whole if len(whole) else starts[-1:]
    names: dict[str, int] = {}
    seen: list[_Array] = []
    visits: list[_Array] = []
    for piece in events:
        acts = piece[piece["event_type"].isin(types) & (piece["timestamp"] >= moments[0]) & (piece["timestamp"] < end)]
        if not len(acts):
            continue
        codes, found = pd.factorize(acts["user_id"].astype(object))
        who = np.array([names.setdefault(name, len(names)) for name in found], np.int64)[codes]
        when = microseconds(acts["timestamp"])
        seen.append(_came_back(who, when, weekly, reach))
        within = acts["event_type"].isin(_VISIT_TYPES).to_numpy()
        visits.append(np.unique(np.stack([who[within], when[within]]), axis=1))
    if not seen:
        return _contexts([], np.empty(0, np.int64)), np.empty(0, np.int64)
    draw = np.random.default_rng(seed)
    inside = np.concatenate(visits, axis=1)
    outside = np.unique(np.concatenate(seen, axis=1), axis=1)
    share = most // 2 if inside.shape[1] else most
    pairs = np.concatenate([_drawn(outside, share, draw), _drawn(inside, most - share, draw)], axis=1)
    pairs = pairs[:, np.lexsort((pairs[0], pairs[1]))]
    users = np.array(list(names), object)[pairs[0]]
    return _contexts(users, pairs[1] - 1), np.searchsorted(starts, pairs[1], side="right") - 1


def _came_back(who: _Array, when: _Array, moments: _Array, reach: int) -> _Array:
    """int64 [2, n]: each user with each of the moments after which he came within reach."""
    first = np.searchsorted(moments, when - reach, side="right")
    stop = np.searchsorted(moments, when, side="right")
    counts = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(who)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[owner]
    return np.unique(np.stack([who[owner], moments[place]]), axis=1)


def _drawn(pairs: _Array, most: int, draw: np.random.Generator) -> _Array:
    if pairs.shape[1] <= most:
        return pairs
    chosen: _Array = pairs[:, np.sort(draw.choice(pairs.shape[1], most, replace=False))]
    return chosen


def _contexts(users: Sequence[str] | _Array, moments: _Array) -> Contexts:
    entities = pd.DataFrame({"user_id": pd.Series(users, dtype=object), "event_timestamp": moments_of(moments)})
    return Contexts(entities, np.zeros(len(entities) + 1, np.int64), np.empty(0, np.int64))
