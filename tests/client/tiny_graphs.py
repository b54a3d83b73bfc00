"""The tiny shop's models as ONNX nodes, whose answers can be worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recsys_plugin.inference.explanation import EXPLAINED, REASON_ROWS
from recsys_plugin.policy.popularity import PopularItems, Popularity
from recsys_plugin.training.complements import Complements

__all__ = [
    "complements_of_tiny_shop",
    "constant",
    "explain_nodes",
    "popularity_of_tiny_shop",
    "rank_nodes",
    "recommend_nodes",
    "search_nodes",
    "similar_nodes",
    "tokenizer_nodes",
]


def constant(name: str, values: NDArray[np.generic]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))


def popularity_of_tiny_shop(size: int) -> Popularity:
    """Everybody buys tea most, then cups, and boxes never; in Germany they buy mugs, and the young buy boxes."""
    shares = np.resize(np.array([0.4, 0.3, 0.15, 0.1, 0.05, 0.0], np.float32), size)
    german = PopularItems(np.array([row for row in (3, 0) if row < size]), np.array([0.6, 0.2], np.float32)[:size])
    segments = {("country", "DE"): german}
    if size > 5:
        segments["age_group", "18-24"] = PopularItems(np.array([5]), np.array([0.2], np.float32))
    return Popularity(shares, segments)


def _taste_scores(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
    """``all_scores`` [b, N] of every item for every user."""
    return [
        constant("base", base[np.newaxis]),
        constant("taste", taste[np.newaxis]),
        helper.make_node("MatMul", ["user_float", "taste"], ["personal"]),
        helper.make_node("Add", ["personal", "base"], ["all_scores"]),
    ]


def _top(scores: str, size: int) -> list[onnx.NodeProto]:
    """``top`` scores and ``rows`` of the best ``counts[0]`` items that are not excluded, -1 after the last."""
    return [
        constant("iota", np.arange(size, dtype=np.int64).reshape(1, size, 1)),
        constant("lowest", np.array(-1e9, dtype=np.float32)),
        constant("one", np.array([1], dtype=np.int64)),
        constant("axis", np.array([1], dtype=np.int64)),
        constant("last", np.array([2], dtype=np.int64)),
        constant("none", np.array(-1, dtype=np.int64)),
        helper.make_node("Unsqueeze", ["excluded_rows", "axis"], ["excluded"]),
        helper.make_node("Equal", ["iota", "excluded"], ["hits"]),
        helper.make_node("Cast", ["hits"], ["hit_numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["hit_numbers"], ["hit"], axes=[2], keepdims=0),
        helper.make_node("Cast", ["hit"], ["masked"], to=TensorProto.BOOL),
        helper.make_node("Where", ["masked", "lowest", scores], ["allowed"]),
        constant("first", np.array([0], dtype=np.int64)),
        helper.make_node("Gather", ["counts", "first"], ["wanted"], axis=1),
        helper.make_node("ReduceMax", ["wanted"], ["most"], keepdims=0),
        helper.make_node("Reshape", ["most", "one"], ["count"]),
        helper.make_node("TopK", ["allowed", "count"], ["top", "top_rows"], axis=1),
        helper.make_node("Greater", ["top", "lowest"], ["found"]),
        helper.make_node("Where", ["found", "top_rows", "none"], ["rows"]),
    ]


def _heads(scores: str) -> list[onnx.NodeProto]:
    """``scores`` doubled, ``purchase_probability`` their sigmoid, ``click_probability`` unknown."""
    return [
        constant("two", np.array(2, dtype=np.float32)),
        constant("nan", np.array(np.nan, dtype=np.float32)),
        helper.make_node("Mul", [scores, "two"], ["scores"]),
        helper.make_node("Sigmoid", ["scores"], ["purchase_probability"]),
        helper.make_node("Mul", ["scores", "nan"], ["click_probability"]),
    ]


def _wasted(products: int) -> list[onnx.NodeProto]:
    """Work on the user's feature that no optimiser can do beforehand; nothing but time and a 0 comes of it."""
    wide = 600
    nodes = [
        constant("wide", np.array([wide, wide], dtype=np.int64)),
        constant("first_user", np.array([0], dtype=np.int64)),
        constant("wasted_zero", np.array(0, dtype=np.float32)),
        helper.make_node("Gather", ["user_float", "first_user"], ["one_user"], axis=0),
        helper.make_node("Mul", ["one_user", "wasted_zero"], ["nought"]),
        helper.make_node("Expand", ["nought", "wide"], ["wasted_0"]),
    ]
    for number in range(products):
        nodes.append(helper.make_node("MatMul", [f"wasted_{number}", f"wasted_{number}"], [f"wasted_{number + 1}"]))
    return [*nodes, helper.make_node("ReduceSum", [f"wasted_{products}"], ["wasted_sum"], keepdims=0)]


