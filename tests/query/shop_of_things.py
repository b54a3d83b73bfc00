"""A few items to search, as a client has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys_plugin.inference.catalogue import UNKNOWN_STOCK, Catalogue
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels
from recsys_plugin.query.search_index import SearchIndex

__all__ = ["ITEMS", "catalogue_of", "index_of"]

#: Item id, title, category, brand, price.
ITEMS = (
    ("wine-1", "Red wine, 750 ml", "Domestic wine", "Hill Farm", 8.0),
    ("wine-2", "White wine, 750 ml", "Imported wine", "Chateau", 14.0),
    ("beer-1", "Lager beer 6 pk", "Beers/ales", "Hill Farm", 7.0),
    ("beer-2", "Non-alcoholic beer 6 pk", "Beers/ales", "Hill Farm", 6.0),
    ("soda-1", "Root beer, 2 l", "Soft drinks", "Fizz", 2.0),
    ("soda-2", "Cola, caffeine free, 2 l", "Soft drinks", "Fizz", 2.2),
    ("bar-1", "Granola bar with almonds", "Snacks", "Oat Co", 3.0),
    ("bar-2", "Granola bar, no nuts", "Snacks", "Oat Co", 3.5),
    ("bar-3", "Chocolate bar", "Snacks", "Choc", 1.0),
    ("cereal-1", "Kids cereal, 12 oz", "Cold cereal", "Oat Co", 4.0),
    ("cereal-2", "Adult cereal, 340 g", "Cold cereal", "Oat Co", float("nan")),
    ("mug-77b", "Mug", "Kitchen", "", 5.0),
)


def catalogue_of(items: Sequence[tuple[str, str, str, str, float]] = ITEMS) -> Catalogue:
    ids, titles, categories, brands, prices = zip(*items, strict=True)
    return Catalogue(
        version=1,
        item_ids=ids,
        rows={item_id: row for row, item_id in enumerate(ids)},
        titles=np.array(titles, dtype=object),
        categories=Labels(categories),
        subcategories=Labels([""] * len(ids)),
        brands=Labels(brands),
        prices=np.array(prices, np.float64),
        available_since=np.zeros(len(ids), np.int64),
        stock=np.full(len(ids), UNKNOWN_STOCK, np.int64),
        vectors=ItemVectors(len(ids)),
    )


def index_of(items: Sequence[tuple[str, str, str, str, float]] = ITEMS) -> SearchIndex:
    return SearchIndex.of(catalogue_of(items))
