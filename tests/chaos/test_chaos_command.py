"""``recsys chaos`` and ``recsys bench soak`` in short, on a trained shop: the form of what they find, who is spared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from shops import Shop

from recsys_plugin.chaos.target import copied_home
from recsys_plugin.cli._group import recsys
from recsys_plugin.runtime.services import Services


def test_servers_of_a_copied_home_are_broken_and_the_shops_own_are_not(small_shop: Shop, tmp_path: Path) -> None:
    before = [status.pid for status in Services(small_shop.command.settings).status()]
    report, plot, scratch = tmp_path / "chaos.json", tmp_path / "chaos.png", tmp_path / "scratch"
    scratch.mkdir()
    done = small_shop.command.run(
        *("chaos", "--fault", "latency", "--seconds", "7.5", "--clients", "4", "--rate", "40", "--timeout", "0.2"),
        *("--json", str(report), "--plot", str(plot), "--scratch", str(scratch)),
    )
    figures = json.loads(report.read_text())["figures"]
    assert figures["latency.answered_share"] == 1.0
    assert figures["latency.call.calls"] > 200
    for fault in ("fault_1", "fault_2", "fault_3"):
        assert figures[f"latency.{fault}.full_after_seconds"] <= 2.0
    assert figures["latency.fault_2.full_share"] < 0.5
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "figures; report in" in done.stderr
    assert [status.pid for status in Services(small_shop.command.settings).status()] == before
    assert list(scratch.iterdir()) == []


def test_a_home_without_models_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(recsys, ["chaos", "--seconds", "1"], env={"RECSYS_HOME": str(tmp_path)})
    assert done.exit_code == 2
    assert CliRunner().invoke(recsys, ["chaos", "--fault", "flood"]).exit_code == 2


def test_too_short_a_control_is_refused_before_the_soak(tmp_path: Path) -> None:
    done = CliRunner().invoke(recsys, ["bench", "soak", "--control", "0.1"], env={"RECSYS_HOME": str(tmp_path)})
    assert done.exit_code == 2
    assert "6 s are too few, 24 at least" in " ".join(done.output.split())


def test_a_copied_home_shares_no_file_that_is_written_in_place(small_shop: Shop, tmp_path: Path) -> None:
    with copied_home(small_shop.command.settings, scratch=tmp_path) as copy:
        ours = [path for path in (copy.state / "redis").rglob("*") if path.is_file()]
        assert ours
        assert all(path.stat().st_nlink == 1 for path in ours)
        assert any(copy.model_repository.rglob("model.onnx"))
        assert copy.redis_url is None
    assert list(tmp_path.iterdir()) == []


def test_soak(small_shop: Shop, tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    small_shop.command.run(
        *("bench", "soak", "--minutes", "2", "--clients", "4", "--rate", "60", "--tolerance", "9"),
        *("--control", "0.4"),
        *("--json", str(report)),
    )
    figures = json.loads(report.read_text())["figures"]
    assert (figures["rate"], figures["errors"], figures["answered_share"]) == (60.0, 0, 1.0)
    assert figures["all.calls"] > 7000
    for side in ("soaked", "fresh"):
        assert figures[f"control.{side}.calls"] == pytest.approx(60 * 2 * 4, rel=0.1), "four turns of 2 s count"
    assert figures["control.p99_soaked_to_fresh_low"] <= figures["control.p99_soaked_to_fresh_high"]
    assert figures["control.errors"] == 0
    # p99 on a machine that others use, too, says nothing; memory does.
    for name in ("client", "redis", "triton"):
        assert 0.5 < figures[f"memory.{name}.last_to_first"] < 1.05
