"""What a trial is: one JSON document in Redis that every client reads once a second."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.limits import MOST_DOCUMENT_BYTES

__all__ = [
    "ARMS",
    "CANARY",
    "CANDIDATE",
    "CONTROL",
    "DEFAULT_THRESHOLDS",
    "RUNNING",
    "SHADOW",
    "STATUSES",
    "DriftBins",
    "MalformedTrial",
    "Phase",
    "Thresholds",
    "Trial",
]

#: The layout of the document; one of another number is refused, since it would be misread.
_FORMAT = 1

CONTROL, CANDIDATE = ARMS = ("control", "candidate")
CANARY, SHADOW = _MODES = ("canary", "shadow")
RUNNING = "running"
#: What a trial can be; all but the first are its end.
STATUSES = (RUNNING, "rolled back", "stopped", "promoted")

#: Unix seconds.
_Seconds = float


def _check_number(name: str, value: float | None, *, low: float, high: float, optional: bool = True) -> None:
    if value is None and optional:
        return
    finite = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if isinstance(value, bool) or not finite or not low <= value <= high:  # type: ignore[operator]
        raise InvalidInput(f"{name}: {value!r} is not a number from {low:g} to {high:g}")


class MalformedTrial(ConfigurationError):
    """The trial's document in Redis is not one; the message names the field."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How much worse a candidate may be. ``None`` turns a check off.

    Each is compared with a bound that holds at all times at once, so looking every second costs nothing: a candidate
    that is within all thresholds is taken back with a probability of at most ``alpha`` over the whole trial.
    """

    error_rate: float | None = 0.01
    """Most by which the candidate's error rate may exceed the control's, as a share of requests."""
    latency_ratio: float | None = 2.0
    """Most by which the candidate's 95th percentile of latency may exceed the control's, as a factor."""
    psi: float | None = 0.25
    """Largest population stability index between the arms' score distributions; above 0.25 is called a major shift."""
    alpha: float = 0.01

    def __post_init__(self) -> None:
        _check_number("thresholds.error_rate", self.error_rate, low=0.0, high=1.0)
        _check_number("thresholds.latency_ratio", self.latency_ratio, low=1.0, high=math.inf)
        _check_number("thresholds.psi", self.psi, low=0.0, high=math.inf)
        if not 0 < self.alpha < 1:
            raise InvalidInput(f"thresholds.alpha: {self.alpha!r} is not between 0 and 1")


#: Those that hold where nothing else is said.
DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True, slots=True)
class Phase:
    """A time of constant share. Arms are compared within it: over a change of share they saw different hours."""

    since: _Seconds
    share: float
    """Of the users in a canary, of the requests in a shadow trial."""

    def __post_init__(self) -> None:
        _check_number("share", self.share, low=0.0, high=1.0, optional=False)
        _check_number("since", self.since, low=-math.inf, high=math.inf, optional=False)


