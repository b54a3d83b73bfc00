"""Versions come and go as a whole: what stays, what is served, and what an interruption leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from exports import no_progress
from google.protobuf import text_format
from shops import Shop
from tritonclient.grpc import model_config_pb2

from recsys_plugin import Recommender
from recsys_plugin.errors import StepFailed
from recsys_plugin.export.description import Model, describe_repository, own_row_count
from recsys_plugin.export.export import ExportMaterial
from recsys_plugin.export.install import exported_versions, install, next_version, promotion_path
from recsys_plugin.export.new_item_graphs import PACKED_WIDTH
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline import steps
from recsys_plugin.runtime.known_answers import load_known_answers
from recsys_plugin.runtime.model_repository import read_model_repository
from recsys_plugin.training.options import TrainingOptions


@dataclass
class Repository:
    """A repository whose models are one small file each: what is moved where does not depend on what it holds."""

    folder: Path
    material: ExportMaterial

    @property
    def models(self) -> Path:
        return self.folder / "model_repository"

    def describe(self, contract: FeatureContract) -> tuple[Model, ...]:
        return describe_repository(
            contract, vector=64, text_vector=384, own_rows=own_row_count(contract), item=PACKED_WIDTH
        )

    def export(self, *, contract: FeatureContract | None = None, item_ids: list[str] | None = None) -> int:
        trained = self.material.models
        if contract is not None:
            trained = replace(trained, contract=contract)
        if item_ids is not None:
            trained = replace(trained, item_ids=pd.Index(item_ids, dtype=object))
        described = self.describe(trained.contract)
        version = next_version(self.models)
        staging = self.folder / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        for model in described:
            if not model.is_ensemble:
                (staging / model.name).mkdir(parents=True)
                (staging / model.name / "model.onnx").write_text(f"{model.name} {version}")
        install(
            self.models,
            staging,
            described,
            version,
            self.folder / "versions",
            trained,
            promotion=promotion_path(self.folder),
        )
        return version

    def versions(self) -> dict[str, list[int]]:
        return {model.name: list(model.versions) for model in read_model_repository(self.models)}

    def config(self, name: str) -> Any:
        return text_format.Parse((self.models / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.fixture
def repository(tmp_path: Path, material: ExportMaterial) -> Repository:
    return Repository(tmp_path, material)


def served(repository: Repository, name: str) -> int:
    count: int = repository.config(name).version_policy.latest.num_versions
    return count


def test_the_third_export_deletes_the_first(repository: Repository) -> None:
    assert [repository.export() for _ in range(3)] == [1, 2, 3]
    assert set(map(tuple, repository.versions().values())) == {(2, 3)}
    assert exported_versions(repository.models) == [2, 3]
    assert (repository.models / "user_tower" / "3" / "model.onnx").read_text() == "user_tower 3"
    assert list((repository.models / "recommend" / "3").iterdir()) == []


def test_the_promoted_version_stays(repository: Repository) -> None:
    assert [repository.export() for _ in range(2)] == [1, 2]
    promotion_path(repository.folder).parent.mkdir(parents=True)
    promotion_path(repository.folder).write_text('{"version": 1}')
    assert repository.export() == 3
    assert exported_versions(repository.models) == [1, 3]
    promotion_path(repository.folder).write_text('{"version": 2}')
    assert repository.export() == 4, "what is promoted and gone does not count"
    assert exported_versions(repository.models) == [3, 4]


def test_versions_that_mean_the_same_are_served_side_by_side(repository: Repository) -> None:
    repository.export()
    repository.export()
    assert {served(repository, name) for name in ("recommend", "rank", "search", "similar", "item_index")} == {2}
    assert list(repository.config("recommend").parameters) == ["feature_contract"]


def other_contract(contract: FeatureContract) -> FeatureContract:
    """As wide as the given one, but another."""
    first, *rest = contract.features
    return replace(contract, features=(replace(first, default="nowhere"), *rest))


def test_an_older_contract_stays_for_the_way_back(repository: Repository) -> None:
    old = repository.material.models.contract
    repository.export()
    repository.export(contract=other_contract(old))
    for name in ("recommend", "rank", "search"):
        parameters = repository.config(name).parameters
        carried = {key: FeatureContract.from_json(value.string_value) for key, value in parameters.items()}
        assert carried == {"feature_contract": other_contract(old), "feature_contract.1": old}
        # Both run on the newest steps, and those take the newer contract.
        assert served(repository, name) == 1
    assert served(repository, "user_tower") == 2
    # Once no version of the old contract is left, neither is its parameter.
    repository.export(contract=other_contract(old))
    assert list(repository.config("recommend").parameters) == ["feature_contract"]
    assert served(repository, "recommend") == 2


def test_an_older_catalogue_is_not_served_by_newer_steps(repository: Repository) -> None:
    ids = list(repository.material.models.item_ids)
    repository.export()
    repository.export(item_ids=[*ids[1:], "zzz new item"])
    assert served(repository, "recommend") == served(repository, "similar") == 1
    assert served(repository, "catalogue") == 2
    assert exported_versions(repository.models) == [1, 2]


def test_versions_of_unknown_origin_are_not_trusted(repository: Repository) -> None:
    repository.export()
    (repository.folder / "versions" / "1.json").unlink()
    repository.export()
    assert served(repository, "recommend") == 1 or exported_versions(repository.models) == [2]


@pytest.mark.parametrize("moved", [0, 1, 5, 7])
def test_an_interrupted_installation(moved: int, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.export()
    left = moved
    move = shutil.move

    def interrupted(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        move(source, target)

    monkeypatch.setattr(shutil, "move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        repository.export()
    monkeypatch.undo()
    assert exported_versions(repository.models) == [1]
    assert sum(2 in versions for versions in repository.versions().values()) == moved
    version = repository.export()
    assert version == (3 if moved else 2), "a number is never used twice"
    assert set(map(tuple, repository.versions().values())) == {(1, version)}


def interrupt_install(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], None]:
    move, left = shutil.move, after

    def interrupted(source: Path, target: Path) -> None:
        nonlocal left
        if left == 0:
            raise OSError("no space left on device")
        left -= 1
        move(source, target)

    monkeypatch.setattr(shutil, "move", interrupted)
    return monkeypatch.undo


def test_up_never_serves_an_interrupted_export(small_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, command = small_shop.settings, small_shop.command
    known = settings.state / "export" / "known_answers.json"
    before = load_known_answers(known).version
    undo = interrupt_install(monkeypatch, after=3)
    options = TrainingOptions()
    with pytest.raises(OSError, match="no space left"):
        steps.export(settings, options, no_progress, force=True)
    undo()
    with pytest.raises(StepFailed, match="so no server can be checked; run `recsys export`"):
        load_known_answers(known)
    with Recommender(
        small_shop.redis_url, small_shop.triton_url, timeout=10, clock=small_shop.as_of.timestamp
    ) as client:
        assert "run `recsys export`" in command.run("up", expect=1).stderr
        # What ran before still does, and a restart would have been refused as well.
        assert client.recommend("user-003", 5).served_by.version == before
        assert client.refresh() == before
        steps.export(settings, options, no_progress)
        command.run("up")
        newest = load_known_answers(known).version
        assert newest > before
        assert exported_versions(settings.model_repository) == [before, newest]
        assert client.refresh() == newest
        assert client.recommend("user-003", 5).served_by.version == newest
