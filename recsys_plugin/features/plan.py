"""The read plan: a feature contract made ready once, so that a request only does arithmetic.

One ``HMGET`` per user over all views; its reply is decoded into the three packed tensors of the contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import FeatureContractError, InvalidInput, StoreUnavailable
from recsys_plugin.features.codec import (
    NULL_MOMENT,
    MalformedValueError,
    Value,
    decode_timestamp,
    decode_value,
    entity_key_prefix,
    entity_key_value,
    hash_field,
    timestamp_field,
)
from recsys_plugin.features.contract import (
    REQUEST_TIMESTAMP,
    Encoding,
    FeatureContract,
    FeatureSpec,
    Slot,
    TensorName,
)
from recsys_plugin.user_names import named_user

__all__ = ["FeatureReport", "FeatureTensors", "ReadFeatures", "ReadPlan", "ReadPromotion", "ReadSchema", "Reply"]

#: What Redis answers to one HMGET: the values of :attr:`ReadPlan.fields`, ``None`` where there is none.
Reply = Sequence[bytes | None]

_FLOAT_LIMIT = float(np.finfo(np.float32).max)

#: Stored value, item id → row number → what goes into the tensor, at most as long as the contract says.
_Elements = Callable[[Value, Mapping[str, int]], list[Any] | NDArray[Any] | None]


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
class ReadPromotion:
    """Read which model version is promoted. Answer: its number, or ``None`` if the newest is to serve."""

    project: str


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What the feature store had for one user.

    Three outcomes are kept apart: a value was there; it was ``missing`` (never written, null, a time that is not
    known, or a float that is not finite); it was ``expired`` (older than the contract allows). The contract's default
    stood in for the last two.
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


@dataclass(frozen=True, slots=True)
class _StoredFeature:
    """One feature of the contract, ready for requests."""

    spec: FeatureSpec
    view: str
    max_age: float
    """Seconds; infinite for a feature that does not expire."""
    tensor: TensorName
    offset: int
    elements: _Elements


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
        self._stored = tuple(_prepared(spec, contract.slots[spec.reference]) for spec in contract.stored_features)
        self._request_time = contract.slots.get(REQUEST_TIMESTAMP)
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
            raise InvalidInput(f"user_id ({named_user(user_id)}): this shop's users are 64-bit whole numbers")
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
        if self._request_time is not None:
            lines[self._request_time.tensor][self._request_time.offset] = int(now)
        missing, expired = [], []
        # The event times at the end of the reply belong to no feature.
        for feature, data in zip(self._stored, reply, strict=False):
            age = ages[feature.view]
            if not data or age is None:
                missing.append(feature.spec.reference)
            elif age > feature.max_age:
                expired.append(feature.spec.reference)
            else:
                value = self._decoded(user_id, feature.spec, data)
                elements = None if value is None else feature.elements(value, rows)
                if elements is None:
                    missing.append(feature.spec.reference)
                else:
                    lines[feature.tensor][feature.offset : feature.offset + len(elements)] = elements
        return FeatureReport(
            known=any(age is not None for age in ages.values()),
            total=len(self._stored),
            missing=tuple(missing),
            expired=tuple(expired),
        )

    def _age(self, user_id: str, view: str, data: bytes | None, now: float) -> float | None:
        if data is None:
            return None
        try:
            return now - decode_timestamp(data)
        except MalformedValueError as error:
            raise StoreUnavailable(
                f"event time of {view} for {named_user(user_id)} is corrupt in Redis: {error}"
            ) from error

    def _decoded(self, user_id: str, spec: FeatureSpec, data: bytes) -> Value:
        try:
            dtype, value = decode_value(data)
        except MalformedValueError as error:
            raise StoreUnavailable(f"{spec.reference} of {named_user(user_id)} is corrupt in Redis: {error}") from error
        if dtype not in (spec.dtype, "NULL"):
            raise FeatureContractError(
                f"{spec.reference} of {named_user(user_id)}: the model wants {spec.dtype}, the feature store "
                f"holds {dtype}. Run `recsys apply` or export the model again."
            )
        return value


def _prepared(spec: FeatureSpec, slot: Slot) -> _StoredFeature:
    """Work out once what does not change between requests."""
    max_age = math.inf if spec.max_age_seconds is None else spec.max_age_seconds
    return _StoredFeature(spec, spec.view, max_age, slot.tensor, slot.offset, _elements_of(spec))


def _elements_of(spec: FeatureSpec) -> _Elements:
    """How a stored value of this feature becomes what goes into the tensor; ``None`` if there is nothing to use."""
    length, default = spec.length, spec.default

    def listed(value: Value) -> list[Any]:
        return value[:length] if isinstance(value, list) else [value]

    if spec.encoding is Encoding.ROW:
        return lambda value, rows: [rows.get(item_id, -1) for item_id in listed(value)]
    if spec.tensor is TensorName.STRING:
        if spec.element == "BYTES":
            return lambda value, rows: listed(value)
        return lambda value, rows: [text.encode() for text in listed(value)]
    if spec.tensor is TensorName.FLOAT:
        return (lambda value, rows: _finite(listed(value), default)) if spec.is_list else _finite_scalar
    if spec.element == "UNIX_TIMESTAMP":
        return lambda value, rows: _moments(listed(value), default)
    return lambda value, rows: listed(value)


def _finite_scalar(value: Value, rows: Mapping[str, int]) -> list[Any] | None:
    return [value] if -_FLOAT_LIMIT <= value <= _FLOAT_LIMIT else None  # type: ignore[operator]


def _finite(values: list[Any], default: Any) -> NDArray[np.float64] | None:
    """Numbers that a float32 can hold, the default in place of others; ``None`` if there are only others."""
    numbers = np.array(values, dtype=np.float64)
    usable = np.abs(numbers) <= _FLOAT_LIMIT
    if usable.all():
        return numbers
    return np.where(usable, numbers, default) if usable.any() else None


def _moments(seconds: list[Any], default: object) -> list[Any] | None:
    """Times, the default in place of Feast's null; ``None`` if there is nothing else."""
    if NULL_MOMENT not in seconds:
        return seconds
    known = [default if moment == NULL_MOMENT else moment for moment in seconds]
    return known if any(moment != NULL_MOMENT for moment in seconds) else None


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
