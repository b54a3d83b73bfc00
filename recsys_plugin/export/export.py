"""``recsys export``: write a new version of every model at once, checked before anything is moved into place."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd

from recsys_plugin.errors import StepFailed
from recsys_plugin.export.configuration import render_config, render_readme
from recsys_plugin.export.description import CANDIDATE_COUNT, Model, describe_repository
from recsys_plugin.export.index_graphs import catalogue_graph, index_graph, lookup_graph
from recsys_plugin.export.local import LocalRepository, tokenizer_of
from recsys_plugin.export.parity import TOLERANCE, check_parity, user_inputs
from recsys_plugin.export.torch_graphs import encoder_graph, ranker_graph, user_tower_graph
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.text import MAX_TOKENS, load_encoder

__all__ = ["exported_versions", "export_repository", "write_configurations"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Versions kept on disk: the newest and the one to roll back to.
_KEPT_VERSIONS = 2
_DATATYPES = {"f": "FP32", "i": "INT64", "O": "BYTES", "U": "BYTES"}


def exported_versions(repository: Path) -> list[int]:
    """The versions that every configured model has, ascending."""
    folders = [path.parent for path in repository.glob("*/config.pbtxt")]
    common: set[int] | None = None
    for folder in folders:
        mine = {int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit()}
        common = mine if common is None else common & mine
    return sorted(common or ())


def describe(contract: FeatureContract, *, vector: int, text_vector: int) -> tuple[Model, ...]:
    """The repository's description for a contract: own rows are its list features with catalogue rows."""
    own = sum(spec.width for spec in contract.features if spec.encoding == "row" and spec.is_list)
    return describe_repository(contract, vector=vector, text_vector=text_vector, own_rows=own)


def write_configurations(
    repository: Path, models: tuple[Model, ...], older_contracts: Mapping[int, str] | None = None
) -> None:
    """Write every ``config.pbtxt`` and the README.

    Args:
        repository: the model repository.
        models: its description.
        older_contracts: contract JSON of kept versions whose contract differs from the newest.
    """
    for model in models:
        parameters = dict(model.parameters)
        if "feature_contract" in parameters:
            parameters |= {f"feature_contract.{version}": text for version, text in (older_contracts or {}).items()}
        text = render_config(
            Model(
                **{
                    **{name: getattr(model, name) for name in Model.__dataclass_fields__},
                    "parameters": parameters,
                }
            )
        )
        atomic_text(repository / model.name / "config.pbtxt", text)
    atomic_text(repository / "README.md", render_readme(models))


def export_repository(
    repository: Path,
    state: Path,
    models: TrainedModels,
    *,
    catalogue: pd.DataFrame,
    text_vectors: _Array,
    users: UserTensors,
    encoder: str,
    candidates: int,
    progress: Callable[[str, int, int], None],
) -> Mapping[str, Any]:
    """Export, check parity, compute known answers, and only then install the version.

    Args:
        repository: the Triton model repository.
        state: the state folder; ``export/`` below it takes the known answers and the manifest.
        models: what was trained.
        catalogue: ``item_id``, ``title``, ``category`` and ``price`` in row order.
        text_vectors: float32 [N, dimensions] of the catalogue.
        users: real packed users, for parity and known answers.
        encoder: name of the text encoder.
        candidates: how many candidates a recommendation ranks.
        progress: told what is being made.

    Returns:
        The manifest: version, contract fingerprint, largest differences, sha256 of every file.

    Raises:
        CheckFailed: if a graph differs from its trained model; nothing is installed then.
    """
    if list(catalogue["item_id"]) != list(models.item_ids):
        raise StepFailed("the catalogue and the trained models name different items; run `recsys train` again")
    version = max(_versions_of_any(repository), default=0) + 1
    staging = state / "export" / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        manifest = _stage(
            staging, models, catalogue, text_vectors, users, encoder, candidates, version, state, progress
        )
        described = describe(
            models.contract, vector=models.towers.item_vectors()[1].shape[1], text_vector=text_vectors.shape[1]
        )
        _install(repository, staging, described, version, state, models.contract)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    # The known answers are of this version: they move into place after it.
    (state / "export" / "known_answers.draft.json").replace(state / "export" / "known_answers.json")
    atomic_text(state / "export" / "manifest.json", json.dumps(manifest, indent=2))
    return manifest


