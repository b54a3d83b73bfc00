"""The trained torch models as ONNX graphs that take the contract's raw tensors, texts included."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.export.index_graphs import IR_VERSION, OPSET
from recsys_plugin.export.tree_graphs import TreeColumns, append_trees
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.inputs import ItemInputs, UserInputs, Vocabulary
from recsys_plugin.training.pair_features import ItemTables
from recsys_plugin.training.ranker import HEADS, CandidateRanker
from recsys_plugin.training.text import TextEncoder
from recsys_plugin.training.two_tower import TwoTower
from recsys_plugin.training.zoo.shop import FrameRanker, FrameTables
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = [
    "SCORE_WEIGHTS",
    "RankerGraph",
    "ResidentGraph",
    "TreeColumnsGraph",
    "UserTowerGraph",
    "encoder_graph",
    "example_user",
    "export_module",
    "ranker_graph",
    "take_texts",
    "take_user_texts",
    "user_tower_graph",
]

#: What a head counts for in the score; heads that the data could not train count nothing.
SCORE_WEIGHTS = {"click": 0.1, "cart": 0.3, "purchase": 1.0}


class UserTowerGraph(nn.Module):
    """``user_float``, ``user_int``, ``user_codes`` → ``user_vector`` and ``own_rows``, the catalogue being constant."""

    embedded: Tensor

    def __init__(self, towers: TwoTower) -> None:
        super().__init__()
        self.tower = towers.user
        embedded, _ = towers.item_vectors()
        self.register_buffer("embedded", torch.from_numpy(embedded.copy()))

    def forward(self, user_float: Tensor, user_int: Tensor, user_codes: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [B, 64] and the catalogue rows of favourites and recent items [B, F + R]."""
        dense, lists = self.tower.inputs(user_float, user_int, user_codes)
        vector = self.tower.combine(dense, lists, self.embedded)
        return vector, torch.cat([lists.favourite_rows, lists.recent_rows], dim=1)


class ResidentGraph(nn.Module):
    """A ranker with the catalogue that is resident beside it, the item tables being constant."""

    def __init__(self, ranker: CandidateRanker, towers: TwoTower, items: ItemInputs) -> None:
        super().__init__()
        self.ranker = ranker
        vectors = torch.from_numpy(towers.item_vectors()[1].copy())
        with torch.no_grad():
            tables = ranker.item_tables(vectors, items)
        self.kind = type(tables)
        for field in fields(tables):
            self.register_buffer(f"table_{field.name}", getattr(tables, field.name))

    def tables(self) -> ItemTables:
        """The resident catalogue."""
        return self.kind(**{field.name: getattr(self, f"table_{field.name}") for field in fields(self.kind)})


