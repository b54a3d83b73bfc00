"""Putting an exported version in its place: folders, configurations, and what stays of older versions."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from recsys_plugin.export.configuration import render_config, render_readme
from recsys_plugin.export.description import Model
from recsys_plugin.export.targets import warm_up_files
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.security.model_manifest import manifested_versions, remove_manifest, write_manifest
from recsys_plugin.training.artefacts import TrainedModels

__all__ = ["exported_versions", "install", "next_version", "promotion_path", "write_configurations"]

#: Versions kept on disk: the newest, and the one that serves or else the one to roll back to.
_KEPT_VERSIONS = 2
#: Where Triton looks for the files of warm-up samples, below a model's folder.
_WARM_UP = "warmup"


def exported_versions(repository: Path) -> list[int]:
    """The versions that every configured model has, ascending."""
    each = [set(_versions(path.parent)) for path in repository.glob("*/config.pbtxt")]
    return sorted(set.intersection(*each)) if each else []


def promotion_path(state: Path) -> Path:
    """The file of the state folder that remembers which version was promoted."""
    return state / "export" / "promoted.json"


def _kept(repository: Path, promotion: Path) -> list[int]:
    """The versions that stay beside a new one: what is promoted, else the newest."""
    complete = exported_versions(repository)
    promoted = json.loads(promotion.read_text(encoding="utf-8"))["version"] if promotion.exists() else None
    return [promoted] if promoted in complete else complete[-(_KEPT_VERSIONS - 1) :]


def next_version(repository: Path) -> int:
    """One more than the newest version of any model, half installed ones included."""
    return max((version for folder in repository.glob("*") for version in _versions(folder)), default=0) + 1


def _versions(folder: Path) -> dict[int, Path]:
    return {int(path.name): path for path in folder.glob("*") if path.is_dir() and path.name.isdigit()}


def _tensor_digest(models: tuple[Model, ...]) -> str:
    """SHA-256 over what every model takes and gives, its parameters left out."""
    bare = [render_config(replace(model, parameters={}, served_versions=1), warm_up=False) for model in models]
    return hashlib.sha256("".join(bare).encode()).hexdigest()


def write_configurations(
    repository: Path,
    models: tuple[Model, ...],
    older_contracts: Mapping[int, str] | None = None,
    *,
    ensemble_versions: int = _KEPT_VERSIONS,
    target: str = "cpu",
) -> None:
    """Write every ``config.pbtxt``, the values of its warm-up samples, and the README.

    Args:
        repository: the model repository.
        models: its description.
        older_contracts: contract JSON of kept versions whose contract differs from the newest.
        ensemble_versions: how many versions of the ensembles are served.
        target: what the models are to run on.
    """
    for model in models:
        # What a configuration names comes before it.
        for name, values in warm_up_files(model, target).items():
            path = repository / model.name / _WARM_UP / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(values)  # its name says what it holds, so it is the same in every version
        if model.is_ensemble:
            model = replace(model, served_versions=ensemble_versions)
        if "feature_contract" in model.parameters:
            older = {f"feature_contract.{version}": text for version, text in (older_contracts or {}).items()}
            model = replace(model, parameters={**model.parameters, **older})
        atomic_text(repository / model.name / "config.pbtxt", render_config(model, target))
    atomic_text(repository / "README.md", render_readme(models))


def install(
    repository: Path,
    staging: Path,
    models: tuple[Model, ...],
    version: int,
    records: Path,
    trained: TrainedModels,
    *,
    promotion: Path,
    target: str = "cpu",
    key: str | None = None,
) -> None:
    """Move a staged version into the repository, write the configurations, and delete what is too old.

    The promoted version, or else the newest that was complete before, stays on disk, unless its models take or give
    other tensors: under the new configurations Triton could not load it. Its ensembles are served beside the new ones
    only if both take the same tensors and mean the same rows: Triton has one configuration for all versions of an
    ensemble, whose steps name the newest version of each model, so an old ensemble runs on new steps. A client that
    asks for a version that is not served is told so; one that was answered with rows of another catalogue would show
    wrong items.

    Args:
        repository: the model repository.
        staging: holds a folder for each model that is not an ensemble.
        models: the repository's description.
        version: the number of the new version.
        records: folder that remembers the contract, the catalogue and the tensors of each version.
        trained: the models of the new version.
        promotion: names the promoted version, if there is one; see :func:`promotion_path`.
        target: what the models are to run on.
        key: signs the version's manifest, see :mod:`recsys_plugin.security.model_manifest`.
    """
    catalogue = hashlib.sha256("\n".join(trained.item_ids).encode()).hexdigest()
    tensors = _tensor_digest(models)
    record = json.dumps({"contract": trained.contract.to_json(), "catalogue": catalogue, "tensors": tensors})
    older = {
        number: text
        for number in _kept(repository, promotion)
        if (path := records / f"{number}.json").exists()
        and json.loads(text := path.read_text(encoding="utf-8")).get("tensors") == tensors
    }
    kept = list(older)
    contracts = {number: json.loads(text)["contract"] for number, text in older.items()}
    # Ensembles last: whoever sees one of this version finds all its steps.
    for model in sorted(models, key=lambda model: model.is_ensemble):
        place = repository / model.name / str(version)
        place.parent.mkdir(parents=True, exist_ok=True)
        if model.is_ensemble:
            place.mkdir()
        else:
            _move(staging / model.name, place)
    write_configurations(
        repository,
        models,
        {number: text for number, text in contracts.items() if text != trained.contract.to_json()},
        ensemble_versions=_KEPT_VERSIONS if all(older.get(number) == record for number in kept) else 1,
        target=target,
    )
    atomic_text(records / f"{version}.json", record)
    described = {model.name for model in models}
    for folder in repository.glob("*"):
        is_left_over = folder.name not in described and (folder / "config.pbtxt").exists()
        for number, path in _versions(folder).items():
            if is_left_over or number not in {*kept, version}:
                shutil.rmtree(path)
        if is_left_over:
            # A step model of the other layout: Triton would look in vain for a version of it.
            (folder / "config.pbtxt").unlink()
            shutil.rmtree(folder / _WARM_UP, ignore_errors=True)
            if not any(folder.iterdir()):
                folder.rmdir()
    # Last, of what is there now: a version whose installation was interrupted has none, and is refused.
    write_manifest(repository, version, key=key)
    for number in manifested_versions(repository):
        if number not in {*kept, version}:
            remove_manifest(repository, number)


def _move(folder: Path, place: Path) -> None:
    """Move a folder in one step, whichever file system it comes from: no version is ever there in part."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.move(folder, partial)
    partial.rename(place)
