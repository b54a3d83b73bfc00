"""The feature contract: which Feast features a model version takes, in which order, and how they are packed.

Training writes a contract, Triton's model configuration carries it, the serving client compiles its read plan
from it. The features are packed, in contract order, into three tensors per request of B users:

=============== ========== ================================================================================
``user_float``  FP32 [B,F]  FLOAT and DOUBLE, scalars and lists flattened
``user_int``    INT64 [B,I] INT32, INT64, BOOL, UNIX_TIMESTAMP (seconds), and everything with encoding "row"
``user_string`` BYTES [B,S] STRING and BYTES with encoding "value"
=============== ========== ================================================================================
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from recsys_plugin.errors import FeatureContractError, InvalidInput
from recsys_plugin.limits import MOST_DOCUMENT_BYTES

__all__ = [
    "DTYPES",
    "REQUEST_TIMESTAMP",
    "Default",
    "Encoding",
    "FeatureContract",
    "FeatureSpec",
    "Slot",
    "TensorName",
]

#: The reference that the client fills with the request's own time instead of reading it from the store.
REQUEST_TIMESTAMP = "request:timestamp"

_SCALARS = ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL", "STRING", "BYTES", "UNIX_TIMESTAMP")

#: Every Feast value type that a contract may name.
DTYPES = frozenset(_SCALARS) | frozenset(f"{name}_LIST" for name in _SCALARS)

_INTEGER_LIMITS = {
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "UNIX_TIMESTAMP": (-(2**63), 2**63 - 1),
}

#: What stands in for a value that is missing or expired, and pads a list.
Default = float | int | bool | str


class Encoding(StrEnum):
    """How a stored value becomes a number or a string in a tensor."""

    VALUE = "value"
    """The value itself."""
    ROW = "row"
    """An item id becomes its row number in the served catalogue version; -1 when it is not in there."""


class TensorName(StrEnum):
    """The three packed input tensors."""

    FLOAT = "user_float"
    INT = "user_int"
    STRING = "user_string"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a feature lies: columns ``offset`` to ``offset + width`` of ``tensor``."""

    tensor: TensorName
    offset: int
    width: int


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a contract.

    Args:
        reference: Feast's ``view:feature``, or ``request:timestamp``.
        dtype: Feast's value type name, one of :data:`DTYPES`.
        default: stands in for a missing or expired value and pads lists; -1 for encoding "row".
        encoding: see :class:`Encoding`.
        length: how many values of a list the model takes (the rest is cut off); ``None`` for scalars.
        max_age_seconds: how old the view's event timestamp may be when asked for; ``None`` is no limit.

    Raises:
        InvalidInput: if these contradict one another; the message names the reference.
    """

    reference: str
    dtype: str
    default: Default
    encoding: Encoding = Encoding.VALUE
    length: int | None = None
    max_age_seconds: float | None = None

    def __post_init__(self) -> None:
        view, separator, feature = self.reference.partition(":")
        if not (view and separator and feature) or ":" in feature:
            raise InvalidInput(f"feature reference {self.reference!r} is not of the form view:feature")
        if self.dtype not in DTYPES:
            raise InvalidInput(f"{self.reference}: {self.dtype!r} is not one of {', '.join(sorted(DTYPES))}")
        try:
            encoding = Encoding(self.encoding)
        except ValueError as error:
            raise InvalidInput(f'{self.reference}: encoding {self.encoding!r} is not "value" or "row"') from error
        if encoding is Encoding.ROW and self.element != "STRING":
            raise InvalidInput(f'{self.reference}: encoding "row" takes STRING item ids, not {self.dtype}')
        if self.is_list != (self.length is not None):
            kind = "a list needs a length" if self.is_list else "a scalar has no length"
            raise InvalidInput(f"{self.reference}: {self.dtype} with length {self.length!r}; {kind}")
        if self.length is not None and (type(self.length) is not int or self.length < 1):
            raise InvalidInput(f"{self.reference}: length {self.length!r} is not a whole number of 1 or more")
        if self.reference == REQUEST_TIMESTAMP and (self.dtype, encoding) != (
            "UNIX_TIMESTAMP",
            Encoding.VALUE,
        ):
            raise InvalidInput(f"{self.reference}: must be a UNIX_TIMESTAMP, not {self.dtype}")
        age = self.max_age_seconds
        if age is not None:
            if isinstance(age, bool) or not isinstance(age, int | float) or not 0 < age <= sys.float_info.max:
                raise InvalidInput(f"{self.reference}: max_age_seconds {age!r:.60} is not a finite number above 0")
            object.__setattr__(self, "max_age_seconds", float(age))
        # One form for each meaning, so that equal contracts have equal fingerprints: 0 equals 0.0.
        object.__setattr__(self, "encoding", encoding)
        object.__setattr__(self, "default", self._checked_default())

    @property
    def view(self) -> str:
        """The Feast feature view."""
        return self.reference.partition(":")[0]

    @property
    def feature(self) -> str:
        """The feature's name within its view."""
        return self.reference.partition(":")[2]

    @property
    def is_list(self) -> bool:
        """Whether the feature is one of the list types."""
        return self.dtype.endswith("_LIST")

    @property
    def element(self) -> str:
        """The value type without ``_LIST``."""
        return self.dtype.removesuffix("_LIST")

    @property
    def width(self) -> int:
        """How many columns the feature fills in its tensor."""
        return 1 if self.length is None else self.length

    @property
    def tensor(self) -> TensorName:
        """Which of the three packed tensors the feature goes to."""
        if self.encoding == Encoding.ROW:
            return TensorName.INT
        if self.element in ("FLOAT", "DOUBLE"):
            return TensorName.FLOAT
        if self.element in ("STRING", "BYTES"):
            return TensorName.STRING
        return TensorName.INT

    @property
    def from_request(self) -> bool:
        """Whether the client fills the feature from the request instead of the store."""
        return self.reference == REQUEST_TIMESTAMP

    def to_dict(self) -> dict[str, object]:
        """The JSON object of this feature."""
        return {
            "reference": self.reference,
            "dtype": self.dtype,
            "encoding": str(self.encoding),
            "length": self.length,
            "default": self.default,
            "max_age_seconds": self.max_age_seconds,
        }

    def _checked_default(self) -> Default:
        default = self.default
        whole = isinstance(default, int) and not isinstance(default, bool)
        wanted: str
        if self.encoding == Encoding.ROW:
            wanted = '-1, the row number of "not in the catalogue"'
            if whole and default == -1:
                return default
        elif self.element in ("FLOAT", "DOUBLE"):
            wanted = "a finite number"
            if (
                isinstance(default, int | float)
                and not isinstance(default, bool)
                and abs(default) <= sys.float_info.max
            ):
                return float(default)
        elif self.element == "BOOL":
            wanted = "true or false"
            if isinstance(default, bool):
                return default
        elif self.element in ("STRING", "BYTES"):
            wanted = "a string"
            if isinstance(default, str):
                return default
        else:
            low, high = _INTEGER_LIMITS[self.element]
            wanted = f"a whole number from {low} to {high}"
            if whole and low <= int(default) <= high:
                return default
        raise InvalidInput(f"{self.reference}: default {default!r:.60} of a {self.dtype} must be {wanted}")


