"""``recsys ads`` and ``recsys bench ads`` against real servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ad_server import AdServer
from click.testing import CliRunner, Result

from recsys_plugin.cli._group import recsys

Run = Callable[..., Result]

DOCUMENT: dict[str, Any] = {
    "format": 1,
    "settings": {"reserve_micros": 1_000, "pace": False},
    "campaigns": [
        {
            "campaign_id": "tea-week",
            "items": ["tea", "pot"],
            "bid_micros": 250_000,
            "budget_per_day_micros": 20_000_000,
            "budget_micros": 100_000_000,
            "targeting": {"context": {"page": ["home"]}, "user": [{"feature": "a:b", "at_least": 1}]},
            "most_per_user_per_day": 5,
        },
        {"campaign_id": "cups", "items": ["cup"], "bid_micros": 1_000, "budget_per_day_micros": 1_000},
    ],
}


@pytest.fixture
def run(event_redis: Any, tmp_path: Path) -> Run:
    def invoke(*arguments: str, expect: int = 0) -> Result:
        environ = {"RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": event_redis.url, "COLUMNS": "200"}
        environ["RECSYS_AS_OF"] = "2023-11-14T12:00:00Z"  # NOON
        done = CliRunner(env=environ).invoke(recsys, [*arguments])
        assert done.exit_code == expect, done.output + repr(done.exception)
        return done

    return invoke


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "campaigns.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


def test_check_names_what_is_wrong(run: Run, tmp_path: Path, document: Path) -> None:
    assert "2 campaigns for 3 items, 0 paused" in run("ads", "check", str(document)).output
    wrong = {**DOCUMENT, "campaigns": [{**each, "bid_micros": -1} for each in DOCUMENT["campaigns"]]}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    for command in ("check", "load"):
        said = run("ads", command, str(tmp_path / "wrong.json"), expect=2).output
        assert "wrong.json: campaigns[0] 'tea-week': bid_micros: -1 is not" in said
        assert "wrong.json: campaigns[1] 'cups': bid_micros: -1 is not" in said
    assert "0 campaigns" in run("ads", "list").output
    run("ads", "check", str(tmp_path / "none.json"), expect=2)
    assert json.loads(run("ads", "schema").stdout)["required"] == ["format", "campaigns"]


def test_load_list_pause_resume_status(run: Run, document: Path, event_redis: Any) -> None:
    assert "loaded 2 campaigns" in run("ads", "load", str(document)).output
    listed = run("ads", "list").output
    assert all(text in listed for text in ("tea-week", "tea, pot", "20.00", "100.00", "page: home, a:b"))
    assert json.loads(run("ads", "list", "--json").stdout)["campaigns"] == DOCUMENT["campaigns"]
    server = AdServer(event_redis.url)
    (ad,) = server.ads("r1")
    server.click(ad.impression_id)
    status = run("ads", "status").output
    assert "spent today" in status
    assert "1 of 2 campaigns running, 0.00 spent today" in status
    found = {each["campaign_id"]: each for each in json.loads(run("ads", "status", "--json").stdout)["campaigns"]}
    assert (found["cups"]["spent_today"], found["cups"]["clicks_today"], found["cups"]["state"]) == (
        1000,
        1,
        "spent today",
    )
    assert found["tea-week"]["click_rate_today"] is None
    run("ads", "pause", "tea-week")
    assert server.shown("r2", context={"page": "home"}) == []
    assert "paused" in run("ads", "list").output
    run("ads", "resume", "tea-week")
    assert server.shown("r3", context={"page": "home"}) == ["tea-week"]
    assert "there is no campaign 'x'" in run("ads", "pause", "x", expect=2).output
    server.close()


def test_without_a_running_server(document: Path, tmp_path: Path) -> None:
    """The embedded Redis is started for each command, and keeps what was loaded."""
    for command in (["load", str(document)], ["status", "--json"]):
        done = CliRunner(env={"RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": None}).invoke(recsys, ["ads", *command])
        assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["campaigns"]) == 2


def test_a_day_by_several_processes(run: Run, tmp_path: Path) -> None:
    """Small, but with everything: no budget is exceeded, and what Redis counted is what the servers were told."""
    report, plot = tmp_path / "ads.json", tmp_path / "ads.png"
    options = ["--auctions", "400", "--clients", "2", "--campaigns", "12", "--json", str(report), "--plot", str(plot)]
    run("bench", "ads", *options)
    figures = json.loads(report.read_text())["figures"]
    for way in ("paced", "greedy"):
        assert figures[f"{way}.auction.calls"] == 400
        assert figures[f"{way}.most_over_budget_in_bids"] == 0
        assert figures[f"{way}.counted_differently"] == 0
        assert figures[f"{way}.clicks"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    run("bench", "ads", "--plot", str(tmp_path / "ads.txt"), expect=2)
