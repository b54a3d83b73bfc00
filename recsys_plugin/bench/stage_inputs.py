"""Requests to the ranking stage, drawn at random, as they could come from the store; numpy alone is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec, TensorName

__all__ = ["TEXTS", "StageInputs", "random_inputs"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Values of a generated text feature.
TEXTS = 50
#: The moment of generated requests, unix seconds.
_NOW = 1_750_000_000
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class StageInputs:
    """One request of one user.

    Attributes:
        user_float: float32 [1, F]. user_int: int64 [1, I]. user_codes: int64 [1, texts].
        candidate_rows: int64 [1, C].
    """

    user_float: _Array
    user_int: _Array
    user_codes: _Array
    candidate_rows: _Array

    def with_codes(self) -> dict[str, _Array]:
        """As a generated stage takes it."""
        return {name: getattr(self, name) for name in ("user_float", "user_int", "user_codes", "candidate_rows")}

    def with_texts(self) -> dict[str, _Array]:
        """As an exported graph takes it: a text of its own for each code."""
        texts = np.array([[f"value {code}" for code in self.user_codes[0]]], dtype=object)
        return {
            "user_float": self.user_float,
            "user_int": self.user_int,
            "user_string": texts,
            "candidate_rows": self.candidate_rows,
        }


def random_inputs(contract: FeatureContract, *, items: int, candidates: int, seed: int) -> StageInputs:
    """A user with every feature set, and candidates; rows are below ``items``."""
    draw = np.random.default_rng(seed)
    widths = {str(name): width for name, width in contract.widths.items()}
    floats = np.zeros((1, widths["user_float"]), np.float32)
    integers = np.zeros((1, widths["user_int"]), np.int64)
    for spec in contract.features:
        slot = contract.slots[spec.reference]
        columns = slice(slot.offset, slot.offset + slot.width)
        if slot.tensor == TensorName.FLOAT:
            floats[0, columns] = draw.exponential(size=slot.width)
        elif slot.tensor == TensorName.INT:
            integers[0, columns] = _integers(spec, items, draw)
    texts = sum(spec.tensor == TensorName.STRING for spec in contract.features)
    return StageInputs(
        floats,
        integers,
        draw.integers(TEXTS + 1, size=(1, texts)),
        draw.integers(items, size=(1, candidates)),
    )


def _integers(spec: FeatureSpec, items: int, draw: np.random.Generator) -> _Array | int:
    if spec.from_request:
        return _NOW
    if spec.encoding is Encoding.ROW:
        return draw.integers(items, size=spec.width)
    if spec.element == "UNIX_TIMESTAMP":
        return _NOW - draw.integers(90 * _DAY, size=spec.width)
    return draw.integers(6, size=spec.width)
