"""``recsys export``: write a new version of every model at once, checked before anything is moved into place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch

from recsys_plugin.errors import StepFailed
from recsys_plugin.export.catalogue import seconds_of
from recsys_plugin.export.complement_graphs import complements_graph
from recsys_plugin.export.complement_parity import check_complements, complements_request
from recsys_plugin.export.description import KNOWN_EMBEDDING, Model, describe_repository, own_row_count
from recsys_plugin.export.explain_graphs import explainer_graph
from recsys_plugin.export.explain_parity import check_explanations
from recsys_plugin.export.graph_files import GRAPH_LIMIT, digest_of, load_graph, save_graph, spill, tidy, total_bytes
from recsys_plugin.export.graph_parts import prefix_names
from recsys_plugin.export.index_graphs import answer_version, catalogue_graph, index_graph, lookup_graph
from recsys_plugin.export.install import exported_versions, install, next_version, promotion_path
from recsys_plugin.export.local import TOKENIZERS, LocalRepository, tokenizer_of
from recsys_plugin.export.merged import lay_out, merged_graph
from recsys_plugin.export.new_item_graphs import PACKED_WIDTH, item_encoder_graph, new_item_ranker_graph
from recsys_plugin.export.new_item_parity import catalogue_texts, check_new_items, item_request
from recsys_plugin.export.options import ExportOptions
from recsys_plugin.export.parity import (
    TOLERANCE,
    check_merged,
    check_parity,
    example_requests,
    left_out,
    user_inputs,
)
from recsys_plugin.export.popularity_graph import popularity_graph
from recsys_plugin.export.precision import reduce_precision
from recsys_plugin.export.torch_graphs import encoder_graph, ranker_graph, user_tower_graph
from recsys_plugin.export.user_graphs import communities_graph, user_index_graph
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.policy.popularity import Popularity, nothing_popular
from recsys_plugin.security.digests import sha256_of
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.communities import People, nobody
from recsys_plugin.training.complements import Complements, no_complements
from recsys_plugin.training.explaining import METHODS, method_of
from recsys_plugin.training.frames import Split
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.text import MAX_TOKENS, TextEncoder, load_encoder, served_tokenizer

__all__ = ["ExportMaterial", "export_repository", "name_by_content"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Told what is being made, how much is done, and of how much.
Progress = Callable[[str, int, int], None]
#: Outputs of the model ``catalogue`` and the columns that they are made of.
_CATALOGUE_TEXTS = {
    "item_ids": "item_id",
    "titles": "title",
    "categories": "category",
    "subcategories": "subcategory",
    "brands": "brand",
}
#: Models that clients load with a version, page by page.
_TABLES = ("catalogue", "popularity")
_DATATYPES = {"f": "FP32", "i": "INT64", "O": "BYTES", "U": "BYTES"}


@dataclass(frozen=True, slots=True)
class ExportMaterial:
    """What a version is made from.

    Attributes:
        models: what was trained.
        catalogue: in row order, as :func:`~recsys_plugin.export.catalogue.catalogue_frame` makes it.
        text_vectors: float32 [N, dimensions] of the catalogue.
        users: real packed users, for parity and known answers.
        encoder: name of the text encoder.
        candidates: how many candidates a recommendation ranks.
        options: how models are laid out and weights stored. measured: real users and what they bought, on whom a
            lower precision is measured; without them there is no other than fp32.
        complements: what goes with a basket; without them every basket is answered alike.
        popularity: what is popular; nothing is, without it.
        people: the users who may be somebody's neighbour; nobody is, without them.
        reference: what the models were trained on, as JSON values, for ``recsys check drift``.
    """

    models: TrainedModels
    catalogue: pd.DataFrame
    text_vectors: _Array
    users: UserTensors
    encoder: str
    candidates: int
    options: ExportOptions = field(default_factory=ExportOptions)
    measured: Split | None = None
    complements: Complements | None = None
    popularity: Popularity | None = None
    people: People | None = None
    reference: Mapping[str, Any] | None = None

    @property
    def titles(self) -> list[str]:
        """Some real texts."""
        return [str(title) for title in self.catalogue["title"].drop_duplicates().head(64)]


def export_repository(
    repository: Path, state: Path, material: ExportMaterial, *, progress: Progress, key: str | None = None
) -> Mapping[str, Any]:
    """Export, check parity, compute known answers, and only then install the version.

    Args:
        repository: the Triton model repository.
        state: the state folder; ``export/`` below it takes the known answers and the manifest.
        material: what to export.
        progress: told what is being made.
        key: signs the version, see :mod:`recsys_plugin.security.model_manifest`.

    Returns:
        The manifest: version, contract fingerprint, largest differences, sha256 of every file.

    Raises:
        StepFailed: if catalogue and models name different items.
        CheckFailed: if a graph differs from its trained model; nothing is installed then.
    """
    models = material.models
    if list(material.catalogue["item_id"]) != list(models.item_ids):
        raise StepFailed("the catalogue and the trained models name different items; run `recsys train` again")
    version = next_version(repository)
    described = describe_repository(
        models.contract,
        vector=models.towers.item_vectors()[1].shape[1],
        text_vector=material.text_vectors.shape[1],
        own_rows=own_row_count(models.contract),
        item=PACKED_WIDTH,
    )
    described = _stating_privacy(described, material.people)
    folder = state / "export"
    staging = folder / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        encoder, tokenizer = load_encoder(material.encoder)
        parts = _write_graphs(staging, material, encoder, tokenizer, version, progress)
        tokenizers = {name: tokenizer_of(staging / name) for name in TOKENIZERS}
        progress("parity and known answers", 0, 0)
        graphs = _merge(staging, described, parts)
        local = LocalRepository(described, _of(described, graphs), tokenizers)
        differences = check_parity(
            local, models, material.users, encoder, tokenizer, material.titles, candidates=material.candidates
        )
        new_items = check_new_items(local, models, material.catalogue, material.users, encoder, tokenizer)
        differences |= new_items.differences
        differences |= check_complements(local, _complements(material))
        differences |= check_explanations(local, models, material.users, material.catalogue)
        reduced = _reduce(graphs, tokenizers["tokenizer"], material, progress)
        steps_described, described = described, lay_out(described, material.options.graphs)
        progress("merging graphs", 0, 0)
        steps = LocalRepository(steps_described, _of(steps_described, graphs), tokenizers)
        graphs = _of(described, _merge(staging, described, graphs))
        name_by_content(graphs.values())
        local = LocalRepository(described, graphs, tokenizers)
        if material.options.graphs == "merged":
            differences |= check_merged(steps, local, material.users, material.titles, candidates=material.candidates)
        _remove_parts(staging, {model.name for model in described})
        answers = {"version": version, "answers": _known_answers(local, material)}
        manifest = {
            "version": version,
            "contract": models.contract.fingerprint,
            "ctr_model": models.ranker.name,
            "graphs": material.options.graphs,
            "target": material.options.target,
            "items": len(material.catalogue),
            "parity": {
                "tolerance": TOLERANCE,
                "largest_difference": differences,
                "users": len(material.users),
                "left_out_at_a_split": left_out(models, material.users, candidates=material.candidates),
            },
            "new_items": {"compared": new_items.compared, "never_sold": new_items.never_sold},
            "precision": reduced,
            "communities": _privacy_of(material.people),
            "explanations": METHODS[method_of(models.ranker)],
            "sha256": {
                f"{path.parent.name}/{version}/{path.name}": sha256_of(path)
                for path in sorted(path for path in staging.rglob("*") if path.is_file())
            },
        }
        # `recsys up` asks for the known answers before it serves anything, so without them it refuses a version that an
        # interruption left half installed.
        (folder / "known_answers.json").unlink(missing_ok=True)
        records, promotion = folder / "versions", promotion_path(state)
        target = material.options.target
        install(repository, staging, described, version, records, models, promotion=promotion, target=target, key=key)
        atomic_text(folder / "known_answers.json", json.dumps(answers))
        atomic_text(folder / "manifest.json", json.dumps(manifest, indent=2))
        _keep_manifest(folder / "manifests", version, manifest, exported_versions(repository))
        if material.reference is not None:
            reference = {"version": version, **material.reference}
            _keep_manifest(folder / "references", version, reference, exported_versions(repository))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _privacy_of(people: People | None) -> dict[str, Any] | None:
    """What is promised of the counts about communities; ``None`` for exact ones."""
    if people is None or people.communities.epsilon is None:
        return None
    return {"epsilon": people.communities.epsilon, "delta": 0.0, "mechanism": "discrete Laplace", "protects": "a user"}


def _stating_privacy(described: tuple[Model, ...], people: People | None) -> tuple[Model, ...]:
    """The models, that of communities with the promise among its parameters."""
    promise = _privacy_of(people)
    if promise is None:
        return described
    said = {"differential_privacy": json.dumps(promise)}
    return tuple(
        replace(model, parameters={**model.parameters, **said}) if model.name == "communities" else model
        for model in described
    )


def _keep_manifest(folder: Path, version: int, manifest: Mapping[str, Any], kept: list[int]) -> None:
    """Write a version's document beside those of the other versions on disk."""
    for path in folder.glob("*.json"):
        if int(path.stem) not in kept:
            path.unlink()
    atomic_text(folder / f"{version}.json", json.dumps(manifest, indent=2))


