"""Weights from one catalogue and its vocabularies to the next: rows of tables find their new places, the rest stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recsys_plugin.training.inputs import Vocabulary

__all__ = ["WeightsMisfit", "carried", "code_rows", "extended", "item_code_rows", "item_rows"]

_Array = np.ndarray[Any, np.dtype[Any]]


class WeightsMisfit(Exception):
    """Weights do not fit the new shapes; the message says which. Caught where training then starts anew."""


def extended(old: Vocabulary, new: Vocabulary) -> Vocabulary:
    """The old values with their codes, then those that are new."""
    known = set(old.values)
    return Vocabulary((*old.values, *(value for value in new.values if value not in known)))


def code_rows(old: Vocabulary, new: Vocabulary) -> _Array:
    """For each code of ``new`` the row of an old table: int64 [len(new)]; a value that is new begins as unknown (0)."""
    rows: _Array = np.r_[0, old.codes(np.array(new.values, object))].astype(np.int64)
    return rows


def item_rows(old: pd.Index[str], new: pd.Index[str]) -> _Array:
    """For each catalogue row its row in the old catalogue, int64 [items]; -1 for an item that is new."""
    return old.get_indexer(new).astype(np.int64)


def item_code_rows(rows: _Array) -> _Array:
    """The same for tables in which 0 is an unknown item and an item has its row and 1: int64 [items + 1]."""
    made: _Array = np.r_[0, rows + 1]
    return made


def carried(
    old: Mapping[str, Tensor], fresh: Mapping[str, Tensor], rows: Mapping[str, _Array], *, blank_new: bool = False
) -> dict[str, Tensor]:
    """The old weights in the new shapes.

    Args:
        old: by name. fresh: the same names with the new shapes and their initial values.
        rows: of tables by name, int64 [new rows], where each row was; -1 for one that keeps its initial value.
        blank_new: make such rows zero instead.

    Raises:
        WeightsMisfit: if a weight is missing, or has another shape for another reason.
    """
    made: dict[str, Tensor] = {}
    for name, value in fresh.items():
        if name not in old:
            raise WeightsMisfit(f"the weights lack {name}")
        before = old[name]
        if name not in rows:
            if before.shape != value.shape:
                raise WeightsMisfit(f"{name} has shape {list(before.shape)}, and {list(value.shape)} is wanted")
            made[name] = before
            continue
        where = rows[name]
        if before.shape[1:] != value.shape[1:] or len(where) != len(value) or where.max(initial=-1) >= len(before):
            raise WeightsMisfit(f"the table {name} has shape {list(before.shape)}; {list(value.shape)} is wanted")
        taken = before[torch.from_numpy(np.maximum(where, 0))]
        known = torch.from_numpy(where >= 0).reshape(-1, *([1] * (value.ndim - 1)))
        made[name] = torch.where(known, taken, torch.zeros_like(value) if blank_new else value)
    return made
