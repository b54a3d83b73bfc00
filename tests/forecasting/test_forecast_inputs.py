"""What the models are told of the forecasts: named columns, and a defined value where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys_plugin.training.inputs import ITEM_NUMBER_GROUPS, ITEM_NUMBERS, item_inputs
from recsys_plugin.training.modalities import ItemModalities, compact_texts

COUNTS = ("purchases_7d", "purchases_30d", "purchases_90d", "buyers_30d", "buyers_90d", "returns_90d")


def modalities(count: int) -> ItemModalities:
    """Of items without text or image."""
    texts, present = np.zeros((count, 1, 4), np.float32), np.zeros((count, 1), bool)
    compact, axes = compact_texts(texts, present, np.eye(4, dtype=np.float32))
    none = np.zeros((count, 4), np.float32)
    return ItemModalities(("title",), texts, present, none, np.zeros(count, bool), compact, axes)


def snapshot(expected: list[float], category: list[float]) -> pd.DataFrame:
    count = len(expected)
    moment = pd.Timestamp("2025-04-07", tz="UTC")
    return pd.DataFrame(
        {
            "event_timestamp": [moment] * count,
            **{f"item_catalogue__{name}": ["x"] * count for name in ("category", "subcategory", "brand")},
            **{f"item_statistics__{name}": [30.0] * count for name in (*COUNTS, "lifetime_purchases")},
            **{f"item_statistics__{name}": [moment] * count for name in ("first_sold_at", "last_sold_at")},
            "item_demand_forecast__purchases_next_7d": expected,
            "item_demand_forecast__category_purchases_next_7d": category,
            "item_catalogue__price": [1.0] * count,
        }
    )


def test_forecasts_are_columns_of_their_own() -> None:
    nan = float("nan")
    numbers = item_inputs(snapshot([7.0, 1.0, nan], [12.0, nan, nan]), modalities(3))[0].numbers
    columns = ITEM_NUMBER_GROUPS["demand forecast"]
    assert numbers.shape == (3, ITEM_NUMBERS)
    wanted = [
        [np.log1p(7) / 3, 0.0, np.log1p(1000 * 7 / 8), np.log1p(12) / 3],
        [np.log1p(1) / 3, np.log1p(1) - np.log1p(7), np.log1p(1000 / 8), 0.0],
        [0.0, -np.log1p(7), 0.0, 0.0],
    ]
    assert np.allclose(numbers[:, columns], wanted, atol=1e-6)
    # What is not of the forecasts is the same whatever they say, and every number is in one group.
    others = item_inputs(snapshot([nan] * 3, [nan] * 3), modalities(3))[0].numbers
    rest = list(ITEM_NUMBER_GROUPS["statistics and price"])
    assert (others[:, rest] == numbers[:, rest]).all()
    assert sorted([*rest, *columns]) == list(range(ITEM_NUMBERS))
