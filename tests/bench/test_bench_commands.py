"""``recsys bench`` on a trained and served shop, with few calls: the form of what it finds, never how fast it is."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from shops import Shop

from recsys_plugin.bench.serving import measure_serving
from recsys_plugin.bench.usual_way import UsualAnswer, UsualWay
from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import CheckFailed

FEW = ("--users", "4", "--calls", "20")
TIMED = {
    *(f"{kind}.{way}" for kind in ("recommend", "rank", "search", "similar") for way in ("ours", "floor")),
    "recommend.ours_async",
    "rank.usual",
}
STAGES = {
    "recommend.ours": {"features", "inference", "policy"},
    "recommend.ours_async": {"features", "inference", "policy"},
    "similar.ours": {"inference", "policy"},
    "recommend.floor": {"redis", "triton", "compute"},
    "similar.floor": {"triton", "compute"},
    "rank.usual": {"user_features", "item_features", "pack", "infer"},
    **{
        f"{kind}.stages": {"features", "encode", "server", "queue", "compute", "decode", "policy"}
        for kind in ("recommend", "rank", "search")
    },
}
LOADED = {f"load.concurrency_2.{way}_{split}" for way in ("threads", "tasks", "usual") for split in ("1x2", "2x1")}


def check_figures(figures: dict[str, float], timed: set[str], ratios: set[str]) -> None:
    assert all(math.isfinite(value) for value in figures.values())
    for name in timed:
        percentiles = [figures[f"{name}.p{percentile}_ms"] for percentile in (50, 95, 99)]
        assert 0 < percentiles[0] <= percentiles[1] <= percentiles[2], name
        assert figures[f"{name}.calls"] >= 1
    for name in ratios:
        low, value, high = (figures[f"{name}.ratio_p50{end}"] for end in ("_low", "", "_high"))
        assert 0 < low <= high, name
        assert value > 0


def test_serving(shop: Shop, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    load = ("--concurrency", "2", "--rounds", "1", "--seconds", "0.5")
    done = shop.command.run("bench", "serving", *FEW, *load, "--candidates", "50", "--json", str(target))
    report = json.loads(target.read_text())
    figures = report["figures"]
    check_figures(
        figures,
        TIMED | LOADED | {f"{name}.{stage}" for name, stages in STAGES.items() for stage in stages},
        {
            *(f"{kind}.ours_to_floor" for kind in ("recommend", "rank", "search", "similar")),
            "recommend.usual_to_ours",
            "rank.usual_to_ours",
        },
    )
    assert {figures[f"{name}.calls"] for name in TIMED - {"rank.usual"}} == {20}
    for name in LOADED:
        assert figures[f"{name}.requests_per_second"] > 0, name
        assert figures[f"{name}.client_cpu_ms"] > 0, name
    low, value, high = (figures[f"load.concurrency_2.ours_to_usual.ratio_rps{end}"] for end in ("_low", "", "_high"))
    assert low <= value <= high
    for kind in ("recommend", "rank", "search"):
        stages = {
            part: figures[f"{kind}.stages.{part}.p50_ms"]
            for part in ("encode", "network", "server", "compute_output", "decode")
        }
        # Triton's own account of a request cannot be longer than the client waited for it, but for the end: Triton
        # looks at its clock after the answer left, which on busy cores is when the client has it already.
        whole = stages["encode"] + stages["network"] + stages["server"] + stages["decode"]
        assert stages["server"] - stages["compute_output"] < whole
        assert stages["network"] > -stages["compute_output"]
    assert figures["rank.usual.calls"] == 2
    assert {"feast", "onnxruntime", "redis-server", "tritonserver"} <= set(report["versions"])
    assert {"load_average_before", "load_average_after"} <= set(report["machine"])
    assert any("item_embedding" in note and "no identity model" in note for note in report["notes"])
    assert "recommend.usual_to_ours" in done.stdout
    assert "measuring in turn" in done.stderr


def test_search(shop: Shop) -> None:
    done = shop.command.run("bench", "search", *FEW, "--candidates", "50", "--json", "-")
    report = json.loads(done.stdout)
    figures = report["figures"]
    timed = {"client.plan", "client.read", "search.kept", "search.plain", "search.understood"}
    check_figures(figures, timed, {"search.understood_to_plain", "search.kept_to_plain"})
    assert {figures[f"{name}.calls"] for name in timed} == {20}
    assert any("text encoder every time" in note for note in report["notes"])


def test_store(shop: Shop) -> None:
    done = shop.command.run("bench", "store", *FEW, "--items", "30", "--seed", "3", "--freeze-gc", "--json", "-")
    report = json.loads(done.stdout)
    timed = {"user.ours", "user.ours.read", "user.ours.decode", "user.ours_decode_only", "user.usual"}
    check_figures(
        report["figures"],
        timed | {"user_and_items.usual", "user_and_items.usual.item_features", "user_and_items.direct"},
        {"user.usual_to_ours", "user_and_items.usual_to_ours", "user_and_items.usual_to_direct"},
    )
    assert any("count as served" in note for note in report["notes"])
    assert "kept from objects" in report["notes"][-1]
    assert "user.ours_decode_only" in done.stderr, "the table goes where the JSON does not"


def test_different_answers_are_not_timed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = UsualWay.rank
    for name in ("RECSYS_FEAST_REDIS", "RECSYS_FEAST_REDIS_TYPE"):
        monkeypatch.setenv(name, "set by the benchmark, and put back after the test")

    def wrong(self: UsualWay, user_id: str, item_ids: list[str]) -> UsualAnswer:
        answer = rank(self, user_id, item_ids)
        return UsualAnswer(answer.scores + 0.001, answer.order, answer.stages)

    monkeypatch.setattr(UsualWay, "rank", wrong)
    told: list[str] = []
    with pytest.raises(CheckFailed, match=r"rank and the usual way: item '.*nothing was measured"):
        measure_serving(
            shop.settings,
            now=shop.as_of.timestamp(),
            users=1,
            calls=1,
            candidates=20,
            seed=0,
            freeze=False,
            load=None,
            tell=lambda what, done, total: told.append(what),
        )
    assert "measuring in turn" not in told


@pytest.mark.parametrize("command", ["serving", "store"])
def test_servers_away_end_with_code_1(command: str, tmp_path: Path) -> None:
    (tmp_path / ".recsys" / "tables").mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["a", "b"]}), tmp_path / ".recsys" / "tables" / "users.parquet")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers here, and nobody else can
        port = taken.getsockname()[1]
        environ = {
            "RECSYS_HOME": str(tmp_path),
            "RECSYS_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "RECSYS_TRITON_URL": f"grpc://127.0.0.1:{port}",
        }
        result = CliRunner(env=environ).invoke(recsys, ["bench", command])
    assert result.exit_code == 1
    assert "Unavailable" in result.stderr
    assert "recsys up" in result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--calls", "0"), "--calls"),
        (("--users", "0"), "--users"),
        (("--seed", "-1"), "--seed"),
        (("--json", "no/such/folder/report.json"), "does not exist"),
        ((), "recsys data"),
    ],
)
def test_wrong_input_ends_with_code_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for command in ("serving", "store"):
        environ = {"RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": None, "RECSYS_TRITON_URL": None}
        result = CliRunner(env=environ).invoke(recsys, ["bench", command, *arguments])
        assert result.exit_code == 2, result.output
        assert message in result.stderr


def test_help_has_examples() -> None:
    for command in ("serving", "store", "sweep", "memory"):
        result = CliRunner().invoke(recsys, ["bench", command, "--help"])
        assert result.exit_code == 0
        assert f"  recsys bench {command}" in result.stdout
