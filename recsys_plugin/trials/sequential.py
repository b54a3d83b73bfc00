"""Bounds that hold at all times at once, so that one may look as often as one likes and stop when one likes.

Plain confidence intervals are valid for one look at a moment fixed beforehand; with a look every second their error
adds up to near certainty. Here the probability that a bound is *ever* wrong is at most ``alpha``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "always_valid_p",
    "mixture_interval",
    "quantile_ranks",
    "rate_bounds",
    "tuned_scale",
]

Numbers = float | NDArray[np.float64]

#: Halvings of [0, 1]: to within rounding.
_STEPS = 60


def rate_bounds(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Bounds for the probability of a success, from independent trials.

    Source: Robbins (Annals of Mathematical Statistics, 1970); the beta-binomial mixture in Howard, Ramdas, McAuliffe
    and Sekhon (Annals of Statistics, 2021). The likelihood averaged over Jeffreys' prior, divided by the likelihood of
    p, is a martingale under p; by Ville's inequality it ever reaches 1/alpha with a probability of at most alpha.
    It is exact, for few trials too.
    """
    if trials == 0:
        return 0.0, 1.0
    centre = successes / trials
    return _edge(successes, trials, alpha, 0.0, centre), _edge(successes, trials, alpha, 1.0, centre)


def _edge(successes: int, trials: int, alpha: float, outside: float, inside: float) -> float:
    """Where the bound lies between a value that it may exclude and one that it never does."""
    if not _excluded(successes, trials, alpha, outside):
        return outside
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if _excluded(successes, trials, alpha, middle):
            outside = middle
        else:
            inside = middle
    # The excluded side: a bound that rounding widens is still one.
    return outside


def _excluded(successes: int, trials: int, alpha: float, probability: float) -> bool:
    failures = trials - successes
    if (probability <= 0 and successes) or (probability >= 1 and failures):
        return True
    log_likelihood = (successes * math.log(probability) if successes else 0.0) + (
        failures * math.log1p(-probability) if failures else 0.0
    )
    return _log_beta(successes + 0.5, failures + 0.5) - _LOG_JEFFREYS - log_likelihood >= -math.log(alpha)


def _log_beta(first: float, second: float) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)


_LOG_JEFFREYS = _log_beta(0.5, 0.5)


def quantile_ranks(level: float, total: int, alpha: float) -> tuple[int, int]:
    """How many of ``total`` numbers may lie at or below their distribution's quantile: at least, and at most.

    The quantile is then above every number of which fewer lie at or below it, and so on. Source: Howard and Ramdas
    (Bernoulli, 2022): how many lie at or below the true quantile is a sum of trials with probability ``level``, so the
    test of :func:`rate_bounds` at that one probability bounds the quantile, for all times at once.
    """
    expected = round(level * total)

    def reach(end: int) -> int:
        inside, outside = expected, end
        if not _excluded(end, total, alpha, level):
            return end
        while abs(outside - inside) > 1:
            middle = (inside + outside) // 2
            if _excluded(middle, total, alpha, level):
                outside = middle
            else:
                inside = middle
        return inside

    return reach(0), reach(total)


def mixture_interval(
    estimate: Numbers, variance: Numbers, scale: Numbers, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An interval for a mean or a difference of means, from an estimate and the estimate's own variance.

    Source: the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Annals of
    Statistics, 2024), written in terms of the estimate's variance; Johari, Koomen, Pekelis and Walsh (2017) call the
    same mixture over a normal prior mSPRT. It needs no distribution, but enough units for the variance to be right.

    Args:
        estimate, variance, scale: numbers, or arrays of one shape.
        variance: of the estimate, above 0.
        scale: standard deviation of the mixture, in units of the estimate; fixed before the data that it is used on,
            see :func:`tuned_scale`. It moves where the interval is tightest, never whether it is valid.
    """
    squared = np.square(scale)
    both = variance + squared
    half = np.sqrt(variance * both / squared * (np.log(both / variance) - 2 * math.log(alpha)))
    return np.asarray(estimate - half), np.asarray(estimate + half)


def always_valid_p(estimate: Numbers, variance: Numbers, scale: Numbers) -> NDArray[np.float64]:
    """The p-value of "no difference" that belongs to :func:`mixture_interval`: below alpha just when 0 is outside.

    A running minimum of it over all looks is valid as well.
    """
    squared = np.square(scale)
    both = variance + squared
    log_ratio = 0.5 * np.log(variance / both) + squared * np.square(estimate) / (2 * variance * both)
    return np.minimum(1.0, np.exp(-log_ratio))


def tuned_scale(variance: Numbers, alpha: float) -> NDArray[np.float64]:
    """The scale with which :func:`mixture_interval` is tightest when the estimate's variance has come down to this.

    Waudby-Smith et al. (2024), appendix B.2.
    """
    return np.sqrt(np.asarray(variance) * (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))))
