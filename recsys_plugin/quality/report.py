"""The report of a quality suite: one form for all, JSON for programs and tables for people."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from recsys_plugin.bench.machine import describe_machine
from recsys_plugin.errors import InvalidInput

__all__ = ["Figure", "QualityReport", "Stopwatch", "Target"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one system.

    Attributes:
        system: what was measured, in words: ``item-kNN``, ``SASRec``.
        metric: ``NDCG@10``, ``AUC``; the unit in the name where there is one.
        values: one per seed (or per fold, if ``note`` says so); NaN where the metric is undefined.
        source: the citation of a published figure; empty if it was computed in this run.
        note: what a reader must know to read the figure.

    Raises:
        InvalidInput: if there is no value.
    """

    system: str
    metric: str
    values: tuple[float, ...]
    source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.values:
            raise InvalidInput(f"figure {self.metric!r} of {self.system!r} has no value; give one per seed")

    @property
    def mean(self) -> float:
        """The mean over seeds; NaN if any value is."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over seeds; None if there is one value only."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values) if all(map(math.isfinite, self.values)) else math.nan

    @property
    def text(self) -> str:
        """``mean ± standard deviation``, or the one value."""
        if math.isnan(self.mean):
            return "undefined"
        spread = "" if self.deviation is None else f" ± {_number(self.deviation, like=self.mean)}"
        return _number(self.mean) + spread


@dataclass(frozen=True, slots=True)
class Target:
    """What the suite must reach.

    Attributes:
        text: the target in words.
        metric: what is compared.
        wanted: the threshold. reached: the value of this run; NaN meets nothing.
        sense: on which side of the threshold the value must be.
    """

    text: str
    metric: str
    wanted: float
    reached: float
    sense: Literal["at least", "at most"] = "at least"

    @property
    def met(self) -> bool:
        """Whether the value is on the wanted side of the threshold, or on it."""
        return self.reached >= self.wanted if self.sense == "at least" else self.reached <= self.wanted


@dataclass(slots=True)
class QualityReport:
    """What a suite found.

    Attributes:
        suite: its name. protocol: how it measures, with citation.
        figures: of every system, published ones beside those of this run.
        targets: what had to be reached.
        notes: further facts, one a sentence.
        seconds: wall-clock time of each part of the run.
        machine: what it ran on.
    """

    suite: str
    protocol: str
    figures: list[Figure] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=describe_machine)

    @property
    def missed(self) -> list[Target]:
        """The targets that were not met."""
        return [target for target in self.targets if not target.met]

    def figure(self, system: str, metric: str) -> Figure:
        """The figure of one system computed in this run.

        Raises:
            InvalidInput: if there is none.
        """
        for figure in self.figures:
            if (figure.system, figure.metric, figure.source) == (system, metric, ""):
                return figure
        raise InvalidInput(f"the report of {self.suite} has no {metric!r} of {system!r} computed in this run")

    def to_json(self) -> str:
        """The report as one JSON document; an undefined figure is null."""
        document = {
            "suite": self.suite,
            "protocol": self.protocol,
            "figures": [
                {
                    "system": figure.system,
                    "metric": figure.metric,
                    "values": [_json_number(value) for value in figure.values],
                    "mean": _json_number(figure.mean),
                    "standard_deviation": _json_number(figure.deviation),
                    "source": figure.source,
                    "note": figure.note,
                }
                for figure in self.figures
            ],
            "targets": [
                {
                    "text": target.text,
                    "metric": target.metric,
                    "sense": target.sense,
                    "wanted": target.wanted,
                    "reached": _json_number(target.reached),
                    "met": target.met,
                }
                for target in self.targets
            ],
            "notes": self.notes,
            "seconds": self.seconds,
            "machine": self.machine,
        }
        return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)

    def renderable(self) -> RenderableType:
        """The same for people: one line per system with all its metrics, the targets, times and notes."""
        parts: list[RenderableType] = [Text(f"{self.suite}: {self.protocol}"), self._figure_table()]
        if self.targets:
            parts.append(self._target_table())
        if self.seconds:
            parts.append(_pairs("Seconds", {name: f"{value:,.1f}" for name, value in self.seconds.items()}))
        parts.append(_pairs("Machine", self.machine))
        parts += [Text(f"[{number}] {source}") for source, number in self._sources.items()]
        noted = dict.fromkeys(f"{figure.system}: {figure.note}" for figure in self.figures if figure.note)
        parts += [Text(f"• {note}") for note in (*noted, *self.notes)]
        return Group(*parts)

    @property
    def _sources(self) -> dict[str, int]:
        """The citations of published figures, numbered from 1 on."""
        cited = dict.fromkeys(figure.source for figure in self.figures if figure.source)
        return {source: number for number, source in enumerate(cited, start=1)}

    def _figure_table(self) -> Table:
        metrics = list(dict.fromkeys(figure.metric for figure in self.figures))
        table = Table(title="Mean ± standard deviation over seeds", title_justify="left")
        table.add_column("system")
        for metric in metrics:
            table.add_column(escape(metric), justify="right")
        table.add_column("source")
        lines: dict[tuple[str, str], dict[str, Figure]] = {}
        for figure in self.figures:
            lines.setdefault((figure.system, figure.source), {})[figure.metric] = figure
        for (system, source), found in lines.items():
            runs = max(len(figure.values) for figure in found.values())
            where = "this run" if runs == 1 else f"this run, {runs} values"
            if source:
                where = f"published [{self._sources[source]}]"
            cells = [found[metric].text if metric in found else "" for metric in metrics]
            table.add_row(escape(system), *cells, escape(where))
        return table

    def _target_table(self) -> Table:
        table = Table(title="Targets", title_justify="left")
        for head in ("target", "metric", "wanted", "reached", ""):
            table.add_column(head, justify="right" if head in ("wanted", "reached") else "left")
        for target in self.targets:
            reached = "undefined" if math.isnan(target.reached) else _number(target.reached)
            verdict = "[green]met[/]" if target.met else "[bold red]not met[/]"
            wanted = f"{target.sense} {_number(target.wanted)}"
            table.add_row(escape(target.text), escape(target.metric), wanted, reached, verdict)
        return table


class Stopwatch:
    """Adds the seconds of named parts to a report's."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what happens within."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started


def _pairs(title: str, pairs: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in pairs.items():
        table.add_row(escape(name), escape(str(value)))
    return table


def _number(value: float, *, like: float | None = None) -> str:
    """Four decimals for shares and scores, fewer for large numbers; ``like`` gives the size that decides."""
    size = abs(value if like is None else like)
    return f"{value:.4f}" if size < 10 else f"{value:,.2f}" if size < 1000 else f"{value:,.0f}"


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
