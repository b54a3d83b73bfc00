"""Whether a trial must end: the counts of both arms against the thresholds, with bounds that allow a look each second.

Error rate and latency are about the candidate's service, score drift about what it says. What users do with its pages
is for :mod:`recsys_plugin.trial_report`, since outcomes are known hours later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from recsys_plugin.trials.sequential import quantile_ranks, rate_bounds
from recsys_plugin.trials.sketch import Sketch, bucket_middle
from recsys_plugin.trials.tally import ArmCounts
from recsys_plugin.trials.trial import CANDIDATE, CONTROL, DriftBins, Trial

__all__ = [
    "LATENCY_LEVEL",
    "Check",
    "checks_of",
    "latency_ratio_bounds",
    "new_bins",
    "population_stability_index",
    "psi_lower_bound",
    "verdict",
]

#: The quantile of latency that is compared.
LATENCY_LEVEL = 0.95
#: The control's scores of a kind of page from which bins are made.
_SCORES_FOR_BINS = 200
#: Requests of each arm before anything is said: the bounds take requests as independent, and troubles come in bursts.
_LEAST_REQUESTS = 20
#: Kinds of page that have scores of their own: recommend, rank and search.
_KINDS = 3
#: Added to every bin in the point estimate, as is usual, so that an empty bin is not infinitely far off.
_PSEUDO_COUNT = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: an estimate, what is certain about it, and the threshold."""

    name: str
    """``error_rate``, ``empty_rate``, ``latency_ratio``, or ``psi`` with the kind of page."""
    estimate: float | None
    """``None`` while there is nothing to estimate from."""
    lower: float
    """The candidate is at least so much worse; at all looks at once, but for a probability of ``alpha``."""
    threshold: float
    alpha: float
    """This check's part of the trial's."""

    @property
    def crossed(self) -> bool:
        """Whether the candidate is certainly worse than allowed."""
        return self.lower > self.threshold

    def says(self, counts: Mapping[str, ArmCounts]) -> str:
        """The finding in words."""
        control, candidate = counts[CONTROL], counts[CANDIDATE]
        if self.name == "error_rate":
            return (
                f"error rate: {candidate.errors:,} of {candidate.requests:,} requests failed on the candidate, "
                f"{control.errors:,} of {control.requests:,} on the control; the difference is at least "
                f"{self.lower:.1%}, {self.threshold:.1%} is allowed"
            )
        if self.name == "empty_rate":
            return (
                f"empty pages: {candidate.empty:,} of {candidate.requests:,} pages of the candidate had no item, "
                f"{control.empty:,} of {control.requests:,} of the control; the difference is at least "
                f"{self.lower:.1%}, {self.threshold:.1%} is allowed"
            )
        if self.name == "latency_ratio":
            pair = [arm.latency.quantile(LATENCY_LEVEL) or math.nan for arm in (candidate, control)]
            return (
                f"latency: the 95th percentile is {pair[0]:,.1f} ms on the candidate and {pair[1]:,.1f} ms on the "
                f"control; the ratio is at least {self.lower:.2f}, {self.threshold:g} is allowed"
            )
        kind = self.name.partition(":")[2]
        means = [counts[arm].score_moments[kind].mean or 0.0 for arm in (CANDIDATE, CONTROL)]
        return (
            f"score drift: the scores of {kind} pages have a population stability index of at least {self.lower:.2f} "
            f"between the arms, {self.threshold:g} is allowed (mean {means[0]:.4g} on the candidate, {means[1]:.4g} on "
            "the control)"
        )


def checks_of(trial: Trial, counts: Mapping[str, ArmCounts]) -> list[Check]:
    """Every check that is on, on the counts of the trial's present phase."""
    control, candidate, limits = counts[CONTROL], counts[CANDIDATE], trial.thresholds
    rates = 2 * (limits.error_rate is not None)
    enabled = rates + (limits.latency_ratio is not None) + (limits.psi is not None)
    # Phase n may spend alpha / ((n + 1) (n + 2)), which over all phases adds up to alpha.
    alpha = limits.alpha / max(1, enabled) / ((trial.phase + 1) * (trial.phase + 2))
    found = []
    if limits.error_rate is not None:
        # A page without an item is no answer either; those that cannot have one come up alike in both arms.
        errors = _rate_check(
            "error_rate", (control.errors, control.requests), (candidate.errors, candidate.requests), alpha
        )
        empty = _rate_check(
            "empty_rate", (control.empty, control.requests), (candidate.empty, candidate.requests), alpha
        )
        found += [Check(*parts, limits.error_rate, alpha) for parts in (errors, empty)]
    if limits.latency_ratio is not None:
        lower, _ = latency_ratio_bounds(control.latency, candidate.latency, alpha)
        pair = [arm.latency.quantile(LATENCY_LEVEL) for arm in (candidate, control)]
        estimate = pair[0] / pair[1] if pair[0] is not None and pair[1] else None
        found.append(Check("latency_ratio", estimate, lower, limits.latency_ratio, alpha))
    if limits.psi is not None:
        for kind, bins in trial.drift_bins.items():
            mine, others = _binned(bins, counts, kind)
            estimate = population_stability_index(mine, others) if sum(mine) and sum(others) else None
            lower = psi_lower_bound(mine, others, alpha / _KINDS)
            found.append(Check(f"psi:{kind}", estimate, lower, limits.psi, alpha / _KINDS))
    return found