def _of(described: tuple[Model, ...], graphs: Mapping[str, Path]) -> dict[str, Path]:
    """The graphs of the models described, without those that are only parts of others."""
    served = {model.name for model in described}
    return {name: path for name, path in graphs.items() if name in served}


def _remove_parts(staging: Path, served: set[str]) -> None:
    for folder in staging.iterdir():
        if folder.name not in served:
            shutil.rmtree(folder)


def _reduce(
    graphs: Mapping[str, Path],
    tokenize: Callable[[_Array], dict[str, _Array]],
    material: ExportMaterial,
    progress: Progress,
) -> dict[str, Any]:
    """Store weights as asked, in place, once the graphs in 32 bits have passed: what that cost."""
    if material.options.precision == "fp32":
        return {"precision": "fp32"}
    if material.measured is None:
        raise StepFailed(f"{material.options.precision} is measured on users of the test, and none were given")
    return reduce_precision(
        graphs,
        material.options,
        material.models,
        material.measured,
        [str(title) for title in material.catalogue["title"]],
        tokenize,
        candidates=material.candidates,
        progress=progress,
    )


def _write_graphs(
    staging: Path, material: ExportMaterial, encoder: TextEncoder, tokenizer: Any, version: int, progress: Progress
) -> dict[str, Path]:
    """Write every ONNX graph and the tokenizers, each to a folder named after its model; the paths of the graphs."""
    models, catalogue = material.models, material.catalogue
    vectors = models.towers.item_vectors()[1]
    people = nobody(vectors.shape[1]) if material.people is None else material.people
    for name, kind in TOKENIZERS.items():
        _write_tokenizer(staging / name, served_tokenizer(encoder, tokenizer, kind), tokenizer)
    empty = tokenizer_of(staging / "item_tokenizer")(np.array([""], object))["input_ids"][0]
    makers: dict[str, Callable[[], onnx.ModelProto]] = {
        "user_tower": lambda: user_tower_graph(models),
        "item_index": lambda: index_graph(vectors, own_rows=True),
        "ctr_ranker": lambda: ranker_graph(models),
        "item_embedding": lambda: lookup_graph(vectors),
        "text_index": lambda: index_graph(material.text_vectors, own_rows=True),
        "complements": lambda: complements_graph(_complements(material)),
        "user_index": lambda: user_index_graph(people),
        "communities": lambda: communities_graph(people.communities),
        "popularity": lambda: popularity_graph(material.popularity or nothing_popular(len(catalogue))),
        "text_encoder": lambda: encoder_graph(encoder, tokenizer),
        "item_encoder": lambda: item_encoder_graph(models, torch.from_numpy(empty)),
        "new_item_ranker": lambda: new_item_ranker_graph(models),
        "explainer": lambda: explainer_graph(models),
        "catalogue": lambda: catalogue_graph(
            {name: list(catalogue[column].fillna("")) for name, column in _CATALOGUE_TEXTS.items()},
            catalogue["price"].to_numpy(np.float32),
            seconds_of(catalogue["available_since"]),
        ),
    }
    graphs: dict[str, Path] = {}
    for done, (name, make) in enumerate(makers.items()):
        progress(f"graph {name}", done, len(makers))
        graphs[name] = staging / name / "model.onnx"
        graphs[name].parent.mkdir()
        # Tables are asked for by their version; the others may be run as steps of another version's ensemble.
        onnx.save(make() if name in _TABLES else answer_version(make(), version), graphs[name])
    return graphs


