"""The graph of what goes with a basket: neighbour tables gathered, added up, and the best of the catalogue."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from recsys_plugin.export.index_graphs import COUNT_CONSTANTS, integers, largest_count, make_graph
from recsys_plugin.training.complements import Complements

__all__ = ["complements_graph"]


def complements_graph(complements: Complements) -> onnx.ModelProto:
    """Score every item of the catalogue by what the items of a basket say for it.

    Args:
        complements: the tables of N items.

    Returns:
        ``basket_rows`` and ``excluded_rows`` int64 [B, any], -1 pads; ``counts`` int64 [B, 2], of which the first is
        read → ``rows`` int64 [B, K] and ``scores`` float32 [B, K], best first, where K = min(largest count, N). Rows
        are -1 for excluded items, those of the basket, and beyond a line's own count; such scores are 0. A basket of
        padding alone is answered by what is popular.
    """
    size = len(complements.rows)
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        # One line and one column more than the catalogue take what padding (-1) points at.
        node("Less", ["basket_rows", "first_row"], ["is_padding"]),
        node("Where", ["is_padding", "size", "basket_rows"], ["basket"]),
        node("Gather", ["neighbour_rows", "basket"], ["said_of"], axis=0),
        node("Gather", ["neighbour_weights", "basket"], ["said"], axis=0),
        node("Reshape", ["said_of", "one_line"], ["columns"]),
        node("Reshape", ["said", "one_line"], ["weights"]),
        node("Shape", ["basket_rows"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "width"], ["padded_shape"], axis=0),
        node("Expand", ["prior", "padded_shape"], ["before"]),
        node("ScatterElements", ["before", "columns", "weights"], ["padded_scores"], axis=1, reduction="add"),
        node("Less", ["excluded_rows", "first_row"], ["excluded_is_padding"]),
        node("Where", ["excluded_is_padding", "size", "excluded_rows"], ["excluded"]),
        node("Concat", ["basket", "excluded"], ["never"], axis=1),
        node("Shape", ["never"], ["never_shape"]),
        node("Expand", ["lowest", "never_shape"], ["never_scores"]),
        node("ScatterElements", ["padded_scores", "never", "never_scores"], ["allowed"], axis=1),
        node("Slice", ["allowed", "first_row", "size", "axis"], ["ordering"]),
        *largest_count(0, "size"),
        node("TopK", ["ordering", "k"], ["top_order", "top_rows"], axis=1),
        node("IsInf", ["top_order"], ["is_never"]),
        node("Or", ["is_never", "is_beyond"], ["is_nothing"]),
        node("Where", ["is_nothing", "no_row", "top_rows"], ["rows"]),
        node("Where", ["is_nothing", "no_score", "top_order"], ["scores"]),
    ]
    padded_rows = np.where(complements.rows < 0, size, complements.rows)
    return make_graph(
        "complements",
        nodes,
        [
            info("basket_rows", TensorProto.INT64, ["batch_size", "basket_items"]),
            info("excluded_rows", TensorProto.INT64, ["batch_size", "excluded_count"]),
            info("counts", TensorProto.INT64, ["batch_size", 2]),
        ],
        [
            info("rows", TensorProto.INT64, ["batch_size", "candidates"]),
            info("scores", TensorProto.FLOAT, ["batch_size", "candidates"]),
        ],
        {
            "neighbour_rows": np.pad(padded_rows, ((0, 1), (0, 0)), constant_values=size).astype(np.int64),
            "neighbour_weights": np.pad(complements.weights, ((0, 1), (0, 0))).astype(np.float32),
            "prior": np.pad(complements.prior, (0, 1))[np.newaxis].astype(np.float32),
            "lowest": np.array([-np.inf], np.float32),
            "one_line": integers([0, -1]),
            "width": integers([size + 1]),
            "first_row": integers([0]),
            "size": integers([size]),
            "axis": integers([1]),
            "no_row": integers(-1),
            "no_score": np.array(0.0, np.float32),
            **COUNT_CONSTANTS,
        },
    )
