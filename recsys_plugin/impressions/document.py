"""One page as it was served, as a JSON document: what was shown, from what it was chosen, and how likely it was.

A document of 20 items takes about 900 bytes; 500 candidates with their scores add about 11 kB, a user's features 1 to
5 kB, which is why those two are sampled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput
from recsys_plugin.identifiers import checked_id
from recsys_plugin.limits import MOST_DOCUMENT_BYTES

__all__ = ["FULL_LEVEL", "Candidates", "Impression", "ServedPage"]

#: Microseconds of the end of the year 9998: later days have no folder in the archive.
_LAST_MOMENT = 253_370_764_799_999_999
#: What JSON has for a value of a feature.
_SCALARS = (str, int, float, bool, type(None))
_NO_POLICY = "none"
#: The level of a page for which nothing failed.
FULL_LEVEL = "full"


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a page was chosen from."""

    rows: NDArray[np.int64]
    """``[n]``; below 0 where there are fewer."""
    scores: NDArray[np.float32]
    """``[n]``: what the page is ordered by."""
    order: NDArray[np.intp]
    """``[k]``: places in ``rows``, first position first."""
    excluded: Collection[int] = ()
    """Rows that could not be on the page."""
    policy: str = _NO_POLICY
    """Name of the exploration policy."""
    propensities: NDArray[np.float64] | None = None
    """``[k]``: P(item at its position | the items before it); ``None`` for 1, a page that could not be otherwise."""
    propensity_kind: str = "exact"
    """``exact``, ``estimated``, or ``approximate`` where rules rearranged what the policy chose."""


