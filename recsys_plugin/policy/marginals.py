"""P(item at position) of the exploration policies, whatever stands before it: exact, for off-policy evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["epsilon_greedy_marginals", "plackett_luce_marginals"]

#: Step of the integration over the logarithm of time. The integrand is analytic there and its features are about one
#: wide (a k-th order statistic's: 1/sqrt(k)), so the trapezoid rule's error falls exponentially with 1 / step:
#: about 1e-9 for the first twenty positions.
_STEP = 0.2
#: How far before and after an item's expected arrival there is anything to integrate: e^-21 and exp(-e^3.5).
_BEFORE, _AFTER = 21.0, 3.5
#: Numbers held at once while integrating.
_CHUNK = 4_000_000


def epsilon_greedy_marginals(order: NDArray[np.int64], k: int, epsilon: float) -> NDArray[np.float64]:
    """P(item i at position j) under ε-greedy.

    Of an item only the number of better items that are left matters, and that number is a Markov chain: a greedy step
    takes one of them if there is any, a random step takes one with probability (better left) / (all left).

    Args:
        order: ``[pool]`` places, best first. k: positions, at most the pool. epsilon: from 0 to 1.

    Returns:
        float64 ``[pool, k]``.
    """
    pool = len(order)
    rank = np.arange(pool)[:, None]
    result = np.zeros((pool, k))
    # still[r, b]: the item of rank r is still there, and b better ones have gone.
    still = np.zeros((pool, k + 1))
    still[:, 0] = 1.0
    better = np.maximum(rank - np.arange(k + 1), 0)
    for position in range(k):
        left = pool - position
        greedy_takes_better = better > 0
        taken = epsilon / left + (1.0 - epsilon) * ~greedy_takes_better
        one_better = epsilon * better / left + (1.0 - epsilon) * greedy_takes_better
        result[:, position] = (still * taken).sum(axis=1)
        moved = still * one_better
        still = still * np.clip(1.0 - taken - one_better, 0.0, 1.0)
        still[:, 1:] += moved[:, :-1]
    marginals = np.empty_like(result)
    marginals[order] = result
    return marginals


def plackett_luce_marginals(scaled: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """P(item i at position j) under the Plackett-Luce model.

    The order is that of independent exponential arrival times with rates exp(scaled): item i is at position j if it
    arrives when exactly j - 1 others have. How many others have arrived by a time is a sum of independent coin throws
    (Poisson binomial), whose distribution without i comes from products over the items before and after i; what is
    left is one integral over the time of i's arrival.

    Args:
        scaled: ``[pool]`` logits over the temperature. k: positions, at most the pool.

    Returns:
        float64 ``[pool, k]``; columns sum to 1 to about seven digits before they are made to.
    """
    pool = len(scaled)
    if k == 0:
        return np.zeros((pool, 0))
    rates = scaled - scaled.max()
    moments = _moments(np.sort(rates)[::-1][:k])
    result = np.zeros((pool, k))
    each = max(1, _CHUNK // (pool * k))
    for start in range(0, len(moments), each):
        result += _at_moments(rates, moments[start : start + each], k)
    normalised: NDArray[np.float64] = result / result.sum(axis=0)
    return normalised


def _moments(best: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of the times to integrate over: near the arrivals of the k items that come first by expectation."""
    starts, ends = np.floor((-best - _BEFORE) / _STEP), np.ceil((-best + _AFTER) / _STEP)
    steps: set[int] = set()
    covered = -(2**62)
    for start, end in zip(starts.astype(np.int64).tolist(), ends.astype(np.int64).tolist(), strict=True):
        steps.update(range(max(start, covered), end + 1))
        covered = end + 1
    return np.array(sorted(steps), dtype=np.float64) * _STEP


def _at_moments(rates: NDArray[np.float64], moments: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The part of the integral that some moments contribute, ``[pool, k]``."""
    pool, count = len(rates), len(moments)
    exponent = np.exp(np.minimum(rates[:, None] + moments, 700.0))  # [pool, moments]: rate times time
    away, there = np.exp(-exponent), -np.expm1(-exponent)
    density = _STEP * exponent * away
    before = np.zeros((pool + 1, k, count))  # [i]: how many of the items before i have arrived
    after = np.zeros((pool + 1, k, count))  # [i]: how many of the items from i on
    before[0, 0] = after[pool, 0] = 1.0
    for item in range(pool):
        before[item + 1] = before[item] * away[item]
        before[item + 1, 1:] += before[item, :-1] * there[item]
    for item in range(pool - 1, -1, -1):
        after[item] = after[item + 1] * away[item]
        after[item, 1:] += after[item + 1, :-1] * there[item]
    result = np.empty((pool, k))
    for position in range(k):
        others = np.einsum("irt,irt->it", before[:-1, : position + 1], after[1:, position::-1])
        result[:, position] = (density * others).sum(axis=1)
    return result