def _rate_check(
    name: str, control: tuple[int, int], candidate: tuple[int, int], alpha: float
) -> tuple[str, float | None, float]:
    """Name, estimate and lower bound of a difference of rates; each arm gets half of ``alpha``."""
    _, control_most = rate_bounds(*control, alpha / 2)
    candidate_least, _ = rate_bounds(*candidate, alpha / 2)
    estimate = candidate[0] / candidate[1] - control[0] / control[1] if control[1] and candidate[1] else None
    return name, estimate, candidate_least - control_most


def verdict(trial: Trial, counts: Mapping[str, ArmCounts]) -> str | None:
    """Why the trial must end, in words; ``None`` if it may go on."""
    if min(counts[arm].requests for arm in (CONTROL, CANDIDATE)) < _LEAST_REQUESTS:
        return None
    crossed = [check.says(counts) for check in checks_of(trial, counts) if check.crossed]
    return "; ".join(crossed) or None


def new_bins(trial: Trial, counts: Mapping[str, ArmCounts]) -> dict[str, DriftBins]:
    """Bins for the kinds of page that have none yet and of which the control has enough scores."""
    found = {}
    for kind, scores in counts[CONTROL].scores.items():
        if kind not in trial.drift_bins and scores.total >= _SCORES_FOR_BINS and len(trial.drift_bins) < _KINDS:
            edges = scores.deciles()
            found[kind] = DriftBins(edges, scores.binned(edges))
    return found


def latency_ratio_bounds(control: Sketch, candidate: Sketch, alpha: float) -> tuple[float, float]:
    """Between what the candidate's 95th percentile divided by the control's lies, at all looks at once."""
    low, high = _quantile_bounds(candidate, alpha / 2)
    control_low, control_high = _quantile_bounds(control, alpha / 2)
    return (low / control_high if control_high else 0.0), (high / control_low if control_low else math.inf)


def _quantile_bounds(numbers: Sketch, alpha: float) -> tuple[float, float]:
    """Between what the quantile lies; 0 and infinity where nothing is certain."""
    least, most = quantile_ranks(LATENCY_LEVEL, numbers.total, alpha)
    lower, upper = 0.0, math.inf
    for bucket, below in numbers.cumulative():
        if below < least:
            lower = bucket_middle(bucket)
        if below > most:
            upper = bucket_middle(bucket)
            break
    return lower, upper


def _binned(bins: DriftBins, counts: Mapping[str, ArmCounts], kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The candidate's and the control's counts in each bin, without those that the bins were made from."""
    candidate = counts[CANDIDATE].scores.get(kind, Sketch()).binned(bins.edges)
    control = counts[CONTROL].scores.get(kind, Sketch()).binned(bins.edges)
    # Counts that a client could not write are lost, and a difference must not become negative.
    return candidate, tuple(max(0, n - aside) for n, aside in zip(control, bins.set_aside, strict=True))


def population_stability_index(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Sum over bins of (p - q) ln(p / q): how far two distributions are apart; 0 for equal, 0.25 is called major."""
    totals = [sum(counts) + _PSEUDO_COUNT * len(counts) for counts in (first, second)]
    shares = [
        [(n + _PSEUDO_COUNT) / total for n in counts] for counts, total in zip((first, second), totals, strict=True)
    ]
    total: float = sum((p - q) * math.log(p / q) for p, q in zip(*shares, strict=True))
    return total


def psi_lower_bound(first: tuple[int, ...], second: tuple[int, ...], alpha: float) -> float:
    """What the population stability index is at least, at all looks at once.

    Each bin's share has bounds in each distribution; the index is at least what the nearest shares within them give.
    """
    each, totals = alpha / (2 * len(first)), (sum(first), sum(second))
    least = 0.0
    for one, other in zip(first, second, strict=True):
        one_low, one_high = rate_bounds(one, totals[0], each)
        other_low, other_high = rate_bounds(other, totals[1], each)
        for low, high in ((one_low, other_high), (other_low, one_high)):
            if low > high:
                least += (low - high) * math.log(low / high)
    return least
