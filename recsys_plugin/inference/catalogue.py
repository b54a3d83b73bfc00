"""The catalogue of one served version: which item each row number means."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.tensors import Array

__all__ = ["PAGE_ROWS", "Catalogue", "as_written", "load_catalogue"]

#: How many rows are asked for at a time.
PAGE_ROWS = 50_000

_OUTPUTS = {
    "item_ids": OutputSpec("BYTES", (-1,)),
    "titles": OutputSpec("BYTES", (-1,)),
    "categories": OutputSpec("BYTES", (-1,)),
    "prices": OutputSpec("FP32", (-1,)),
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
    categories: NDArray[np.object_]
    """``[N]`` of ``str``, empty where unknown"""
    prices: NDArray[np.float64]
    """``[N]``, NaN where unknown"""

    def __len__(self) -> int:
        """The number of items."""
        return len(self.item_ids)

    def show(self, row: int, *, title: str, category: str, price: float) -> None:
        """Let pages show an item's present title, category and price; what the models know of it stays."""
        self.titles[row], self.categories[row], self.prices[row] = title, category, as_written(price)


def load_catalogue(version: int) -> Generator[Infer, dict[str, Array], Catalogue]:
    """Page through the ``catalogue`` model.

    Raises:
        InferenceUnavailable: if its pages do not add up to one list of distinct items.
    """
    where = f"model catalogue version {version}"
    pages: list[dict[str, Array]] = []
    loaded, size = 0, 1
    while loaded < size:
        inputs = {"offset": np.array([loaded], dtype=np.int64), "count": np.array([PAGE_ROWS], dtype=np.int64)}
        page = yield Infer("catalogue", version, inputs, _OUTPUTS)
        size, count = int(page["size"][0]), len(page["item_ids"])
        if any(len(page[name]) != count for name in ("titles", "categories", "prices")):
            raise InferenceUnavailable(f"{where}: columns of different length at row {loaded}")
        if (count == 0 and loaded < size) or loaded + count > size:
            raise InferenceUnavailable(f"{where}: {count} rows at row {loaded} of {size}")
        pages.append(page)
        loaded += count
    item_ids = tuple(_texts(pages, "item_ids", where))
    rows = {item_id: row for row, item_id in enumerate(item_ids)}
    if len(rows) != len(item_ids):
        raise InferenceUnavailable(f"{where}: {len(item_ids) - len(rows)} item ids come more than once")
    return Catalogue(
        version=version,
        item_ids=item_ids,
        rows=rows,
        titles=np.array(_texts(pages, "titles", where), dtype=object),
        categories=np.array(_texts(pages, "categories", where), dtype=object),
        # As in :func:`as_written`.
        prices=np.concatenate([page["prices"] for page in pages]).astype(str).astype(np.float64),
    )


def as_written(price: float) -> float:
    """A price through text, because 0.79 in FP32 would otherwise read 0.7900000214576721 on the page."""
    return float(str(np.float32(price)))


def _texts(pages: list[dict[str, Array]], name: str, where: str) -> list[str]:
    try:
        return [text.decode() for page in pages for text in page[name]]
    except UnicodeDecodeError as error:
        raise InferenceUnavailable(f"{where}: {name} holds text that is not UTF-8: {error}") from error
