"""What the small shop trained, and its export."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from exports import Exported, no_progress
from shops import Shop

from recsys_plugin.data.store import load_dataset
from recsys_plugin.export import export as export_module
from recsys_plugin.export.catalogue import catalogue_frame
from recsys_plugin.export.export import ExportMaterial, export_repository
from recsys_plugin.export.options import ExportOptions
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.training.options import TrainingOptions
from recsys_plugin.training.packing import first_users
from recsys_plugin.training.run import TrainingRun


@pytest.fixture(scope="session")
def material(small_shop: Shop) -> ExportMaterial:
    settings = small_shop.settings
    dataset = load_dataset(settings)
    store = open_store(settings, small_shop.redis_url)
    run = TrainingRun(settings.state, settings.feature_repo / "data", dataset, store, TrainingOptions(), no_progress)
    models = run.models()
    return ExportMaterial(
        models=models,
        catalogue=catalogue_frame(dataset, settings.feature_repo / "data", models.item_ids),
        text_vectors=run.text_vectors(),
        users=first_users(run.frames().test.users, 32),
        encoder="minilm",
        candidates=500,
    )


@pytest.fixture(scope="session")
def exported(material: ExportMaterial, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The step models and the ensembles that tie them."""
    home = tmp_path_factory.mktemp("exported")
    steps = replace(material, options=ExportOptions(graphs="ensembles"))
    with pytest.MonkeyPatch.context() as patch:
        # Under their plain names: here graphs are taken apart, not served.
        patch.setattr(export_module, "name_by_content", lambda graphs: None)
        manifest = export_repository(home / "model_repository", home, steps, progress=no_progress)
    return Exported(home / "model_repository", home, steps, manifest)


@pytest.fixture(scope="session")
def merged(small_shop: Shop, material: ExportMaterial, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What the small shop serves, one graph a request: a copy, since its repository goes on to newer versions."""
    home, settings = tmp_path_factory.mktemp("exported"), small_shop.settings
    shutil.copytree(settings.model_repository, home / "model_repository")
    shutil.copytree(settings.state / "export", home / "export")
    manifest = json.loads((home / "export" / "manifest.json").read_text(encoding="utf-8"))
    return Exported(home / "model_repository", home, material, manifest)
