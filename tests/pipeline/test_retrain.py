"""Retraining on a shop that lives on: what is new is learned, what is better serves, and what is worse is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from live_archive import archive_events, archive_pages, visits
from shops import RECSYS, CommandLine, Shop
from synthetic import NEVER_BOUGHT, NEVER_SEEN
from trained_copy import copy_of
from waiting import wait_until

from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.pipeline import steps
from recsys_plugin.pipeline.retrain import Refused, RetrainOptions, retrain
from recsys_plugin.runtime.services import Services
from recsys_plugin.trials.operations import Trials

#: The shop's events end before this; its live ones lie in the 20 days that follow.
START, NOW = datetime(2025, 5, 3, tzinfo=UTC), datetime(2025, 5, 24, tzinfo=UTC)
NEWCOMER = "user-who-is-new"


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def lively(small_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A copy with servers: an item that never sold sells a lot to everybody, the newcomer included."""
    command = copy_of(small_shop, tmp_path_factory.mktemp("lively") / "home")
    users = [user for user in small_shop.some_users if user != NEVER_SEEN]
    live = visits(users, [NEVER_BOUGHT, "item-005", "item-010"], start=START, days=20, each=4, seed=3)
    live += visits([NEWCOMER], [NEVER_BOUGHT], start=START, days=20, each=3, seed=4)
    archive_events(command.settings.state, "a", live)
    archive_pages(command.settings.state, "a", live, ["item-020", "item-021"])
    try:
        command.run("apply")
        command.run("up")
        yield command
    finally:
        command.run("down")


def test_what_is_new_is_learned_and_promoted(lively: CommandLine) -> None:
    serving = steps.serving_version(lively.settings)
    assert serving is not None
    said = lively.run("retrain", "--policy", "better", "--json")
    found: dict[str, Any] = json.loads(said.stdout)
    assert found["merged"]["new_users"] == 1
    # It learned from the pages of the days before the validation, and from no others.
    validation = load_dataset(lively.settings).validation_start
    shown = pq.read_table(lively.settings.state / "impressions", columns=["served_at"])["served_at"].to_pylist()
    learned = sum(moment < validation for moment in shown)
    assert 0 < learned < len(shown)
    assert found["shown_pages"] == learned
    told = json.loads((lively.settings.state / "steps" / "train.shown_pages.json").read_text())["info"]
    assert told["pages"] == learned
    assert told["click"] > 0.9 * learned
    version = found["version"]
    assert (found["serving"], found["promoted"], found["verdict"]) == (serving, True, "better")
    assert version > serving
    assert found["started_from"] == {"two-tower": serving, "split_mlp": serving}
    assert found["cold"] == {}
    served = found["comparison"]["as served"]["ndcg@20"]
    assert 0 < served["low"] <= served["difference"] <= served["high"]
    assert f"version {version} serves: better than version {serving}" in said.stderr
    # It serves, and shows what began to sell to somebody whom the old version had never met.
    listed = json.loads(lively.run("models", "list", "--json").stdout)["versions"]
    assert [one["version"] for one in listed if one["serves"]] == [found["version"]]
    assert NEVER_BOUGHT in page_of(lively, NEWCOMER)[:5]
    # Nothing new: nothing is done.
    again = lively.run("retrain", "--policy", "better", "--json")
    assert json.loads(again.stdout)["version"] == version
    report = json.loads((lively.settings.state / "retraining" / "report.json").read_text())
    assert (report["version"], report["promoted"]) == (version, True)


def test_no_version_is_exported_while_a_trial_runs(lively: CommandLine) -> None:
    serving = steps.serving_version(lively.settings)
    assert serving is not None
    with Trials(Services(lively.settings).redis_url) as trials:
        trials.start(control=serving, candidate=serving - 1, share=0.1, salt="x")
        try:
            for command in (("retrain", "--force"), ("export", "--force"), ("refresh", "--catalogue")):
                said = lively.run(*command, expect=2).stderr
                assert f"a trial of version {serving - 1} against version {serving} is running" in said
        finally:
            trials.end("stopped", "enough")
    assert steps.serving_version(lively.settings) == serving


