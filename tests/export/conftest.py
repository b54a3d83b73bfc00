"""What the small shop trained, and one real export of it outside of the shop's own repository."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from shops import Shop

from recsys_plugin.data.store import load_dataset
from recsys_plugin.export.description import Model, describe_repository, own_row_count
from recsys_plugin.export.export import ExportMaterial, export_repository
from recsys_plugin.export.local import LocalRepository, tokenizer_of
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.training.options import TrainingOptions
from recsys_plugin.training.packing import first_users
from recsys_plugin.training.train import Training


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Exported:
    """An exported repository."""

    repository: Path
    state: Path
    material: ExportMaterial
    manifest: Any

    @property
    def described(self) -> tuple[Model, ...]:
        contract = self.material.models.contract
        return describe_repository(contract, vector=64, text_vector=384, own_rows=own_row_count(contract))

    @property
    def graphs(self) -> dict[str, Path]:
        return {path.parents[1].name: path for path in self.repository.glob("*/1/model.onnx")}

    def local(self, **replaced: Path) -> LocalRepository:
        """The exported models in this process, some graphs replaced."""
        return LocalRepository(
            self.described, self.graphs | replaced, tokenizer_of(self.repository / "tokenizer" / "1")
        )


@pytest.fixture(scope="session")
def material(small_shop: Shop) -> ExportMaterial:
    settings = small_shop.settings
    dataset = load_dataset(settings)
    store = open_store(settings, small_shop.redis_url)
    training = Training(
        settings.state, settings.feature_repo / "data", dataset, store, TrainingOptions(), no_progress, applied=""
    )
    models = training.models()
    items = dataset.frame("items", ["item_id", "title", "category", "price"]).set_index("item_id")
    return ExportMaterial(
        models=models,
        catalogue=items.loc[models.item_ids].rename_axis("item_id").reset_index(),
        text_vectors=training.text_vectors(),
        users=first_users(training.frames().test.users, 32),
        encoder="minilm",
        candidates=500,
    )


@pytest.fixture(scope="session")
def exported(material: ExportMaterial, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    home = tmp_path_factory.mktemp("exported")
    repository, state = home / "model_repository", home / ".recsys"
    manifest = export_repository(repository, state, material, progress=no_progress)
    assert manifest == json.loads((state / "export" / "manifest.json").read_text(encoding="utf-8"))
    return Exported(repository, state, material, manifest)
