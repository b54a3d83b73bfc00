"""The graph that tells clients what is popular: a table of shares, page by page."""

from __future__ import annotations

import numpy as np
import onnx

from recsys_plugin.export.index_graphs import paged_graph
from recsys_plugin.policy.popularity import Popularity

__all__ = ["popularity_graph"]


def popularity_graph(popularity: Popularity) -> onnx.ModelProto:
    """``offset`` and ``count`` int64 [1] → that page of ``segments`` int64, ``rows`` int64 and ``shares`` float32.

    ``attributes`` and ``values``, texts [1 + S], say which segment a number means; 0 is everybody, of whom the first
    lines tell. ``size`` int64 [1] is the number of lines.
    """
    rows = np.flatnonzero(popularity.shares > 0)
    # No tensor may be empty: without purchases one line says that one item has no share.
    rows = rows if len(rows) else np.zeros(1, np.int64)
    shares = popularity.shares[rows] if len(popularity.shares) else np.zeros(1, np.float32)
    names = sorted(popularity.segments)
    told = [popularity.segments[name] for name in names]
    numbers = np.repeat(np.arange(len(told) + 1), [len(rows), *(len(items.rows) for items in told)])
    return paged_graph(
        "popularity",
        {
            "segments": numbers.astype(np.int64),
            "rows": np.concatenate([rows, *(items.rows for items in told)]).astype(np.int64),
            "shares": np.concatenate([shares, *(items.shares for items in told)]).astype(np.float32),
        },
        {
            "attributes": np.array(["", *(attribute for attribute, _ in names)], dtype=object),
            "values": np.array(["", *(value for _, value in names)], dtype=object),
        },
    )