def recommend_nodes(
    base: NDArray[np.float32], taste: NDArray[np.float32], spoilt: np.float32, slow: int
) -> list[onnx.NodeProto]:
    """Breaks for two users: fewer than 0 purchases are scored NaN, 100 and more get rows beyond the end."""
    nodes = [*_taste_scores(base, taste), *_top("all_scores", len(base))]
    (choice,) = (node for node in nodes if "rows" in node.output)
    choice.output[0] = "found_rows"
    return [
        *nodes,
        constant("zero", np.array(0, dtype=np.float32)),
        constant("hundred", np.array(100, dtype=np.float32)),
        *(_wasted(slow) if slow else [constant("wasted_sum", np.array(0, dtype=np.float32))]),
        helper.make_node("Add", ["top", "wasted_sum"], ["retrieval_scores"]),
        helper.make_node("Sqrt", ["user_float"], ["root"]),
        constant("spoilt", np.array(spoilt)),
        helper.make_node("Mul", ["root", "zero"], ["finite"]),
        helper.make_node("Add", ["finite", "spoilt"], ["nothing"]),
        helper.make_node("Add", ["top", "nothing"], ["ranked"]),
        helper.make_node("Div", ["user_float", "hundred"], ["hundreds"]),
        helper.make_node("Floor", ["hundreds"], ["shift"]),
        helper.make_node("Max", ["shift", "zero"], ["positive_shift"]),
        helper.make_node("Mul", ["positive_shift", "hundred"], ["far"]),
        helper.make_node("Cast", ["far"], ["far_rows"], to=TensorProto.INT64),
        helper.make_node("Add", ["found_rows", "far_rows"], ["rows"]),
        *_heads("ranked"),
    ]


