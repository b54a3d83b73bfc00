"""Curves as each tracker keeps them, read back with its own tools; and a clear word where its package is missing."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shops import Shop

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.training.tracking import (
    TRACKERS,
    CurveLog,
    NoTracker,
    Tracker,
    Trackers,
    loss_curve,
    open_tracker,
    read_curves,
)


class Kept(Tracker):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def scalar(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))

    def parameters(self, values: Any) -> None:
        self.told.append(dict(values))

    def artefact(self, path: Path) -> None:
        self.told.append(path)

    def close(self, *, failed: bool = False) -> None:
        self.told.append("failed" if failed else "closed")


def a_run(tracker: Tracker, artefact: Path) -> None:
    """A short training from its beginning to its end."""
    with tracker:
        tell(tracker, artefact)


def tell(tracker: Tracker, artefact: Path) -> None:
    """What a short training would tell."""
    tracker.parameters({"two_tower": {"steps": 25, "rate": 0.5}, "encoder": "minilm"})
    follow = loss_curve(tracker, "two-tower/loss")
    for step in range(1, 26):
        follow(step, 25, 1.0 / step)
    tracker.scalar("test/two-tower + split_mlp/recall@20", 0.25, 0)
    tracker.artefact(artefact)


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    path = tmp_path / "the report.html"
    path.write_text("<p>found</p>", encoding="utf-8")
    return path


LOSSES = [(1, 1.0), (10, 0.1), (20, 0.05), (25, 0.04)]


@given(st.integers(1, 60), st.integers(1, 13))
def test_a_loss_curve_keeps_every_so_many_steps_and_both_ends(steps: int, every: int) -> None:
    kept = Kept()
    follow = loss_curve(kept, "loss", every=every)
    for step in range(1, steps + 1):
        follow(step, steps, float(step))
    wanted = {1, steps, *range(every, steps + 1, every)}
    assert kept.told == [("loss", float(step), step) for step in sorted(wanted)]


@given(
    points=st.lists(st.tuples(st.sampled_from(["a", "b c", "д"]), st.integers(0, 99), st.floats(width=32)), max_size=20)
)
def test_the_log_gives_back_what_it_was_told(
    points: list[tuple[str, int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "below" / "curves.jsonl"
    with CurveLog(path) as log:
        for name, step, value in points:
            log.scalar(name, value, step)
    wanted: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in points:
        wanted.setdefault(name, []).append((step, value if math.isfinite(value) else math.nan))
    assert str(read_curves(path)) == str(wanted)
    for line in path.read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


@pytest.mark.parametrize("line", ["{", '{"name": "a", "step": 1}', '{"name": "a", "step": "x", "value": 1}', "[]"])
def test_a_broken_log_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text(f'{{"name": "a", "step": 1, "value": 2}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"curves\.jsonl, line 2"):
        read_curves(path)


def test_several_trackers_are_told_everything_and_only_the_owned_are_closed(artefact: Path) -> None:
    one, other = Kept(), Kept()
    a_run(Trackers(one, other, owned=(one,)), artefact)
    assert one.told[:-1] == other.told
    assert one.told[-1] == "closed"
    both = Kept()
    with pytest.raises(ZeroDivisionError), Trackers(both, NoTracker()):
        raise ZeroDivisionError
    assert both.told == ["failed"]


def test_tensorboard_shows_the_run(tmp_path: Path, artefact: Path) -> None:
    a_run(open_tracker("tensorboard", tmp_path / "runs", "one"), artefact)
    scalars, texts = tensorboard(tmp_path / "runs" / "one")
    assert scalars == {
        "two-tower/loss": [(step, pytest.approx(value)) for step, value in LOSSES],
        "test/two-tower_split_mlp/recall_20": [(0, 0.25)],
    }
    assert "| two_tower.rate | 0.5 |" in texts["parameters/text_summary"]
    assert (tmp_path / "runs" / "one" / artefact.name).read_bytes() == artefact.read_bytes()


def tensorboard(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """Scalars and texts as TensorBoard's own reader finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    scalars = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    return scalars, texts


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_the_run(tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="MLflow is an optional package")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    a_run(open_tracker("mlflow", tmp_path / "runs", "one"), artefact)
    with pytest.raises(ZeroDivisionError), open_tracker("mlflow", tmp_path / "runs", "two"):
        raise ZeroDivisionError
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("recsys").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert {name: run.info.status for name, run in runs.items()} == {"one": "FINISHED", "two": "FAILED"}
    one = runs["one"]
    assert one.data.params == {"two_tower.steps": "25", "two_tower.rate": "0.5", "encoder": "minilm"}
    assert one.data.metrics["test/two-tower_split_mlp/recall_20"] == 0.25
    history = client.get_metric_history(one.info.run_id, "two-tower/loss")
    assert [(point.step, point.value) for point in history] == LOSSES
    assert [file.path for file in client.list_artifacts(one.info.run_id)] == [artefact.name]


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_the_run_offline(tmp_path: Path, artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="Weights & Biases is an optional package")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with open_tracker("wandb", tmp_path / "runs", "one") as tracker:
        tell(tracker, artefact)
        import wandb

        run = wandb.run
        assert run is not None
        assert dict(run.config) == {"two_tower.steps": 25, "two_tower.rate": 0.5, "encoder": "minilm"}
        assert run.summary["two-tower/loss"] == LOSSES[-1][1]
        assert run.summary["test/two-tower_split_mlp/recall_20"] == 0.25
    (kept,) = (tmp_path / "runs" / "wandb").glob("offline-run-*/*.wandb")
    assert kept.stat().st_size > 0


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [
        ("wandb", "wandb", "wandb"),
        ("mlflow", "mlflow.tracking", "mlflow"),
        ("tensorboard", "torch.utils.tensorboard", "tensorboard"),
    ],
)
def test_a_missing_package_is_named(
    kind: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=f"{kind}.*pip install {package},"):
        open_tracker(kind, tmp_path, "run")


def test_no_tracker_and_no_such_tracker(tmp_path: Path, artefact: Path) -> None:
    a_run(open_tracker("none", tmp_path / "runs", "run"), artefact)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(InvalidInput, match="tensorboard, wandb, mlflow, none"):
        open_tracker("paper", tmp_path, "run")
    assert "none" in TRACKERS


def test_a_training_run_is_tracked_and_another_tracker_makes_nothing_stale(small_shop: Shop) -> None:
    training = small_shop.settings.state / "training"
    curves = read_curves(training / "two_tower" / "curves.jsonl")
    losses = curves["two-tower/loss"]
    assert [step for step, _ in losses] == [1, 10, 20, 30, 40, 50, 60]
    assert losses[-1][1] < losses[0][1]
    ranker = read_curves(training / "ranker" / "curves.jsonl")
    assert [step for step, _ in ranker["ranker/validation recall@20"]] == [1]
    (run,) = (training / "runs").iterdir()
    scalars, texts = tensorboard(run)
    np.testing.assert_allclose(scalars["two-tower/loss"], losses, rtol=1e-6)
    report = small_shop.report["test"]
    assert isinstance(report, dict)
    reached = report["models"]["two-tower + split_mlp"]["recall@20"]
    np.testing.assert_allclose(scalars["test/models/two-tower_split_mlp/recall_20"], [(0, reached)], rtol=1e-6)
    assert "| two_tower.steps | 60 |" in texts["parameters/text_summary"]

    options = ("--two-tower-steps", "60", "--ranker-epochs", "1")
    said = small_shop.command.run("train", *options, "--tracker", "none").stderr
    assert "trained models are current" in said
