"""A picture of a scenario: how long each call took, and which levels answered, over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recsys_plugin.chaos.experiment import Played
from recsys_plugin.chaos.figures import FULL, levels_over_time
from recsys_plugin.chaos.seen import ERROR

__all__ = ["draw_chaos"]

#: Colours of Okabe and Ito (2008), which people with any colour vision tell apart.
_COLOURS = ("#56B4E9", "#E69F00", "#0072B2", "#CC79A7", "#F0E442", "#999999")
_FULL, _ERROR, _LINE = "#009E73", "#D55E00", "#333333"
#: Seconds of one bar.
_WIDTH = 0.5
#: How far the axis of times goes on above them, for the names of the faults.
_HEADROOM = 3.0


def draw_chaos(path: Path, played: Sequence[Played], *, subtitle: str) -> None:
    """Draw a column for each scenario: times of calls with the deadline above, calls by level below, faults shaded.

    Args:
        path: a file that :func:`recsys_plugin.bench.plot.check_plot` has accepted.
        played: what came of each scenario. subtitle: on what.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(max(8.0, 6.0 * len(played)), 6.0), layout="constrained")
    figure.suptitle(f"What callers saw\n{subtitle}", fontsize=10)
    panels = figure.subplots(2, len(played), squeeze=False, sharex="col")
    others = sorted({name for each in played for name in each.observed.calls.outcomes if name != FULL})
    colours = {FULL: _FULL} | {
        name: _ERROR if name.startswith(ERROR) else _COLOURS[number % len(_COLOURS)]
        for number, name in enumerate(others)
    }
    for column, each in enumerate(played):
        calls = each.observed.calls
        if not len(calls.intended):
            continue
        first = calls.intended[0]
        above, below = panels[0][column], panels[1][column]
        for number, name in enumerate(calls.outcomes):
            chosen = calls.outcome == number
            above.plot(
                calls.intended[chosen] - first,
                np.maximum(1000 * (calls.ended - calls.began)[chosen], 0.01),
                ".",
                markersize=2,
                color=colours[name],
            )
        above.axhline(1000 * each.plan.timeout, color=_LINE, lw=0.8, ls="--")
        above.set_yscale("log")
        above.set_ylim(top=_HEADROOM * above.get_ylim()[1])
        above.set_title(each.scenario, fontsize=10)
        edges, counted = levels_over_time(calls, width=_WIDTH)
        bottom = np.zeros(len(edges))
        for name in (FULL, *others):
            if name in counted:
                below.bar(edges, counted[name], _WIDTH, bottom, align="edge", color=colours[name])
                bottom += counted[name]
        for window in each.windows:
            for panel in (above, below):
                panel.axvspan(window.began - first, window.recovered - first, color="black", alpha=0.08, lw=0)
            above.text(
                window.began - first, above.get_ylim()[1], f" {window.fault.replace(' of ', chr(10) + ' of ')}",
                fontsize=7, va="top",
            )  # fmt: skip
        below.set_xlabel("seconds")
    panels[0][0].set_ylabel("milliseconds of a call; dashed: allowed")
    panels[1][0].set_ylabel(f"calls in {_WIDTH:g} s")
    figure.legend(
        [Patch(color=colour) for colour in colours.values()], [*colours], loc="outside lower center",
        ncols=len(colours), frameon=False, fontsize=8,
    )  # fmt: skip
    figure.savefig(path, dpi=150)
