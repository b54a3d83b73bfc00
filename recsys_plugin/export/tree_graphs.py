"""Gradient-boosted trees as an ONNX graph: a torch graph computes the columns, LightGBM's trees follow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from torch import Tensor, nn

from recsys_plugin.export.index_graphs import IR_VERSION, OPSET
from recsys_plugin.training.zoo.trees import GRID, GradientBoostedTrees, split_thresholds

__all__ = ["TreeColumns", "append_trees", "at_a_split", "join_trees"]

_Array = np.ndarray[Any, np.dtype[Any]]
_ML_OPSET = 2


class TreeColumns(nn.Module):
    """A frame's numbers and codes → what each head's trees split on, as ``GradientBoostedTrees.matrix`` makes it."""

    def __init__(self, model: GradientBoostedTrees) -> None:
        super().__init__()
        self.heads = tuple(model.boosters)
        self.tables = nn.ModuleList(
            nn.ParameterList(
                nn.Parameter(torch.from_numpy(table.copy()), requires_grad=False)
                for table in model.statistics[head].tables
            )
            for head in self.heads
        )

    def forward(self, numbers: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
        """float32 [n, D + K] for each head."""
        rounded = torch.round(numbers * GRID) / GRID
        found = []
        for tables in self.tables:
            assert isinstance(tables, nn.ParameterList)
            encoded = [table[codes[:, column]].unsqueeze(1) for column, table in enumerate(tables)]
            found.append(torch.cat([rounded, *encoded], dim=1))
        return tuple(found)


def append_trees(
    columns: onnx.ModelProto,
    model: GradientBoostedTrees,
    heads: tuple[str, ...],
    weights: Mapping[str, float],
    candidates: str = "candidate_rows",
) -> onnx.ModelProto:
    """Put the trees of every head behind a graph that computes their columns.

    Args:
        columns: has an output ``columns_<head>`` float32 [B * C, ·] for each head that has trees; others stay.
        model: trained and calibrated.
        heads: of the probabilities to give, in order of the model's frame; those without trees are NaN.
        weights: what each head counts for in ``scores``.
        candidates: an input [B, C, ...] of the columns' graph.

    Returns:
        The graph with ``scores`` and ``<head>_probability`` float32 [B, C] as its outputs, after the others.
    """
    merged = join_trees(columns, model)
    graph = merged.graph
    nodes = [helper.make_node("Shape", [candidates], ["answer_shape"], end=2)]
    counted: list[str] = []
    for head in heads:
        answer = f"{head}_probability"
        if head not in model.boosters:
            graph.initializer.append(numpy_helper.from_array(np.array([np.nan], np.float32), f"{head}_unknown"))
            nodes.append(helper.make_node("Expand", [f"{head}_unknown", "answer_shape"], [answer]))
            continue
        position = model.layout["heads"].index(head)
        for name, value in (
            ("scale", model.calibration.scale[position]),
            ("offset", model.calibration.offset[position]),
            ("weight", weights[head]),
        ):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{head}_{name}"))
        nodes += [
            helper.make_node("Reshape", [f"raw_{head}", "answer_shape"], [f"{head}_logit"]),
            helper.make_node("Mul", [f"{head}_logit", f"{head}_scale"], [f"{head}_scaled"]),
            helper.make_node("Add", [f"{head}_scaled", f"{head}_offset"], [f"{head}_calibrated"]),
            helper.make_node("Sigmoid", [f"{head}_calibrated"], [answer]),
            helper.make_node("Mul", [answer, f"{head}_weight"], [f"{head}_counted"]),
        ]
        counted.append(f"{head}_counted")
    nodes.append(helper.make_node("Sum", counted, ["scores"]))
    graph.node.extend(nodes)
    asked = next(value for value in graph.input if value.name == candidates)
    shape = [dim.dim_param for dim in asked.type.tensor_type.shape.dim[:2]]
    for name in ("scores", *(f"{head}_probability" for head in heads)):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    merged.ir_version = IR_VERSION
    onnx.checker.check_model(merged)
    return merged


def join_trees(columns: onnx.ModelProto, model: GradientBoostedTrees) -> onnx.ModelProto:
    """Put the trees of every head behind a graph that computes their columns, see :func:`append_trees`.

    Returns:
        The graph with a value ``raw_<head>`` float32 [n, 1] for each head, and the other outputs of ``columns``.
    """
    _without_types(columns)
    merged = columns
    for head, booster in model.boosters.items():
        trees = compose.add_prefix(_trees(booster), f"{head}_trees_")
        (source,), (target,) = trees.graph.input, trees.graph.output
        kept = [output.name for output in merged.graph.output if output.name != f"columns_{head}"]
        merged = compose.merge_models(
            merged, trees, io_map=[(f"columns_{head}", source.name)], outputs=[*kept, target.name]
        )
        merged.graph.node.append(helper.make_node("Identity", [target.name], [f"raw_{head}"]))
    others = [output for output in columns.graph.output if not output.name.startswith("columns_")]
    del merged.graph.output[:]
    merged.graph.output.extend(others)
    return merged


def _trees(booster: lightgbm.Booster) -> onnx.ModelProto:
    """One model's trees as a graph from float32 [n, columns] to the raw score float32 [n, 1]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converters warn of their own deprecations
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        # As a regression the converter leaves the sum of the leaves alone; calibration takes that, not a probability.
        text = re.sub(r"^objective=.*$", "objective=regression", booster.model_to_string(), flags=re.M)
        text = re.sub(r"^\[objective: .*\]$", "[objective: regression]", text, flags=re.M)
        text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.M)
        columns = [("columns", FloatTensorType([None, booster.num_feature()]))]
        model: onnx.ModelProto = convert_lightgbm(
            lightgbm.Booster(model_str=text), initial_types=columns, target_opset=15
        )
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)])
    model.ir_version = IR_VERSION
    return model


def _without_types(model: onnx.ModelProto) -> None:
    """Drop what the exporter noted of inner tensors and of its own functions: the merge compares them by name."""
    del model.graph.value_info[:]
    del model.metadata_props[:]


def at_a_split(model: GradientBoostedTrees, head: str, numbers: _Array, *, within: float = 2e-6) -> _Array:
    """Which lines have a number that rounding errors may send either way at a split of some tree.

    The columns' numbers are rounded to a grid before the trees see them, so that happens where an error moves a number
    to the next point of the grid and a threshold lies between both.

    Args:
        model: the trees. head: whose.
        numbers: float32 [n, D], a frame's numbers, not rounded yet.
        within: the largest rounding error expected, absolute below 1 and relative above.

    Returns:
        bool [n].
    """
    near = np.zeros(len(numbers), bool)
    error = within * np.maximum(1.0, np.abs(numbers))
    lowest, highest = (np.rint((numbers + side * error) * GRID) / GRID for side in (-1.0, 1.0))
    for column, thresholds in split_thresholds(model.boosters[head]).items():
        if column < numbers.shape[1]:  # target statistics come out of a table and have no error
            below = np.searchsorted(thresholds, lowest[:, column])
            near |= below != np.searchsorted(thresholds, highest[:, column])
    return near
