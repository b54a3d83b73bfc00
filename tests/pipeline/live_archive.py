"""Archived live events and pages for tests: files as ``recsys events archive`` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_plugin.impressions.parquet import IMPRESSIONS, write_days

__all__ = ["archive_events", "archive_pages", "visits"]

_MOMENT = pa.timestamp("us", tz="UTC")
_TEXTS = ("entry", "user_id", "item_id", "event_type", "event_id", "basket_id", "query", "request_id")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [(name, _MOMENT) for name in ("timestamp", "recorded_at")]
    + [(name, pa.float64()) for name in ("quantity", "price")]
)


def archive_events(state: Path, name: str, events: Iterable[Mapping[str, Any]]) -> None:
    """Write events to ``live_events/day=…/NAME.parquet``, by day; what an event leaves out is null."""
    frame = pd.DataFrame(list(events))
    for day, part in frame.groupby(frame["timestamp"].dt.date):
        folder = state / "live_events" / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{name: row.get(name) for name in _SCHEMA.names} for row in part.to_dict("records")]
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), folder / f"{name}.parquet")


def archive_pages(state: Path, name: str, visited: Iterable[Mapping[str, Any]], also_shown: Sequence[str]) -> int:
    """Write a page for each click of some visits, served a minute before: first what nobody wants, then the item."""
    pages = []
    for number, event in enumerate(event for event in visited if event["event_type"] == "click"):
        served = event["timestamp"] - timedelta(minutes=1)
        items = [item for item in also_shown if item != event["item_id"]] + [event["item_id"]]
        pages.append(
            {
                "entry": f"{number}-0",
                "request_id": f"{name}-{number}",
                "user_id": event["user_id"],
                "served_at": (served - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),
                "model": "recommend",
                "version": 1,
                "policy": "none",
                "propensity_kind": "exact",
                "items": items,
                "scores": [0.5] * len(items),
                "propensities": [1.0] * len(items),
            }
        )
    write_days(state / "impressions", name, IMPRESSIONS, "served_at", pages)
    return len(pages)


def visits(
    users: Iterable[str], items: Iterable[str], *, start: datetime, days: int, each: int, seed: int
) -> list[dict[str, Any]]:
    """Each user clicks, carts and buys ``each`` of the items, one a visit, spread over the days."""
    generator = np.random.default_rng(seed)
    choice = list(items)
    rows: list[dict[str, Any]] = []
    for user in users:
        for visit, item in enumerate(generator.choice(choice, each)):
            moment = start + timedelta(seconds=float(generator.uniform(0, days * 86_400)))
            for kind, later in (("click", 0), ("cart", 20), ("purchase", 40)):
                rows.append(
                    {
                        "user_id": user,
                        "item_id": str(item),
                        "event_type": kind,
                        "timestamp": moment + timedelta(seconds=later),
                        "event_id": f"live-{seed}-{user}-{visit}-{kind}",
                        "quantity": 1.0,
                    }
                )
    return rows
