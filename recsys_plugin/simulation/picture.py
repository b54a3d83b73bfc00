"""A picture of the loop: click rate by round for each arm, and what off-policy evaluation foretold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys_plugin.simulation.comparison import BASELINE, GREEDY, LOOP, Comparison, mean_of

__all__ = ["draw_loop"]

#: Colours of Okabe and Ito (2008), which people with any colour vision tell apart.
_LINES = {
    BASELINE: ("#D55E00", "s", "model kept as it is"),
    GREEDY: ("#56B4E9", "^", "retrained, no exploration"),
    LOOP: ("#0072B2", "o", "loop: retrained, exploring with {policy}"),
}


def draw_loop(path: Path, comparison: Comparison, *, policy: str) -> None:
    """Click rates with intervals of 95 % over the seeds, and beside them off-policy estimates against the truth.

    Args:
        path: a file that :func:`recsys_plugin.bench.plot.check_plot` has accepted.
        comparison: what was found. policy: of the loop.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    curves, estimates = figure.subplots(1, 2, width_ratios=(3, 2))
    rounds = np.arange(1, comparison.rates[LOOP].shape[1] + 1)
    for arm, (colour, marker, label) in _LINES.items():
        means = [mean_of(column) for column in comparison.rates[arm].T]
        curves.fill_between(rounds, [m.low for m in means], [m.high for m in means], color=colour, alpha=0.15, lw=0)
        curves.plot(
            rounds, [m.value for m in means], color=colour, marker=marker, ms=4, label=label.format(policy=policy)
        )
    curves.set_title(
        f"Click rate in a simulated shop: mean and 95 % interval of {len(comparison.seeds)} seeds", fontsize=10
    )
    curves.set_xlabel("round; old items leave and new ones come")
    curves.set_ylabel("clicks for each item shown")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves.yaxis.set_major_formatter(PercentFormatter(1.0))
    curves.grid(visible=True, alpha=0.25)
    curves.legend(frameon=False, fontsize=9)

    names = [found.estimator for found in comparison.foretold[0].estimates]
    for place, name in enumerate(names):
        at = np.arange(len(comparison.seeds)) + (place - (len(names) - 1) / 2) * 0.15
        found = [each.estimates[place] for each in comparison.foretold]
        value = np.array([each.value for each in found])
        reach = np.abs(np.array([[each.low, each.high] for each in found]).T - value)
        estimates.errorbar(at, value, yerr=reach, fmt=".", ms=5, lw=1, capsize=2, label=name)
    truth = [each.truth for each in comparison.foretold]
    centres = np.arange(len(truth))
    estimates.hlines(truth, centres - 0.4, centres + 0.4, color="black", lw=1, ls="--", label="truth")
    estimates.set_xticks(centres, labels=[str(seed) for seed in comparison.seeds])
    estimates.yaxis.set_major_formatter(PercentFormatter(1.0))
    estimates.set_title(f"Off-policy: {comparison.foretold[0].policy}, from the last round", fontsize=10)
    estimates.set_xlabel("seed")
    estimates.grid(visible=True, axis="y", alpha=0.25)
    estimates.legend(frameon=False, fontsize=8, ncols=3)
    figure.savefig(path, dpi=150)
