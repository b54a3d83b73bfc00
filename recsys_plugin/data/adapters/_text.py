"""What the adapters share: readable names from capitals, and an item's recent price."""

from __future__ import annotations

import re
from datetime import timedelta

import pandas as pd

__all__ = ["RECENT", "recent_median_price", "sentence_case"]

#: The window before the last event whose sales make an item's current price.
RECENT = timedelta(weeks=8)


def sentence_case(text: str) -> str:
    """Lower case with one capital at the start, single spaces, and a space after a comma or colon."""
    plain = re.sub(r"\s+", " ", re.sub(r"([,:])(?=[^\s\d])", r"\1 ", text)).strip(" ,;:-").lower()
    return plain[:1].upper() + plain[1:]


def recent_median_price(sales: pd.DataFrame) -> pd.Series[float]:
    """Median unit price of each item over the last eight weeks of ``sales``, or over all of them where it had none.

    Args:
        sales: columns ``item_id``, ``timestamp`` and ``price``.

    Returns:
        Prices rounded to cents, indexed by item id.
    """
    latest = sales["timestamp"].max()
    recent = sales[sales["timestamp"] > latest - RECENT].groupby("item_id")["price"].median()
    ever = sales.groupby("item_id")["price"].median()
    price: pd.Series[float] = recent.reindex(ever.index).fillna(ever).round(2)
    return price
