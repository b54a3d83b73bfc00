"""A small seeded shop with what no public data set offers: impressions, clicks with queries, carts and returns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["NEVER_BOUGHT", "NEVER_SEEN", "event_table", "write_tables"]

#: A user without any event, and an item that was never sold, has no category, no price and no description.
NEVER_SEEN, NEVER_BOUGHT = "user-never-seen", "item-never-bought"

_START = datetime(2025, 3, 1, tzinfo=UTC)
_DAYS = 61
_CATEGORIES = ("tea", "mugs", "garden", "toys", "lamps", "bäckerei")
_BRANDS = ("Acorn", "Birch", "Cedar", "Дуб")
_COLOURS = ("red", "blue", "green", "white", "black")
_TYPES = ("impression", "click", "cart", "purchase", "return")


def write_tables(folder: Path, *, users: int = 150, items: int = 120, seed: int = 7) -> None:
    """Write ``users``, ``items`` and ``events`` as canonical Parquet tables."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    catalogue = _items(generator, items)
    people = _users(generator, users)
    catalogue.to_parquet(folder / "items.parquet", index=False)
    people.to_parquet(folder / "users.parquet", index=False)
    events = _visits(generator, people, catalogue)
    events.to_parquet(folder / "events.parquet", index=False)


def event_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Events as the pipeline hands them to the aggregations; what a row leaves out takes a default."""
    defaults = {"quantity": 1.0, "price": None, "query": None, "basket_id": None}
    frame = pd.DataFrame(
        [{**defaults, **row} for row in rows],
        columns=["user_id", "item_id", "event_type", "timestamp", "event_id", *defaults],
    )
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True).astype("datetime64[us, UTC]")
    return frame.astype({"quantity": np.float64, "price": np.float64})


def _items(generator: np.random.Generator, count: int) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number in range(count - 1):
        category = _CATEGORIES[number % len(_CATEGORIES)]
        colour, brand = generator.choice(_COLOURS), generator.choice(_BRANDS)
        rows.append(
            {
                "item_id": f"item-{number:03d}",
                "title": f"{colour} {category} number {number}",
                "description": f"A {colour} thing for {category} lovers by {brand}" if number % 3 else None,
                "category": category,
                "subcategory": f"{category}/{number % 2}",
                "brand": brand if number % 4 else None,
                "price": round(float(generator.uniform(1, 60)), 2) if number % 7 else None,
            }
        )
    rows.append({"item_id": NEVER_BOUGHT, "title": "something quite different"})
    return pd.DataFrame(rows).astype({"price": np.float64})


def _users(generator: np.random.Generator, count: int) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number in range(count - 1):
        # Some joined long before the data begins, some during it, of some it is not known.
        joined = _START + timedelta(days=float(generator.uniform(-5000, 30))) if number % 3 else None
        rows.append(
            {
                "user_id": f"user-{number:03d}",
                "country": generator.choice(["DE", "FR", "日本"]),
                "gender": generator.choice(["f", "m"]) if number % 2 else None,
                "age_group": generator.choice(["18-24", "25-34", "35-54"]),
                "segment": f"segment {number % 4}",
                "signed_up_at": joined,
            }
        )
    rows.append({"user_id": NEVER_SEEN})
    frame = pd.DataFrame(rows)
    frame["signed_up_at"] = pd.to_datetime(frame["signed_up_at"], utc=True)
    return frame


def _visits(generator: np.random.Generator, people: pd.DataFrame, catalogue: pd.DataFrame) -> pd.DataFrame:
    """Each user likes two categories and has three items that he buys again and again."""
    ids = catalogue["item_id"].to_numpy()[:-1]
    by_category = {name: ids[number :: len(_CATEGORIES)] for number, name in enumerate(_CATEGORIES)}
    price = dict(zip(catalogue["item_id"], catalogue["price"].fillna(9.99), strict=True))
    rows: list[dict[str, Any]] = []

    def happen(user: str, item: str, kind: str, when: datetime, **more: Any) -> None:
        rows.append({"user_id": user, "item_id": item, "event_type": kind, "timestamp": when, **more})

    for user in people["user_id"][:-1]:
        liked = generator.choice(_CATEGORIES, 2, replace=False)
        staples = generator.choice(np.concatenate([by_category[name] for name in liked]), 3, replace=False)
        for visit in range(int(generator.integers(3, 12))):
            now = _START + timedelta(seconds=float(generator.uniform(0, _DAYS * 86_400)))
            category = generator.choice(liked) if generator.random() < 0.8 else generator.choice(_CATEGORIES)
            shown = generator.choice(by_category[category], 5, replace=False)
            query = str(category) if generator.random() < 0.5 else None
            for item in shown:
                happen(user, item, "impression", now)
            chosen = [item for item in (*shown[:2], *staples) if generator.random() < 0.5]
            for item in chosen:
                now += timedelta(seconds=float(generator.uniform(1, 90)))
                happen(user, item, "click", now, query=query)
            bought = [item for item in chosen if generator.random() < 0.6]
            for item in bought:
                happen(user, item, "cart", now)
            # A basket is bought at one moment.
            now += timedelta(seconds=30)
            for item in bought:
                happen(
                    user, item, "purchase", now, basket_id=f"{user}/{visit}", quantity=float(generator.integers(1, 4)),
                    price=price[item],
                )  # fmt: skip
            if bought and generator.random() < 0.1:
                happen(user, bought[0], "return", now + timedelta(days=1))
    frame = pd.DataFrame(rows)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True).astype("datetime64[us, UTC]")
    return frame.sample(frac=1.0, random_state=1)
