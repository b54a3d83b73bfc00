"""The report of a trial: both arms side by side, and what is certain about their difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from recsys_plugin.trial_report.difference import Trajectory, follow_difference
from recsys_plugin.trial_report.outcomes import OUTCOMES, TrialPages
from recsys_plugin.trials.guard import checks_of
from recsys_plugin.trials.tally import ArmCounts
from recsys_plugin.trials.trial import ARMS, CANDIDATE, CONTROL, SHADOW, Trial

__all__ = ["ArmFigures", "Difference", "Guarded", "ShadowFigures", "TrialSummary", "summarise"]

#: Moments at which the differences are computed.
_LOOKS = 200


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm in figures."""

    version: int
    users: int
    requests: int
    error_rate: float | None
    empty_rate: float | None
    latency_p50: float | None
    """Milliseconds, of requests for one user, within 1 %."""
    latency_p95: float | None
    latency_p99: float | None
    score_mean: dict[str, float | None]
    """Kind of page → mean score of the first item."""
    pages: int | None
    """Pages in the table of outcomes; ``None`` without one."""
    rates: dict[str, float | None]
    """Outcome → share of the pages that had it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate less control, of the share of pages that had an outcome."""

    outcome: str
    estimate: float | None
    """``None`` while there is too little for any claim."""
    lower: float | None
    upper: float | None
    p_value: float | None
    """Of "no difference"; valid whenever one looks."""
    level: float

    @property
    def certain(self) -> bool:
        """Whether 0 is outside the interval."""
        return self.lower is not None and self.upper is not None and (self.lower > 0 or self.upper < 0)


@dataclass(frozen=True, slots=True)
class Guarded:
    """One check of the guard, in the present phase."""

    name: str
    estimate: float | None
    lower: float
    """The candidate is at least so much worse, at all looks at once."""
    threshold: float
    crossed: bool


@dataclass(frozen=True, slots=True)
class ShadowFigures:
    """How alike the pages of both versions are."""

    pages: int
    overlap: float | None
    """Mean share of the control's page that is on the candidate's too."""
    kendall_tau: float | None
    """Mean rank correlation of the items on both."""
    dropped: int
    """Requests that the candidate was too slow to take."""


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """What a trial has shown; ``to_dict`` is what ``--json`` writes."""

    trial: Trial
    arms: dict[str, ArmFigures]
    differences: tuple[Difference, ...]
    checks: tuple[Guarded, ...]
    shadow: ShadowFigures | None
    trajectories: dict[str, Trajectory] = field(repr=False)
    """Outcome → its difference over time."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; never NaN."""
        return {
            "trial": self.trial.to_dict(),
            "arms": {arm: asdict(figures) for arm, figures in self.arms.items()},
            "differences": [asdict(difference) | {"certain": difference.certain} for difference in self.differences],
            "checks": [asdict(check) for check in self.checks],
            "shadow": None if self.shadow is None else asdict(self.shadow),
            "trajectories": {
                name: {column: [_number(value) for value in values] for column, values in asdict(found).items()}
                for name, found in self.trajectories.items()
            },
        }


def summarise(
    trial: Trial, phases: Sequence[Mapping[str, ArmCounts]], pages: TrialPages | None, *, now: float, alpha: float
) -> TrialSummary:
    """Put together what is known.

    Args:
        phases: the counts of each phase, see :meth:`Trials.counts`.
        pages: see :func:`~recsys_plugin.trial_report.outcomes.read_pages`; ``None`` without a table of outcomes.
        now: unix seconds. alpha: the intervals hold with a probability of 1 - alpha, all looks together, each.
    """
    counts = {arm: ArmCounts().merge(phase[arm] for phase in phases) for arm in ARMS}
    end = now if trial.ended_at is None else trial.ended_at
    trajectories = {}
    if pages is not None and trial.mode != SHADOW:
        looks = np.linspace(trial.started_at, max(end, trial.started_at), _LOOKS + 1)[1:]
        trajectories = {name: follow_difference(pages.with_outcome(name), looks, alpha=alpha) for name in OUTCOMES}
    shadow = None
    if trial.mode == SHADOW:
        mine = counts[CANDIDATE]
        shadow = ShadowFigures(mine.overlap.count, mine.overlap.mean, mine.rank_correlation.mean, mine.dropped)
    return TrialSummary(
        trial,
        {arm: _figures(trial, arm, counts[arm], pages) for arm in ARMS},
        tuple(_difference(name, found, 1 - alpha) for name, found in trajectories.items()),
        tuple(
            Guarded(check.name, check.estimate, check.lower, check.threshold, check.crossed)
            for check in checks_of(trial, phases[-1])
        ),
        shadow,
        trajectories,
    )


def _figures(trial: Trial, arm: str, counts: ArmCounts, pages: TrialPages | None) -> ArmFigures:
    mine = None if pages is None or trial.mode == SHADOW else pages.candidate == (arm == CANDIDATE)
    rates: dict[str, float | None] = dict.fromkeys(OUTCOMES)
    if pages is not None and mine is not None and mine.any():
        rates = {name: float(found[mine].mean()) for name, found in pages.outcomes.items()}
    p50, p95, p99 = (counts.latency.quantile(level) for level in (0.5, 0.95, 0.99))
    return ArmFigures(
        trial.control if arm == CONTROL else trial.candidate,
        counts.users,
        counts.requests,
        counts.errors / counts.requests if counts.requests else None,
        counts.empty / counts.requests if counts.requests else None,
        p50,
        p95,
        p99,
        {kind: moments.mean for kind, moments in sorted(counts.score_moments.items())},
        None if mine is None else int(mine.sum()),
        rates,
    )


def _difference(outcome: str, found: Trajectory, level: float) -> Difference:
    return Difference(
        outcome,
        estimate=_number(found.estimate[-1]),
        lower=_number(found.lower[-1]),
        upper=_number(found.upper[-1]),
        p_value=_number(found.p_value[-1]),
        level=level,
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
