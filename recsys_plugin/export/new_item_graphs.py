"""Graphs for items newer than the snapshot: one encodes an item into a packed row, the other ranks such rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from recsys_plugin.export.torch_graphs import (
    SCORE_WEIGHTS,
    RankerGraph,
    example_user,
    export_module,
    take_texts,
    take_user_texts,
)
from recsys_plugin.export.tree_graphs import TreeColumns, append_trees
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.inputs import ITEM_NUMBERS, unsold_items
from recsys_plugin.training.neighbours import no_neighbours
from recsys_plugin.training.pair_features import NewItems
from recsys_plugin.training.ranker import HEADS
from recsys_plugin.training.two_tower import DIMENSIONS
from recsys_plugin.training.user_texts import TEXT_DIMENSIONS
from recsys_plugin.training.zoo.shop import FrameCandidates, FrameRanker
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = [
    "PACKED_WIDTH",
    "ItemEncoderGraph",
    "NewItemRankerGraph",
    "cosines",
    "item_encoder_graph",
    "new_item_ranker_graph",
    "unpack",
]

#: The item's texts that have a vocabulary: category, subcategory and brand.
_CODES = 3
_PARTS = (DIMENSIONS, TEXT_DIMENSIONS, ITEM_NUMBERS, _CODES)
#: Width of a packed item: its vector, its compact text vector, its numbers, its codes. No CTR model needs more, so that
#: a row means the same whichever ranks.
PACKED_WIDTH = sum(_PARTS)


def unpack(packed: Tensor) -> NewItems:
    """The parts of packed items float32 [..., :data:`PACKED_WIDTH`]; codes are small enough to be exact in float32."""
    vectors, texts, numbers, codes = torch.split(packed, list(_PARTS), dim=-1)
    return NewItems(vectors, texts, numbers, codes.to(torch.int64))


class ItemEncoderGraph(nn.Module):
    """An item's text vector, codes and price → its packed row, without an id, an image or a sale.

    Args:
        models: what was trained.
        empty: int64 [tokens], what the tokenizer makes of a text without a word: an item with it has no text.
    """

    empty: Tensor
    is_title: Tensor
    numbers: Tensor
    centre: Tensor
    directions: Tensor
    images: Tensor

    def __init__(self, models: TrainedModels, empty: Tensor) -> None:
        super().__init__()
        modalities = models.items.modalities
        self.tower = models.towers.item
        nothing = unsold_items(
            np.zeros((1, modalities.texts.shape[2]), np.float32),
            np.zeros(1, bool),
            np.full((1, _CODES), "", object),
            np.array([np.nan]),
            modalities,
            models.vocabularies,
        )
        is_title = torch.zeros(len(modalities.sources))
        if modalities.title is not None:
            is_title[modalities.title] = 1.0
        self.register_buffer("empty", empty)
        self.register_buffer("is_title", is_title)
        # All but the last two, which are the price's.
        self.register_buffer("numbers", torch.from_numpy(nothing.numbers[:, :-2]))
        self.register_buffer("images", torch.from_numpy(nothing.modalities.images))
        self.register_buffer("centre", torch.from_numpy(modalities.axes.centre))
        self.register_buffer("directions", torch.from_numpy(modalities.axes.directions))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, encoded_text: Tensor, item_codes: Tensor, price: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Packed rows float32 [B, width] and text vectors float32 [B, D], zero for an item without a text.

        Args:
            input_ids, attention_mask: int64 [B, tokens]. encoded_text: float32 [B, D], the text encoder's answer.
            item_codes: int64 [B, 3]. price: float32 [B, 1], NaN where unknown.
        """
        is_said = (~self._is_empty(input_ids, attention_mask)).to(encoded_text.dtype).unsqueeze(1)
        text = encoded_text * is_said
        has_text = is_said * self.is_title
        texts = text.unsqueeze(1) * has_text.unsqueeze(-1)
        blank = torch.zeros_like(price)
        images = self.images + blank
        is_unknown = torch.isnan(price)
        amount = torch.log1p(torch.where(is_unknown, 0.0, price))
        numbers = torch.cat([self.numbers + blank, amount, is_unknown.to(price.dtype)], dim=1)
        fused = self.tower.fusion.fuse(texts, has_text, images, blank.squeeze(1))
        _, vector = self.tower.without_id(fused, numbers, item_codes)
        along = ((texts.sum(1) - self.centre) @ self.directions) * has_text.sum(1, keepdim=True)
        compact = along / along.norm(dim=1, keepdim=True).clamp(min=1e-9)
        return torch.cat([vector, compact, numbers, item_codes.to(vector.dtype)], dim=1), text

    def _is_empty(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """bool [B]: whether the tokens are those of a text without a word."""
        width = self.empty.shape[0]
        room = self.empty.unsqueeze(0) * torch.zeros_like(input_ids[:, :1])
        first = torch.cat([input_ids, room], dim=1)[:, :width]
        return (first == self.empty).all(1) & (attention_mask.sum(1) == width)


class NewItemRankerGraph(RankerGraph):
    """The user's tensors and packed items → cosines, scores and probabilities.

    Of the resident catalogue it holds what the users' histories need. No neighbours: nobody bought a new item yet.
    """

    def __init__(self, models: TrainedModels) -> None:
        items = replace(models.items, neighbours=no_neighbours(len(models.items.codes)))
        super().__init__(models.ranker, models.towers, items, models.heads)

    def forward(
        self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, user_vector: Tensor, new_items: Tensor
    ) -> tuple[Tensor, ...]:
        """Cosines, scores, and the probability of each head in order of :data:`HEADS`, float32 [B, C] each."""
        new, tables = unpack(new_items), self.tables()
        candidates = self.ranker.new_candidates(new, tables)
        logits = self.ranker.score(user_float, user_int, user_codes, user_vector, candidates, tables)
        return (cosines(user_vector, new), *self.told(logits))


class _NewItemColumnsGraph(NewItemRankerGraph):
    """The same tensors → cosines, and what the trees of each head split on, float32 [B * C, columns] each."""

    def __init__(self, models: TrainedModels, model: GradientBoostedTrees) -> None:
        super().__init__(models)
        self.trees = TreeColumns(model)

    def forward(
        self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, user_vector: Tensor, new_items: Tensor
    ) -> tuple[Tensor, ...]:
        """The cosines float32 [B, C] and one matrix for each head that has trees."""
        assert isinstance(self.ranker, FrameRanker)
        new, tables = unpack(new_items), self.tables()
        candidates = self.ranker.new_candidates(new, tables)
        assert isinstance(candidates, FrameCandidates)
        columns = self.ranker.shop.columns(user_float, user_int, user_codes, user_vector, candidates, tables)
        return (cosines(user_vector, new), *self.trees(columns.numbers, columns.codes))


def cosines(user_vector: Tensor, new: NewItems) -> Tensor:
    """float32 [B, C] of unit vectors; 0 for a row of padding."""
    return (new.vectors @ user_vector.unsqueeze(-1)).squeeze(-1)


def item_encoder_graph(models: TrainedModels, empty: Tensor) -> onnx.ModelProto:
    """Export :class:`ItemEncoderGraph` with text look-up in front; it follows the text encoder."""
    module = ItemEncoderGraph(models, empty).eval()
    example = (
        torch.zeros((2, 5), dtype=torch.int64),
        torch.ones((2, 5), dtype=torch.int64),
        torch.zeros(2, models.items.modalities.texts.shape[2]),
        torch.zeros((2, _CODES), dtype=torch.int64),
        torch.ones((2, 1)),
    )
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("tokens", min=2, max=512)
    names = ["input_ids", "attention_mask", "encoded_text", "item_codes", "price"]
    shapes = [{0: batch, 1: length}] * 2 + [{0: batch}] * 3
    graph = export_module(module, example, shapes, names, ["item", "text_embedding"])
    columns = [(f"item_{number}", number, words) for number, words in enumerate(models.vocabularies.values())]
    return take_texts(graph, "item_codes", "item_string", _CODES, columns)


def new_item_ranker_graph(models: TrainedModels) -> onnx.ModelProto:
    """Export :class:`NewItemRankerGraph` with text look-up in front; trees follow a graph of their columns."""
    ranker = models.ranker
    trees = ranker.model if isinstance(ranker, FrameRanker) and isinstance(ranker.model, GradientBoostedTrees) else None
    if trees is None:
        module, outputs = NewItemRankerGraph(models), ["scores", *(f"{head}_probability" for head in HEADS)]
    else:
        module, outputs = _NewItemColumnsGraph(models, trees), [f"columns_{head}" for head in trees.boosters]
    example = (*example_user(ranker.inputs), torch.full((2, DIMENSIONS), 0.125), torch.zeros((2, 3, PACKED_WIDTH)))
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = [*[{0: batch}] * 4, {0: batch, 1: torch.export.Dim("new", min=1, max=1_000_000)}]
    names = ["user_float", "user_int", "user_codes", "user_vector", "new_items"]
    exported = export_module(module.eval(), example, shapes, names, ["retrieval_scores", *outputs])
    graph = take_user_texts(exported, ranker.inputs)
    return graph if trees is None else append_trees(graph, trees, HEADS, SCORE_WEIGHTS, "new_items")
