"""Trained weights with everything that gives them meaning, as safetensors and JSON: nothing that runs on loading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from recsys_plugin.errors import StepFailed
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.training.inputs import ItemInputs, UserInputs, Vocabulary, item_inputs
from recsys_plugin.training.modalities import ItemModalities
from recsys_plugin.training.neighbours import Neighbours
from recsys_plugin.training.ranker import CandidateRanker, Ranker
from recsys_plugin.training.two_tower import ItemTower, TwoTower, UserTower
from recsys_plugin.training.zoo.registry import load_model
from recsys_plugin.training.zoo.shop import FrameRanker

__all__ = [
    "CATALOGUE_BUFFERS",
    "TrainedModels",
    "code_sizes",
    "new_ranker",
    "new_two_tower",
    "read_models",
    "read_ranker",
    "read_two_tower",
    "read_vocabularies",
    "started_from",
    "write_ranker",
    "write_two_tower",
]

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class TrainedModels:
    """What export needs.

    Attributes:
        contract: the feature contract that the models were trained on.
        item_ids: the catalogue in row order.
        towers: the two-tower on the newest item snapshot. ranker: the CTR model.
        items: the newest item snapshot.
        heads: the event types that the data could tell; other heads were never trained.
        vocabularies: of the item code columns.
    """

    contract: FeatureContract
    item_ids: pd.Index[str]
    towers: TwoTower
    ranker: CandidateRanker
    items: ItemInputs
    heads: tuple[str, ...]
    vocabularies: Mapping[str, Vocabulary]


def code_sizes(vocabularies: Mapping[str, Vocabulary]) -> tuple[int, ...]:
    """Sizes of the item code embeddings."""
    return tuple(len(vocabulary) for vocabulary in vocabularies.values())


def new_two_tower(inputs: UserInputs, items: ItemInputs, sizes: tuple[int, ...]) -> TwoTower:
    """An untrained two-tower over the given item snapshot."""
    return TwoTower(UserTower(inputs), ItemTower(items, sizes))


def new_ranker(inputs: UserInputs, items: ItemInputs, sizes: tuple[int, ...]) -> Ranker:
    """An untrained ranker."""
    return Ranker(inputs, items.numbers.shape[1], sizes)


def _vocabularies_json(vocabularies: Mapping[str, Vocabulary]) -> dict[str, list[str]]:
    return {name: list(vocabulary.values) for name, vocabulary in vocabularies.items()}


def read_vocabularies(document: Mapping[str, list[str]]) -> dict[str, Vocabulary]:
    """Vocabularies as JSON holds them."""
    return {name: Vocabulary(tuple(values)) for name, values in document.items()}


#: Buffers that are the catalogue, not weights: they are set again from the newest snapshot.
CATALOGUE_BUFFERS = (
    "item.codes", "item.numbers",
    "item.fusion.texts", "item.fusion.has_text", "item.fusion.images", "item.fusion.has_image",
)  # fmt: skip


def write_two_tower(
    folder: Path,
    towers: TwoTower,
    contract: FeatureContract,
    item_vocabularies: Mapping[str, Vocabulary],
    *,
    started_from: int | None = None,
) -> None:
    """Write the towers and the vocabularies they were trained with; ``started_from`` is the version they began as."""
    weights = {name: value for name, value in towers.state_dict().items() if name not in CATALOGUE_BUFFERS}
    save_file(weights, folder / "two_tower.safetensors")
    document = {
        "contract": json.loads(contract.to_json()),
        "user_vocabularies": _vocabularies_json(towers.user.inputs.vocabularies),
        "item_vocabularies": _vocabularies_json(item_vocabularies),
        "started_from": started_from,
    }
    (folder / "two_tower.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def started_from(folder: Path) -> int | None:
    """The version whose weights a two-tower began with; None for random ones."""
    document = json.loads((folder / "two_tower.json").read_text(encoding="utf-8"))
    version: int | None = document["started_from"]
    return version


def write_ranker(folder: Path, ranker: CandidateRanker, heads: tuple[str, ...]) -> None:
    """Write a CTR model's weights, what it is, and which heads were trained."""
    if isinstance(ranker, FrameRanker):
        ranker.model.save(folder)
    else:
        save_file(ranker.state_dict(), folder / "ranker.safetensors")
    document = {"model": ranker.name, "heads": list(heads)}
    (folder / "ranker.json").write_text(json.dumps(document), encoding="utf-8")


def read_ranker(folder: Path, towers: TwoTower, items: ItemInputs, sizes: tuple[int, ...]) -> CandidateRanker:
    """Read a CTR model that was trained on what these towers found."""
    document = json.loads((folder / "ranker.json").read_text(encoding="utf-8"))
    inputs = UserInputs(towers.user.inputs.contract, towers.user.inputs.vocabularies)
    if document["model"] == Ranker.name:
        ranker = new_ranker(inputs, items, sizes)
        ranker.load_state_dict(load_file(folder / "ranker.safetensors"))
        return ranker.eval()
    # The columns of a frame are scaled as the towers scale them.
    inputs.load_state_dict(towers.user.inputs.state_dict())
    return FrameRanker(load_model(folder), inputs, items.numbers.shape[1], sizes, len(items.numbers)).eval()


def read_two_tower(
    folder: Path, snapshot: pd.DataFrame, modalities: ItemModalities, neighbours: Neighbours
) -> tuple[TwoTower, FeatureContract, ItemInputs, dict[str, Vocabulary]]:
    """Read the towers onto a catalogue snapshot (same items, newer statistics)."""
    document = json.loads((folder / "two_tower.json").read_text(encoding="utf-8"))
    contract = FeatureContract.from_json(json.dumps(document["contract"]))
    item_vocabularies = read_vocabularies(document["item_vocabularies"])
    items, _ = item_inputs(snapshot, modalities, item_vocabularies, neighbours=neighbours)
    inputs = UserInputs(contract, read_vocabularies(document["user_vocabularies"]))
    towers = new_two_tower(inputs, items, code_sizes(item_vocabularies))
    weights = load_file(folder / "two_tower.safetensors")
    missing, unexpected = towers.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != set(CATALOGUE_BUFFERS):
        raise StepFailed(f"{folder}: the two-tower's weights do not fit its code; run `recsys train` again")
    return towers.eval(), contract, items, item_vocabularies


def read_models(
    two_tower: Path, ranker: Path, snapshot: pd.DataFrame, modalities: ItemModalities, neighbours: Neighbours
) -> TrainedModels:
    """Read everything that export needs, on the newest snapshot."""
    towers, contract, items, item_vocabularies = read_two_tower(two_tower, snapshot, modalities, neighbours)
    document = json.loads((ranker / "ranker.json").read_text(encoding="utf-8"))
    model = read_ranker(ranker, towers, items, code_sizes(item_vocabularies))
    ids = pd.Index(snapshot["item_id"].to_numpy(object), dtype=object)
    return TrainedModels(contract, ids, towers, model, items, tuple(document["heads"]), item_vocabularies)
