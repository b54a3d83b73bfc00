"""The candidates of a page as columns of numbers: what rules look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Codes", "Pool"]

#: Numbers of categories and the like that something is about.
Codes = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Distinct candidates, one a place; all columns are ``[n]``."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    """What the page is ordered by, higher is better."""
    categories: Codes
    """Number of each one's category, -1 where it is not known; likewise:"""
    subcategories: Codes
    brands: Codes
    prices: NDArray[np.float64]
    """NaN where not known."""
    stock: NDArray[np.int64]
    """Below 0 where not known."""
    available_since: NDArray[np.int64]
    """Unix seconds, 0 where not known."""
    probabilities: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    """``click``, ``cart`` and ``purchase``, as far as the model gives them; NaN where it was never trained for it."""

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self.rows)
