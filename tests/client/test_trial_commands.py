"""``recsys trial`` on real servers: begun, shared out, reported, ended; with outcomes of a known rate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner, Result
from tiny_shop import ITEM_IDS, NOW, TinyShop

from recsys_plugin import Recommender
from recsys_plugin.cli._group import recsys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.requests import promotion_key
from recsys_plugin.trials.assignment import arm_of
from recsys_plugin.trials.operations import Trials
from recsys_plugin.trials.trial import CANDIDATE, Trial

Run = Callable[..., Result]
USERS = [f"user-{number}" for number in range(600)]


@pytest.fixture(scope="module")
def shop(module_shop: TinyShop) -> TinyShop:
    module_shop.publish(2, ITEM_IDS)
    module_shop.publish(3, ITEM_IDS, spoilt=float("nan"))
    return module_shop


@pytest.fixture
def run(shop: TinyShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    monkeypatch.setenv("RECSYS_REDIS_URL", shop.operations_url)
    monkeypatch.setenv("RECSYS_TRITON_URL", shop.triton_url)
    monkeypatch.setenv("COLUMNS", "200")
    with RedisAddress.parse(shop.admin_url).connect(5) as redis:
        redis.set(promotion_key("recsys"), 1)

    def invoke(*arguments: str, expect: int = 0) -> Result:
        done = CliRunner().invoke(recsys, ["trial", *arguments])
        assert done.exit_code == expect, done.output + repr(done.exception)
        return done

    yield invoke
    invoke("stop", "--force")


def write_outcomes(folder: Path, trial: Trial, rates: dict[str, float]) -> None:
    """Pages of every user, two items each, right after the share was raised; the table of `recsys events join`."""
    generator = np.random.default_rng(7)
    rows = []
    for number in range(8000):
        user = USERS[generator.integers(len(USERS))]
        arm = arm_of(trial, user)
        clicked = bool(generator.random() < rates[arm])
        moment = datetime.fromtimestamp(trial.phases[-1].since + number / 200_000, UTC)
        version = trial.candidate if arm == CANDIDATE else trial.control
        for position in (1, 2):
            rows.append((f"r{number}", user, "recommend", version, moment, clicked and position == 2, False, False))
    columns = ["request_id", "user_id", "model", "model_version", "served_at", "clicked", "carted", "purchased"]
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(columns)})
    (folder / "day=2026-01-01").mkdir(parents=True)
    parquet.write_table(table, folder / "day=2026-01-01" / "outcomes.parquet")


def test_from_start_to_promotion(run: Run, shop: TinyShop, tmp_path: Path) -> None:
    assert "Triton does not serve version 9" in run("start", "--candidate", "9", expect=2).output
    assert "no trial was started yet" in run("report", expect=2).output
    run("start", "--candidate", "2", "--share", "0.2", "--salt", "s")
    assert "is running" in run("start", "--candidate", "2", expect=2).output
    with Trials(shop.operations_url) as trials:
        assert (first := trials.read()) is not None
        assert (first.control, first.candidate, first.share, first.salt) == (1, 2, 0.2, "s")
        assert "50.0% of the users" in run("share", "0.5").output
        with Recommender(shop.redis_url, shop.triton_url, timeout=20, clock=lambda: NOW, refresh_every=None) as client:
            client.recommend_many(USERS, 3)
            client.recommend(USERS[0], 3)
        trial = trials.find(None)
        assert trial.phase == 1
    write_outcomes(tmp_path / ".recsys" / "outcomes" / "window=86400s", trial, {"control": 0.2, "candidate": 0.4})
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    said = run("report", "--json", str(report), "--plot", str(plot)).output
    assert "CTR" in said
    assert "better" in said
    assert plot.stat().st_size > 10_000
    found: dict[str, Any] = json.loads(report.read_text())
    assert found["arms"]["control"]["requests"] + found["arms"]["candidate"]["requests"] == 601
    ctr = next(one for one in found["differences"] if one["outcome"] == "clicked")
    assert ctr["certain"]
    assert ctr["lower"] < ctr["estimate"] < ctr["upper"]
    assert ctr["estimate"] == pytest.approx(0.2, abs=0.05)
    assert ctr["p_value"] < 0.001
    # Nothing was bought: nothing is claimed.
    bought = next(one for one in found["differences"] if one["outcome"] == "purchased")
    assert bought["estimate"] is None
    assert not bought["certain"]
    run("promote")
    with RedisAddress.parse(shop.admin_url).connect(5) as redis:
        assert redis.get(promotion_key("recsys")) == b"2"
    assert "promoted: by hand" in run("status", "--history").output
    assert "no trial is running" in run("stop", expect=2).output
    run("watch")


def test_watch_says_that_it_was_taken_back(run: Run, shop: TinyShop) -> None:
    run("start", "--candidate", "3", "--share", "0.5")
    with Recommender(shop.redis_url, shop.triton_url, timeout=20, clock=lambda: NOW, refresh_every=None) as client:
        for user in USERS[:120]:
            assert client.recommend(user, 3).served_by.version == 1
    # The client is gone: its last counts are there, and the command alone does the rest.
    said = run("watch", "--json", expect=3)
    assert "error rate: " in said.output
    assert json.loads(run("status", "--json").stdout)["trial"]["status"] == "rolled back"


def test_shadow_report(run: Run, shop: TinyShop) -> None:
    run("start", "--candidate", "2", "--share", "1", "--shadow", "--ignore", "drift", "--ignore", "latency")
    with Recommender(shop.redis_url, shop.triton_url, timeout=20, clock=lambda: NOW, refresh_every=None) as client:
        for user in USERS[:30]:
            client.recommend(user, 3)
    said = run("report").output
    assert "rank correlation" in said
    assert "latency_ratio" not in said


def test_a_broken_document_can_be_removed(run: Run, shop: TinyShop) -> None:
    with RedisAddress.parse(shop.admin_url).connect(5) as redis:
        redis.set("recsys:{recsys}:trial", "nonsense")
    assert "recsys trial stop --force" in run("status", expect=2).output
    # A client goes on without it.
    with Recommender(shop.redis_url, shop.triton_url, timeout=20, clock=lambda: NOW, refresh_every=None) as client:
        assert client.recommend(USERS[0], 3).served_by.arm is None
    run("stop", "--force")
    assert "no trial was started yet" in run("status").output