def _stage(
    staging: Path,
    models: TrainedModels,
    catalogue: pd.DataFrame,
    text_vectors: _Array,
    users: UserTensors,
    encoder_name: str,
    candidates: int,
    version: int,
    state: Path,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    vectors = models.towers.item_vectors()[1]
    encoder, tokenizer = load_encoder(encoder_name)
    makers: dict[str, Callable[[], onnx.ModelProto]] = {
        "user_tower": lambda: user_tower_graph(models),
        "item_index": lambda: index_graph(vectors, own_rows=True),
        "ctr_ranker": lambda: ranker_graph(models),
        "item_embedding": lambda: lookup_graph(vectors),
        "text_index": lambda: index_graph(text_vectors, own_rows=False),
        "text_encoder": lambda: encoder_graph(encoder, tokenizer),
        "catalogue": lambda: catalogue_graph(
            list(catalogue["item_id"]),
            list(catalogue["title"]),
            list(catalogue["category"].fillna("")),
            catalogue["price"].to_numpy(np.float32),
        ),
    }
    graphs: dict[str, Path] = {}
    for done, (name, make) in enumerate(makers.items()):
        progress(f"graph {name}", done, len(makers))
        graphs[name] = staging / name / "model.onnx"
        graphs[name].parent.mkdir()
        onnx.save(make(), graphs[name])
    folder = staging / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    options = {"max_tokens": MAX_TOKENS, "pad_id": tokenizer.pad_token_id, "pad_token": tokenizer.pad_token}
    (folder / "options.json").write_text(json.dumps(options), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("tokenizer_model.py"), folder / "model.py")

    progress("parity and known answers", len(makers), len(makers))
    described = describe(models.contract, vector=vectors.shape[1], text_vector=text_vectors.shape[1])
    local = LocalRepository(described, graphs, tokenizer_of(folder))
    titles = [str(title) for title in catalogue["title"].drop_duplicates().head(64)]
    differences = check_parity(local, models, users, encoder, tokenizer, titles, candidates=candidates)
    answers = {"version": version, "answers": _known_answers(local, described, users, titles)}
    atomic_text(state / "export" / "known_answers.draft.json", json.dumps(answers))
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    return {
        "version": version,
        "contract": models.contract.fingerprint,
        "items": len(catalogue),
        "parity": {"tolerance": TOLERANCE, "largest_difference": differences, "users": len(users)},
        "sha256": {
            f"{path.parent.name}/{version}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        },
    }


def _known_answers(
    local: LocalRepository, models: tuple[Model, ...], users: UserTensors, titles: list[str]
) -> list[dict[str, Any]]:
    """What each ensemble must answer to one real request."""
    one = user_inputs(users.take(np.arange(min(2, len(users)))))
    lines = len(one["user_float"])
    few = {"excluded_rows": np.full((lines, 1), -1, np.int64), CANDIDATE_COUNT: np.full((lines, 1), 20, np.int64)}
    asked: dict[str, dict[str, _Array]] = {
        "recommend": {**one, **few},
        "rank": {**one, "candidate_rows": np.tile(np.arange(3, dtype=np.int64), (lines, 1))},
        "search": {**one, **few, "query": np.array(titles[:1] * lines, object)[:, None]},
        "similar": {"item_row": np.zeros((lines, 1), np.int64), **few},
        "catalogue": {"offset": np.array([0], np.int64), "count": np.array([3], np.int64)},
    }
    names = {model.name for model in models}
    answers = []
    for name, inputs in asked.items():
        assert name in names
        outputs = local.run(name, inputs)
        answers.append(
            {
                "model": name,
                "inputs": {key: _plain(value) for key, value in inputs.items()},
                "outputs": {key: _plain(value) for key, value in outputs.items()},
                "tolerance": TOLERANCE,
            }
        )
    return answers


def _plain(value: _Array) -> dict[str, Any]:
    # JSON knows no NaN; null stands for it.
    flat = [None if isinstance(x, float) and x != x else x for x in value.reshape(-1).tolist()]
    return {"datatype": _DATATYPES[value.dtype.kind], "shape": list(value.shape), "data": flat}


def _versions_of_any(repository: Path) -> set[int]:
    return {int(path.name) for path in repository.glob("*/*") if path.is_dir() and path.name.isdigit()}


def _install(
    repository: Path,
    staging: Path,
    models: tuple[Model, ...],
    version: int,
    state: Path,
    contract: FeatureContract,
) -> None:
    contracts = state / "export" / "contracts"
    atomic_text(contracts / f"{version}.json", contract.to_json())
    kept = exported_versions(repository)[-(_KEPT_VERSIONS - 1) :]
    older: dict[int, str] = {}
    for number in kept:
        path = contracts / f"{number}.json"
        if path.exists() and (text := path.read_text(encoding="utf-8")) != contract.to_json():
            older[number] = text
    # Ensembles last: whoever sees one of this version finds all its steps.
    for model in sorted(models, key=lambda model: model.is_ensemble):
        target = repository / model.name / str(version)
        target.parent.mkdir(parents=True, exist_ok=True)
        if model.is_ensemble:
            target.mkdir()
        else:
            (staging / model.name).replace(target)
    write_configurations(repository, models, older)
    for path in repository.glob("*/*"):
        if path.is_dir() and path.name.isdigit() and int(path.name) not in {*kept, version}:
            shutil.rmtree(path)