@dataclass(frozen=True, slots=True)
class ServedPage:
    """A page with what is logged of it; nothing is computed before :meth:`encode`."""

    request_id: str
    user_id: str | None
    served_at: float
    """Unix seconds: the time of the request."""
    model: str
    version: int
    contract: str | None
    """Fingerprint of the feature contract."""
    candidates: Candidates
    item_ids: Callable[[Sequence[int]], Sequence[str]]
    """Ids of rows."""
    features: Mapping[str, Sequence[Any]] | None = None
    """Tensor → one user's values in the contract's order."""
    fallback: str = FULL_LEVEL
    """The level of the ladder that it was made on."""
    trace_id: str | None = None
    """32 hexadecimal digits, if the request was traced."""

    def encode(self, *, with_candidates: bool, with_features: bool) -> bytes:
        """The document in JSON; float32 scores with the nine digits that name them exactly."""
        chosen = self.candidates
        document: dict[str, Any] = {
            "request_id": self.request_id,
            "user_id": self.user_id,
            "served_at": round(self.served_at * 1_000_000),
            "model": self.model,
            "version": self.version,
            "contract": self.contract,
            "policy": chosen.policy,
            "propensity_kind": chosen.propensity_kind,
            "items": list(self.item_ids(chosen.rows[chosen.order].tolist())),
            "scores": _plain(chosen.scores[chosen.order]),
        }
        if self.fallback != FULL_LEVEL:
            document["fallback"] = self.fallback
        if self.trace_id is not None:
            document["trace_id"] = self.trace_id
        if chosen.propensities is not None:
            document["propensities"] = chosen.propensities.tolist()
        if with_candidates:
            able = chosen.rows >= 0
            if chosen.excluded:
                able &= ~np.isin(chosen.rows, np.fromiter(chosen.excluded, np.int64))
            document["candidates"] = list(self.item_ids(chosen.rows[able].tolist()))
            document["candidate_scores"] = _plain(chosen.scores[able])
        if with_features and self.features is not None:
            document["features"] = {name: _plain(values) for name, values in self.features.items()}
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Impression:
    """A page as the log has it; the item at ``items[j]`` stood at position ``j + 1``."""

    request_id: str
    user_id: str | None
    served_at: int
    """Microseconds since the epoch."""
    model: str
    version: int
    contract: str | None
    policy: str
    propensity_kind: str
    items: list[str]
    scores: list[float]
    propensities: list[float] = field(default_factory=list)
    """P(item at its position | the items before it)."""
    candidates: list[str] | None = None
    """Everything that the page was chosen from; ``None`` where that was not sampled."""
    candidate_scores: list[float] | None = None
    features: dict[str, list[Any]] | None = None
    """Tensor → values as served, in the contract's order, NaN as ``None``; ``None`` where that was not sampled."""
    fallback: str = FULL_LEVEL
    """The level of the ladder that it was made on. Any other than ``full`` says nothing of the models."""
    trace_id: str | None = None
    """32 hexadecimal digits; ``None`` of a request that was not traced."""

    @classmethod
    def decode(cls, document: bytes) -> Impression:
        """Read what :meth:`ServedPage.encode` wrote.

        Raises:
            InvalidInput: if it is no such document; the message says why.
        """
        if len(document) > MOST_DOCUMENT_BYTES:
            raise InvalidInput(f"impression: more than {MOST_DOCUMENT_BYTES} bytes")
        try:
            values = json.loads(document)
            found = cls(**values)
            if not found.propensities:
                object.__setattr__(found, "propensities", [1.0] * len(found.items))
            found._check()
            for name in ("scores", "propensities", "candidate_scores"):
                # Whole numbers of more than 53 bits have no place in a column of such numbers.
                if (numbers := getattr(found, name)) is not None:
                    object.__setattr__(found, name, list(map(float, numbers)))
        except InvalidInput:
            raise
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            # What is no text of its own may be quoted in it, and could then not be sent on.
            raise InvalidInput(ascii(f"impression: {error}")[1:-1]) from error
        return found

    def _check(self) -> None:
        """Whether it can be archived: a page that cannot would hold up all that come after it."""
        lists = (self.items, self.scores, self.propensities, self.candidates or [], self.candidate_scores or [])
        if not all(isinstance(values, list) for values in lists):
            raise InvalidInput("impression: items, scores, propensities or candidates are no list")
        texts = [self.request_id, self.model, self.policy, self.propensity_kind, self.fallback]
        texts += [*self.items, *(self.candidates or ())]
        texts += [text for text in (self.contract, self.trace_id) if text is not None]
        if not all(isinstance(text, str) for text in texts):
            raise InvalidInput("impression: an id or a name is no text")
        "".join(texts).encode()  # half of a character is none
        if self.user_id is not None and not isinstance(self.user_id, str):
            raise InvalidInput("impression: user_id is no text")
        if self.user_id is not None:
            checked_id(self.user_id, "impression: user_id")
        for name, number, most in (("served_at", self.served_at, _LAST_MOMENT), ("version", self.version, 2**63 - 1)):
            if type(number) is not int or not 0 <= number <= most:
                raise InvalidInput(f"impression: {name} is no whole number from 0 to {most}")
        numbers = (*self.scores, *self.propensities, *(self.candidate_scores or ()))
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise InvalidInput("impression: a score or propensity is no finite number")
        lengths = {len(self.items), len(self.scores), len(self.propensities)}
        if len(lengths) != 1 or len(self.candidates or ()) != len(self.candidate_scores or ()):
            raise InvalidInput("impression: items, scores and propensities differ in number")
        if self.features is not None and not (
            isinstance(self.features, dict)
            and all(isinstance(values, list) for values in self.features.values())
            and all(isinstance(one, _SCALARS) for values in self.features.values() for one in values)
        ):
            raise InvalidInput("impression: features are no object of lists of values")


def _plain(values: Sequence[Any] | NDArray[Any]) -> list[Any]:
    """Values for JSON: bytes as text, NaN and infinity as ``None``, float32 with nine digits."""
    plain = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [_value(value) for value in plain]


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value.decode(errors="replace") if isinstance(value, bytes) else value
