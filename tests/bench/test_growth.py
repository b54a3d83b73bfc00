"""How time and memory grow: the arithmetic with known answers, and one small generated catalogue on real servers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from shops import ROOT, Shop

from recsys_plugin.bench.generated_catalogue import CataloguePlan
from recsys_plugin.bench.load import LoadSubject, best_of, load_subjects
from recsys_plugin.bench.memory import add_footprints, growth_per_call
from recsys_plugin.bench.plot import check_plot, write_plot
from recsys_plugin.bench.sweep import begin_sweep, growth_exponent, sweep_catalogue
from recsys_plugin.bench.timing import LoadSamples, Samples, throughput_ratio
from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import InvalidInput, StepFailed
from recsys_plugin.settings import Settings


def test_the_exponent_of_a_power_law() -> None:
    assert growth_exponent({10: 3.0, 1000: 300.0, 100: 30.0}) == pytest.approx(1.0)
    assert growth_exponent({4: 1.0, 64: 4.0}) == pytest.approx(0.5)


def test_growth_counts_after_the_first_tenth() -> None:
    filling = [(-1, 10), (0, 1000), (50, 9000)]
    assert growth_per_call([*filling, (100, 5000), (500, 5800), (1000, 6800)]) == pytest.approx(2.0)
    with pytest.raises(StepFailed, match="1 times"):
        growth_per_call([*filling, (1000, 5000)])


def test_memory_is_shown() -> None:
    report = begin_sweep()
    mib = 1 << 20
    add_footprints(report, [(-1, 30 * mib), (0, 80 * mib), (100, 81 * mib), (1000, 81 * mib)], items=50_000)
    assert report.figures["memory.loaded_mib"] == 80.0
    assert report.figures["memory.after_1000_calls_mib"] == report.figures["memory.largest_mib"] == 81.0
    assert report.figures["memory.growth_bytes_per_call"] == pytest.approx(0.0, abs=1e-6)
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(report.renderable())
    assert "memory.calls_made" in captured.get()


def samples(calls: list[int], seconds: float) -> LoadSamples:
    return LoadSamples(np.ones(sum(calls)), np.array(calls), np.full(len(calls), seconds), 1.0)


def test_throughput_is_all_requests_over_all_seconds() -> None:
    fast, slow = samples([40, 60], 2.0), samples([4, 6], 2.0)
    assert fast.per_second == 25.0
    ratio = throughput_ratio(fast, slow, seed=0)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((10.0, 10.0, 10.0)), "the rounds go together"
    wide = throughput_ratio(samples([40, 160], 2.0), slow, seed=0)
    assert wide.low < wide.value < wide.high
    assert wide == throughput_ratio(samples([40, 160], 2.0), slow, seed=0), "the seed fixes the interval"


def test_subjects_of_a_concurrency() -> None:
    assert [subject.name for subject in load_subjects([1, 16])] == [
        "concurrency_1.threads_1x1",
        "concurrency_1.tasks_1x1",
        "concurrency_1.usual_1x1",
        "concurrency_16.threads_1x16",
        "concurrency_16.threads_2x8",
        "concurrency_16.tasks_1x16",
        "concurrency_16.tasks_2x8",
        "concurrency_16.usual_1x16",
        "concurrency_16.usual_2x8",
    ]
    found = {subject: samples([10 * subject.processes], 1.0) for subject in load_subjects([4])}
    assert best_of(found, 4, ("usual",))[0] == LoadSubject("usual", 4, 2)


@pytest.mark.parametrize("name", ["latency.png", "latency.svg"])
def test_plot(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    check_plot(path)
    measured = {value: Samples(np.linspace(1.0, 2.0, 20) * value) for value in (1, 5000, 2_000_000)}
    write_plot(path, {"users": measured, "catalogue": measured}, subtitle="a machine")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    with pytest.raises(InvalidInput, match=r"\.png, \.svg, \.pdf"):
        check_plot(tmp_path / "latency.jpeg")
    with pytest.raises(InvalidInput, match="does not exist"):
        check_plot(tmp_path / "no" / "latency.png")


def test_sweep_of_candidates_and_users(small_shop: Shop, tmp_path: Path) -> None:
    report, plot = tmp_path / "report.json", tmp_path / "latency.png"
    small_shop.command.run(
        "bench", "sweep", "candidates", "users", "--calls", "10", "--candidates", "20", "--candidates", "100",
        "--candidates", "9999", "--users", "1", "--users", "8", "--plot", str(plot), "--json", str(report),
    )  # fmt: skip
    figures = json.loads(report.read_text())["figures"]
    for name in ("candidates_20.usual_to_ours", "candidates_100.usual_to_ours", "users_8.one_by_one_to_ours"):
        assert figures[f"sweep.{name}.ratio_p50"] > 1, name
    assert figures["sweep.users_8.ours.calls"] == 10
    assert not any("9999" in name for name in figures), "more than the catalogue has"
    assert plot.stat().st_size > 10_000


def test_a_generated_catalogue_is_served_exactly(tmp_path: Path) -> None:
    report = begin_sweep()
    settings = Settings(home=ROOT, triton_python=Settings.from_environment().triton_python)
    plan = CataloguePlan(300, seed=1, users=4, neighbours=5, text_width=16)
    options = {"calls": 15, "freeze": False, "scratch": tmp_path}
    found = sweep_catalogue(report, settings, [300], plan, tell=lambda what, done, total: None, **options)  # type: ignore[arg-type]
    assert found[300].total.shape == (15,)
    assert report.figures["sweep.catalogue_300.recall_at_100"] == 1.0
    assert report.figures["sweep.catalogue_300.server_mib"] > 0
    assert report.figures["sweep.catalogue_300.client_mib"] > 0
    assert report.figures["sweep.catalogue_300.to_round_trips.ratio_p50"] > 1
    assert not list(tmp_path.iterdir()), "the temporary home is gone"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("sweep", "colour"), "colour"),
        (("sweep", "users", "--plot", "latency.jpeg"), "must end with"),
        (("sweep", "users", "--json", "no/such/folder/report.json"), "does not exist"),
        (("memory", "--items", "60", "--neighbours", "60"), "has fewer"),
        (("sweep", "catalogue", "--items", "2000000"), "take a smaller text width"),
        (
            ("sweep", "catalogue", "--items", "2000000", "--text-width", "64"),
            "take fewer neighbours",
        ),
    ],
)
def test_wrong_input_ends_with_code_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = CliRunner(env={"RECSYS_HOME": str(tmp_path)}).invoke(recsys, ["bench", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_home_without_configurations_is_named(tmp_path: Path) -> None:
    result = CliRunner(env={"RECSYS_HOME": str(tmp_path)}).invoke(recsys, ["bench", "memory", "--items", "200"])
    assert result.exit_code == 2
    assert "config.pbtxt does not exist" in result.stderr