def _complements(material: ExportMaterial) -> Complements:
    return no_complements(len(material.catalogue)) if material.complements is None else material.complements


def _write_tokenizer(folder: Path, served: str, tokenizer: Any) -> None:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(served, encoding="utf-8")
    options = {"max_tokens": MAX_TOKENS, "pad_id": tokenizer.pad_token_id, "pad_token": tokenizer.pad_token}
    (folder / "options.json").write_text(json.dumps(options), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("tokenizer_model.py"), folder / "model.py")


def _merge(staging: Path, described: tuple[Model, ...], graphs: Mapping[str, Path]) -> dict[str, Path]:
    """Write the merged graphs beside those of their parts; the paths of all."""
    if total_bytes(graphs.values()) > GRAPH_LIMIT:
        for path in graphs.values():
            spill(path)
    loaded = {name: load_graph(path) for name, path in graphs.items()}
    paths = dict(graphs)
    for model in described:
        if not model.merged_from:
            continue
        paths[model.name] = staging / model.name / "model.onnx"
        paths[model.name].parent.mkdir(exist_ok=True)
        save_graph(merged_graph(model, loaded), paths[model.name])
    return paths


def name_by_content(graphs: Iterable[Path]) -> None:
    """Put a digest of each graph before the names of all its tensors but its inputs and outputs.

    TensorRT's engine cache knows an engine, weights included, by the names in the graph and nothing else: under equal
    names, a new version of a model would be answered by the engine of an older one.
    """
    for path in graphs:
        prefix = digest_of(path)[:12] + "/"
        model = onnx.load(path, load_external_data=False)
        prefix_names(model.graph, prefix, ends=False)
        onnx.save(model, path)
        tidy(path)


