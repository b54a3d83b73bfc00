"""ONNX graphs written by hand: exact nearest items, vector look-up and the catalogue's pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "COUNT_CONSTANTS",
    "IR_VERSION",
    "OPSET",
    "answer_version",
    "best_graph",
    "catalogue_graph",
    "index_graph",
    "integers",
    "largest_count",
    "lookup_graph",
    "make_graph",
    "pack_graph",
    "paged_graph",
]

#: What the ONNX Runtime of Triton 24.10 and later reads.
IR_VERSION, OPSET = 10, 18

_Array = np.ndarray[Any, np.dtype[Any]]
#: Above and below every cosine, so that own rows come first and excluded ones never come.
_OWN, _NEVER = 4.0, -1000.0


def make_graph(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, _Array],
) -> onnx.ModelProto:
    """A checked model of nodes in topological order; ``constants`` are its initializers by name."""
    initializers = [numpy_helper.from_array(value, name=key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=False)
    return model


def integers(values: Any) -> _Array:
    """A constant int64."""
    return np.array(values, dtype=np.int64)


def answer_version(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Add the output ``version`` int64 [B, 1], always the given number, to a graph whose inputs have a batch axis."""
    graph = model.graph
    source = graph.input[0]
    batch = source.type.tensor_type.shape.dim[0].dim_param
    for name, value in (("version_number", integers([[version]])), ("version_width", integers([1]))):
        graph.initializer.append(numpy_helper.from_array(value, name=name))
    graph.node.extend(
        [
            helper.make_node("Shape", [source.name], ["version_batch"], start=0, end=1),
            helper.make_node("Concat", ["version_batch", "version_width"], ["version_shape"], axis=0),
            helper.make_node("Expand", ["version_number", "version_shape"], ["version"]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info("version", TensorProto.INT64, [batch, 1]))
    onnx.checker.check_model(model, full_check=False)
    return model


def index_graph(vectors: _Array, *, own_rows: bool) -> onnx.ModelProto:
    """Exact top-k by inner product over resident vectors.

    Args:
        vectors: float32 [N, D], the catalogue in row order.
        own_rows: whether the graph takes ``own_rows``, which come before all others.

    Returns:
        ``query_vector`` [B, D], ``own_rows`` and ``excluded_rows`` int64 [B, any], ``counts`` int64 [B, 2], of which
        the first is read → ``rows`` int64 [B, K] and ``similarities`` float32 [B, K], where K = min(largest count, N);
        -1 for excluded rows and beyond a line's own count, so that who else is in a batch changes nothing.
    """
    size = len(vectors)
    node = helper.make_node
    nodes = [
        node("MatMul", ["query_vector", "vectors"], ["cosines"]),
        # One column more than the catalogue takes what the padding (-1) points at.
        node("Shape", ["cosines"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "width"], ["padded_shape"], axis=0),
        node("Expand", ["zero", "padded_shape"], ["blank"]),
    ]
    lifted = "blank"
    kinds = [("own", "own_rows", "own_lift")] if own_rows else []
    for kind, rows, lift in [*kinds, ("excluded", "excluded_rows", "never_lift")]:
        nodes += [
            node("Less", [rows, "first_row"], [f"{kind}_is_padding"]),
            node("Where", [f"{kind}_is_padding", "size", rows], [f"{kind}_columns"]),
            node("Shape", [rows], [f"{kind}_shape"]),
            node("Expand", [lift, f"{kind}_shape"], [f"{kind}_values"]),
            node("ScatterElements", [lifted, f"{kind}_columns", f"{kind}_values"], [f"{kind}_lifted"], axis=1),
        ]
        lifted = f"{kind}_lifted"
    nodes += [
        node("Slice", [lifted, "first_row", "size", "axis"], ["lift"]),
        node("Add", ["cosines", "lift"], ["ordering"]),
        *largest_count(0, "size"),
        node("TopK", ["ordering", "k"], ["top_order", "top_rows"], axis=1),
        node("GatherElements", ["cosines", "top_rows"], ["similarities"], axis=1),
        node("Less", ["top_order", "threshold"], ["is_excluded"]),
        node("Or", ["is_excluded", "is_beyond"], ["is_nothing"]),
        node("Where", ["is_nothing", "no_row", "top_rows"], ["rows"]),
    ]
    info = helper.make_tensor_value_info
    inputs = [info("query_vector", TensorProto.FLOAT, ["batch_size", vectors.shape[1]])]
    if own_rows:
        inputs.append(info("own_rows", TensorProto.INT64, ["batch_size", "own_count"]))
    inputs += [
        info("excluded_rows", TensorProto.INT64, ["batch_size", "excluded_count"]),
        info("counts", TensorProto.INT64, ["batch_size", 2]),
    ]
    outputs = [
        info("rows", TensorProto.INT64, ["batch_size", "candidates"]),
        info("similarities", TensorProto.FLOAT, ["batch_size", "candidates"]),
    ]
    constants = {
        "vectors": np.ascontiguousarray(vectors.T.astype(np.float32)),
        "width": integers([size + 1]),
        "zero": np.array([0.0], np.float32),
        "first_row": integers([0]),
        "size": integers([size]),
        "axis": integers([1]),
        **COUNT_CONSTANTS,
        "never_lift": np.array([_NEVER], np.float32),
        "threshold": np.array(_NEVER / 2, np.float32),
        "no_row": integers(-1),
    }
    if own_rows:
        constants["own_lift"] = np.array([_OWN], np.float32)
    return make_graph("exact_index", nodes, inputs, outputs, constants)


#: What :func:`largest_count` needs.
COUNT_CONSTANTS = {"one": integers([1]), "zero_scalar": integers(0), "one_scalar": integers(1)}


def largest_count(column: int, most: str) -> list[onnx.NodeProto]:
    """``counts`` → ``k`` int64 [1], the largest of a column but 1 to ``most``; bool [B, k] ``is_beyond`` a line's own.

    Needs :data:`COUNT_CONSTANTS` and ``most`` int64 [1] among the constants.
    """
    node = helper.make_node
    return [
        node("Constant", [], ["count_column"], value_ints=[column]),
        node("Gather", ["counts", "count_column"], ["wanted"], axis=1),
        node("ReduceMax", ["wanted"], ["largest"], keepdims=0),
        node("Min", ["largest", most], ["bounded"]),
        node("Max", ["bounded", "one"], ["k"]),
        node("Squeeze", ["k"], ["k_scalar"]),
        node("Range", ["zero_scalar", "k_scalar", "one_scalar"], ["places"]),
        node("Max", ["wanted", "one"], ["own_count"]),
        node("GreaterOrEqual", ["places", "own_count"], ["is_beyond"]),
    ]


def best_graph(order_by: str, columns: Mapping[str, int]) -> onnx.ModelProto:
    """The best results of ranked candidates, best first.

    Args:
        order_by: the column to order by, higher is better; equal ones stay in the candidates' order. A value that is
            NaN comes first, so that whoever reads the answer sees it rather than a page that looks right.
        columns: what is known of each candidate, by name, with its ONNX element type; ``rows`` int64 among them.

    Returns:
        Columns ``candidate_<name>`` [B, C] and ``counts`` int64 [B, 2], of which the second is read → columns
        ``<name>`` [B, K], where K = min(largest count, C); ``rows`` is -1 beyond a line's own count.
    """
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("IsNaN", [f"candidate_{order_by}"], ["is_broken"]),
        node("Where", ["is_broken", "highest", f"candidate_{order_by}"], ["checked"]),
        node("Less", ["candidate_rows", "first_row"], ["is_padding"]),
        node("Where", ["is_padding", "lowest", "checked"], ["ordering"]),
        node("Shape", ["candidate_rows"], ["candidates"], start=1, end=2),
        *largest_count(1, "candidates"),
        node("TopK", ["ordering", "k"], ["top_order", "top_places"], axis=1),
        *(node("GatherElements", [f"candidate_{name}", "top_places"], [f"top_{name}"], axis=1) for name in columns),
        node("Where", ["is_beyond", "no_row", "top_rows"], ["rows"]),
        *(node("Identity", [f"top_{name}"], [name]) for name in columns if name != "rows"),
    ]
    return make_graph(
        "best_results",
        nodes,
        [
            *(info(f"candidate_{name}", kind, ["batch_size", "candidate_axis"]) for name, kind in columns.items()),
            info("counts", TensorProto.INT64, ["batch_size", 2]),
        ],
        [info(name, kind, ["batch_size", "results"]) for name, kind in columns.items()],
        {
            "first_row": integers([0]),
            "no_row": integers(-1),
            "highest": np.array(np.inf, np.float32),
            "lowest": np.array(-np.inf, np.float32),
            **COUNT_CONSTANTS,
        },
    )


def pack_graph(columns: Sequence[str]) -> onnx.ModelProto:
    """Float columns float32 [B, K] each → ``values`` float32 [B, K, columns]: one tensor costs less than several."""
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        *(node("Unsqueeze", [name, "last_axis"], [f"{name}_column"]) for name in columns),
        node("Concat", [f"{name}_column" for name in columns], ["values"], axis=2),
    ]
    return make_graph(
        "pack_values",
        nodes,
        [info(name, TensorProto.FLOAT, ["batch_size", "results"]) for name in columns],
        [info("values", TensorProto.FLOAT, ["batch_size", "results", len(columns)])],
        {"last_axis": integers([2])},
    )


