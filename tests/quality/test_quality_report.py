"""The report of a quality suite, and the command that runs one."""

from __future__ import annotations

import io
import json
import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from recsys_plugin.cli._group import recsys
from recsys_plugin.cli.quality import load_suite, suite_options
from recsys_plugin.errors import InvalidInput, StepFailed
from recsys_plugin.quality import SUITES
from recsys_plugin.quality.report import Figure, QualityReport, Target


def _report() -> QualityReport:
    return QualityReport(
        "beauty",
        "leave-one-out",
        figures=[
            Figure("SASRec", "HR@10", (0.0605,), source="Zhou et al. 2020"),
            Figure("SASRec", "HR@10", (0.07, 0.08, 0.09)),
            Figure("SASRec", "NDCG@10", (0.04, 0.04, 0.04), note="with [brackets]"),
            Figure("PopRec", "AUC", (math.nan,)),
        ],
        targets=[Target("above S3-Rec", "HR@10", 0.0647, 0.08), Target("small", "share", 0.02, 0.03, "at most")],
        notes=["One note."],
        seconds={"training": 12.5},
        machine={"cores": 2},
    )


def _text(report: QualityReport) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(report.renderable())
    return console.export_text()


def test_mean_and_sample_deviation_over_seeds() -> None:
    figure = Figure("a", "m", (1.0, 2.0, 3.0))
    assert (figure.mean, figure.deviation, figure.text) == (2.0, 1.0, "2.0000 ± 1.0000")
    assert Figure("a", "m", (0.5,)).deviation is None
    assert Figure("a", "m", (0.5,)).text == "0.5000"
    assert Figure("a", "rows per second", (123456.0, 123458.0)).text == "123,457 ± 1"


def test_an_undefined_value_is_said_to_be_undefined() -> None:
    figure = Figure("a", "AUC", (0.5, math.nan))
    assert figure.text == "undefined"
    assert math.isnan(figure.mean)
    assert figure.deviation is not None
    assert math.isnan(figure.deviation)


def test_a_figure_without_values_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'AUC' of 'ours' has no value"):
        Figure("ours", "AUC", ())


@pytest.mark.parametrize(
    ("sense", "reached", "met"),
    [
        ("at least", 0.5, True),
        ("at least", 0.49, False),
        ("at least", math.nan, False),
        ("at most", 0.5, True),
        ("at most", 0.51, False),
        ("at most", math.nan, False),
    ],
)
def test_targets(sense: Any, reached: float, met: bool) -> None:
    assert Target("t", "m", 0.5, reached, sense).met is met


def test_json_holds_every_value_and_no_nan() -> None:
    document = json.loads(_report().to_json())
    assert document["figures"][1]["values"] == [0.07, 0.08, 0.09]
    assert document["figures"][1]["mean"] == pytest.approx(0.08)
    assert document["figures"][1]["standard_deviation"] == pytest.approx(0.01)
    assert document["figures"][3]["values"] == [None]
    assert [target["met"] for target in document["targets"]] == [True, False]


def test_tables_put_published_figures_beside_ours() -> None:
    text = _text(_report())
    for part in (
        "0.0800 ± 0.0100",
        "0.0605",
        "published [1]",
        "[1] Zhou et al. 2020",
        "this run, 3 values",
        "not met",
        "• One note.",
    ):
        assert part in text
    assert "• SASRec: with [brackets]" in text
    assert "undefined" in text


def test_a_figure_of_this_run_is_found_by_name() -> None:
    assert _report().figure("SASRec", "HR@10").values == (0.07, 0.08, 0.09)
    with pytest.raises(InvalidInput, match=r"no 'HR@10' of 'S3-Rec'"):
        _report().figure("S3-Rec", "HR@10")


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A suite in the place of ``beauty`` that notes how it was called."""
    calls: list[dict[str, Any]] = []

    def run(
        data: Path | None, *, seeds: Sequence[int], tell: Any, epochs: int | None = None, half: bool = False
    ) -> QualityReport:
        calls.append({"data": data, "seeds": tuple(seeds), "epochs": epochs, "half": half})
        tell("training", 1, 1)
        return _report()

    module = types.ModuleType("suite_of_the_test")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(SUITES, "beauty", module.__name__)
    return calls


def _invoke(*words: str, data: Path | None = None) -> Any:
    environment = {"RECSYS_DATA": str(data) if data is not None else "", "COLUMNS": "200"}
    return CliRunner().invoke(recsys, ["bench", "quality", "--suite", "beauty", *words], env=environment)


def test_seeds_data_and_own_options_reach_the_suite(suite: list[dict[str, Any]], tmp_path: Path) -> None:
    assert _invoke(data=tmp_path).exit_code == 0
    assert _invoke("--seeds", "2", "--epochs", "4", "--half=yes").exit_code == 0
    assert _invoke("--seed", "7", "--seed", "9", "--data", str(tmp_path)).exit_code == 0
    assert suite == [
        {"data": tmp_path.resolve(), "seeds": (0, 1, 2), "epochs": None, "half": False},
        {"data": None, "seeds": (0, 1), "epochs": 4, "half": True},
        {"data": tmp_path.resolve(), "seeds": (7, 9), "epochs": None, "half": False},
    ]


def test_a_missed_target_ends_with_3_only_when_checked(suite: list[dict[str, Any]]) -> None:
    assert _invoke().exit_code == 0
    checked = _invoke("--check")
    assert checked.exit_code == 3
    assert "missed 1 of 2 targets: small: reached 0.0300" in checked.stderr


def test_json_goes_where_it_is_wanted(suite: list[dict[str, Any]], tmp_path: Path) -> None:
    printed = _invoke("--json", "-")
    assert json.loads(printed.stdout)["suite"] == "beauty"
    assert _invoke("--json", str(tmp_path / "report.json")).exit_code == 0
    assert json.loads((tmp_path / "report.json").read_text())["suite"] == "beauty"
    refused = _invoke("--json", str(tmp_path / "nowhere" / "report.json"))
    assert refused.exit_code == 2
    assert "does not exist" in refused.stderr
    assert len(suite) == 2, "a report that cannot be written is refused before the run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "3"], "no option '--epoch'; its own options: --epochs, --half"),
        (["3"], "no option '3'"),
        (["--epochs"], "'--epochs' of suite beauty needs a value"),
        (["--epochs", "many"], "'--epochs' wants int, not 'many'"),
        (["--half", "perhaps"], "'--half' wants bool, not 'perhaps'"),
    ],
)
def test_wrong_own_options_are_named(suite: list[dict[str, Any]], words: list[str], message: str) -> None:
    result = _invoke(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not suite


def test_a_suite_without_options_of_its_own_says_so() -> None:
    def run(data: Path | None, *, seeds: Sequence[int], tell: Any) -> QualityReport:
        raise AssertionError

    assert suite_options(run, [], suite="search") == {}
    with pytest.raises(InvalidInput, match="its own options: none"):
        suite_options(run, ["--folds", "5"], suite="search")


def test_a_suite_that_lacks_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUITES, "beauty", "package_that_is_not_installed")
    with pytest.raises(StepFailed, match="needs package_that_is_not_installed: pip install"):
        load_suite("beauty")
