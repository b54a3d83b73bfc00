"""Counts that say little about anyone: each user adds to a bounded number of them, and noise covers what one adds.

The discrete Laplace (two-sided geometric) mechanism (Ghosh, Roughgarden and Sundararajan 2009, "Universally
utility-maximizing privacy mechanisms"), sampled exactly in whole numbers as by Canonne, Kamath and Steinke (2020, "The
discrete Gaussian for differential privacy"), so that no rounding of floating-point numbers gives a count away (Mironov
2012). The sampler is OpenDP's, with randomness of the operating system; it is in the extra ``private``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from recsys_plugin.errors import ConfigurationError, InvalidInput

__all__ = ["Mechanism", "Noise", "bounded", "discrete_laplace"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Adds noise to whole numbers, int64 of any shape.
Noise = Callable[[_Array], _Array]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Noise, and what it protects.

    Attributes:
        noise: adds it. epsilon: spent by one use of it, as the library accounts for it, rounded up.
        sensitivity: by how much all counts together change at most if one user is added or removed.
    """

    noise: Noise
    epsilon: float
    sensitivity: int


def discrete_laplace(*, epsilon: float, sensitivity: int) -> Mechanism:
    """The mechanism that hides whether any one user is there: P(noise = k) is proportional to exp(-|k| e / s).

    Args:
        epsilon: above 0; less hides better. sensitivity: 1 or more, see :class:`Mechanism`.

    Raises:
        InvalidInput: for other numbers. ConfigurationError: if OpenDP is not installed.
    """
    if not (isinstance(epsilon, int | float) and math.isfinite(epsilon) and epsilon > 0):
        raise InvalidInput(f"epsilon: {epsilon!r:.60} is no number above 0")
    if sensitivity < 1:
        raise InvalidInput(f"sensitivity: {sensitivity} is below 1")
    try:
        import opendp.prelude as dp
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "noise for published counts is OpenDP's: pip install 'recsys-plugin[private]'"
        ) from error
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")
    measurement = dp.m.make_laplace(*space, scale=sensitivity / epsilon)

    def noise(counts: _Array) -> _Array:
        if not counts.size:
            return counts
        return np.array(measurement(counts.ravel().tolist()), np.int64).reshape(counts.shape)

    spent: Any = measurement.map(sensitivity)  # type: ignore[no-untyped-call]
    return Mechanism(noise, float(spent), sensitivity)


def bounded(owned: sp.csr_matrix, most: int, generator: np.random.Generator) -> sp.csr_matrix:
    """What users are counted for: of each at most so many of the columns that he has, drawn at random.

    Args:
        owned: [users, columns], whatever is not 0 counts as 1.
    """
    if most < 1:
        raise InvalidInput(f"contributions: {most} of a user is below 1")
    lengths = np.diff(owned.indptr)
    users = np.repeat(np.arange(owned.shape[0]), lengths)
    # In random order within each user; the first ones stay.
    order = np.lexsort((generator.random(len(users)), users))
    place = np.arange(len(users)) - np.repeat(owned.indptr[:-1], lengths)
    kept = order[place < most]
    return sp.csr_matrix((np.ones(len(kept), np.float32), (users[kept], owned.indices[kept])), owned.shape)
