"""The report of a trial as tables, for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import console
from recsys_plugin.trial_report.outcomes import OUTCOMES
from recsys_plugin.trial_report.summary import ArmFigures, TrialSummary
from recsys_plugin.trials.trial import ARMS

__all__ = ["print_summary"]


def print_summary(summary: TrialSummary) -> None:
    """Print the arms, the differences, the guard's checks and, of a shadow trial, how alike the pages are."""
    console.print(_arms(summary))
    if summary.differences:
        console.print(_differences(summary))
    if summary.checks:
        console.print(_checks(summary))
    if (shadow := summary.shadow) is not None:
        console.print(
            f"  {shadow.pages:,} pages compared: overlap {_figure(shadow.overlap)}, "
            f"rank correlation (Kendall) {_figure(shadow.kendall_tau)}; {shadow.dropped:,} requests dropped",
            highlight=False,
        )


def _arms(summary: TrialSummary) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for arm in ARMS:
        table.add_column(f"{arm} (version {summary.arms[arm].version})", justify="right")

    def row(name: str, *values: str) -> None:
        table.add_row(escape(name), *values)

    arms = [summary.arms[arm] for arm in ARMS]
    row("users", *(f"{arm.users:,}" for arm in arms))
    row("requests", *(f"{arm.requests:,}" for arm in arms))
    row("error rate", *(_percent(arm.error_rate) for arm in arms))
    row("empty pages", *(_percent(arm.empty_rate) for arm in arms))
    for level in ("p50", "p95", "p99"):
        row(f"latency {level}, ms", *(_figure(getattr(arm, f"latency_{level}")) for arm in arms))
    for kind in sorted({kind for arm in arms for kind in arm.score_mean}):
        row(f"score of {kind}, mean", *(_figure(arm.score_mean.get(kind)) for arm in arms))
    if any(arm.pages is not None for arm in arms):
        row("pages with outcomes", *(_count(arm) for arm in arms))
        for name, title in OUTCOMES.items():
            row(title, *(_percent(arm.rates[name]) for arm in arms))
    return table


def _differences(summary: TrialSummary) -> Table:
    level = summary.differences[0].level
    table = Table(box=SIMPLE_HEAD, title="candidate - control, percentage points", title_justify="left")
    for name in ("", "difference", f"{level:.0%} interval, at any time", "p, at any time", ""):
        table.add_column(name, justify="left" if not name else "right")
    for found in summary.differences:
        if found.estimate is None or found.lower is None or found.upper is None or found.p_value is None:
            table.add_row(OUTCOMES[found.outcome], "–", "too little to say", "–", "")
            continue
        verdict = ("better" if found.lower > 0 else "worse") if found.certain else "no difference shown"
        table.add_row(
            OUTCOMES[found.outcome],
            f"{100 * found.estimate:+.2f}",
            f"{100 * found.lower:+.2f} to {100 * found.upper:+.2f}",
            f"{found.p_value:.3g}",
            verdict,
        )
    return table


def _checks(summary: TrialSummary) -> Table:
    table = Table(box=SIMPLE_HEAD, title="guard, present share", title_justify="left")
    for name in ("check", "estimate", "at least", "allowed", ""):
        table.add_column(name, justify="left" if name in ("check", "") else "right")
    for check in summary.checks:
        table.add_row(
            escape(check.name),
            _figure(check.estimate),
            _figure(check.lower),
            _figure(check.threshold),
            "crossed" if check.crossed else "within",
            style="bold red" if check.crossed else None,
        )
    return table


def _count(arm: ArmFigures) -> str:
    return "–" if arm.pages is None else f"{arm.pages:,}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