def search_nodes(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
    """Relevance is ``BASE``, whatever the query, but what matches by words is found first; the ranker knows taste."""
    return [
        *_taste_scores(base, taste),
        constant("zero", np.array(0, dtype=np.float32)),
        helper.make_node("Mul", ["all_scores", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "base"], ["all_relevance"]),
        constant("ten", np.array(10, dtype=np.float32)),
        constant("numbers", np.arange(len(base), dtype=np.int64).reshape(1, -1, 1)),
        constant("middle", np.array([1], dtype=np.int64)),
        helper.make_node("Unsqueeze", ["lexical_rows", "middle"], ["lexical"]),
        helper.make_node("Equal", ["numbers", "lexical"], ["lexical_hits"]),
        helper.make_node("Cast", ["lexical_hits"], ["lexical_numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["lexical_numbers"], ["lexical_hit"], axes=[2], keepdims=0),
        helper.make_node("Mul", ["lexical_hit", "ten"], ["lift"]),
        helper.make_node("Add", ["all_relevance", "lift"], ["ordering"]),
        *_top("ordering", len(base)),
        helper.make_node("GatherElements", ["all_relevance", "top_rows"], ["relevance"], axis=1),
        helper.make_node("GatherElements", ["all_scores", "top_rows"], ["ranked"], axis=1),
        *_heads("ranked"),
    ]


def rank_nodes(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
    return [
        *_taste_scores(base, taste),
        helper.make_node("GatherElements", ["all_scores", "candidate_rows"], ["ranked"], axis=1),
        *_heads("ranked"),
    ]


def complements_of_tiny_shop(size: int) -> Complements:
    """Tea goes with the pot (0.5) and less with the cup (0.25), the pot with tea and the cup; jars are popular."""
    rows, weights = np.full((size, 2), -1, np.int32), np.zeros((size, 2), np.float32)
    if size > 2:
        for row, said in {0: {2: 0.5, 1: 0.25}, 2: {0: 0.5, 1: 0.5}}.items():
            rows[row], weights[row] = list(said), list(said.values())
    prior = np.zeros(size, np.float32)
    prior[4:6] = (0.125, 0.0625)[: max(0, size - 4)]
    return Complements(rows, weights, prior)


def explain_nodes(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
    """The score is twice the item's base, its kind, and twice what the user's taste adds; the rank is its row and 1."""
    columns = dict.fromkeys(EXPLAINED, "nought")
    columns |= {"kind": "kind", "customer": "customer", "logit": "logit", "category_rank": "rank"}
    values = [name for name in dict.fromkeys(columns.values()) if name != "rank"]
    return [
        *_taste_scores(base, taste),
        constant("two", np.array(2, dtype=np.float32)),
        constant("none", np.array(0, dtype=np.float32)),
        constant("each", np.arange(1, len(base) + 1, dtype=np.float32)[np.newaxis]),
        helper.make_node("Mul", ["all_scores", "none"], ["noughts"]),
        helper.make_node("Add", ["noughts", "base"], ["bases"]),
        helper.make_node("Add", ["noughts", "each"], ["all_rank"]),
        helper.make_node("Mul", ["bases", "two"], ["all_kind"]),
        helper.make_node("Sub", ["all_scores", "base"], ["personal_only"]),
        helper.make_node("Mul", ["personal_only", "two"], ["all_customer"]),
        helper.make_node("Mul", ["all_scores", "two"], ["all_logit"]),
        helper.make_node("Mul", ["all_scores", "none"], ["all_nought"]),
        *(
            helper.make_node("GatherElements", [f"all_{name}", "candidate_rows"], [f"{name}_asked"], axis=1)
            for name in (*values, "rank")
        ),
        constant("last_axis", np.array([2], dtype=np.int64)),
        *(helper.make_node("Unsqueeze", [f"{name}_asked", "last_axis"], [name]) for name in (*values, "rank")),
        helper.make_node("Concat", list(columns.values()), ["values"], axis=2),
        constant("zero_row", np.array(0, dtype=np.int64)),
        constant("no_row", np.array(-1, dtype=np.int64)),
        helper.make_node("Mul", ["candidate_rows", "zero_row"], ["zero_rows"]),
        helper.make_node("Add", ["zero_rows", "no_row"], ["no_rows"]),
        helper.make_node("Unsqueeze", ["no_rows", "last_axis"], ["one_no_row"]),
        helper.make_node("Concat", ["one_no_row"] * len(REASON_ROWS), ["reason_rows"], axis=2),
    ]


def tokenizer_nodes() -> list[onnx.NodeProto]:
    """Each query is one token, whose number is 1."""
    return [
        helper.make_node(
            "LabelEncoder",
            ["query"],
            [name],
            domain="ai.onnx.ml",
            keys_strings=[""],
            values_int64s=[1],
            default_int64=1,
        )
        for name in ("input_ids", "attention_mask")
    ]


def similar_nodes(size: int) -> list[onnx.NodeProto]:
    """Similarity falls with the distance between row numbers."""
    return [
        constant("numbers", np.arange(size, dtype=np.int64)[np.newaxis]),
        helper.make_node("Sub", ["numbers", "item_row"], ["signed"]),
        helper.make_node("Abs", ["signed"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["nearness"]),
        helper.make_node("Cast", ["nearness"], ["all_similarity"], to=TensorProto.FLOAT),
        *_top("all_similarity", size),
        helper.make_node("Identity", ["top"], ["similarity"]),
    ]
