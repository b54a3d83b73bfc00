"""A picture of a simulated day of ads: what each campaign spent over the day, with pacing and without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys_plugin.bench.ads import GREEDY, GRID, PACED, AdDay

__all__ = ["draw_ads"]

#: Colours of Okabe and Ito (2008), which people with any colour vision tell apart.
_COLOURS = {PACED: "#0072B2", GREEDY: "#D55E00"}
_TITLES = {PACED: "With pacing", GREEDY: "Without pacing"}


def draw_ads(path: Path, days: Mapping[str, AdDay], *, subtitle: str) -> None:
    """Draw spend as a share of the budget against the hour, a line for each campaign that runs all day and uses its
    budget up; beside it how far spend was from the plan.

    Args:
        path: a file that :func:`recsys_plugin.bench.plot.check_plot` has accepted.
        days: both ways.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator, PercentFormatter

    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    figure.suptitle(f"Spend of campaigns that run all day and use their budget up\n{subtitle}", fontsize=10)
    panels = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    hours = GRID / 3_600
    chosen = days[PACED].used_up
    all_day = np.array([each.start is None and each.end is None for each in days[PACED].book.campaigns])
    for panel, way in zip(panels, (PACED, GREEDY), strict=False):
        day = days[way]
        shares = day.curves * np.array([day.spent[each] / day.limits[each] for each in day.spent])[:, None]
        for number in np.flatnonzero(chosen & all_day):
            panel.plot(hours, shares[number], color=_COLOURS[way], lw=0.8, alpha=0.45)
        for number in np.flatnonzero(all_day)[:1]:
            panel.plot(hours, day.planned[number], color="black", lw=1.2, ls="--", label="plan: the traffic's forecast")
        panel.set_title(f"{_TITLES[way]} ({int((chosen & all_day).sum())} campaigns)", fontsize=10)
        panel.set_xlabel("hour of the simulated day")
        panel.xaxis.set_major_locator(MultipleLocator(4))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.set_xlim(0, 24)
        panel.set_ylim(0, 1.04)
        panel.grid(visible=True, alpha=0.25)
        panel.legend(frameon=False, fontsize=9, loc="lower right")
    panels[0].set_ylabel("spent, of the day's budget")
    for way in (PACED, GREEDY):
        distances = np.sort(days[way].deviations[chosen])
        shares_below = np.arange(1, len(distances) + 1) / max(1, len(distances))
        panels[2].step(distances, shares_below, where="post", color=_COLOURS[way], label=_TITLES[way])
    panels[2].set_title("Largest distance from the plan", fontsize=10)
    panels[2].set_xlabel("of the budget")
    panels[2].set_ylabel("campaigns with at most so much")
    panels[2].xaxis.set_major_formatter(PercentFormatter(1.0))
    panels[2].yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[2].set_xlim(left=0)
    panels[2].grid(visible=True, alpha=0.25)
    panels[2].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