def lookup_graph(vectors: _Array) -> onnx.ModelProto:
    """``item_row`` int64 [B, 1] → ``item_vector`` float32 [B, D], and ``own_rows`` [B, 1] of -1: items bring none."""
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Squeeze", ["item_row", "axis"], ["row"]),
        node("Gather", ["vectors", "row"], ["item_vector"], axis=0),
        node("Shape", ["item_row"], ["row_shape"]),
        node("Expand", ["no_row", "row_shape"], ["own_rows"]),
    ]
    return make_graph(
        "item_lookup",
        nodes,
        [info("item_row", TensorProto.INT64, ["batch_size", 1])],
        [
            info("item_vector", TensorProto.FLOAT, ["batch_size", vectors.shape[1]]),
            info("own_rows", TensorProto.INT64, ["batch_size", "own_count"]),
        ],
        {"vectors": vectors.astype(np.float32), "axis": integers([1]), "no_row": integers([-1])},
    )


def catalogue_graph(texts: Mapping[str, Sequence[str]], prices: _Array, available_since: _Array) -> onnx.ModelProto:
    """``offset`` and ``count`` int64 [1] → that page of each column, and ``size``.

    Args:
        texts: ``item_ids``, ``titles``, ``categories``, ``subcategories`` and ``brands``, [N] each.
        prices: [N], NaN where unknown. available_since: [N], unix seconds, 0 where unknown.
    """
    columns: dict[str, _Array] = {name: np.array([*values], dtype=object) for name, values in texts.items()}
    columns |= {"prices": prices.astype(np.float32), "available_since": available_since.astype(np.int64)}
    return paged_graph("catalogue", columns)


