"""The graph behind the model ``explain``: what each group of features adds to a score, and what reasons can name."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from recsys_plugin.export.index_graphs import IR_VERSION
from recsys_plugin.export.new_item_graphs import PACKED_WIDTH, unpack
from recsys_plugin.export.torch_graphs import SCORE_WEIGHTS, ResidentGraph, example_user, export_module, take_user_texts
from recsys_plugin.export.tree_graphs import TreeColumns, join_trees
from recsys_plugin.inference.explanation import FEATURE_GROUPS, FIGURES
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.explaining import CoalitionColumns, explainer_of
from recsys_plugin.training.pair_features import Candidates
from recsys_plugin.training.ranker import HEADS
from recsys_plugin.training.reasons import category_ranks, nearest_own_items
from recsys_plugin.training.two_tower import DIMENSIONS
from recsys_plugin.training.zoo.shop import FrameCandidates, FrameRanker
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = ["ExplainGraph", "explainer_graph"]


class ExplainGraph(ResidentGraph):
    """The user's tensors, candidates and new items → ``values`` and ``reason_rows``, the item tables being constant."""

    numbers: Tensor
    ranks: Tensor

    def __init__(self, models: TrainedModels) -> None:
        super().__init__(models.ranker, models.towers, models.items)
        self.explainer = explainer_of(models, SCORE_WEIGHTS)
        self.register_buffer("numbers", F.pad(torch.from_numpy(models.items.numbers), (0, 0, 0, 1)))
        self.register_buffer("ranks", category_ranks(models.items))

    def asked(self, candidate_rows: Tensor, new_items: Tensor) -> tuple[Candidates, Tensor]:
        """The candidates of the catalogue, then the newer ones, C in all, and their numbers float32 [B, C, ·]."""
        tables, new = self.tables(), unpack(new_items)
        old, newer = tables.take(candidate_rows), self.ranker.new_candidates(new, tables)
        both = {
            field.name: torch.cat([getattr(old, field.name), getattr(newer, field.name)], dim=1)
            for field in fields(old)
        }
        return type(old)(**both), torch.cat([self.numbers[tables.known(candidate_rows)], new.numbers], dim=1)

    def reasons(
        self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, candidates: Candidates
    ) -> tuple[Tensor, Tensor]:
        """Rows int64 [B, C, 2] and the last three of the figures, float32 [B, C, 3]."""
        _, lists = self.ranker.inputs(user_float, user_int, user_codes)
        rows, strengths = nearest_own_items(lists, candidates, self.tables())
        return rows, torch.cat([strengths, self.ranks[candidates.rows].unsqueeze(-1)], dim=-1)

    def forward(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidate_rows: Tensor,
        new_items: Tensor,
    ) -> tuple[Tensor, ...]:
        """Values float32 [B, C, groups and figures] and rows int64 [B, C, 2]: of the catalogue, then of new items."""
        candidates, numbers = self.asked(candidate_rows, new_items)
        found = self.explainer(user_float, user_int, user_codes, user_vector, candidates, numbers, self.tables())
        rows, figures = self.reasons(user_float, user_int, user_codes, candidates)
        scores = torch.stack([found.base, found.logit], dim=-1)
        return torch.cat([found.contributions, scores, figures], dim=-1), rows


class _TreeCoalitions(ExplainGraph):
    """The same tensors → the last three figures, the rows, and every coalition's columns for the trees of each head."""

    def __init__(self, models: TrainedModels, trees: GradientBoostedTrees) -> None:
        super().__init__(models)
        self.trees = TreeColumns(trees)

    def forward(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidate_rows: Tensor,
        new_items: Tensor,
    ) -> tuple[Tensor, ...]:
        """Figures float32 [B, C, 3], rows int64 [B, C, 2], and float32 [B * C * 2^G, columns] for each head."""
        candidates, _ = self.asked(candidate_rows, new_items)
        assert isinstance(self.explainer, CoalitionColumns)
        assert isinstance(candidates, FrameCandidates)
        columns = self.explainer.columns(user_float, user_int, user_codes, user_vector, candidates, self.tables())
        rows, figures = self.reasons(user_float, user_int, user_codes, candidates)
        return (figures, rows, *self.trees(columns.numbers, columns.codes))


