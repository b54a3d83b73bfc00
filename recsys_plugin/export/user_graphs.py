"""Graphs of users who are alike: the nearest of them, and what is told of their communities."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from recsys_plugin.export.index_graphs import COUNT_CONSTANTS, integers, largest_count, make_graph
from recsys_plugin.training.communities import MOST_CATEGORIES, MOST_ITEMS, Communities, People

__all__ = ["communities_graph", "user_index_graph"]


def user_index_graph(people: People) -> onnx.ModelProto:
    """Exact nearest users by inner product over resident vectors.

    Returns:
        ``user_vector`` float32 [B, D] and ``counts`` int64 [B, 2], of which the first is read → ``pseudonyms`` int64
        [B, K, 2] and ``similarities`` float32 [B, K], where K = min(largest count, N), zeros beyond a line's own count;
        ``community`` int64 [B, 1], -1 if there are none; ``key_check`` int64 [B, 2].
    """
    node, info = helper.make_node, helper.make_tensor_value_info
    centroids = people.communities.centroids
    width = people.vectors.shape[1]
    # No tensor may be empty: without users there is one whose pseudonym is that of nobody.
    is_empty, is_scattered = not len(people.vectors), not len(centroids)
    vectors = np.zeros((1, width), np.float32) if is_empty else people.vectors
    pseudonyms = np.zeros((1, 2), np.int64) if is_empty else people.pseudonyms
    nodes = [
        node("MatMul", ["user_vector", "vectors"], ["cosines"]),
        *largest_count(0, "size"),
        node("TopK", ["cosines", "k"], ["top_cosines", "top_rows"], axis=1),
        node("Gather", ["all_pseudonyms", "top_rows"], ["top_pseudonyms"], axis=0),
        node("Where", ["is_beyond", "no_cosine", "top_cosines"], ["similarities"]),
        node("Unsqueeze", ["is_beyond", "last_axis"], ["is_beyond_both"]),
        node("Where", ["is_beyond_both", "no_half", "top_pseudonyms"], ["pseudonyms"]),
        node("MatMul", ["user_vector", "centroids"], ["closeness"]),
        node("ArgMax", ["closeness"], ["nearest_centroid"], axis=1, keepdims=1),
        node("Gather", ["numbers", "nearest_centroid"], ["community"], axis=0),
        node("Shape", ["user_vector"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "pair"], ["pair_shape"], axis=0),
        node("Expand", ["check", "pair_shape"], ["key_check"]),
    ]
    return make_graph(
        "user_index",
        nodes,
        [
            info("user_vector", TensorProto.FLOAT, ["batch_size", width]),
            info("counts", TensorProto.INT64, ["batch_size", 2]),
        ],
        [
            info("pseudonyms", TensorProto.INT64, ["batch_size", "neighbours", 2]),
            info("similarities", TensorProto.FLOAT, ["batch_size", "neighbours"]),
            info("community", TensorProto.INT64, ["batch_size", 1]),
            info("key_check", TensorProto.INT64, ["batch_size", 2]),
        ],
        {
            "vectors": np.ascontiguousarray(vectors.T),
            "all_pseudonyms": pseudonyms,
            "centroids": np.zeros((width, 1), np.float32) if is_scattered else np.ascontiguousarray(centroids.T),
            "numbers": integers([-1]) if is_scattered else np.arange(len(centroids), dtype=np.int64),
            "check": people.key_check[np.newaxis],
            "size": integers([len(vectors)]),
            "pair": integers([2]),
            "last_axis": integers([2]),
            "no_cosine": np.array(0.0, np.float32),
            "no_half": integers(0),
            **COUNT_CONSTANTS,
        },
    )


def communities_graph(communities: Communities) -> onnx.ModelProto:
    """``community`` int64 [B, 1] → ``members`` int64 [B, 1], ``item_rows`` int64 [B, 10], ``categories`` [B, 5].

    Rows are padded with -1 and categories with the empty text; a community that is not there has no members.
    """
    node, info = helper.make_node, helper.make_tensor_value_info
    size = len(communities.sizes)
    names = np.full((size + 1, MOST_CATEGORIES), "", object)
    for line, found in enumerate(communities.categories):
        names[line, : len(found)] = found
    nodes = [
        # One line more than there are takes every other number.
        node("Less", ["community", "first"], ["is_below"]),
        node("GreaterOrEqual", ["community", "size"], ["is_above"]),
        node("Or", ["is_below", "is_above"], ["is_none"]),
        node("Where", ["is_none", "size", "community"], ["line_column"]),
        node("Squeeze", ["line_column", "axis"], ["line"]),
        node("Gather", ["all_members", "line"], ["members"], axis=0),
        node("Gather", ["all_item_rows", "line"], ["item_rows"], axis=0),
        # ONNX Runtime 1.32 gathers only the first text of a line, so texts are gathered one by one.
        node("Mul", ["line_column", "texts_of_line"], ["first_text"]),
        node("Add", ["first_text", "texts"], ["places_of_texts"]),
        node("Gather", ["all_categories", "places_of_texts"], ["categories"], axis=0),
    ]
    return make_graph(
        "communities",
        nodes,
        [info("community", TensorProto.INT64, ["batch_size", 1])],
        [
            info("members", TensorProto.INT64, ["batch_size", 1]),
            info("item_rows", TensorProto.INT64, ["batch_size", MOST_ITEMS]),
            info("categories", TensorProto.STRING, ["batch_size", MOST_CATEGORIES]),
        ],
        {
            "all_members": np.append(communities.sizes, 0)[:, np.newaxis].astype(np.int64),
            "all_item_rows": np.pad(communities.item_rows, ((0, 1), (0, 0)), constant_values=-1).astype(np.int64),
            "all_categories": names.ravel(),
            "texts_of_line": integers([MOST_CATEGORIES]),
            "texts": np.arange(MOST_CATEGORIES, dtype=np.int64)[np.newaxis],
            "first": integers([0]),
            "size": integers([size]),
            "axis": integers([1]),
        },
    )
