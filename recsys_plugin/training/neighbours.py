"""What is bought by those who bought this: the strongest item-item weights of EASE^R, as tables that a graph can hold.

Steck 2019, "Embarrassingly shallow autoencoders for sparse data". The closed form needs no training steps; kept are
each item's largest weights, so that the table grows with the catalogue and not with its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys_plugin.training.baselines import Purchases, ease_weights

__all__ = ["Neighbours", "neighbours_of", "no_neighbours", "read_neighbours", "write_neighbours"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Neighbours kept for each item.
MOST_NEIGHBOURS = 100


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each of N items the K items whose purchase its own purchase speaks for most.

    Attributes:
        rows: int64 [N, K], -1 pads. weights: float32 [N, K], positive, 0 where padded.
    """

    rows: _Array
    weights: _Array


def no_neighbours(items: int) -> Neighbours:
    """The table of a catalogue without purchases."""
    return Neighbours(np.full((items, 1), -1, np.int64), np.zeros((items, 1), np.float32))


def neighbours_of(purchases: Purchases, *, half_life: float = 120.0, most: int = MOST_NEIGHBOURS) -> Neighbours:
    """The neighbours of every item by the purchases before a moment.

    Args:
        purchases: who bought what. half_life: days after which a purchase counts half.
        most: neighbours kept for each item.
    """
    if not len(purchases.users):
        return no_neighbours(purchases.shape[1])
    matrix = purchases.matrix(half_life=half_life)
    # Who buys an item every day is one buyer still: without the cap, a few wholesalers would decide every weight.
    matrix.data = np.minimum(matrix.data, 1.0)
    ease = ease_weights(matrix)
    most = min(most, len(ease.kept))
    places = np.argpartition(-ease.inner, most - 1, axis=1)[:, :most]
    said = np.take_along_axis(ease.inner, places, axis=1)
    rows = np.full((matrix.shape[1], most), -1, np.int64)
    weights = np.zeros(rows.shape, np.float32)
    rows[ease.kept] = np.where(said > 0, ease.kept[places], -1)
    weights[ease.kept] = np.maximum(said, 0.0)
    return Neighbours(rows, weights)


def write_neighbours(path: Path, tables: Sequence[Neighbours], positions: _Array) -> None:
    """Write tables and, for each moment, int64 [moments], the position of its table."""
    arrays = {f"rows_{i}": table.rows for i, table in enumerate(tables)}
    arrays |= {f"weights_{i}": table.weights for i, table in enumerate(tables)}
    np.savez(path, allow_pickle=False, positions=np.asarray(positions, np.int64), **arrays)


def read_neighbours(path: Path) -> list[Neighbours]:
    """The table of each moment; moments that share one share the object."""
    with np.load(path, allow_pickle=False) as arrays:
        positions = arrays["positions"]
        tables = [Neighbours(arrays[f"rows_{i}"], arrays[f"weights_{i}"]) for i in range(int(positions.max()) + 1)]
    return [tables[position] for position in positions]