_FEATURE_KEYS = {"reference", "dtype", "encoding", "length", "default", "max_age_seconds"}
_CONTRACT_KEYS = {"project", "join_key", "join_key_type", "features", "fingerprint"}


@dataclass(frozen=True)
class FeatureContract:
    """The ordered features of one model version, with the Feast project and entity they belong to.

    Raises:
        InvalidInput: if a reference comes twice, or one of the three tensors would be empty.
    """

    features: tuple[FeatureSpec, ...]
    project: str = "recsys"
    join_key: str = "user_id"
    join_key_type: str = "STRING"

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        for name in ("project", "join_key"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise InvalidInput(f"feature contract: {name} {getattr(self, name)!r} is not a name")
        if self.join_key_type not in ("STRING", "INT64"):
            raise InvalidInput(f"feature contract: join_key_type {self.join_key_type!r} is not STRING or INT64")
        references = [spec.reference for spec in self.features]
        if twice := sorted({name for name in references if references.count(name) > 1}):
            raise InvalidInput(f"feature contract: {', '.join(twice)} named more than once")
        if empty := [str(name) for name, width in self.widths.items() if width == 0]:
            raise InvalidInput(f"feature contract: no feature for {', '.join(empty)}; each tensor needs at least one")

    @classmethod
    def from_json(cls, text: str) -> FeatureContract:
        """Read a contract and verify its fingerprint.

        Raises:
            FeatureContractError: if the document is malformed, has keys this version does not know, or its
                fingerprint does not match its content.
        """
        if len(text) > MOST_DOCUMENT_BYTES:
            raise FeatureContractError(f"the feature contract has more than {MOST_DOCUMENT_BYTES} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FeatureContractError(f"the feature contract is not JSON: {error}") from error
        _check_keys(document, _CONTRACT_KEYS, "the feature contract")
        if not isinstance(document["features"], list):
            raise FeatureContractError("the feature contract: features is not a list")
        for number, feature in enumerate(document["features"]):
            _check_keys(feature, _FEATURE_KEYS, f"the feature contract: features[{number}]")
            if not isinstance(feature["reference"], str) or not isinstance(feature["dtype"], str):
                raise FeatureContractError(
                    f"the feature contract: features[{number}] has a reference or dtype that is not text"
                )
        try:
            contract = cls(
                features=tuple(FeatureSpec(**feature) for feature in document["features"]),
                project=document["project"],
                join_key=document["join_key"],
                join_key_type=document["join_key_type"],
            )
        except InvalidInput as error:
            raise FeatureContractError(f"the feature contract contradicts itself: {error}") from error
        if contract.fingerprint != document["fingerprint"]:
            raise FeatureContractError(
                f"the feature contract says fingerprint {document['fingerprint']!r} but its content has "
                f"{contract.fingerprint!r}: it was changed after training. Run `recsys export` again."
            )
        return contract

    def to_json(self) -> str:
        """The contract with its fingerprint as compact JSON; :meth:`from_json` reads it back equal."""
        return json.dumps({**self._content(), "fingerprint": self.fingerprint}, separators=(",", ":"), allow_nan=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the canonical JSON (sorted keys, no spaces) of everything else."""
        text = json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def slots(self) -> Mapping[str, Slot]:
        """Reference → where its values lie in the packed tensors, in contract order."""
        filled = dict.fromkeys(TensorName, 0)
        slots = {}
        for spec in self.features:
            slots[spec.reference] = Slot(spec.tensor, filled[spec.tensor], spec.width)
            filled[spec.tensor] += spec.width
        return slots

    @cached_property
    def widths(self) -> Mapping[TensorName, int]:
        """Tensor → its number of columns."""
        return {name: sum(spec.width for spec in self.features if spec.tensor == name) for name in TensorName}

    @property
    def stored_features(self) -> tuple[FeatureSpec, ...]:
        """The features that come from the store, in contract order."""
        return tuple(spec for spec in self.features if not spec.from_request)

    def differences(self, schema: Mapping[str, str]) -> list[str]:
        """Compare with what the feature store holds.

        Args:
            schema: ``view:feature`` → Feast value type name.

        Returns:
            One sentence for each feature that the store lacks or holds with another type; else empty.
        """
        found = []
        for spec in self.stored_features:
            stored = schema.get(spec.reference)
            if stored is None:
                found.append(f"{spec.reference}: the model wants {spec.dtype}, the feature store has no such feature")
            elif stored != spec.dtype:
                found.append(f"{spec.reference}: the model wants {spec.dtype}, the feature store has {stored}")
        return found

    def _content(self) -> dict[str, object]:
        return {
            "project": self.project,
            "join_key": self.join_key,
            "join_key_type": self.join_key_type,
            "features": [spec.to_dict() for spec in self.features],
        }


def _check_keys(document: object, wanted: Iterable[str], where: str) -> None:
    """Refuse missing and unknown keys: skipping what is not understood would skew the model."""
    if not isinstance(document, dict):
        raise FeatureContractError(f"{where} is not a JSON object")
    if missing := sorted(set(wanted) - set(document)):
        raise FeatureContractError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(set(document) - set(wanted)):
        raise FeatureContractError(f"{where} has keys that this version does not know: {', '.join(unknown)}")
