"""The feature frame that every CTR model of the zoo learns from and predicts on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from recsys_plugin.errors import InvalidInput

__all__ = ["CtrFrame", "History"]

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class History:
    """What the user of each line did before, next to the item that the line asks about.

    Attributes:
        items: int64 [n, L], item codes from 0 to ``size`` - 1; -1 pads.
        types: int64 [n, L], event types (or ratings) from 0 to ``type_size`` - 1; what stands beside -1 is ignored.
        ages: float32 [n, L], days since each event; what stands beside -1 is ignored.
        target: int64 [n], code of the item asked about; -1 = unknown.
        size: number of item codes.
        type_size: number of event types.
    """

    items: _Array
    types: _Array
    ages: _Array
    target: _Array
    size: int
    type_size: int

    def take(self, lines: _Array) -> History:
        """The given lines, in the given order."""
        return replace(
            self, items=self.items[lines], types=self.types[lines], ages=self.ages[lines], target=self.target[lines]
        )


@dataclass(frozen=True, slots=True)
class CtrFrame:
    """n examples: a user, an item, and what came of showing the one to the other.

    Attributes:
        numbers: float32 [n, D], finite.
        number_names: the D columns.
        codes: int64 [n, K], from 0 (unknown) to the column's size - 1.
        code_names: the K columns. code_sizes: how many codes each has, 0 included.
        labels: float32 [n, H], 1 or 0; NaN where it is missing or not yet known, as a purchase that may still come.
        heads: the H kinds of event.
        weights: float32 [n], how many examples each line stands for.
        group: int64 [n], the user, for GAUC.
        lists: int64 [n], the list that a line was shown in, for NDCG; empty if the lines form no lists.
        history: the user's past, or None.

    Raises:
        InvalidInput: if shapes disagree, a code is outside its column's sizes, a label is none of 0, 1 and NaN, a
            weight is negative, or a number is NaN or infinite.
    """

    numbers: _Array
    number_names: tuple[str, ...]
    codes: _Array
    code_names: tuple[str, ...]
    code_sizes: tuple[int, ...]
    labels: _Array
    heads: tuple[str, ...]
    weights: _Array
    group: _Array
    lists: _Array = field(default_factory=lambda: np.empty(0, np.int64))
    history: History | None = None

    def __post_init__(self) -> None:
        lines = len(self.numbers)
        shapes = {
            "numbers": (self.numbers.shape, (lines, len(self.number_names))),
            "codes": (self.codes.shape, (lines, len(self.code_names))),
            "code_sizes": ((len(self.code_sizes),), (len(self.code_names),)),
            "labels": (self.labels.shape, (lines, len(self.heads))),
            "weights": (self.weights.shape, (lines,)),
            "group": (self.group.shape, (lines,)),
        }
        if self.lists.size:
            shapes["lists"] = (self.lists.shape, (lines,))
        if self.history is not None:
            length = self.history.items.shape[-1]
            shapes |= {
                "history.items": (self.history.items.shape, (lines, length)),
                "history.types": (self.history.types.shape, (lines, length)),
                "history.ages": (self.history.ages.shape, (lines, length)),
                "history.target": (self.history.target.shape, (lines,)),
            }
        for name, (got, wanted) in shapes.items():
            if got != wanted:
                raise InvalidInput(f"CTR frame: {name} has shape {got}, but {wanted} is wanted")
        for column, name in enumerate(self.number_names):
            if not np.isfinite(self.numbers[:, column]).all():
                line = int(np.flatnonzero(~np.isfinite(self.numbers[:, column]))[0])
                raise InvalidInput(
                    f"CTR frame: the number {name!r} is {self.numbers[line, column]} in line {line}; "
                    "replace NaN and infinity by a value and a flag before training"
                )
        for column, (name, size) in enumerate(zip(self.code_names, self.code_sizes, strict=True)):
            values = self.codes[:, column]
            if lines and (values.min() < 0 or values.max() >= size):
                raise InvalidInput(f"CTR frame: the code {name!r} must lie in 0 … {size - 1}; 0 means unknown")
        known = self.labels[~np.isnan(self.labels)]
        if not np.isin(known, (0.0, 1.0)).all():
            raise InvalidInput("CTR frame: a label must be 0, 1 or NaN (not known)")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise InvalidInput("CTR frame: weights must be finite and not negative")

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, lines: _Array) -> CtrFrame:
        """The given lines, in the given order; a bool mask works as well."""
        return replace(
            self,
            numbers=self.numbers[lines],
            codes=self.codes[lines],
            labels=self.labels[lines],
            weights=self.weights[lines],
            group=self.group[lines],
            lists=self.lists[lines] if self.lists.size else self.lists,
            history=None if self.history is None else self.history.take(lines),
        )

    def layout(self) -> dict[str, Any]:
        """What a model must know of a frame to be built: names, sizes and heads, as JSON holds them."""
        described: dict[str, Any] = {
            item.name: list(getattr(self, item.name))
            for item in fields(self)
            if item.name in ("number_names", "code_names", "code_sizes", "heads")
        }
        if self.history is not None:
            described["history"] = [self.history.size, self.history.type_size]
        return described

    def told_heads(self) -> tuple[str, ...]:
        """The heads that have both a positive and a negative label of positive weight: those that can be learned."""
        there = self.labels[self.weights > 0]
        both = [bool((column == 1.0).any() and (column == 0.0).any()) for column in there.T]
        return tuple(head for head, told in zip(self.heads, both, strict=True) if told)