@dataclass(frozen=True, slots=True)
class DriftBins:
    """Fixed bins in which a kind of page's scores are compared, and what the control had when they were fixed.

    Bins that follow the data would make the comparison invalid, so they are taken from the control's first scores,
    and those are not compared.
    """

    edges: tuple[int, ...]
    """Numbers of sketch buckets, ascending; see :class:`~recsys_plugin.trials.sketch.Sketch`. Bin i ends with the
    i-th, itself included, and a last bin takes what is above."""
    set_aside: tuple[int, ...]
    """Scores of the control in each bin that are not compared."""

    def __post_init__(self) -> None:
        if not all(type(number) is int for number in (*self.edges, *self.set_aside)):
            raise InvalidInput("drift_bins: edges and set_aside are whole numbers")
        if list(self.edges) != sorted(set(self.edges)) or not self.edges:
            raise InvalidInput(f"drift_bins: edges {self.edges} are not ascending")
        if len(self.set_aside) != len(self.edges) + 1 or min(self.set_aside) < 0:
            raise InvalidInput(f"drift_bins: set_aside {self.set_aside} is not a count for each bin")


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate version beside the control version.

    Raises:
        InvalidInput: if a value makes no sense; the message names the field.
    """

    trial_id: str
    control: int
    candidate: int
    salt: str
    """Makes the assignment of users this trial's own."""
    phases: tuple[Phase, ...]
    mode: str = CANARY
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    drift_bins: Mapping[str, DriftBins] = field(default_factory=dict)
    """Kind of page → bins, once there were enough scores."""
    status: str = RUNNING
    ended_at: _Seconds | None = None
    reason: str | None = None
    """Why it ended."""
    revision: int = 1
    """Counts changes; whoever changes the document must have read the latest."""

    def __post_init__(self) -> None:
        for name in ("trial_id", "salt"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise InvalidInput(f"{name}: {value!r} is not a text with something in it")
        for name in ("control", "candidate", "revision"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{name}: {value!r} is not a whole number above 0")
        if self.control == self.candidate:
            raise InvalidInput(f"candidate: version {self.candidate} is the control; a trial compares two versions")
        if self.mode not in _MODES:
            raise InvalidInput(f"mode: {self.mode!r} is not one of {', '.join(_MODES)}")
        if self.status not in STATUSES:
            raise InvalidInput(f"status: {self.status!r} is not one of {', '.join(STATUSES)}")
        if not self.phases:
            raise InvalidInput("phases: there is none")

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.status == RUNNING

    @property
    def share(self) -> float:
        """The share at present."""
        return self.phases[-1].share

    @property
    def phase(self) -> int:
        """The number of the present phase, from 0."""
        return len(self.phases) - 1

    @property
    def started_at(self) -> _Seconds:
        """When it began."""
        return self.phases[0].since

    def with_share(self, share: float, *, now: _Seconds) -> Trial:
        """The trial with another share from now on.

        Raises:
            InvalidInput: if it is not from 0 to 1.
        """
        phase = Phase(now, share)
        # Bins were fixed on scores of the phase before, all of which lie behind a new phase: nothing is set aside.
        bins = {kind: replace(found, set_aside=(0,) * len(found.set_aside)) for kind, found in self.drift_bins.items()}
        return replace(self, phases=(*self.phases, phase), drift_bins=bins, revision=self.revision + 1)

    def with_bins(self, bins: Mapping[str, DriftBins]) -> Trial:
        """The trial with bins for further kinds of page."""
        return replace(self, drift_bins={**self.drift_bins, **bins}, revision=self.revision + 1)

    def ended(self, status: str, reason: str, *, now: _Seconds) -> Trial:
        """The trial at its end."""
        return replace(self, status=status, reason=reason, ended_at=now, revision=self.revision + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"format": _FORMAT, **asdict(self), "drift_bins": {k: asdict(v) for k, v in self.drift_bins.items()}}

    def to_json(self) -> str:
        """The document; equal trials give equal text."""
        return json.dumps(self.to_dict(), allow_nan=False, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Trial:
        """Read a document.

        Raises:
            MalformedTrial: if it is not one, or one of another format.
        """
        if len(text) > MOST_DOCUMENT_BYTES:
            raise MalformedTrial(f"the trial in Redis has more than {MOST_DOCUMENT_BYTES} bytes. {_WHAT_TO_DO}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedTrial(f"the trial in Redis is not JSON: {error}. {_WHAT_TO_DO}") from error
        if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
            raise MalformedTrial(f"the trial in Redis is not a document of format {_FORMAT}. {_WHAT_TO_DO}")
        try:
            document["phases"] = tuple(Phase(**phase) for phase in document["phases"])
            document["thresholds"] = Thresholds(**document["thresholds"])
            document["drift_bins"] = {
                kind: DriftBins(tuple(found["edges"]), tuple(found["set_aside"]))
                for kind, found in document["drift_bins"].items()
            }
            return cls(**document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise MalformedTrial(f"the trial in Redis: {said}. {_WHAT_TO_DO}") from error


_WHAT_TO_DO = "`recsys trial stop --force` removes it"
