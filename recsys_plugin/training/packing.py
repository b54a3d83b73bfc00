"""From a point-in-time frame to the three packed tensors that serving builds from Redis: same contract, same layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.errors import FeatureContractError
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, FeatureContract, FeatureSpec, TensorName

__all__ = ["UserTensors", "first_users", "pack_frame"]

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class UserTensors:
    """The packed user inputs of n users.

    ``user_float`` float32 [n, F], ``user_int`` int64 [n, I], ``user_string`` object (str) [n, S].
    """

    user_float: _Array
    user_int: _Array
    user_string: _Array

    @classmethod
    def empty(cls, contract: FeatureContract, rows: int) -> UserTensors:
        """Tensors of ``rows`` users with nothing in them yet."""
        widths = contract.widths
        return cls(
            np.zeros((rows, widths[TensorName.FLOAT]), np.float32),
            np.zeros((rows, widths[TensorName.INT]), np.int64),
            np.full((rows, widths[TensorName.STRING]), "", object),
        )

    def __len__(self) -> int:
        return len(self.user_float)

    def put(self, rows: _Array, users: UserTensors) -> None:
        """Write ``users`` into the given rows."""
        self.user_float[rows] = users.user_float
        self.user_int[rows] = users.user_int
        self.user_string[rows] = users.user_string

    def joined(self, others: UserTensors) -> UserTensors:
        """These users, then the others."""
        return UserTensors(
            np.concatenate([self.user_float, others.user_float]),
            np.concatenate([self.user_int, others.user_int]),
            np.concatenate([self.user_string, others.user_string]),
        )

    def take(self, rows: _Array) -> UserTensors:
        """The given rows, in the given order."""
        return UserTensors(self.user_float[rows], self.user_int[rows], self.user_string[rows])


def first_users(users: UserTensors, most: int) -> UserTensors:
    """The first lines, at most so many."""
    return users.take(np.arange(min(most, len(users))))


def pack_frame(contract: FeatureContract, frame: pd.DataFrame, item_ids: pd.Index[str]) -> UserTensors:
    """Pack the columns ``view__feature`` of a Feast frame as the contract says.

    Args:
        contract: gives order, types, lengths, encodings and defaults.
        frame: what :func:`~recsys_plugin.pipeline.feast_repository.point_in_time` returned; nulls take the contract's
        default. item_ids: the catalogue, in row order; ids outside it become -1.

    Raises:
        FeatureContractError: if the frame lacks a column of the contract.
    """
    dtypes = {TensorName.FLOAT: np.float32, TensorName.INT: np.int64, TensorName.STRING: object}
    tensors: dict[TensorName, _Array] = {
        name: np.zeros((len(frame), width), dtypes[name]) for name, width in contract.widths.items()
    }
    for spec in contract.features:
        slot = contract.slots[spec.reference]
        column = "event_timestamp" if spec.reference == REQUEST_TIMESTAMP else f"{spec.view}__{spec.feature}"
        if column not in frame:
            raise FeatureContractError(
                f"the contract wants {spec.reference} but the training frame has no column {column!r}; "
                "run `recsys apply`"
            )
        part = tensors[slot.tensor][:, slot.offset : slot.offset + slot.width]
        values = frame[column]
        if spec.is_list:
            _fill_lists(part, spec, values, item_ids)
        else:
            part[:, 0] = _encode(spec, values.to_numpy(), values.isna().to_numpy(), item_ids)
    return UserTensors(tensors[TensorName.FLOAT], tensors[TensorName.INT], tensors[TensorName.STRING])


def _fill_lists(part: _Array, spec: FeatureSpec, lists: pd.Series[Any], item_ids: pd.Index[str]) -> None:
    part[:] = spec.default
    present = np.flatnonzero(lists.notna().to_numpy())
    if not len(present):
        return
    chosen = [np.asarray(values)[: spec.length] for values in lists.to_numpy()[present]]
    lengths = np.array([len(values) for values in chosen])
    if not lengths.sum():
        return
    flat = np.concatenate([values for values in chosen if len(values)])
    columns = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    part[np.repeat(present, lengths), columns] = _encode(spec, flat, pd.isna(flat), item_ids)


def _encode(spec: FeatureSpec, values: _Array, missing: _Array, item_ids: pd.Index[str]) -> _Array:
    if spec.encoding == "row":
        return item_ids.get_indexer(pd.Index(values))
    if spec.element == "UNIX_TIMESTAMP":
        moments = pd.to_datetime(pd.Series(values), utc=True).dt.tz_localize(None)
        seconds = moments.to_numpy("datetime64[s]").astype(np.int64)
        return np.where(missing, spec.default, seconds)
    if missing.any():
        values = values.copy()
        values[missing] = spec.default
    dtype = {TensorName.FLOAT: np.float32, TensorName.INT: np.int64, TensorName.STRING: object}[spec.tensor]
    return values.astype(dtype)
