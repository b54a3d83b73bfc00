"""The graphs for new items against the trained models: real items of the catalogue, encoded and ranked as if new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.local import LocalRepository
from recsys_plugin.export.parity import TOLERANCE, largest_difference, too_near_to_judge, user_inputs
from recsys_plugin.export.tree_graphs import at_a_split
from recsys_plugin.inference.new_items import item_text
from recsys_plugin.training.artefacts import TrainedModels, code_sizes
from recsys_plugin.training.inputs import ItemInputs, unsold_items
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.pair_features import NewItems
from recsys_plugin.training.ranker import HEADS
from recsys_plugin.training.text import TextEncoder, encode_texts
from recsys_plugin.training.two_tower import ItemTower
from recsys_plugin.training.zoo.shop import FrameCandidates, FrameRanker
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = ["NewItemParity", "catalogue_texts", "check_new_items", "item_request"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Items that are compared, and of those never sold as many again, at most.
_COMPARED = 64
#: Users for whom they are ranked, at most.
_USERS = 16
_TEXTS = ["category", "subcategory", "brand"]


@dataclass(frozen=True, slots=True)
class NewItemParity:
    """What came of the comparison.

    Attributes:
        differences: the largest absolute difference of each output, by ``model.output``.
        compared: how many items.
        never_sold: of the items without a sale, what their scores as new items and as resident ones have to do with
            each other: ``items``, ``mean_score`` (resident), ``mean_difference`` and ``largest_difference`` of the
            scores, absolute, and ``mean_cosine`` of the vectors. They differ by what the id was trained to say, and by
            texts of other sources and the image, which a new item lacks. Only ``items`` where there are none.
    """

    differences: Mapping[str, float]
    compared: int
    never_sold: Mapping[str, float]


def catalogue_texts(catalogue: pd.DataFrame) -> _Array:
    """:func:`~recsys_plugin.inference.new_items.item_text` of each item, object [n]."""
    known = catalogue[["title", "category", "brand"]].fillna("")
    return np.array([item_text(*row) for row in known.itertuples(index=False, name=None)], object)


def item_request(local: LocalRepository, catalogue: pd.DataFrame) -> dict[str, _Array]:
    """What ``new_item`` takes, for items of the catalogue."""
    return {
        **local.run("item_tokenizer", {"query": catalogue_texts(catalogue)[:, None]}),
        "item_string": catalogue[_TEXTS].fillna("").to_numpy(object),
        "price": catalogue["price"].to_numpy(np.float32)[:, None],
    }


def check_new_items(
    local: LocalRepository,
    models: TrainedModels,
    catalogue: pd.DataFrame,
    users: UserTensors,
    encoder: TextEncoder,
    tokenizer: Any,
) -> NewItemParity:
    """Encode items of the catalogue as if they were new, rank them, and compare with the trained models.

    The models' side goes the way of training: the tower over a catalogue of these items without their ids, the ranker
    on what it finds.

    Args:
        local: the exported graphs. models: the trained ones. catalogue: the items, in row order.
        users: real packed users. encoder, tokenizer: the text models.

    Raises:
        CheckFailed: if a difference is above :data:`~recsys_plugin.export.parity.TOLERANCE`.
    """
    unsold = np.flatnonzero(_never_sold(models))[:_COMPARED]
    spread = np.linspace(0, len(catalogue) - 1, min(_COMPARED, len(catalogue))).astype(np.int64)
    rows = np.unique(np.concatenate([spread, unsold]))
    chosen, few = catalogue.iloc[rows], users.take(np.arange(min(_USERS, len(users))))
    encoded = local.run("new_item", item_request(local, chosen))
    texts = catalogue_texts(chosen)
    vectors = encode_texts(encoder, tokenizer, list(texts), kind="passage")
    differences = {"new_item.text_embedding": largest_difference(encoded["text_embedding"], vectors)}
    inputs = unsold_items(
        vectors,
        np.array([bool(text.strip()) for text in texts], bool),
        chosen[_TEXTS].fillna("").to_numpy(object),
        chosen["price"].to_numpy(np.float32),
        models.items.modalities,
        models.vocabularies,
    )
    towered = _vectors_without_id(models, inputs)
    wanted = np.concatenate([towered, inputs.modalities.compact, inputs.numbers, inputs.codes.astype(np.float32)], 1)
    differences["new_item.item"] = largest_difference(encoded["item"], wanted)
    packed = np.repeat(encoded["item"][None], len(few), axis=0)
    ranked = local.named("rank_new", {**user_inputs(few), "new_items": packed})
    user_vectors = models.towers.user_vectors(few)
    differences["rank_new.retrieval_scores"] = largest_difference(ranked["retrieval_scores"], user_vectors @ towered.T)
    for head, (chances, compared) in _chances(models, few, user_vectors, inputs, towered).items():
        name = f"{head}_probability"
        differences[f"rank_new.{name}"] = largest_difference(ranked[name][compared], chances[compared])
    too_large = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if too_large:
        found = ", ".join(f"{name} by {value:.2g}" for name, value in too_large.items())
        raise CheckFailed(f"the graphs for new items differ from the trained models: {found} (allowed {TOLERANCE:g})")
    return NewItemParity(differences, len(rows), _beside_resident(local, models, few, ranked, towered, rows, unsold))


def _never_sold(models: TrainedModels) -> _Array:
    """bool [N]: the items that have the numbers of a new one, the price left out."""
    width = models.items.modalities.texts.shape[2]
    nothing = unsold_items(
        np.zeros((1, width), np.float32),
        np.zeros(1, bool),
        np.full((1, 3), "", object),
        np.array([np.nan]),
        models.items.modalities,
        models.vocabularies,
    )
    same: _Array = (models.items.numbers[:, :-2] == nothing.numbers[:, :-2]).all(1)
    return same


def _vectors_without_id(models: TrainedModels, inputs: ItemInputs) -> _Array:
    """Unit vectors float32 [n, 64]: the trained tower over a catalogue of these items, every id blanked."""
    tower = ItemTower(inputs, code_sizes(models.vocabularies))
    own = tower.state_dict()
    catalogue = [name for name, _ in tower.named_buffers()]
    trained = models.towers.item.state_dict()
    tower.load_state_dict(
        {name: own[name] if name in (*catalogue, "from_id.weight") else trained[name] for name in own}
    )
    with torch.inference_mode():
        vectors: _Array = tower.eval()(torch.zeros((len(inputs.codes), 1)))[1].numpy()
    return vectors


def _chances(
    models: TrainedModels, users: UserTensors, user_vectors: _Array, inputs: ItemInputs, vectors: _Array
) -> dict[str, tuple[_Array, _Array]]:
    """For each head the probabilities float32 [users, n], and which are compared: none within rounding of a split."""
    ranker, lines = models.ranker, len(users)

    def each(values: _Array) -> torch.Tensor:
        return torch.from_numpy(np.repeat(values[None], lines, axis=0))

    new = NewItems(each(vectors), each(inputs.modalities.compact), each(inputs.numbers), each(inputs.codes))
    asked = (
        torch.from_numpy(users.user_float),
        torch.from_numpy(users.user_int),
        torch.from_numpy(ranker.inputs.codes(users.user_string)),
        torch.from_numpy(user_vectors),
    )
    with torch.inference_mode():
        tables = ranker.item_tables(torch.from_numpy(models.towers.item_vectors()[1]), models.items)
        candidates = ranker.new_candidates(new, tables)
        chances = torch.sigmoid(ranker.score(*asked, candidates, tables)).numpy()
        found = {}
        for head in models.heads:
            compared = np.ones(chances.shape[:2], bool)
            if isinstance(ranker, FrameRanker) and isinstance(ranker.model, GradientBoostedTrees):
                assert isinstance(candidates, FrameCandidates)
                numbers = ranker.shop.columns(*asked, candidates, tables).numbers.numpy()
                near = at_a_split(ranker.model, head, numbers).reshape(compared.shape)
                compared = ~too_near_to_judge(near, head)
            found[head] = (chances[..., HEADS.index(head)], compared)
    return found


def _beside_resident(
    local: LocalRepository,
    models: TrainedModels,
    users: UserTensors,
    ranked: Mapping[str, _Array],
    vectors: _Array,
    rows: _Array,
    unsold: _Array,
) -> dict[str, float]:
    """How far the scores of items never sold lie from those that they have as residents."""
    if not len(unsold) or not len(users):
        return {"items": len(unsold)}
    resident = local.named("rank", {**user_inputs(users), "candidate_rows": np.tile(unsold, (len(users), 1))})
    places = np.searchsorted(rows, unsold)
    apart = np.abs(ranked["scores"][:, places] - resident["scores"])
    cosines = (vectors[places] * models.towers.item_vectors()[1][unsold]).sum(1)
    return {
        "items": len(unsold),
        "mean_score": float(resident["scores"].mean()),
        "mean_difference": float(apart.mean()),
        "largest_difference": float(apart.max()),
        "mean_cosine": float(cosines.mean()),
    }
