"""The catalogue of one served version: which item each row number means."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels
from recsys_plugin.inference.tensors import Array

__all__ = ["PAGE_ROWS", "UNKNOWN_STOCK", "Catalogue", "as_written", "load_catalogue"]

#: How many rows are asked for at a time: two milliseconds' work, for which requests of the same event loop wait.
PAGE_ROWS = 1_000
#: Stock of an item of which the shop told none: it can be sold.
UNKNOWN_STOCK = -1

_DISTINCT, _LABELS = ("item_ids", "titles"), ("categories", "subcategories", "brands")
_NUMBERS = ("prices", "available_since")
_OUTPUTS = {
    **{name: OutputSpec("BYTES", (-1,)) for name in (*_DISTINCT, *_LABELS)},
    "prices": OutputSpec("FP32", (-1,)),
    "available_since": OutputSpec("INT64", (-1,)),
    "size": OutputSpec("INT64", (1,)),
}


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """The items of one version, in row order, which never changes; what is shown of an item may, see :meth:`show`."""

    version: int
    item_ids: tuple[str, ...]
    rows: Mapping[str, int]
    """Item id → row number."""
    titles: NDArray[np.object_]
    """``[N]`` of ``str``"""
    categories: Labels
    """``[N]``, empty where unknown"""
    subcategories: Labels
    """``[N]``, empty where unknown"""
    brands: Labels
    """``[N]``, empty where unknown"""
    prices: NDArray[np.float64]
    """``[N]``, NaN where unknown"""
    available_since: NDArray[np.int64]
    """``[N]``: when the item came up for sale, or was first sold; unix seconds, 0 where unknown"""
    stock: NDArray[np.int64]
    """``[N]``: how many there are, :data:`UNKNOWN_STOCK` where the shop told nothing; from the feature store alone"""
    vectors: ItemVectors
    """Those that were wanted so far."""

    def __len__(self) -> int:
        """The number of items."""
        return len(self.item_ids)

    def show(self, row: int, *, title: str, category: str, subcategory: str, brand: str, price: float) -> bool:
        """Let pages and rules know an item's present facts; what the models know of it stays.

        Returns:
            Whether anything but the title is another than before.
        """
        before = self._facts(row)
        self.titles[row], self.prices[row] = title, as_written(price)
        self.categories[row], self.subcategories[row], self.brands[row] = category, subcategory, brand
        return self._facts(row) != before

    def _facts(self, row: int) -> tuple[str, ...]:
        # The price as text, since one that is not known does not equal itself.
        labels = (self.categories, self.subcategories, self.brands)
        return (str(self.prices.item(row)), *(column[row] for column in labels))


def load_catalogue(version: int) -> Generator[Infer, dict[str, Array], Catalogue]:
    """Page through the ``catalogue`` model.

    Raises:
        InferenceUnavailable: if its pages do not add up to one list of distinct items.
    """
    where = f"model catalogue version {version}"
    texts: dict[str, list[str]] = {name: [] for name in _DISTINCT}
    labels = {name: Labels(()) for name in _LABELS}
    numbers: dict[str, list[Array]] = {name: [] for name in _NUMBERS}
    rows: dict[str, int] = {}
    loaded, size = 0, 1
    while loaded < size:
        inputs = {"offset": np.array([loaded], dtype=np.int64), "count": np.array([PAGE_ROWS], dtype=np.int64)}
        page = yield Infer("catalogue", version, inputs, _OUTPUTS)
        size, count = int(page["size"][0]), len(page["item_ids"])
        if any(len(array) != count for name, array in page.items() if name != "size"):
            raise InferenceUnavailable(f"{where}: columns of different length at row {loaded}")
        if (count == 0 and loaded < size) or loaded + count > size:
            raise InferenceUnavailable(f"{where}: {count} rows at row {loaded} of {size}")
        for name, column in texts.items():
            column += _texts(page, name, where)
        for name, label in labels.items():
            label.extend(_texts(page, name, where))
        rows.update(zip(texts["item_ids"][loaded:], range(loaded, loaded + count), strict=True))
        # As in :func:`as_written`.
        numbers["prices"].append(page["prices"].astype(str).astype(np.float64))
        numbers["available_since"].append(page["available_since"])
        loaded += count
    if len(rows) != loaded:
        raise InferenceUnavailable(f"{where}: {loaded - len(rows)} item ids come more than once")
    titles = np.empty(loaded, dtype=object)
    titles[:] = texts["titles"]
    return Catalogue(
        version=version,
        item_ids=tuple(texts["item_ids"]),
        rows=rows,
        titles=titles,
        categories=labels["categories"],
        subcategories=labels["subcategories"],
        brands=labels["brands"],
        prices=np.concatenate(numbers["prices"]),
        available_since=np.concatenate(numbers["available_since"]),
        stock=np.full(loaded, UNKNOWN_STOCK, np.int64),
        vectors=ItemVectors(loaded),
    )


def as_written(price: float) -> float:
    """A price through text, because 0.79 in FP32 would otherwise read 0.7900000214576721 on the page."""
    return float(str(np.float32(price)))


def _texts(page: Mapping[str, Array], name: str, where: str) -> list[str]:
    try:
        return list(map(bytes.decode, page[name]))
    except UnicodeDecodeError as error:
        raise InferenceUnavailable(f"{where}: {name} holds text that is not UTF-8: {error}") from error
