"""The steps of the command line in an own home: refused out of order, resumed after a kill, repeated when stale."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from shops import CommandLine
from synthetic import write_tables
from waiting import wait_until

from recsys_plugin.cli.pipeline import training_options
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.codec import decode_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadPlan
from recsys_plugin.pipeline import online, steps
from recsys_plugin.pipeline.feast_repository import contract_of, open_store
from recsys_plugin.pipeline.feature_tables import FEATURE_TABLES
from recsys_plugin.runtime.services import Services

QUICK = ("--two-tower-steps", "5", "--ranker-epochs", "1")
#: The same for a step that is called in this process.
OPTIONS = training_options(two_tower_steps=5, ranker_epochs=1)


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder, users=40, items=60, seed=3)
    return folder


@pytest.fixture(scope="module")
def applied(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Data and features, and nothing trained."""
    command = CommandLine.in_new_home(tmp_path_factory.mktemp("applied"))
    command.run("data", "--from", str(tables))
    command.run("apply")
    return command


@pytest.mark.parametrize("step", ["apply", "train", "materialize", "export"])
def test_without_tables(step: str, tmp_path: Path) -> None:
    command = CommandLine.in_new_home(tmp_path / "home")
    assert "no tables in" in (said := command.run(step, expect=2).stderr)
    assert "run `recsys data`" in said


@pytest.mark.parametrize("step", ["apply", "train", "materialize", "export"])
def test_without_a_feature_repository(step: str, tmp_path: Path, tables: Path) -> None:
    command = CommandLine.in_new_home(tmp_path / "home")
    shutil.rmtree(command.settings.feature_repo)
    command.run("data", "--from", str(tables))
    said = command.run(step, expect=2).stderr
    assert "is no Feast repository; run in the checkout, or set RECSYS_HOME to it" in said
    assert not command.settings.feature_repo.exists()


@pytest.mark.parametrize("step", ["train", "materialize", "export"])
def test_before_apply(step: str, tmp_path: Path, tables: Path) -> None:
    command = CommandLine.in_new_home(tmp_path / "home")
    command.run("data", "--from", str(tables))
    assert "run `recsys apply`" in command.run(step, expect=2).stderr


def test_export_before_train(applied: CommandLine) -> None:
    assert "nothing is trained; run `recsys train`" in applied.run("export", expect=2).stderr


def test_apply_is_not_repeated_but_publishes_the_types_again(applied: CommandLine) -> None:
    table = applied.settings.feature_repo / "data" / "user_statistics.parquet"
    before = table.stat().st_mtime_ns
    assert "are current" in applied.run("apply").stderr
    assert table.stat().st_mtime_ns == before


#: A command line whose training stops in the middle of its frames, until it is killed.
_STOPS_IN_THE_FRAMES = """
import os, signal
from recsys_plugin.cli import main
from recsys_plugin.training import train

train.build_frames = lambda *given, **named: os.kill(os.getpid(), signal.SIGSTOP)
main()
"""


