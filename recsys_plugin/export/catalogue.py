"""The catalogue that a version carries: the items that it was trained on, as the shop describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recsys_plugin.data.store import Dataset

__all__ = ["catalogue_frame", "seconds_of"]

_COLUMNS = ["item_id", "title", "category", "subcategory", "brand", "price", "available_from"]


def catalogue_frame(dataset: Dataset, tables: Path, item_ids: pd.Index[str]) -> pd.DataFrame:
    """What is known of items, a row each, in the order given.

    Args:
        dataset: canonical tables.
        tables: the folder of the feature tables, of which ``item_statistics`` says when each item was first sold.
        item_ids: of the catalogue.

    Returns:
        ``item_id``, ``title``, ``category``, ``subcategory``, ``brand``, ``price`` and ``available_since``, which is
        when the shop says that the item came up for sale, or else its first sale; NaT where neither is known.
    """
    items = dataset.frame("items", _COLUMNS).set_index("item_id").loc[item_ids]
    sold = pq.read_table(tables / "item_statistics.parquet", columns=["item_id", "first_sold_at"])
    first = sold.group_by("item_id").aggregate([("first_sold_at", "min")]).to_pandas()
    first_sold = first.set_index("item_id")["first_sold_at_min"].reindex(items.index)
    items["available_since"] = items.pop("available_from").fillna(first_sold)
    return items.rename_axis("item_id").reset_index()


def seconds_of(moments: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Unix seconds int64 [n] of moments; 0 where there is none."""
    seconds = moments.dt.tz_localize(None).to_numpy("datetime64[s]").astype(np.int64)
    return np.where(moments.isna().to_numpy(), 0, seconds)
