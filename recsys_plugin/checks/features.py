"""The packed tensors of a feature contract taken apart again, feature by feature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from recsys_plugin.checks.distributions import Sample
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec, TensorName

__all__ = ["PackedUsers", "columns_of", "feature_samples", "missing_lines", "sample_of"]

_Array = np.ndarray[Any, np.dtype[Any]]
_DAY = 86_400.0


class PackedUsers(Protocol):
    """The three packed tensors of n users, as training or serving has them; text is ``str`` or ``bytes``."""

    @property
    def user_float(self) -> _Array:
        """float32 [n, F]"""

    @property
    def user_int(self) -> _Array:
        """int64 [n, I]"""

    @property
    def user_string(self) -> _Array:
        """object [n, S]"""


def columns_of(contract: FeatureContract, spec: FeatureSpec, users: PackedUsers) -> _Array:
    """The values of one feature, [n, width]; text as ``str``."""
    slot = contract.slots[spec.reference]
    tensor: _Array = getattr(users, str(slot.tensor))
    columns = tensor[:, slot.offset : slot.offset + slot.width]
    if slot.tensor is not TensorName.STRING:
        return columns
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in columns.reshape(-1)]
    return np.array(texts, dtype=object).reshape(columns.shape)


def _present(spec: FeatureSpec, columns: _Array) -> _Array:
    """Where a value is not the contract's default, which stands in for what is missing and pads lists; bool [n, w]."""
    there = np.not_equal(columns, spec.default)
    if columns.dtype.kind == "f":
        there = there & ~np.isnan(columns)
    return np.asarray(there, bool)


def missing_lines(spec: FeatureSpec, columns: _Array) -> _Array:
    """Lines whose every value is the contract's default or NaN, bool [n]: the model saw nothing there.

    A stored value that equals the default, such as a count of 0, is the same to the model, and so it is here.
    """
    return np.asarray(~_present(spec, columns).any(axis=1), bool)


def sample_of(spec: FeatureSpec, columns: _Array, moments: _Array) -> Sample:
    """The values of one feature for a distribution.

    Times are ages in days before the request, since times themselves always move on; rows of the catalogue are
    categories. A scalar number at its default counts as a value where the default is 0, as it is for counts: there
    absent and none are the same.

    Args:
        spec: the feature. columns: [n, width]. moments: float64 [n], unix seconds of the requests.
    """
    present = _present(spec, columns)
    if spec.encoding is Encoding.ROW:
        return Sample.of(columns.astype(str).astype(object), present)
    if spec.element == "UNIX_TIMESTAMP":
        return Sample.of((moments[:, None] - columns) / _DAY, present)
    if spec.tensor is not TensorName.STRING and not spec.is_list:
        present = np.ones_like(present)
    return Sample.of(columns, present)


def feature_samples(
    contract: FeatureContract, users: PackedUsers, moments: _Array
) -> Iterator[tuple[FeatureSpec, Sample]]:
    """Every stored feature of the contract with its values; arguments as for :func:`sample_of`."""
    for spec in contract.stored_features:
        yield spec, sample_of(spec, columns_of(contract, spec, users), moments)
