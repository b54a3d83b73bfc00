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
from recsys_plugin.training.ranker import Ranker
from recsys_plugin.training.two_tower import ItemTower, TwoTower, UserTower

__all__ = [
    "TrainedModels",
    "code_sizes",
    "new_ranker",
    "new_two_tower",
    "read_models",
    "read_two_tower",
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
    """

    contract: FeatureContract
    item_ids: pd.Index[str]
    towers: TwoTower
    ranker: Ranker
    items: ItemInputs
    heads: tuple[str, ...]


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


def _vocabularies(document: Mapping[str, list[str]]) -> dict[str, Vocabulary]:
    return {name: Vocabulary(tuple(values)) for name, values in document.items()}


#: Buffers that are the catalogue, not weights: they are set again from the newest snapshot.
_CATALOGUE_BUFFERS = ("item.text", "item.codes", "item.numbers")


def write_two_tower(
    folder: Path, towers: TwoTower, contract: FeatureContract, item_vocabularies: Mapping[str, Vocabulary]
) -> None:
    """Write the towers and the vocabularies they were trained with."""
    weights = {name: value for name, value in towers.state_dict().items() if name not in _CATALOGUE_BUFFERS}
    save_file(weights, folder / "two_tower.safetensors")
    document = {
        "contract": json.loads(contract.to_json()),
        "user_vocabularies": _vocabularies_json(towers.user.inputs.vocabularies),
        "item_vocabularies": _vocabularies_json(item_vocabularies),
    }
    (folder / "two_tower.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def write_ranker(folder: Path, ranker: Ranker, heads: tuple[str, ...]) -> None:
    """Write the ranker's weights and which heads were trained."""
    save_file(ranker.state_dict(), folder / "ranker.safetensors")
    (folder / "ranker.json").write_text(json.dumps({"heads": list(heads)}), encoding="utf-8")


def read_two_tower(
    folder: Path, snapshot: pd.DataFrame, text: _Array
) -> tuple[TwoTower, FeatureContract, ItemInputs, dict[str, Vocabulary]]:
    """Read the towers onto a catalogue snapshot (same items, newer statistics)."""
    document = json.loads((folder / "two_tower.json").read_text(encoding="utf-8"))
    contract = FeatureContract.from_json(json.dumps(document["contract"]))
    item_vocabularies = _vocabularies(document["item_vocabularies"])
    items, _ = item_inputs(snapshot, text, item_vocabularies)
    inputs = UserInputs(contract, _vocabularies(document["user_vocabularies"]))
    towers = new_two_tower(inputs, items, code_sizes(item_vocabularies))
    weights = load_file(folder / "two_tower.safetensors")
    missing, unexpected = towers.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != set(_CATALOGUE_BUFFERS):
        raise StepFailed(f"{folder}: the two-tower's weights do not fit its code; run `recsys train` again")
    return towers.eval(), contract, items, item_vocabularies


def read_models(two_tower: Path, ranker: Path, snapshot: pd.DataFrame, text: _Array) -> TrainedModels:
    """Read everything that export needs, on the newest snapshot."""
    towers, contract, items, item_vocabularies = read_two_tower(two_tower, snapshot, text)
    document = json.loads((ranker / "ranker.json").read_text(encoding="utf-8"))
    model = new_ranker(UserInputs(contract, towers.user.inputs.vocabularies), items, code_sizes(item_vocabularies))
    model.load_state_dict(load_file(ranker / "ranker.safetensors"))
    ids = pd.Index(snapshot["item_id"].to_numpy(object), dtype=object)
    return TrainedModels(contract, ids, towers, model.eval(), items, tuple(document["heads"]))