def _known_answers(local: LocalRepository, material: ExportMaterial) -> list[dict[str, Any]]:
    """What the catalogue, the tokenizer and each request must answer to one real request."""
    asked = example_requests(material.users.take(np.arange(min(2, len(material.users)))), material.titles[0], 20)
    query = asked["search"].pop("query")
    tokens = local.run("tokenizer", {"query": query})
    encoded = local.run("text_encoder", tokens)["text_embedding"]
    merged = material.options.graphs == "merged"
    is_exact = material.options.precision == "fp32" and material.options.target != "tensorrt"
    asked["search"] |= {**tokens, KNOWN_EMBEDDING: np.zeros_like(encoded)} if merged else {"query": query}
    asked["tokenizer"] = {"query": query}
    asked["text_encoder"] = tokens
    asked |= _new_item_requests(local, material)
    few = material.users.take(np.arange(min(1, len(material.users))))
    asked["similar_users"] = {**user_inputs(few), "counts": np.full((len(few), 2), 5, np.int64)}
    asked["communities"] = {"community": np.zeros((1, 1), np.int64)}
    asked["complements"] = complements_request(np.array([[0, -1]], np.int64), min(20, len(material.catalogue) - 1))
    new_items = np.repeat(asked["rank_new"]["new_items"][:1], len(asked["rank"]["candidate_rows"]), axis=0)
    asked["explain"] = {**asked["rank"], "new_items": new_items}
    asked |= {name: {"offset": np.array([0], np.int64), "count": np.array([3], np.int64)} for name in _TABLES}
    return [
        {
            "model": name,
            "inputs": {key: _plain(value) for key, value in inputs.items()},
            "outputs": {key: _plain(value) for key, value in local.run(name, inputs).items()},
            # Kernels for few bits, and those of TensorRT, round differently from one machine to the next.
            "tolerance": TOLERANCE if is_exact else 10 * TOLERANCE,
        }
        for name, inputs in asked.items()
    ]


def _new_item_requests(local: LocalRepository, material: ExportMaterial) -> dict[str, dict[str, _Array]]:
    """An item of the catalogue as if it were new, and a user's request for its scores."""
    first = material.catalogue.head(1)
    request = item_request(local, first)
    packed = local.run("new_item", request)["item"]
    users = user_inputs(material.users.take(np.arange(min(1, len(material.users)))))
    return {
        "item_tokenizer": {"query": catalogue_texts(first)[:, None]},
        "new_item": request,
        "rank_new": {**users, "new_items": packed[: len(users["user_float"])][:, None]},
    }


def _plain(value: _Array) -> dict[str, Any]:
    # JSON knows no NaN; null stands for it.
    flat = [None if isinstance(x, float) and x != x else x for x in value.reshape(-1).tolist()]
    return {"datatype": _DATATYPES[value.dtype.kind], "shape": list(value.shape), "data": flat}