def explainer_graph(models: TrainedModels) -> onnx.ModelProto:
    """Export :class:`ExplainGraph` with text look-up in front; trees follow a graph that computes their columns."""
    ranker = models.ranker
    trees = ranker.model if isinstance(ranker, FrameRanker) and isinstance(ranker.model, GradientBoostedTrees) else None
    if trees is None:
        module, outputs = ExplainGraph(models), ["values", "reason_rows"]
    else:
        module = _TreeCoalitions(models, trees)
        outputs = ["figures", "reason_rows", *(f"columns_{head}" for head in trees.boosters)]
    example = (
        *example_user(ranker.inputs),
        F.normalize(torch.ones(2, DIMENSIONS), dim=1),
        torch.arange(6).reshape(2, 3) % len(models.item_ids),
        torch.zeros((2, 2, PACKED_WIDTH)),
    )
    batch = torch.export.Dim("batch", min=1, max=64)
    candidates, new = (torch.export.Dim(name, min=1, max=4096) for name in ("candidates", "new"))
    names = ["user_float", "user_int", "user_codes", "user_vector", "candidate_rows", "new_items"]
    shapes = [*[{0: batch}] * 4, {0: batch, 1: candidates}, {0: batch, 1: new}]
    graph = take_user_texts(export_module(module.eval(), example, shapes, names, outputs), ranker.inputs)
    if trees is None:
        return graph
    assert isinstance(module.explainer, CoalitionColumns)
    return _append_shapley(join_trees(graph, trees), trees, models.heads, module.explainer)


def _append_shapley(
    graph: onnx.ModelProto, trees: GradientBoostedTrees, heads: tuple[str, ...], explainer: CoalitionColumns
) -> onnx.ModelProto:
    """From every coalition's raw scores ``raw_<head>`` and ``figures`` to ``values``."""
    matrix = explainer.matrix.numpy()
    node, nodes = helper.make_node, list[onnx.NodeProto]()

    def constant(name: str, value: object, dtype: type) -> str:
        graph.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    constant("shapley_matrix", matrix, np.float32)
    nodes += [
        node("Shape", ["figures"], ["asked_shape"], start=0, end=2),
        node("Concat", ["asked_shape", constant("coalitions", [len(matrix)], np.int64)], ["coalition_shape"], axis=0),
    ]
    chances: dict[str, list[str]] = {"": [], "not_": []}
    for head in heads:
        at = HEADS.index(head)
        scale = constant(f"{head}_scale", trees.calibration.scale[at], np.float32)
        offset = constant(f"{head}_offset", trees.calibration.offset[at], np.float32)
        weight = constant(f"{head}_weight", SCORE_WEIGHTS[head], np.float32)
        nodes += [
            node("Reshape", [f"raw_{head}", "coalition_shape"], [f"{head}_raw_shaped"]),
            node("Mul", [f"{head}_raw_shaped", scale], [f"{head}_scaled"]),
            node("Add", [f"{head}_scaled", offset], [f"{head}_logit"]),
            node("Neg", [f"{head}_logit"], [f"not_{head}_logit"]),
        ]
        for kind, counted in chances.items():
            nodes += [
                node("Sigmoid", [f"{kind}{head}_logit"], [f"{kind}{head}_chance"]),
                node("Mul", [f"{kind}{head}_chance", weight], [f"{kind}{head}_counted"]),
            ]
            counted.append(f"{kind}{head}_counted")
    if len(heads) == 1:
        nodes.append(node("Identity", [f"{heads[0]}_logit"], ["coalition_values"]))
    else:
        for kind, counted in chances.items():
            nodes += [node("Sum", counted, [f"{kind}sum"]), node("Log", [f"{kind}sum"], [f"{kind}log"])]
        nodes.append(node("Sub", ["log", "not_log"], ["coalition_values"]))
    ends = constant("first_and_last", [0, len(matrix) - 1], np.int64)
    nodes += [
        node("MatMul", ["coalition_values", "shapley_matrix"], ["contributions"]),
        node("Gather", ["coalition_values", ends], ["log_odds"], axis=2),
        node("Concat", ["contributions", "log_odds", "figures"], ["values"], axis=2),
    ]
    graph.graph.node.extend(nodes)
    rows = next(value for value in graph.graph.output if value.name == "reason_rows")
    del graph.graph.output[:]
    shape: list[str | int | None] = ["batch_size", "explained", len(FEATURE_GROUPS) + len(FIGURES)]
    graph.graph.output.extend([helper.make_tensor_value_info("values", TensorProto.FLOAT, shape), rows])
    graph.ir_version = IR_VERSION
    onnx.checker.check_model(graph)
    return graph