def paged_graph(name: str, columns: Mapping[str, _Array], whole: Mapping[str, _Array] | None = None) -> onnx.ModelProto:
    """``offset`` and ``count`` int64 [1] → that page of each column, ``size`` int64 [1], and further tensors whole.

    Args:
        name: of the graph. columns: equally long; numbers, or texts as ``object``. whole: likewise, none empty.
    """
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Add", ["offset", "count"], ["asked_end"]),
        node("Min", ["asked_end", "total"], ["end"]),
        node("Max", ["offset", "first_row"], ["asked_start"]),
        node("Min", ["asked_start", "total"], ["start"]),
        node("Max", ["start", "end"], ["stop"]),
        node("Squeeze", ["start"], ["start_scalar"]),
        node("Squeeze", ["stop"], ["stop_scalar"]),
        node("Range", ["start_scalar", "stop_scalar", "step"], ["page"]),
        *(node("Gather", [f"all_{column}", "page"], [column], axis=0) for column in columns),
        *(node("Identity", [f"all_{column}"], [column]) for column in whole or {}),
        node("Identity", ["total"], ["size"]),
    ]
    kinds = {"O": TensorProto.STRING, "f": TensorProto.FLOAT, "i": TensorProto.INT64}
    every = {**columns, **(whole or {})}
    size = len(next(iter(columns.values())))
    return make_graph(
        name,
        nodes,
        [info("offset", TensorProto.INT64, [1]), info("count", TensorProto.INT64, [1])],
        [
            *(info(column, kinds[values.dtype.kind], ["page_rows"]) for column, values in columns.items()),
            *(info(column, kinds[values.dtype.kind], [len(values)]) for column, values in (whole or {}).items()),
            info("size", TensorProto.INT64, [1]),
        ],
        {
            "total": integers([size]),
            "first_row": integers([0]),
            "step": integers(1),
            **{f"all_{column}": values for column, values in every.items()},
        },
    )
