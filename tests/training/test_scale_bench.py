"""The generated shop, and the processes whose time and memory are measured."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys_plugin.bench import scale
from recsys_plugin.bench.generated_shop import GeneratedShop
from recsys_plugin.bench.scale import measure_training, run_step
from recsys_plugin.cli.bench_training import cost_table
from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.errors import ConfigurationError, InvalidInput, StepFailed
from recsys_plugin.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("generated")
    GeneratedShop(20_000, seed=3, rows=6_000).write(made)
    return made


def test_a_generated_shop_is_valid_and_of_the_size_asked_for(folder: Path, tmp_path: Path) -> None:
    dataset = prepare_data(Settings(home=tmp_path), folder=folder, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert dataset.counts == {"users": 400, "items": 200, "events": 20_000}
    assert list(dataset.event_types) == ["click", "cart", "purchase", "return"]
    assert 170 < (dataset.last_event - dataset.first_event).days <= 180


def test_a_generated_shop_is_skewed_and_repeats_itself(folder: Path) -> None:
    events = pq.read_table(folder / "events.parquet").to_pandas()
    for key in ("user_id", "item_id"):
        counts = np.sort(events[key].value_counts().to_numpy())[::-1]
        assert counts[: len(counts) // 10].sum() > 0.2 * counts.sum(), key
    bought = events[events["event_type"] == "purchase"]
    assert bought.duplicated(["user_id", "item_id"]).mean() > 0.05
    of_user = events.merge(pq.read_table(folder / "items.parquet").to_pandas()[["item_id", "category"]], on="item_id")
    favourite = of_user.groupby("user_id")["category"].agg(lambda column: column.value_counts(normalize=True).iloc[0])
    # Forty categories: without taste, the most frequent would hold far less.
    assert favourite.median() > 0.25
    days = events["timestamp"].dt.floor("D").value_counts()
    assert days.max() < 3 * days.median()


def test_the_seed_fixes_everything_and_pieces_do_not_matter_to_the_number(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        GeneratedShop(3_001, seed=seed, rows=1_000).write(tmp_path / name, lambda *done: told.append(done))
    assert told[:4] == [(1_000, 3_001), (2_000, 3_001), (3_000, 3_001), (3_001, 3_001)]
    for table in ("users", "items", "events"):
        a, b, c = (pq.read_table(tmp_path / name / f"{table}.parquet") for name in "abc")
        assert a.equals(b)
        assert not a.equals(c)
    with pytest.raises(InvalidInput, match="at least one event"):
        GeneratedShop(0)


def quiet(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def test_a_step_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, numpy; a = numpy.ones(25_000_000); print('  … one', file=sys.stderr); print(a[0])"
    monkeypatch.setattr(scale, "_COMMAND", (sys.executable, "-c", code))
    told: list[str] = []
    cost = run_step(["data"], dict(os.environ), "small", lambda what, *_: told.append(what))
    assert told == ["small", "small: one"]
    # A child starts out with what its parent holds, which after many tests is a lot.
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 2e8 < cost.peak_bytes < max(1e9, 1.5 * mine)
    assert cost.seconds > sum(cost.stages.values()) > 0
    assert list(cost.stages) == ["one"]
    assert cost.processor_seconds > 0
    monkeypatch.setattr(scale, "_COMMAND", (sys.executable, "-c", "import sys; sys.exit('it broke')"))
    with pytest.raises(StepFailed, match="recsys data ended with 1:\nit broke"):
        run_step(["data"], dict(os.environ), "small", quiet)


def test_the_report_has_every_step(tmp_path: Path) -> None:
    home = Settings(home=Path(__file__).resolve().parents[2])
    quick = ("--two-tower-steps", "3", "--ranker-epochs", "1")
    report = measure_training(home, sizes=[3_000], seed=1, steps=quick, scratch=tmp_path, tell=quiet)
    assert list(tmp_path.iterdir()) == []
    figures = report.figures
    assert (figures["events_3000.users"], figures["events_3000.items"]) == (60, 40)
    for step in ("data", "apply", "train", "total"):
        seconds = figures[f"events_3000.{step}.seconds"]
        assert figures[f"events_3000.{step}.events_per_second"] == pytest.approx(3_000 / seconds)
        assert 0.05 < figures[f"events_3000.{step}.peak_gib"] <= figures["events_3000.total.peak_gib"] < 8
    assert any("user features, train" in note for note in report.notes)
    assert json.loads(report.to_json())["machine"]["cores"] >= 1
    table = cost_table(report, (3_000,))
    assert table.row_count == 4


def test_nothing_is_left_of_an_interrupted_measurement(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("recsys"), "bench", "training", "--events", "3000", "--scratch", str(tmp_path)],
        env={**os.environ, "RECSYS_HOME": str(root)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "apply: user tables" in line:
                break
        assert any(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        assert process.wait(timeout=120) != 0
        reader.join()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert list(tmp_path.iterdir()) == []


def test_a_home_without_definitions_is_refused(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(ConfigurationError, match="is no Feast repository"):
        measure_training(
            Settings(home=tmp_path), sizes=[1_000], seed=0, scratch=tmp_path, tell=lambda what, *_: told.append(what)
        )
    assert told == [], "nothing was generated for it"
    assert list(tmp_path.iterdir()) == []
