"""``recsys forecast`` in a home of its own: made with the other tables, made anew, served, and tested on the past."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from shops import CommandLine
from synthetic import write_tables

from recsys_plugin.cli._group import recsys
from recsys_plugin.pipeline.feature_tables import FORECAST_TABLES


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    tables = tmp_path_factory.mktemp("tables")
    write_tables(tables, users=40, items=40, seed=5)
    command = CommandLine.in_new_home(tmp_path_factory.mktemp("home"))
    command.run("data", "--from", str(tables))
    command.run("apply")
    return command


def run(home: CommandLine, *arguments: str, expect: int = 0) -> Any:
    done = CliRunner(env={"RECSYS_HOME": str(home.home)}).invoke(recsys, ["forecast", *arguments])
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout) if "--json" in arguments and not expect else done.output


def rows(home: CommandLine) -> dict[str, int]:
    data = home.settings.feature_repo / "data"
    return {name: pq.read_metadata(data / f"{name}.parquet").num_rows for name in FORECAST_TABLES}


def test_made_by_apply_then_anew_for_another_day(home: CommandLine) -> None:
    now = run(home, "--json")
    assert now["current"]
    assert now["rows"] == rows(home)
    assert min(now["rows"].values()) > 20
    earlier = run(home, "--as-of", "2025-04-16T12:00", "--json")
    assert not earlier["current"]
    assert earlier["as_of"] == "2025-04-16T12:00:00+00:00"
    assert rows(home) == earlier["rows"] != now["rows"]
    # Other steps do not count that as another feature repository.
    assert json.loads(home.run("apply", "--json").stdout)["features"] == 90
    assert run(home, "--json")["current"]
    assert rows(home) == now["rows"]
    assert "rows of forecasts, as of" in run(home, "--force")


def test_served_by_materialize(home: CommandLine) -> None:
    views = json.loads(home.run("materialize", "--json").stdout)
    assert {views[name] for name in FORECAST_TABLES} == {"materialised"}
    run(home, "--as-of", "2025-04-20")
    views = json.loads(home.run("materialize", "--json").stdout)
    assert {name for name, state in views.items() if state == "materialised"} == set(FORECAST_TABLES)


def test_backtest(home: CommandLine) -> None:
    before = rows(home)
    found = run(home, "--backtest", "--weeks", "4", "--json")
    assert rows(home) == before
    assert found["weeks"] == 4
    assert found["categories"]["classes"]["all"]["models"]["chosen by class"]["wape"] > 0
    folder = home.settings.state / "forecasts"
    assert {path.name for path in folder.iterdir()} == {"backtest.json", "backtest.md", "backtest.png"}
    said = run(home, "--backtest", "--weeks", "2")
    assert "demand of items" in said
    assert "back-test of 2 weeks written to" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--as-of", "2031-01-01"), "the tables know events from 2025-03-0"),
        (("--as-of", "yesterday"), "is not an ISO 8601 time"),
        (("--backtest", "--weeks", "500"), "ask for fewer with --weeks"),
    ],
)
def test_refused(home: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    assert said in run(home, *arguments, expect=2).replace("\n", " ")


def test_no_tables(tmp_path: Path) -> None:
    home = CommandLine.in_new_home(tmp_path / "home")
    assert "run `recsys data`" in run(home, expect=2)
    assert "recsys forecast --backtest" in run(home, "--help")
