"""A picture of a trial over time: what users did, and how the service was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys_plugin.trial_report.outcomes import OUTCOMES
from recsys_plugin.trial_report.summary import TrialSummary
from recsys_plugin.trials.trial import ARMS

__all__ = ["plot_trial"]

#: Colours of Okabe and Ito (2008), which people with any colour vision tell apart.
_COLOURS = dict(zip(ARMS, ("#0072B2", "#D55E00"), strict=True))
_BAND = "#009E73"


def plot_trial(path: Path, summary: TrialSummary, looks: Sequence[Mapping[str, Any]]) -> None:
    """Draw the differences with their intervals, error rates and latency against the hours since the start.

    Args:
        path: the file; its ending names the format.
        looks: what the guard saw, see :meth:`~recsys_plugin.trials.operations.Trials.looks`.
    """
    from matplotlib.figure import Figure

    began = summary.trial.started_at
    panels = len(summary.trajectories) + 2
    figure = Figure(figsize=(4.4 * panels, 3.6), layout="constrained")
    trial = summary.trial
    reason = "" if trial.reason is None else f": {trial.reason}"
    figure.suptitle(
        f"Version {trial.candidate} against {trial.control}, {trial.mode}, {trial.status}{reason}"[:200], fontsize=9
    )
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel, (name, found) in zip(axes, summary.trajectories.items(), strict=False):
        hours = (found.at - began) / 3600
        panel.fill_between(hours, 100 * found.lower, 100 * found.upper, color=_BAND, alpha=0.25, linewidth=0)
        panel.plot(hours, 100 * found.estimate, color=_BAND)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set_title(f"{OUTCOMES[name]}: candidate - control")
        panel.set_ylabel("percentage points")
    service: tuple[tuple[str, Callable[[Mapping[str, Any]], float]], ...] = (
        ("Errors, % of requests", lambda arm: 100 * float(arm["errors"]) / float(arm["requests"])),
        ("Latency p95, ms", lambda arm: math.nan if arm["latency_p95"] is None else float(arm["latency_p95"])),
    )
    for panel, (title, value) in zip(axes[-len(service) :], service, strict=True):
        for arm in ARMS:
            seen = [look for look in looks if look["arms"][arm]["requests"]]
            elapsed = [(look["at"] - began) / 3600 for look in seen]
            panel.plot(elapsed, [value(look["arms"][arm]) for look in seen], color=_COLOURS[arm], label=arm)
        panel.set_title(title)
        panel.set_ylim(bottom=0)
    axes[-1].legend(frameon=False)
    for panel in axes:
        panel.set_xlabel("hours since the start")
        panel.grid(visible=True, alpha=0.25)
        for phase in trial.phases[1:]:
            panel.axvline((phase.since - began) / 3600, color="grey", linewidth=0.8, linestyle=":")
    figure.savefig(path, dpi=150)
