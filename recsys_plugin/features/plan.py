"""The read plan: a feature contract made ready once, so that a request only does arithmetic.

One ``HMGET`` per user over all views; its reply is decoded into the three packed tensors of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import FeatureContractError, InvalidInput, StoreUnavailable
from recsys_plugin.features.codec import (
    MalformedValueError,
    Value,
    decode_timestamp,
    decode_value,
    entity_key_prefix,
    entity_key_value,
    hash_field,
    timestamp_field,
)
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec, TensorName

__all__ = ["FeatureReport", "FeatureTensors", "ReadFeatures", "ReadPlan", "ReadSchema", "Reply"]

#: What Redis answers to one HMGET: the values of :attr:`ReadPlan.fields`, ``None`` where there is none.
Reply = Sequence[bytes | None]

_FLOAT_LIMIT = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class ReadFeatures:
    """Read hash fields of several keys in one round trip. Answer: a list of :data:`Reply`, one for each key."""

    keys: Sequence[bytes]
    fields: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class ReadSchema:
    """Read the types that the store's features have. Answer: reference → type name, or ``None`` if not recorded."""

    project: str


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What the feature store had for one user.

    Three outcomes are kept apart: a value was there; it was ``missing`` (never written, null, or a float that
    is not finite); it was ``expired`` (older than the contract allows). The contract's default stood in for
    the last two.
    """

    known: bool
    """Whether the store has ever heard of this user: any view of the contract has an event time."""
    total: int
    """How many features the contract takes from the store."""
    missing: tuple[str, ...]
    """References without a value, in contract order."""
    expired: tuple[str, ...]
    """References with a value that is too old, in contract order."""

    @property
    def defaults(self) -> int:
        """How many features the model saw at their default."""
        return len(self.missing) + len(self.expired)

    @property
    def present(self) -> int:
        """How many features the model saw as stored."""
        return self.total - self.defaults


@dataclass(frozen=True, slots=True)
class FeatureTensors:
    """The packed features of B users, as the model's contract lays them out."""

    user_float: NDArray[np.float32]
    """``[B, F]``"""
    user_int: NDArray[np.int64]
    """``[B, I]``"""
    user_string: NDArray[np.object_]
    """``[B, S]`` of ``bytes``"""


