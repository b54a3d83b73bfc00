"""How far two rates per page are apart, users being the units that are independent, at every moment of a trial.

Pages of one user are alike, so an interval that counts pages is too narrow. The variance of clicks over pages is
therefore that of a ratio over users (the delta method; Deng, Knoblich and Lu, KDD 2018), and the interval is a
confidence sequence in that variance, valid however often one looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.trials.sequential import always_valid_p, mixture_interval, tuned_scale

__all__ = [
    "LEAST_POSITIVES",
    "LEAST_USERS",
    "Pages",
    "Sums",
    "Trajectory",
    "claim",
    "estimate_difference",
    "follow_difference",
]

Floats = NDArray[np.float64]

#: Before each arm has so many users, and so many pages with an outcome, no variance is known well enough to claim.
LEAST_USERS = 100
LEAST_POSITIVES = 20
#: The interval is tightest when there are so many times as many data as when claims begin.
_TIGHTEST_AT = 10.0


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages in the order in which they were served, one value each: arrays ``[n]``."""

    served_at: Floats
    """Unix seconds."""
    user: NDArray[np.int64]
    """Numbers from 0."""
    candidate: NDArray[np.bool_]
    """Whether the user belonged to the candidate."""
    phase: NDArray[np.int64]
    """Number of the phase of the trial."""
    outcome: NDArray[np.bool_]
    """Whether the page had it."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Over the users of an arm: arrays of any shape, the last axis being phases."""

    users: Floats
    pages: Floats
    positives: Floats
    pages_squared: Floats
    positives_squared: Floats
    products: Floats

    @property
    def ready(self) -> NDArray[np.bool_]:
        """Where there is enough for a variance."""
        return (self.users >= LEAST_USERS) & (self.positives >= LEAST_POSITIVES)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The difference candidate - control over time: arrays ``[looks]``, NaN before there is enough to claim."""

    at: Floats
    estimate: Floats
    lower: Floats
    upper: Floats
    p_value: Floats


def estimate_difference(control: Sums, candidate: Sums) -> tuple[Floats, Floats]:
    """Estimate and variance of the difference of rates; NaN where no phase is ready.

    Phases are compared each by itself and averaged with the weights of Mantel and Haenszel, since users who came over
    when the share was raised would otherwise be compared with other hours.
    """
    ready = control.ready & candidate.ready
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = [arm.positives / arm.pages for arm in (control, candidate)]
        variances = [_variance(arm, rate) for arm, rate in zip((control, candidate), rates, strict=True)]
        weight = np.where(ready, control.pages * candidate.pages / (control.pages + candidate.pages), 0.0)
        total = weight.sum(axis=-1)
        difference = np.where(ready, rates[1] - rates[0], 0.0)
        variance = np.where(ready, variances[0] + variances[1], 0.0)
        return (weight * difference).sum(axis=-1) / total, (weight**2 * variance).sum(axis=-1) / total**2


def _variance(arm: Sums, rate: Floats) -> Floats:
    """Of positives / pages, with users as clusters."""
    residuals = arm.positives_squared - 2 * rate * arm.products + rate**2 * arm.pages_squared
    return residuals * arm.users / (arm.users - 1) / arm.pages**2


def follow_difference(pages: Pages, looks: Floats, *, alpha: float) -> Trajectory:
    """The difference at each of ``looks``, ascending unix seconds, with a level of 1 - alpha for all of them together.

    Bounds are running: what was excluded once stays excluded.
    """
    if not len(pages.served_at):
        nothing = np.full(len(looks), np.nan)
        return Trajectory(looks, nothing, nothing, nothing, nothing)
    users, phases = int(pages.user.max()) + 1, int(pages.phase.max()) + 1
    cell = (pages.candidate.astype(np.int64) * phases + pages.phase) * users + pages.user
    seen, positives = np.zeros(2 * phases * users), np.zeros(2 * phases * users)
    ends = np.searchsorted(pages.served_at, looks, side="right")
    found, start = [], 0
    for end in ends:
        seen += np.bincount(cell[start:end], minlength=len(seen))
        positives += np.bincount(cell[start:end], weights=pages.outcome[start:end], minlength=len(seen))
        start = end
        found.append(_summed(seen.reshape(2, phases, users), positives.reshape(2, phases, users)))
    sums = np.stack(found)
    arms = [Sums(*np.moveaxis(sums[:, :, arm], 1, 0)) for arm in (0, 1)]
    estimate, variance = estimate_difference(*arms)
    return claim(looks, estimate, variance, alpha=alpha)


def claim(at: Floats, estimate: Floats, variance: Floats, *, alpha: float) -> Trajectory:
    """Running bounds and p-values from estimates ``[looks, …]``, from the first look on at which there are any."""
    ready = np.isfinite(estimate) & (variance > 0)
    first = np.argmax(ready, axis=0)
    # Fixed at the first claim, so that nothing that comes later can move it.
    begun = np.take_along_axis(variance, first[np.newaxis], axis=0)[0]
    scale = tuned_scale(np.where(ready.any(axis=0), begun, 1.0) / _TIGHTEST_AT, alpha)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = mixture_interval(estimate, variance, scale, alpha)
        p_value = always_valid_p(estimate, variance, scale)
    lower = np.maximum.accumulate(np.where(ready, low, -np.inf), axis=0)
    upper = np.minimum.accumulate(np.where(ready, high, np.inf), axis=0)
    p_value = np.minimum.accumulate(np.where(ready, p_value, 1.0), axis=0)
    before = ~np.isfinite(lower)
    return Trajectory(
        at,
        np.where(ready, estimate, np.nan),
        np.where(before, np.nan, lower),
        np.where(before, np.nan, upper),
        np.where(before, np.nan, p_value),
    )


def _summed(seen: Floats, positives: Floats) -> Floats:
    """The six sums ``[6, arms, phases]`` over users."""
    return np.stack(
        [
            (seen > 0).sum(axis=-1),
            seen.sum(axis=-1),
            positives.sum(axis=-1),
            (seen**2).sum(axis=-1),
            (positives**2).sum(axis=-1),
            (seen * positives).sum(axis=-1),
        ]
    ).astype(np.float64)