def test_a_killed_training_keeps_what_was_finished(applied: CommandLine) -> None:
    folder = applied.settings.state / "training"
    records = applied.settings.state / "steps"
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPS_IN_THE_FRAMES, "train", *QUICK],
        env=applied.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(
            lambda: os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT),
            process=process,
            seconds=600,
        )
        # In the middle of the frames: their draft is there, they are not.
        assert (records / "train.text.json").exists()
        assert any(folder.glob(".frames.*"))
        busy = applied.run("train", *QUICK, expect=1)
        assert "StepFailed" in busy.stderr
        assert "another recsys command is at work" in busy.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (folder / "text").is_dir()
    assert not any((folder / name).exists() for name in ("frames", "shown_pages", "two_tower", "ranker", "report.json"))
    kept = (folder / "text" / "items.npy").stat()
    applied.run("train", *QUICK)
    found = (folder / "text" / "items.npy").stat()
    assert (found.st_ino, found.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    wanted = {"text", "frames", "shown_pages", "two_tower", "ranker", "report.json", "report.html", "runs"}
    assert wanted == {path.name for path in folder.iterdir()}
    assert "are current" in applied.run("train", *QUICK).stderr
    # A part that is lost is made again, and no other.
    shutil.rmtree(folder / "ranker")
    assert not steps.train(applied.settings, OPTIONS, no_progress).current
    for name in ("text", "frames", "two_tower"):
        assert all(path.stat().st_mtime_ns == made[path] for path in (folder / name).rglob("*"))
    assert (folder / "ranker").stat().st_mtime_ns != made[folder / "ranker"]


def test_lost_vectors_are_written_again(applied: CommandLine) -> None:
    path = applied.settings.feature_repo / "data" / "user_embedding.parquet"
    assert pq.read_metadata(path).num_rows == 40
    path.unlink()
    steps.apply(applied.settings, no_progress)
    assert pq.read_metadata(path).num_rows == 0
    assert not steps.train(applied.settings, OPTIONS, no_progress).current
    assert pq.read_metadata(path).num_rows == 40


def test_export_refuses_another_encoder(applied: CommandLine) -> None:
    said = applied.run("export", "--encoder", "elsewhere", expect=2).stderr
    assert "trained with the text encoder 'minilm', not 'elsewhere'" in said


def test_materialize_repeats_only_stale_views_and_takes_corrections(applied: CommandLine) -> None:
    settings = applied.settings
    services = Services(settings)
    reference, view = "user_statistics:spend_90d", "user_statistics"
    table = settings.feature_repo / "data" / f"{view}.parquet"
    original = table.read_bytes()

    def spend(client: object, key: bytes, plan: ReadPlan) -> float:
        field = plan.fields[[spec.reference for spec in plan.contract.stored_features].index(reference)]
        dtype, value = decode_value(client.hget(key, field))  # type: ignore[attr-defined]
        assert dtype == "FLOAT"
        assert isinstance(value, float)
        return value

    def materialize(**options: bool) -> set[str]:
        states = online.materialize(settings, no_progress, **options)
        assert states.keys() == {*FEATURE_TABLES, online.LIVE_STATE}
        return {name for name, state in states.items() if state == "materialised"}

    with services.ensure_redis() as url, RedisAddress.parse(url).connect(5) as client:
        assert "15 of 15 views materialised" in applied.run("materialize").stderr
        assert "all views are current" in applied.run("materialize").stderr
        plan = ReadPlan(contract_of(open_store(settings, url)))
        user = pq.read_table(table)["user_id"][0].as_py()
        key = plan.key(user)
        before = spend(client, key, plan)
        try:
            # A definition was corrected: other values at the same event times, which Feast alone would drop.
            content = pq.read_table(table)
            column = content.column_names.index("spend_90d")
            more = pc.cast(pc.add(content["spend_90d"], 1000.0), pa.float32())
            pq.write_table(content.set_column(column, "spend_90d", more), table)
            assert materialize() == {view}
            assert spend(client, key, plan) == pytest.approx(before + 1000.0, abs=0.01)
            # What was pushed later than the row that is materialised stays.
            stamp = client.hget(key, b"_ts:user_statistics")
            client.hset(key, "_ts:user_statistics", b"\x08" + b"\xff\xff\xff\xff\x07")
            table.write_bytes(original)
            assert materialize() == {view}
            assert spend(client, key, plan) == pytest.approx(before + 1000.0, abs=0.01)
            client.hset(key, "_ts:user_statistics", stamp)
            assert materialize(force=True) == {*FEATURE_TABLES, online.LIVE_STATE}
            assert spend(client, key, plan) == before
        finally:
            table.write_bytes(original)
        # Feast's registry tells `feast materialize-incremental` and `feast feature-views` what is there.
        store, as_of = open_store(settings, url), load_dataset(settings).as_of
        for name in FEATURE_TABLES:
            feature_view = store.get_feature_view(name)
            assert feature_view.most_recent_end_time == as_of
            assert feature_view.materialization_intervals[-1][0] == as_of - feature_view.ttl
        assert client.exists(f"recsys:materializing:{steps.PROJECT}") == 0


def test_other_tables_make_every_later_step_refuse(applied: CommandLine, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_tables(other, users=30, items=50, seed=4)
    before = load_dataset(applied.settings).sha256
    applied.run("data", "--from", str(other))
    settings = applied.settings
    assert load_dataset(settings).sha256 != before
    with pytest.raises(ConfigurationError, match="is not applied to the present tables"):
        steps.train(settings, OPTIONS, no_progress)
    with pytest.raises(ConfigurationError, match="is not applied to the present tables"):
        online.materialize(settings, no_progress)
    assert "is not applied to the present tables" in applied.run("export", expect=2).stderr
    steps.apply(settings, no_progress)
    with pytest.raises(ConfigurationError, match="trained on other tables or features; run `recsys train` again"):
        steps.export(settings, OPTIONS, no_progress)
