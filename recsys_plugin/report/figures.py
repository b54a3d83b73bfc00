"""The report's figures as inline SVG: text stays text, no script, no outside font, and no date inside."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

__all__ = [
    "curve_figure",
    "histogram_figure",
    "importance_figure",
    "reliability_figure",
    "segment_figure",
    "shares_figure",
]

#: Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5f6b7a")
_INK, _FAINT = "#24303e", "#d8dee6"
# Untyped, since matplotlib types the keys as an enumeration of all its settings.
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
#: Inches; narrow, so that a phone shows the letters at their size.
_WIDTH, _HEIGHT = 4.8, 3.1


@contextmanager
def _axes(height: float = _HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots()


def _svg(figure: Figure, said: str) -> Markup:
    """The drawing, sized by the page; ``said`` is what a screen reader says of it."""
    buffer = io.StringIO()
    # Parts are named by hashes, which must not be those of another figure on the same page.
    with matplotlib.rc_context({"svg.hashsalt": said}), warnings.catch_warnings():
        # Text stays text, so the reader's fonts show it, not the one that matplotlib measures it by.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # matplotlib asks for its own font first; the reader's is meant.
    drawing = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "sans-serif", drawing)
    # Its groups are numbered from 1 in every figure, and nothing refers to them.
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    head, rest = drawing.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    # matplotlib has escaped every text of the drawing.
    return Markup(f'{head} role="img" aria-label="{escape(said)}">{rest}')


def curve_figure(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, across: str, up: str, whole: bool = False
) -> Markup:
    """Lines over steps.

    Args:
        curves: by name, points (step, value); NaN leaves a gap.
        across: label of the steps. up: label of the values.
        whole: steps are few and whole, such as epochs: each gets a mark.
    """
    with _axes() as (figure, axes):
        for colour, (name, points) in zip(_cycle(), curves.items(), strict=False):
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps, values, color=colour, label=name, linewidth=1.6, marker="o" if whole else None, markersize=4
            )
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(curves) > 1:
            axes.legend(fontsize=9)
        return _svg(figure, f"{up} over {across}: {', '.join(curves)}")


def reliability_figure(curves: Mapping[str, Mapping[str, Sequence[float]]], *, what: str) -> Markup:
    """Observed shares over mean predictions; on the diagonal a probability means what it says.

    Args:
        curves: by model, ``predicted`` and ``observed`` by bin. what: the event that is predicted.
    """
    with _axes(3.6) as (figure, axes):
        values = [value for curve in curves.values() for key in ("predicted", "observed") for value in curve[key]]
        positive = [value for value in values if value > 0]
        # Purchases are rare: most bins lie near zero, which only logarithmic axes spread out.
        if positive and max(values) / min(positive) > 20:
            low, high = max(min(positive) * 0.7, 1e-5), min(1.0, max(values) * 1.4)
            _logarithmic(axes, "x")
            _logarithmic(axes, "y")
        else:
            low, high = 0.0, max(values, default=1.0) * 1.05
        axes.plot([low, high], [low, high], color="#9aa5b1", linewidth=1, linestyle="--", label="perfectly calibrated")
        for colour, (name, curve) in zip(_cycle(), curves.items(), strict=False):
            axes.plot(
                curve["predicted"], curve["observed"], color=colour, label=name, marker="o", markersize=4, linewidth=1.4
            )
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("observed share")
        axes.legend(fontsize=9)
        return _svg(figure, f"Reliability of the probability of a {what}: {', '.join(curves)}")


def histogram_figure(edges: Sequence[float], counts: Sequence[float], *, across: str) -> Markup:
    """Bars of counts between edges, on a logarithmic scale.

    Args:
        edges: n + 1, ascending. counts: n. across: what the edges measure.
    """
    with _axes() as (figure, axes):
        axes.bar(
            edges[:-1], counts, width=np.diff(edges), align="edge", color=COLOURS[0], edgecolor="white", linewidth=0.4
        )
        if max(counts, default=0) > 0:
            _logarithmic(axes, "y")
        axes.set_xlabel(across)
        axes.set_ylabel("candidates")
        return _svg(figure, f"Histogram of {across}")


def importance_figure(rows: Sequence[tuple[str, float, float]], *, across: str) -> Markup:
    """Horizontal bars with one standard deviation to each side, the largest on top.

    Args:
        rows: name, mean and standard deviation. across: what the bars measure.
    """
    ordered = sorted(rows, key=lambda row: row[1])
    names, means, spreads = zip(*ordered, strict=True)
    with _axes(max(1.6, 0.9 + 0.27 * len(rows))) as (figure, axes):
        axes.barh(range(len(rows)), means, xerr=spreads, color=COLOURS[0], height=0.62, ecolor=_INK, capsize=2)
        axes.set_yticks(range(len(rows)), names, fontsize=9)
        axes.grid(visible=False, axis="y")
        axes.axvline(0.0, color="#9aa5b1", linewidth=0.8)
        axes.set_xlabel(across)
        return _svg(figure, f"{across}: {', '.join(reversed(names))}")


def segment_figure(segments: Sequence[str], systems: Mapping[str, Sequence[float]], *, across: str) -> Markup:
    """A dot for each system in each segment.

    Args:
        segments: from top to bottom. systems: by name, one value a segment; NaN draws nothing.
        across: what the dots measure.
    """
    with _axes(max(1.8, 1.0 + 0.36 * len(segments))) as (figure, axes):
        heights = range(len(segments))[::-1]
        for colour, (name, values) in zip(_cycle(), systems.items(), strict=False):
            axes.scatter(values, heights, color=colour, label=name, s=42, zorder=3)
        axes.set_yticks(list(heights), segments, fontsize=9)
        axes.set_ylim(-0.6, len(segments) - 0.4)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(across)
        figure.legend(loc="outside upper left", ncols=2, fontsize=9)
        return _svg(figure, f"{across} by segment: {', '.join(systems)}")


def shares_figure(bins: Sequence[str], shares: Mapping[str, Sequence[float]]) -> Markup:
    """Bars of shares side by side, bin by bin from top to bottom.

    Args:
        bins: what each bin holds. shares: by series, one share for each bin.
    """
    drawn = [number for number in range(len(bins)) if any(values[number] for values in shares.values())]
    names = [bins[number] if len(bins[number]) <= 24 else f"{bins[number][:23]}…" for number in drawn]
    places = -np.arange(len(drawn), dtype=np.float64)
    thickness = 0.8 / len(shares)
    with _axes(max(1.6, 1.0 + 0.24 * len(drawn))) as (figure, axes):
        for number, (colour, (name, values)) in enumerate(zip(_cycle(), shares.items(), strict=False)):
            axes.barh(
                places - thickness * (number - (len(shares) - 1) / 2),
                [100.0 * values[place] for place in drawn],
                height=thickness,
                color=colour,
                label=name,
            )
        axes.set_yticks(places, names, fontsize=9)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("per cent")
        figure.legend(loc="outside upper left", ncols=2, fontsize=9)
        return _svg(figure, f"Shares of {', '.join(shares)} by bin: {', '.join(names[:12])}")


def _logarithmic(axes: Axes, which: str) -> None:
    """Powers of ten, written out: the usual exponents are formulas, which are switched off."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _cycle() -> Iterator[str]:
    while True:
        yield from COLOURS
