"""Event histories for the aggregations: small, with ties in time, returns and window edges, in no particular order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from hypothesis import strategies as st
from synthetic import event_table

__all__ = ["ORIGIN", "WINDOW_EDGES", "Row", "histories", "table"]

Row = dict[str, Any]

ORIGIN = datetime(2024, 2, 28, tzinfo=UTC)

#: Gaps between two events that lie on, just inside and just outside of every window.
WINDOW_EDGES = [
    base + step
    for base in (timedelta(0), timedelta(minutes=30), timedelta(days=7), timedelta(days=30), timedelta(days=90))
    for step in (timedelta(0), timedelta(microseconds=1), timedelta(microseconds=-1))
    if base + step >= timedelta(0)
]


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Events of up to three users in time order; a gap of nothing makes several events of one moment."""
    types = st.sampled_from(["impression", "click", "cart", "purchase", "purchase", "return"])
    gaps = st.one_of(
        st.sampled_from(WINDOW_EDGES),
        st.integers(0, 100 * 86_400_000_000).map(lambda number: timedelta(microseconds=number)),
    )
    now = ORIGIN
    rows: list[Row] = []
    for number in range(draw(st.integers(0, 25))):
        now += draw(gaps)
        rows.append(
            {
                "user_id": draw(st.sampled_from("abc")),
                "item_id": draw(st.sampled_from(["x", "y", "z", "ü"])),
                "event_type": draw(types),
                "timestamp": now,
                # Ids decide among events of one moment, so their order must not be that of the rows.
                "event_id": f"{draw(st.integers(0, 999)):03d}-{number}",
                "quantity": float(draw(st.integers(1, 3))),
                "price": draw(st.one_of(st.none(), st.integers(0, 50).map(float))),
                "query": draw(st.sampled_from([None, "tea", "mug"])),
            }
        )
    return rows


def table(rows: list[Row], seed: int = 0) -> pd.DataFrame:
    """The rows as the pipeline hands them over, shuffled."""
    return event_table(rows).sample(frac=1.0, random_state=seed)
