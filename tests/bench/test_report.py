"""The one form that every benchmark's report has."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from recsys_plugin import __version__
from recsys_plugin.bench.machine import describe_machine, load_average, package_versions
from recsys_plugin.bench.report import Report
from recsys_plugin.bench.timing import Ratio, Samples
from recsys_plugin.errors import InvalidInput


@pytest.fixture
def report() -> Report:
    made = Report("Test", {"cpu": "a [fast] one", "gpus": []}, {"python": "3.11"})
    made.add_samples("recommend.ours", Samples(np.arange(1.0, 101.0), {"features": np.full(100, 0.5)}))
    made.add_ratio("recommend.ours_to_floor", Ratio(1.5, 1.4, 1.6))
    made.add("store.rows_per_second", 1234.5)
    made.finish("one note", frozen=True)
    return made


def test_json_form(report: Report) -> None:
    document = json.loads(report.to_json())
    assert list(document) == ["figures", "machine", "versions", "notes"]
    assert document["figures"] == {
        "recommend.ours.calls": 100,
        "recommend.ours.p50_ms": 50.5,
        "recommend.ours.p95_ms": pytest.approx(95.05),
        "recommend.ours.p99_ms": pytest.approx(99.01),
        "recommend.ours.features.calls": 100,
        "recommend.ours.features.p50_ms": 0.5,
        "recommend.ours.features.p95_ms": 0.5,
        "recommend.ours.features.p99_ms": 0.5,
        "recommend.ours_to_floor.ratio_p50": 1.5,
        "recommend.ours_to_floor.ratio_p50_low": 1.4,
        "recommend.ours_to_floor.ratio_p50_high": 1.6,
        "store.rows_per_second": 1234.5,
    }
    assert document["machine"]["cpu"] == "a [fast] one"
    assert len(document["machine"]["load_average_after"]) == 3
    assert document["versions"] == {"python": "3.11"}
    assert document["notes"][0] == "one note"
    assert "garbage collector was kept from objects" in document["notes"][-1]


@pytest.mark.parametrize("name", ["", "Recommend.p50_ms", "recommend p50", ".p50_ms", "a..b", "a.", "a-b"])
def test_names_are_words_joined_by_dots(report: Report, name: str) -> None:
    with pytest.raises(InvalidInput, match="joined by dots"):
        report.add(name, 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_are_finite(report: Report, value: float) -> None:
    with pytest.raises(InvalidInput, match=r"is (nan|-?inf)"):
        report.add("x.p50_ms", value)


def test_a_figure_is_added_once(report: Report) -> None:
    with pytest.raises(InvalidInput, match="already"):
        report.add("store.rows_per_second", 1.0)


def test_tables_show_everything(report: Report) -> None:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(report.renderable())
    lines = captured.get().splitlines()

    def line(start: str) -> list[str]:
        (found,) = (line for line in lines if line.strip("│ ").startswith(start + " "))
        return found.replace("│", " ").split()

    assert line("recommend.ours") == ["recommend.ours", "100", "50.500", "95.050", "99.010"]
    assert line("recommend.ours.features")[1:] == ["100", "0.500", "0.500", "0.500"]
    assert line("recommend.ours_to_floor")[1:] == ["1.500", "1.400", "1.600"]
    assert line("store.rows_per_second")[1:] == ["1,234.5"]
    assert line("cpu")[1:] == ["a", "[fast]", "one"]
    assert any("one note" in text for text in lines)


def test_the_machine_and_the_versions_are_stated() -> None:
    machine = describe_machine()
    assert list(machine) == ["cpu", "cores", "memory_gib", "platform", "gpus"]
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    assert len(load_average()) == 3
    versions = package_versions("feast")
    assert list(versions) == ["python", "recsys_plugin", "numpy", "redis-py", "tritonclient", "feast"]
    assert versions["recsys_plugin"] == __version__
