"""The exported graph of complements against the tables that it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.local import LocalRepository
from recsys_plugin.export.parity import TOLERANCE, largest_difference
from recsys_plugin.training.complements import Complements

__all__ = ["check_complements", "complements_request"]

_Array = np.ndarray[Any, np.dtype[Any]]


def complements_request(baskets: _Array, count: int) -> dict[str, _Array]:
    """A request for ``count`` complements of some baskets, int64 [B, n], without exclusions."""
    lines = len(baskets)
    return {
        "basket_rows": baskets,
        "excluded_rows": np.full((lines, 1), -1, np.int64),
        "counts": np.full((lines, 2), count, np.int64),
    }


def check_complements(local: LocalRepository, complements: Complements) -> dict[str, float]:
    """Compare the exported graph with the tables, on baskets spread over the catalogue and an empty one.

    Returns:
        The largest absolute difference of a score.

    Raises:
        CheckFailed: if it is above the tolerance.
    """
    size = len(complements.rows)
    baskets = np.linspace(0, size - 1, num=24).astype(np.int64).reshape(8, 3)
    baskets[0] = -1
    answer = local.run("complements", complements_request(baskets, size))
    lines, known = np.nonzero(baskets >= 0)[0], baskets[baskets >= 0]
    asked = sp.csr_matrix((np.ones(len(known), np.float32), (lines, known)), (len(baskets), size))
    wanted = np.take_along_axis(complements.scores(asked), np.maximum(answer["rows"], 0), axis=1)
    found = answer["rows"] >= 0
    difference = largest_difference(answer["scores"][found], wanted[found])
    if not difference <= TOLERANCE:
        raise CheckFailed(f"the exported graph complements differs from its tables by {difference:.2g}")
    return {"complements.scores": difference}
