"""Data at the edge of what can be learned from: trained all the same, or refused in one sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from shops import CommandLine

from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.errors import StepFailed
from recsys_plugin.pipeline import steps
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import RankerOptions, TrainingOptions, TwoTowerOptions

START = datetime(2025, 1, 1, 12, tzinfo=UTC)
QUICK = TrainingOptions(two_tower=TwoTowerOptions(steps=3), ranker=RankerOptions(epochs=1))
Row = dict[str, Any]


def purchase(user: str, item: str, day: float, kind: str = "purchase") -> Row:
    return {
        "user_id": user,
        "item_id": item,
        "event_type": kind,
        "timestamp": START + timedelta(days=day),
        "price": 2.0,
    }


def write(folder: Path, events: list[Row], items: list[Row], users: list[str] | None = None) -> None:
    folder.mkdir()
    pd.DataFrame(events).to_csv(folder / "events.csv", index=False)
    pd.DataFrame(items).to_csv(folder / "items.csv", index=False)
    if users is not None:
        pd.DataFrame({"user_id": users}).to_csv(folder / "users.csv", index=False)


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture
def command(tmp_path: Path) -> CommandLine:
    return CommandLine.in_new_home(tmp_path / "home")


def prepare(settings: Settings, folder: Path) -> None:
    prepare_data(settings, folder=folder, now=datetime.now(UTC))
    steps.apply(settings, no_progress)


def weights_are_finite(settings: Settings) -> bool:
    files = [*(settings.state / "training").rglob("*.safetensors")]
    assert {"ranker.safetensors", "two_tower.safetensors"} <= {file.name for file in files}
    return all(bool((abs(value) < 1e6).all()) for file in files for value in load_file(file).values())


def test_one_user_one_category_an_item_never_sold(command: CommandLine, tmp_path: Path) -> None:
    items: list[Row] = [{"item_id": item, "title": f"thing {item}", "category": "things"} for item in "abc"]
    items.append({"item_id": "never sold", "title": "?", "category": "things"})
    events = [purchase("only", item, day) for day in range(0, 60, 3) for item in ("abc"[day % 3], "a")]
    write(tmp_path / "tables", events, items, ["only", "nothing bought"])
    prepare(command.settings, tmp_path / "tables")
    report = steps.train(command.settings, QUICK, no_progress).info
    assert report["test"]["models"]["two-tower + split_mlp"]["users"] == 1
    assert 0.0 <= report["test"]["models"]["two-tower + split_mlp"]["recall@20"] <= 1.0
    assert weights_are_finite(command.settings)
    # The user without history and the item without a word have vectors as all others do.
    for name, key, size in (("user_embedding", "user_id", 2), ("item_embedding", "item_id", 4)):
        table = pd.read_parquet(command.settings.feature_repo / "data" / f"{name}.parquet").set_index(key)
        lengths = table["vector"].map(np.linalg.norm)
        assert len(lengths) == size
        assert np.allclose(lengths, 1.0, atol=1e-3)
    manifest = steps.export(command.settings, QUICK, no_progress).info
    assert manifest["items"] == 4


def test_nothing_happened_in_the_validation_weeks(command: CommandLine, tmp_path: Path) -> None:
    items: list[Row] = [{"item_id": item, "title": f"thing {item}"} for item in "abcd"]
    days = [day for day in range(101) if not 78 <= day < 92]
    events = [purchase(user, "abcd"[(day + turn) % 4], day) for day in days for turn, user in enumerate("xyz")]
    write(tmp_path / "tables", events, items)
    prepare(command.settings, tmp_path / "tables")
    report = steps.train(command.settings, QUICK, no_progress).info
    assert report["validation"]["baselines"] == {}
    assert not any(report["validation"]["models"].values())
    assert "without early stopping" in report["validation"]["note"]
    assert "note" not in report["test"]
    assert report["test"]["models"]["two-tower"]["users"] == 3
    assert weights_are_finite(command.settings)


def test_every_label_is_positive(command: CommandLine, tmp_path: Path) -> None:
    # One item: whatever is offered is bought, and no model has anything to tell apart.
    events = [purchase(user, "a", day) for day in range(100) for user in "xyz"]
    write(tmp_path / "tables", events, [{"item_id": "a", "title": "the only thing"}])
    prepare(command.settings, tmp_path / "tables")
    report = steps.train(command.settings, QUICK, no_progress).info
    for name in ("two-tower", "two-tower + split_mlp"):
        assert report["test"]["models"][name]["recall@20"] == 1.0
    assert weights_are_finite(command.settings)


ITEMS: list[Row] = [{"item_id": item, "title": item} for item in "ab"]


@pytest.mark.parametrize(
    "events, reason",
    [
        pytest.param(
            [purchase("x", "a", day, "impression") for day in range(40)],
            "no click, cart or purchase before .*: there is nothing to learn from",
            id="impressions alone",
        ),
        pytest.param(
            [purchase("x", "a", day) for day in range(20)] + [purchase("new", "b", 40)],
            "there is nothing to test on",
            id="nobody known in the test",
        ),
        pytest.param(
            [purchase("x", item, day, "click") for day in range(40) for item in "ab"],
            "there is nothing to test on",
            id="clicks alone",
        ),
        pytest.param(
            [purchase("x", "a", 0.1 * number) for number in range(40)],
            "the data spans too little time",
            id="four days",
        ),
        pytest.param(
            [purchase("x", item, 3) for item in "ab"],
            "there is nothing to learn from",
            id="one moment",
        ),
    ],
)  # fmt: skip
def test_too_little_to_learn_from(events: list[Row], reason: str, command: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "tables", events, ITEMS)
    prepare(command.settings, tmp_path / "tables")
    with pytest.raises(StepFailed, match=reason):
        steps.train(command.settings, QUICK, no_progress)
    assert not (command.settings.state / "steps" / "train.json").exists()