def test_the_present_catalogue_is_exported_without_training(lively: CommandLine) -> None:
    serving = steps.serving_version(lively.settings)
    made = json.loads(lively.run("refresh", "--catalogue", "--json").stdout)
    assert made["version"] == (serving or 0) + 1
    assert steps.serving_version(lively.settings) == serving
    before = page_of(lively, NEWCOMER)
    lively.run("models", "load")
    lively.run("models", "promote")
    assert steps.serving_version(lively.settings) == made["version"]
    # The same weights over the same catalogue: the same page.
    assert page_of(lively, NEWCOMER) == before


def test_a_killed_retraining_goes_on_where_it_stopped(lively: CommandLine) -> None:
    settings = lively.settings
    serving = steps.serving_version(settings)
    archive_events(settings.state, "b", visits([NEWCOMER], ["item-007"], start=START, days=20, each=2, seed=5))
    records, parts = settings.state / "retraining" / "steps", settings.state / "retraining" / "training"
    frames = records / "train.frames.json"
    before = frames.stat().st_mtime_ns
    arguments = ("retrain", "--policy", "always")
    process = subprocess.Popen(
        [str(RECSYS), *arguments],
        env=lively.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # The frames are new, the models are not.
        wait_until(lambda: frames.exists() and frames.stat().st_mtime_ns != before, process=process, seconds=600)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert steps.serving_version(settings) == serving
    kept = (parts / "frames" / "train.npz").stat()
    found = json.loads(lively.run(*arguments, "--json").stdout)
    went_on = (parts / "frames" / "train.npz").stat()
    assert (went_on.st_ino, went_on.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    # Whatever came of the comparison, it was to serve.
    assert found["promoted"]
    assert found["version"] == steps.serving_version(settings) == (serving or 0) + 1
    assert len(page_of(lively, NEWCOMER)) == 20


def page_of(command: CommandLine, user: str) -> list[str]:
    """What a user is shown, best first."""
    page = json.loads(command.run("recommend", user, "--json").stdout)
    return [item["item_id"] for item in page["items"]]


def test_worse_models_are_refused_and_change_nothing(small_shop: Shop, tmp_path: Path) -> None:
    command = copy_of(small_shop, tmp_path / "home")
    settings = command.settings
    serving = steps.serving_version(settings)
    # A training that learns nothing: its rate is a billionth of what it should be, and it stops after a step.
    record = settings.state / "steps" / "train.json"
    trained = json.loads(record.read_text(encoding="utf-8"))
    trained["info"]["options"]["two_tower"] |= {"steps": 1, "learning_rate": 1e-12}
    trained["info"]["options"]["ranker"] |= {"epochs": 1, "learning_rate": 1e-12}
    record.write_text(json.dumps(trained), encoding="utf-8")
    before = {
        path: path.stat().st_mtime_ns for name in ("training", "export") for path in (settings.state / name).rglob("*")
    }
    with pytest.raises(Refused, match=f"the new models are worse than version {serving}: NDCG@20") as caught:
        retrain(settings, RetrainOptions(policy="better", cold=True), no_progress, now=NOW)
    assert caught.value.exit_code == 3
    found = caught.value.found
    assert (found.verdict, found.version, found.promoted) == ("worse", None, False)
    assert found.cold == {"two-tower": "asked for", "split_mlp": "asked for"}
    assert found.comparison["as served"]["ndcg@20"]["difference"] < -0.01
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert steps.serving_version(settings) == serving
    assert json.loads((settings.state / "retraining" / "report.json").read_text())["verdict"] == "worse"
    # Asked again, nothing being new, it is refused again, and at once.
    with pytest.raises(Refused, match="the new models are worse") as again:
        retrain(settings, RetrainOptions(policy="better", cold=True), no_progress, now=NOW)
    assert again.value.found.current


def test_options_and_homes_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no policy 'perhaps'; there are never, better, always"):
        RetrainOptions(policy="perhaps")
    with pytest.raises(InvalidInput, match="the margin is 2"):
        RetrainOptions(margin=2.0)
    with pytest.raises(ConfigurationError, match="no tables in"):
        retrain(CommandLine.in_new_home(tmp_path / "home").settings, RetrainOptions(), no_progress, now=NOW)
