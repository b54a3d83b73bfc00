"""Vectors of catalogue items, asked of the model ``item_embedding`` when they are first wanted, and kept."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.tensors import Array

__all__ = ["ItemVectors"]

#: Items in one call: what the model takes in a batch.
_BATCH = 64


class ItemVectors:
    """Unit vectors of the items of one catalogue version, as far as they were wanted.

    Pages of different users come from much the same items, so after a few pages hardly any has to be asked for. Memory
    is reserved for all, and taken for those that are known.

    Args:
        size: how many items the catalogue has.
    """

    __slots__ = ("_known", "_size", "_vectors")

    def __init__(self, size: int) -> None:
        self._size = size
        self._known = np.zeros(size, np.bool_)
        self._vectors: NDArray[np.float32] | None = None

    def fetch(self, version: int, rows: NDArray[np.int64]) -> Generator[Infer, dict[str, Array], None]:
        """Ask for those of the rows that are not known yet.

        Raises:
            InferenceUnavailable: if Triton fails.
        """
        missing = np.unique(rows[(rows >= 0) & (rows < self._size)])
        missing = missing[~self._known[missing]]
        for start in range(0, len(missing), _BATCH):
            chunk = missing[start : start + _BATCH]
            outputs = {"item_vector": OutputSpec("FP32", (len(chunk), -1))}
            answer = yield Infer("item_embedding", version, {"item_row": chunk[:, np.newaxis]}, outputs)
            found = answer["item_vector"]
            if self._vectors is None:
                self._vectors = np.zeros((self._size, found.shape[1]), np.float32)
            self._vectors[chunk] = found
            self._known[chunk] = True

    @property
    def width(self) -> int:
        """How many numbers a vector has; 0 as long as none is known."""
        return 0 if self._vectors is None else self._vectors.shape[1]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of rows of the catalogue, ``[n, D]``; zeros for those that are not known."""
        if self._vectors is None:
            return np.zeros((len(rows), 0), np.float32)
        return self._vectors[rows]
