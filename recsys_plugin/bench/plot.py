"""A picture of how the time of ``recommend`` grows: one panel for each thing that was swept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys_plugin.bench.timing import Samples
from recsys_plugin.errors import InvalidInput

__all__ = ["PLOT_FORMATS", "check_plot", "write_plot"]

#: What the file's name may end with.
PLOT_FORMATS = ("png", "svg", "pdf")

#: Colours of Okabe and Ito (2008), which people with any colour vision tell apart.
_P50, _P95 = "#0072B2", "#D55E00"
_TITLES = {
    "candidates": ("Candidates ranked", "candidates per request"),
    "users": ("Users per call", "users in one call"),
    "catalogue": ("Catalogue size", "items in the catalogue"),
}


def check_plot(path: Path) -> None:
    """Raise ``InvalidInput`` if no picture could be written there: before minutes of measuring, not after."""
    if path.suffix.removeprefix(".").lower() not in PLOT_FORMATS:
        raise InvalidInput(f"--plot {path}: the name must end with one of .{', .'.join(PLOT_FORMATS)}")
    if not path.resolve().parent.is_dir():
        raise InvalidInput(f"--plot {path}: the folder {path.resolve().parent} does not exist")


def write_plot(path: Path, sweeps: Mapping[str, Mapping[int, Samples]], *, subtitle: str) -> None:
    """Draw p50 and p95 in milliseconds against each thing that was swept, on logarithmic axes.

    Args:
        path: a file that :func:`check_plot` has accepted.
        sweeps: ``candidates``, ``users`` or ``catalogue`` → value → what was measured there.
        subtitle: what it was measured on.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(4.6 * len(sweeps), 4.2), layout="constrained")
    figure.suptitle(f"Time of recommend\n{subtitle}", fontsize=10)
    panels = figure.subplots(1, len(sweeps), squeeze=False, sharey=True)[0]
    for panel, (name, measured) in zip(panels, sweeps.items(), strict=True):
        title, label = _TITLES[name]
        values = sorted(measured)
        for percentile, colour, marker in ((95, _P95, "^"), (50, _P50, "o")):
            times = [float(np.percentile(measured[value].total, percentile)) for value in values]
            panel.plot(values, times, color=colour, marker=marker, label=f"p{percentile}")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(values, labels=[_short(value) for value in values])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(FuncFormatter(_minor))
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(label)
        panel.grid(visible=True, which="both", alpha=0.25)
    panels[0].set_ylabel("milliseconds per call")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def _short(value: int) -> str:
    """5000 as 5 k, 2000000 as 2 M; small numbers as they are."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    return f"{value / 1000:g} k" if value >= 5000 else str(value)


def _minor(value: float, _: object) -> str:
    """Labels at 2 and 5 between the powers of ten."""
    digit = round(value / 10 ** np.floor(np.log10(value)))
    return f"{value:g}" if digit in (2, 5) else ""