class ReadPlan:
    """Which hash fields to ask for, and how to turn the reply into tensors.

    Raises:
        FeatureContractError: if two features of the contract share a hash field: neither could be trusted.
    """

    def __init__(self, contract: FeatureContract) -> None:
        self.contract = contract
        references: dict[bytes, str] = {}
        for spec in contract.stored_features:
            other = references.setdefault(field := hash_field(spec.reference), spec.reference)
            if other != spec.reference:
                raise FeatureContractError(
                    f"{other} and {spec.reference} have one hash field, {field.hex()}, in Feast's Redis "
                    "layout, so one overwrites the other. Rename one of them and run `recsys apply`."
                )
        views = list(dict.fromkeys(spec.view for spec in contract.stored_features))
        #: The fields of every HMGET: one per stored feature in contract order, then one event time per view.
        self.fields: tuple[bytes, ...] = (*references, *(timestamp_field(view) for view in views))
        self._views = {view: len(references) + position for position, view in enumerate(views)}
        self._slots = [(spec, contract.slots[spec.reference]) for spec in contract.features]
        self._prefix = entity_key_prefix(contract.join_key)
        self._suffix = contract.project.encode()
        self._defaults = _defaults(contract)

    def key(self, user_id: str) -> bytes:
        """The Redis key of one user's features.

        Raises:
            InvalidInput: if the contract's users have whole numbers and this is none.
        """
        if self.contract.join_key_type == "STRING":
            return self._prefix + entity_key_value(user_id) + self._suffix
        number = int(user_id) if user_id.removeprefix("-").isdecimal() else None
        # "007", "-0" and the like are refused rather than read as another user's number.
        if number is None or str(number) != user_id or not -(2**63) <= number < 2**63:
            raise InvalidInput(f"user_id {user_id!r}: this shop's users are 64-bit whole numbers")
        return self._prefix + entity_key_value(number) + self._suffix

    def decode(
        self, user_ids: Sequence[str], replies: Sequence[Reply], *, now: float, rows: Mapping[str, int]
    ) -> tuple[FeatureTensors, tuple[FeatureReport, ...]]:
        """Turn the replies of B users into packed tensors and a report for each.

        Args:
            user_ids: who was asked for, for the messages of errors.
            replies: for each user, the values of :attr:`fields`.
            now: the time of the request, unix seconds, against which ages are measured.
            rows: item id → row number in the catalogue version that serves this request.

        Raises:
            FeatureContractError: if a value has another type than the contract says.
            StoreUnavailable: if a value's bytes are corrupt.
        """
        count = len(user_ids)
        floats = np.repeat(self._defaults.user_float, count, axis=0)
        ints = np.repeat(self._defaults.user_int, count, axis=0)
        strings = np.repeat(self._defaults.user_string, count, axis=0)
        tensors: dict[TensorName, NDArray[Any]] = {
            TensorName.FLOAT: floats,
            TensorName.INT: ints,
            TensorName.STRING: strings,
        }
        reports = []
        for number, (user_id, reply) in enumerate(zip(user_ids, replies, strict=True)):
            lines = {name: tensor[number] for name, tensor in tensors.items()}
            reports.append(self._decode_user(user_id, reply, lines, now, rows))
        return FeatureTensors(floats, ints, strings), tuple(reports)

    def _decode_user(
        self,
        user_id: str,
        reply: Reply,
        lines: Mapping[TensorName, NDArray[Any]],
        now: float,
        rows: Mapping[str, int],
    ) -> FeatureReport:
        """Fill one line of each tensor, which holds the defaults so far."""
        ages = {view: self._age(user_id, view, reply[position], now) for view, position in self._views.items()}
        missing, expired = [], []
        stored = iter(reply)
        for spec, slot in self._slots:
            line = lines[slot.tensor]
            if spec.from_request:
                line[slot.offset] = int(now)
                continue
            data, age = next(stored), ages[spec.view]
            if not data or age is None:
                missing.append(spec.reference)
            elif spec.max_age_seconds is not None and age > spec.max_age_seconds:
                expired.append(spec.reference)
            else:
                values = _elements(spec, self._decoded(user_id, spec, data), rows)
                if values is None:
                    missing.append(spec.reference)
                else:
                    line[slot.offset : slot.offset + len(values)] = values
        return FeatureReport(
            known=any(age is not None for age in ages.values()),
            total=len(self.contract.stored_features),
            missing=tuple(missing),
            expired=tuple(expired),
        )

    def _age(self, user_id: str, view: str, data: bytes | None, now: float) -> float | None:
        if data is None:
            return None
        try:
            return now - decode_timestamp(data)
        except MalformedValueError as error:
            raise StoreUnavailable(f"event time of {view} for user {user_id!r} is corrupt in Redis: {error}") from error

    def _decoded(self, user_id: str, spec: FeatureSpec, data: bytes) -> Value:
        try:
            dtype, value = decode_value(data)
        except MalformedValueError as error:
            raise StoreUnavailable(f"{spec.reference} of user {user_id!r} is corrupt in Redis: {error}") from error
        if dtype not in (spec.dtype, "NULL"):
            raise FeatureContractError(
                f"{spec.reference} of user {user_id!r}: the model wants {spec.dtype}, the feature store "
                f"holds {dtype}. Run `recsys apply` or export the model again."
            )
        return value


def _elements(spec: FeatureSpec, value: Value, rows: Mapping[str, int]) -> list[Any] | None:
    """The values of one feature as they go into the tensor; ``None`` if there is nothing to use."""
    if value is None:
        return None
    elements: list[Any] = value[: spec.length] if isinstance(value, list) else [value]
    if spec.encoding == Encoding.ROW:
        return [rows.get(item_id, -1) for item_id in elements]
    if spec.tensor == TensorName.STRING:
        return [text.encode() if isinstance(text, str) else text for text in elements]
    if spec.tensor == TensorName.FLOAT:
        usable = [-_FLOAT_LIMIT <= float(number) <= _FLOAT_LIMIT for number in elements]
        if elements and not any(usable):
            return None
        return [number if good else spec.default for number, good in zip(elements, usable, strict=True)]
    return [int(number) for number in elements]


def _defaults(contract: FeatureContract) -> FeatureTensors:
    """One line of each tensor with every feature at its default."""
    filled: dict[TensorName, list[object]] = {name: [] for name in TensorName}
    for spec in contract.features:
        default = spec.default.encode() if isinstance(spec.default, str) else spec.default
        filled[spec.tensor] += [default] * spec.width
    return FeatureTensors(
        np.array([filled[TensorName.FLOAT]], dtype=np.float32),
        np.array([filled[TensorName.INT]], dtype=np.int64),
        np.array([filled[TensorName.STRING]], dtype=np.object_),
    )