class RankerGraph(ResidentGraph):
    """The user's tensors and candidates → scores and probabilities."""

    def __init__(self, ranker: CandidateRanker, towers: TwoTower, items: ItemInputs, heads: tuple[str, ...]) -> None:
        super().__init__(ranker, towers, items)
        self.heads = heads

    def forward(
        self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, user_vector: Tensor, candidate_rows: Tensor
    ) -> tuple[Tensor, ...]:
        """Scores, and the probability of each head in order of :data:`HEADS`, float32 [B, C] each."""
        return self.told(self.ranker(user_float, user_int, user_codes, user_vector, candidate_rows, self.tables()))

    def told(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Scores and probabilities float32 [B, C] of logits float32 [B, C, heads]; NaN for heads never trained."""
        probability = torch.sigmoid(logits)
        scores = sum(
            (SCORE_WEIGHTS[head] * probability[..., HEADS.index(head)] for head in self.heads), torch.zeros(())
        )
        told = (
            probability[..., position] + (0.0 if head in self.heads else float("nan"))
            for position, head in enumerate(HEADS)
        )
        return (scores, *told)


class TreeColumnsGraph(RankerGraph):
    """The same tensors → what the trees of each head split on, float32 [B * C, columns] each."""

    def __init__(self, ranker: FrameRanker, towers: TwoTower, items: ItemInputs) -> None:
        assert isinstance(ranker.model, GradientBoostedTrees)
        super().__init__(ranker, towers, items, ranker.model.heads)
        self.trees = TreeColumns(ranker.model)

    def forward(
        self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, user_vector: Tensor, candidate_rows: Tensor
    ) -> tuple[Tensor, ...]:
        """One matrix for each head that has trees."""
        assert isinstance(self.ranker, FrameRanker)
        tables = self.tables()
        assert isinstance(tables, FrameTables)
        candidates = tables.take(candidate_rows)
        columns = self.ranker.shop.columns(user_float, user_int, user_codes, user_vector, candidates, tables)
        return self.trees(columns.numbers, columns.codes)  # type: ignore[no-any-return]


def user_tower_graph(models: TrainedModels) -> onnx.ModelProto:
    """Export :class:`UserTowerGraph` with text look-up in front."""
    module = UserTowerGraph(models.towers).eval()
    example = example_user(models.towers.user.inputs)
    batch = torch.export.Dim("batch", min=1, max=4096)
    graph = export_module(
        module, example, [{0: batch}] * 3, ["user_float", "user_int", "user_codes"], ["user_vector", "own_rows"]
    )
    return take_user_texts(graph, models.towers.user.inputs)


def ranker_graph(models: TrainedModels) -> onnx.ModelProto:
    """Export :class:`RankerGraph` with text look-up in front; trees follow a graph that computes their columns."""
    ranker = models.ranker
    trees = ranker.model if isinstance(ranker, FrameRanker) and isinstance(ranker.model, GradientBoostedTrees) else None
    if isinstance(ranker, FrameRanker) and trees is not None:
        module: RankerGraph = TreeColumnsGraph(ranker, models.towers, models.items).eval()
        outputs = [f"columns_{head}" for head in trees.boosters]
    else:
        module = RankerGraph(ranker, models.towers, models.items, models.heads).eval()
        outputs = ["scores", *(f"{head}_probability" for head in HEADS)]
    size = len(models.item_ids)
    example = (
        *example_user(ranker.inputs),
        F.normalize(torch.ones(2, models.towers.item_vectors()[1].shape[1]), dim=1),
        torch.arange(6).reshape(2, 3) % size,
    )
    batch = torch.export.Dim("batch", min=1, max=4096)
    candidates = torch.export.Dim("candidates", min=1, max=1_000_000)
    shapes = [*[{0: batch}] * 4, {0: batch, 1: candidates}]
    names = ["user_float", "user_int", "user_codes", "user_vector", "candidate_rows"]
    graph = take_user_texts(export_module(module, example, shapes, names, outputs), ranker.inputs)
    return graph if trees is None else append_trees(graph, trees, HEADS, SCORE_WEIGHTS)


def encoder_graph(encoder: TextEncoder, tokenizer: Any) -> onnx.ModelProto:
    """``input_ids`` and ``attention_mask`` → ``text_embedding``."""
    tokens = tokenizer(["a red mug", "milk"], padding=True, return_tensors="pt")
    texts, length = torch.export.Dim("texts", min=1, max=4096), torch.export.Dim("tokens", min=2, max=512)
    return export_module(
        encoder,
        (tokens["input_ids"], tokens["attention_mask"]),
        [{0: texts, 1: length}] * 2,
        ["input_ids", "attention_mask"],
        ["text_embedding"],
    )


def example_user(inputs: UserInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Two users' ``user_float``, ``user_int`` and ``user_codes``, to trace a graph with."""
    widths = inputs.contract.widths
    return (
        torch.ones(2, widths["user_float"]),  # type: ignore[index]
        torch.zeros(2, widths["user_int"], dtype=torch.int64),  # type: ignore[index]
        torch.zeros(2, len(inputs.texts), dtype=torch.int64),
    )


def export_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: Sequence[Mapping[int, Any]],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Export a torch module.

    Args:
        module: in evaluation mode. example: its arguments. shapes: for each, the axes that may be of another size.
        inputs, outputs: names.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            example,
            str(path),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(dict(shape) for shape in shapes),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        model = onnx.load(path)
    model.ir_version = IR_VERSION
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates on standard output and warns of its own deprecations."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def take_user_texts(model: onnx.ModelProto, inputs: UserInputs) -> onnx.ModelProto:
    """Replace the input ``user_codes`` by ``user_string``: the vocabularies move into the graph."""
    columns = [
        (name.replace(":", "_"), inputs.contract.slots[name].offset, inputs.vocabularies[name])
        for name in (spec.reference for spec in inputs.texts)
    ]
    width = inputs.contract.widths["user_string"]  # type: ignore[index]
    return take_texts(model, "user_codes", "user_string", width, columns)


def take_texts(
    model: onnx.ModelProto, codes: str, texts: str, width: int, columns: Sequence[tuple[str, int, Vocabulary]]
) -> onnx.ModelProto:
    """Replace an input of codes by one of texts, in place: the vocabularies move into the graph.

    Args:
        model: has the input ``codes`` int64 [B, K].
        texts: the name of the new input, STRING [B, width].
        columns: for each of the K codes a name, its column among the texts, and its vocabulary.
    """
    graph = model.graph
    for position, value in enumerate(graph.input):
        if value.name == codes:
            batch = value.type.tensor_type.shape.dim[0].dim_param
            del graph.input[position]
            break
    graph.input.append(helper.make_tensor_value_info(texts, TensorProto.STRING, [batch, width]))
    nodes: list[onnx.NodeProto] = []
    for name, offset, vocabulary in columns:
        graph.initializer.append(numpy_helper.from_array(np.array([offset], np.int64), f"{name}_column"))
        values = vocabulary.values
        nodes += [
            helper.make_node("Gather", [texts, f"{name}_column"], [f"{name}_text"], axis=1),
            helper.make_node(
                "LabelEncoder",
                [f"{name}_text"],
                [f"{name}_code"],
                domain="ai.onnx.ml",
                # An empty vocabulary still needs one key; the empty text is code 0 in every vocabulary.
                keys_strings=["", *values],
                values_int64s=list(range(len(values) + 1)),
                default_int64=0,
            ),
        ]
    nodes.append(helper.make_node("Concat", [f"{name}_code" for name, *_ in columns], [codes], axis=1))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    onnx.checker.check_model(model)
    return model
