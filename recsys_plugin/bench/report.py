"""The report of a benchmark: one form for all, JSON for programs and tables for people.

::

    {"figures": {"recommend.ours.p50_ms": 3.1, …}, "machine": {…}, "versions": {…}, "notes": ["…"]}

Figure names are words joined by dots, from the general to the particular; the last ends with the unit (``_ms``,
``_per_second``), or is ``calls``, ``ratio_p50``, ``ratio_rps`` (of requests per second) or another word for a plain
number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from recsys_plugin.bench.machine import describe_machine, load_average, package_versions, server_versions
from recsys_plugin.bench.timing import PERCENTILES, LoadSamples, Ratio, Samples
from recsys_plugin.errors import InvalidInput

__all__ = ["Report", "begin_report"]

_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_LAST = ("calls", *(f"p{percentile}_ms" for percentile in PERCENTILES))
_LOAD = ("requests_per_second", "client_cpu_ms")
_RATIO = ("ratio_p50", "ratio_p50_low", "ratio_p50_high")
_LOAD_RATIO = ("ratio_rps", "ratio_rps_low", "ratio_rps_high")


@dataclass(slots=True)
class Report:
    """What a benchmark found, and on what."""

    title: str
    """For people; not part of the JSON form."""
    machine: dict[str, Any]
    versions: dict[str, str]
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        """Add one figure.

        Raises:
            InvalidInput: if the name is not of the form above or is taken, or the value is not finite.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"figure {name!r}: a name is made of words in lower case joined by dots")
        if name in self.figures:
            raise InvalidInput(f"figure {name!r} was added already")
        if not math.isfinite(value):
            raise InvalidInput(f"figure {name!r} is {value}")
        self.figures[name] = value

    def add_samples(self, name: str, samples: Samples) -> None:
        """Add calls and percentiles of a subject and of each of its stages: ``name.calls``, ``name.stage.p50_ms`` …"""
        for part, milliseconds in [(name, samples.total), *((f"{name}.{k}", v) for k, v in samples.stages.items())]:
            self.add(f"{part}.calls", len(milliseconds))
            for percentile, value in zip(PERCENTILES, np.percentile(milliseconds, PERCENTILES), strict=True):
                self.add(f"{part}.p{percentile}_ms", float(value))

    def add_ratio(self, name: str, ratio: Ratio) -> None:
        """Add a ratio of medians and its interval: ``name.ratio_p50``, ``name.ratio_p50_low`` and ``…_high``."""
        for last, value in zip(_RATIO, (ratio.value, ratio.low, ratio.high), strict=True):
            self.add(f"{name}.{last}", value)

    def add_load(self, name: str, samples: LoadSamples) -> None:
        """Add calls, percentiles, requests per second and the asking side's processor time for each request."""
        self.add_samples(name, Samples(samples.milliseconds))
        self.add(f"{name}.requests_per_second", samples.per_second)
        self.add(f"{name}.client_cpu_ms", 1000 * samples.cpu_seconds / len(samples.milliseconds))

    def add_load_ratio(self, name: str, ratio: Ratio) -> None:
        """Add a ratio of requests per second and its interval: ``name.ratio_rps``, ``…_low`` and ``…_high``."""
        for last, value in zip(_LOAD_RATIO, (ratio.value, ratio.low, ratio.high), strict=True):
            self.add(f"{name}.{last}", value)

    def finish(self, *notes: str, frozen: bool) -> None:
        """Add what must be known to read the figures, and how busy the machine was in the end.

        Args:
            notes: about this benchmark.
            frozen: whether the garbage collector was kept from old objects.
        """
        self.machine["load_average_after"] = load_average()
        collector = "kept from objects made before the first call" if frozen else "as Python has it"
        self.notes += [
            *notes,
            "subjects were called in turn, in rounds of random order after warming up; ratios are of medians, with a "
            f"bootstrap interval of 95 %; the garbage collector was {collector}",
        ]

    def to_json(self) -> str:
        """The JSON form."""
        document = {
            "figures": self.figures,
            "machine": self.machine,
            "versions": self.versions,
            "notes": self.notes,
        }
        return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)

    def renderable(self) -> RenderableType:
        """The same for people: times, ratios, other figures, and below them what they were measured on."""
        parts: list[RenderableType] = []
        if names := self._names_with(_LAST):
            parts.append(self._table(self.title, names, _LAST, ("calls", "p50 ms", "p95 ms", "p99 ms")))
        if names := self._names_with(_RATIO):
            parts.append(self._table("Ratios of medians", names, _RATIO, ("ratio", "95 % from", "to")))
        if names := self._names_with(_LOAD):
            parts.append(self._table("Under load", names, _LOAD, ("requests/s", "client CPU ms")))
        if names := self._names_with(_LOAD_RATIO):
            parts.append(self._table("Ratios of requests per second", names, _LOAD_RATIO, ("ratio", "95 % from", "to")))
        shown = {
            f"{start}.{ending}"
            for endings in (_LAST, _LOAD, _RATIO, _LOAD_RATIO)
            for start in self._names_with(endings)
            for ending in endings
        }
        if others := [name for name in self.figures if name not in shown]:
            parts.append(_pairs("Other figures", ((name, _figure(self.figures[name])) for name in others)))
        parts.append(_pairs("Machine", ((name, str(value)) for name, value in self.machine.items())))
        parts.append(_pairs("Versions", self.versions.items()))
        parts += [Text(f"• {note}") for note in self.notes]
        return Group(*parts)

    def _names_with(self, endings: tuple[str, ...]) -> list[str]:
        """What has figures with all of these endings, in the order they were added."""
        starts = dict.fromkeys(name.rpartition(".")[0] for name in self.figures)
        return [start for start in starts if all(f"{start}.{ending}" in self.figures for ending in endings)]

    def _table(self, title: str, names: list[str], endings: tuple[str, ...], heads: tuple[str, ...]) -> Table:
        table = Table(title=escape(title), title_justify="left")
        table.add_column("")
        for head in heads:
            table.add_column(head, justify="right")
        for name in names:
            table.add_row(escape(name), *(_figure(self.figures[f"{name}.{ending}"]) for ending in endings))
        return table


def begin_report(title: str, redis_url: str, triton_url: str, *distributions: str) -> Report:
    """A report without figures, on this machine and these servers.

    Args:
        title: for people.
        redis_url, triton_url: the servers that are measured.
        distributions: installed packages that take part, besides those of every serving client.

    Raises:
        ServiceUnavailable: if a server does not answer.
    """
    machine = {**describe_machine(), "load_average_before": load_average()}
    versions = {**package_versions(*distributions), **server_versions(redis_url, triton_url)}
    return Report(title, machine, versions)


def _pairs(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=escape(title), title_justify="left", show_header=False, box=None)
    for name, value in pairs:
        table.add_row(escape(name), escape(value))
    return table


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
