"""Many trials at once: shoppers who differ in how often they come and click, looked at after every few pages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.trial_report.difference import Sums, Trajectory, claim, estimate_difference


def run_trials(
    *, runs: int, pages: int, users: int, share: float, rate: float, lift: float, alpha: float, every: int, seed: int
) -> tuple[Trajectory, NDArray[np.bool_]]:
    """Trials whose users click with a rate of their own (beta, strength 10), the candidate's with ``lift`` more.

    Returns:
        The trajectories ``[looks, runs]``, and whether a plain test of 5 % per page, without regard to users and
        looks, would ever have rejected ``[runs]``.
    """
    generator = np.random.default_rng(seed)
    arms = (generator.random((runs, users)) < share).astype(np.intp)
    rates = generator.beta(rate * 10, (1 - rate) * 10, (runs, users)) + lift * arms
    visits = generator.gamma(1.0, 1.0, users)
    line = np.arange(runs)
    seen, clicked = np.zeros((runs, users), np.float32), np.zeros((runs, users), np.float32)
    sums = np.zeros((6, runs, 2))
    estimates, variances, naive = [], [], np.zeros(runs, dtype=bool)
    visitors = generator.choice(users, (pages, runs), p=visits / visits.sum())
    for page in range(pages):
        user = visitors[page]
        arm = arms[line, user]
        click = generator.random(runs) < rates[line, user]
        before, clicks = seen[line, user], clicked[line, user]
        sums[0, line, arm] += before == 0
        sums[1, line, arm] += 1
        sums[2, line, arm] += click
        sums[3, line, arm] += 2 * before + 1
        sums[4, line, arm] += click * (2 * clicks + 1)
        sums[5, line, arm] += click * (before + 1) + clicks
        seen[line, user] += 1
        clicked[line, user] += click
        if page % every == every - 1:
            control, candidate = (Sums(*(sums[:, :, at, np.newaxis])) for at in (0, 1))
            found = estimate_difference(control, candidate)
            estimates.append(found[0])
            variances.append(found[1])
            if page > 500:
                naive |= _plain_test(sums)
    looks = np.arange(len(estimates), dtype=np.float64)
    return claim(looks, np.stack(estimates), np.stack(variances), alpha=alpha), naive


def _plain_test(sums: NDArray[Any]) -> NDArray[np.bool_]:
    share = sums[2] / sums[1]
    error = np.sqrt((share * (1 - share) / sums[1]).sum(axis=1))
    found: NDArray[np.bool_] = np.abs(share[:, 1] - share[:, 0]) > 1.96 * error
    return found
