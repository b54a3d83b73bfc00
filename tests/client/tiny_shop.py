"""A shop of six items, as a Triton model repository of tiny ONNX graphs with the project's signatures.

Scores are simple enough to work out by hand: retrieval score = ``BASE[row] + purchases * TASTE[row]``, and the ranker
doubles it. ``purchases`` is the user's only float feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import tiny_people
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from recsys_plugin.export.complement_graphs import complements_graph
from recsys_plugin.export.user_graphs import communities_graph
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, Encoding, FeatureContract, FeatureSpec
from recsys_plugin.inference.explanation import EXPLAINED, REASON_ROWS
from recsys_plugin.training.communities import MOST_CATEGORIES, MOST_ITEMS
from recsys_plugin.training.complements import Complements

ITEM_IDS = ("tea", "cup", "pot", "mug", "jar", "box")
TITLES = ("Green tea", "Cup", "Tea pot", "Mug", "Jar", "Box – gift")
CATEGORIES = ("food", "kitchen", "kitchen", "kitchen", "", "gifts")
BRANDS = ("leaf", "clay", "clay", "clay", "", "glass")
PRICES = (2.5, 3.0, float("nan"), 4.0, 5.0, 6.0)
BASE = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=np.float32)
#: What is in the kitchen is alike.
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0.1], [0, 1, 0.2], [0, 0, 1], [1, 0, 1]], dtype=np.float32)
TASTE = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.5], dtype=np.float32)

CONTRACT = FeatureContract(
    (
        FeatureSpec("profile:purchases", "FLOAT", 0.0, max_age_seconds=3600),
        FeatureSpec("recent:item_ids", "STRING_LIST", -1, encoding=Encoding.ROW, length=2),
        FeatureSpec("profile:country", "STRING", "?"),
        FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
    ),
)

SCHEMA = {spec.reference: spec.dtype for spec in CONTRACT.stored_features} | {"item_stock:stock": "INT64"}

#: The moment that the shop's clock stands at; its users were written a minute before.
NOW = 1_700_000_000.0


@dataclass(frozen=True)
class TinyShop:
    redis_url: str
    triton_url: str
    write_user: Callable[[str, float, list[str]], None]
    """user id, purchases, recent items"""
    write_schema: Callable[[Mapping[str, str] | None], None]
    publish: Callable[..., None]
    """version, item ids, and how the version is made worse, see :func:`write_repository`"""
    stop_triton: Callable[[], None]
    start_triton: Callable[[], None]


_TYPES = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "BYTES": TensorProto.STRING}
#: Tensor → its type, and its size or sizes without the batch; -1 for any.
Ports = Mapping[str, tuple[str, int | tuple[int, ...]]]
_USER: Ports = {"user_float": ("FP32", 1), "user_int": ("INT64", 3), "user_string": ("BYTES", 1)}
_RETRIEVAL: Ports = {"excluded_rows": ("INT64", -1), "counts": ("INT64", 2)}
_SCORES: Ports = dict.fromkeys(("scores", "purchase_probability", "click_probability"), ("FP32", -1))


def dims(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of a tensor."""
    return size if isinstance(size, tuple) else (size,)


def write_repository(
    folder: Path,
    version: int,
    *,
    item_ids: Sequence[str] = ITEM_IDS,
    shift: float = 0.0,
    spoilt: float = 0.0,
    slow: float = 0.0,
) -> None:
    """Write one version of the ten models.

    Args:
        shift: added to every score; with NaN nothing is found.
        spoilt: added to the scores of what ``recommend`` found; NaN makes its answer unusable.
        slow: products of matrices that ``recommend`` wastes its time on; each takes some 10 ms.
    """
    size = len(item_ids)
    base = np.resize(BASE, size) + np.float32(shift)
    taste = np.resize(TASTE, size)
    _write(
        folder,
        "recommend",
        version,
        {**_USER, **_RETRIEVAL},
        {"rows": ("INT64", -1), "retrieval_scores": ("FP32", -1), **_SCORES},
        _recommend(base, taste, np.float32(spoilt), int(slow)),
    )
    search_inputs = {**_USER, "query": ("BYTES", 1), "lexical_rows": ("INT64", -1), **_RETRIEVAL}
    _write(
        folder,
        "search",
        version,
        search_inputs,
        {"rows": ("INT64", -1), "relevance": ("FP32", -1), **_SCORES},
        _search(base, taste),
    )
    _write(folder, "rank", version, {**_USER, "candidate_rows": ("INT64", -1)}, _SCORES, _rank(base, taste))
    explained: Ports = {"values": ("FP32", (-1, len(EXPLAINED))), "reason_rows": ("INT64", (-1, len(REASON_ROWS)))}
    asked: Ports = {**_USER, "candidate_rows": ("INT64", -1)}
    _write(folder, "explain", version, asked, explained, _explain(base, taste))
    _write(
        folder,
        "similar",
        version,
        {"item_row": ("INT64", 1), **_RETRIEVAL},
        {"rows": ("INT64", -1), "similarity": ("FP32", -1)},
        _similar(size),
    )
    _install(
        folder,
        "complements",
        version,
        {"basket_rows": ("INT64", -1), **_RETRIEVAL},
        {"rows": ("INT64", -1), "scores": ("FP32", -1)},
        complements_graph(complements_of_tiny_shop(size)),
    )
    _install(
        folder,
        "similar_users",
        version,
        {**_USER, "counts": _RETRIEVAL["counts"]},
        {
            "pseudonyms": ("INT64", (-1, 2)),
            "similarities": ("FP32", -1),
            "community": ("INT64", 1),
            "key_check": ("INT64", 2),
        },
        tiny_people.similar_users_graph(),
    )
    _install(
        folder,
        "communities",
        version,
        {"community": ("INT64", 1)},
        {"members": ("INT64", 1), "item_rows": ("INT64", MOST_ITEMS), "categories": ("BYTES", MOST_CATEGORIES)},
        communities_graph(tiny_people.people().communities),
    )
    _write(
        folder,
        "tokenizer",
        version,
        {"query": ("BYTES", 1)},
        {"input_ids": ("INT64", -1), "attention_mask": ("INT64", -1)},
        _tokenizer(),
    )
    _write(
        folder,
        "item_embedding",
        version,
        {"item_row": ("INT64", 1)},
        {"item_vector": ("FP32", VECTORS.shape[1])},
        [
            _constant("vectors", np.resize(VECTORS, (size, VECTORS.shape[1]))),
            _constant("flat", np.array([-1], dtype=np.int64)),
            helper.make_node("Reshape", ["item_row", "flat"], ["flat_rows"]),
            helper.make_node("Gather", ["vectors", "flat_rows"], ["item_vector"], axis=0),
        ],
    )
    _write(
        folder,
        "text_encoder",
        version,
        {"input_ids": ("INT64", -1), "attention_mask": ("INT64", -1)},
        {"text_embedding": ("FP32", -1)},
        [helper.make_node("Cast", ["input_ids"], ["text_embedding"], to=TensorProto.FLOAT)],
    )
    columns = {
        "item_ids": list(item_ids),
        "titles": [TITLES[row % 6] for row in range(size)],
        "categories": [CATEGORIES[row % 6] for row in range(size)],
        "subcategories": [""] * size,
        "brands": [BRANDS[row % 6] for row in range(size)],
    }
    _write_catalogue(folder, version, columns, np.resize(np.array(PRICES, dtype=np.float32), size))


def _constant(name: str, values: NDArray[np.generic]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))


def _taste_scores(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
    """``all_scores`` [b, N] of every item for every user."""
    return [
        _constant("base", base[np.newaxis]),
        _constant("taste", taste[np.newaxis]),
        helper.make_node("MatMul", ["user_float", "taste"], ["personal"]),
        helper.make_node("Add", ["personal", "base"], ["all_scores"]),
    ]


def _top(scores: str, size: int) -> list[onnx.NodeProto]:
    """``top`` scores and ``rows`` of the best ``counts[0]`` items that are not excluded, -1 after the last."""
    return [
        _constant("iota", np.arange(size, dtype=np.int64).reshape(1, size, 1)),
        _constant("lowest", np.array(-1e9, dtype=np.float32)),
        _constant("one", np.array([1], dtype=np.int64)),
        _constant("axis", np.array([1], dtype=np.int64)),
        _constant("last", np.array([2], dtype=np.int64)),
        _constant("none", np.array(-1, dtype=np.int64)),
        helper.make_node("Unsqueeze", ["excluded_rows", "axis"], ["excluded"]),
        helper.make_node("Equal", ["iota", "excluded"], ["hits"]),
        helper.make_node("Cast", ["hits"], ["hit_numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["hit_numbers"], ["hit"], axes=[2], keepdims=0),
        helper.make_node("Cast", ["hit"], ["masked"], to=TensorProto.BOOL),
        helper.make_node("Where", ["masked", "lowest", scores], ["allowed"]),
        _constant("first", np.array([0], dtype=np.int64)),
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
        _constant("two", np.array(2, dtype=np.float32)),
        _constant("nan", np.array(np.nan, dtype=np.float32)),
        helper.make_node("Mul", [scores, "two"], ["scores"]),
        helper.make_node("Sigmoid", ["scores"], ["purchase_probability"]),
        helper.make_node("Mul", ["scores", "nan"], ["click_probability"]),
    ]


def _wasted(products: int) -> list[onnx.NodeProto]:
    """Work on the user's feature that no optimiser can do beforehand; nothing but time and a 0 comes of it."""
    wide = 600
    nodes = [
        _constant("wide", np.array([wide, wide], dtype=np.int64)),
        _constant("first_user", np.array([0], dtype=np.int64)),
        _constant("wasted_zero", np.array(0, dtype=np.float32)),
        helper.make_node("Gather", ["user_float", "first_user"], ["one_user"], axis=0),
        helper.make_node("Mul", ["one_user", "wasted_zero"], ["nought"]),
        helper.make_node("Expand", ["nought", "wide"], ["wasted_0"]),
    ]
    for number in range(products):
        nodes.append(helper.make_node("MatMul", [f"wasted_{number}", f"wasted_{number}"], [f"wasted_{number + 1}"]))
    return [*nodes, helper.make_node("ReduceSum", [f"wasted_{products}"], ["wasted_sum"], keepdims=0)]


def _recommend(
    base: NDArray[np.float32], taste: NDArray[np.float32], spoilt: np.float32, slow: int
) -> list[onnx.NodeProto]:
    """Breaks for two users: fewer than 0 purchases are scored NaN, 100 and more get rows beyond the end."""
    nodes = [*_taste_scores(base, taste), *_top("all_scores", len(base))]
    (choice,) = (node for node in nodes if "rows" in node.output)
    choice.output[0] = "found_rows"
    return [
        *nodes,
        _constant("zero", np.array(0, dtype=np.float32)),
        _constant("hundred", np.array(100, dtype=np.float32)),
        *(_wasted(slow) if slow else [_constant("wasted_sum", np.array(0, dtype=np.float32))]),
        helper.make_node("Add", ["top", "wasted_sum"], ["retrieval_scores"]),
        helper.make_node("Sqrt", ["user_float"], ["root"]),
        _constant("spoilt", np.array(spoilt)),
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


def _search(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
    """Relevance is ``BASE``, whatever the query, but what matches by words is found first; the ranker knows taste."""
    return [
        *_taste_scores(base, taste),
        _constant("zero", np.array(0, dtype=np.float32)),
        helper.make_node("Mul", ["all_scores", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "base"], ["all_relevance"]),
        _constant("ten", np.array(10, dtype=np.float32)),
        _constant("numbers", np.arange(len(base), dtype=np.int64).reshape(1, -1, 1)),
        _constant("middle", np.array([1], dtype=np.int64)),
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


def _rank(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
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


def _explain(base: NDArray[np.float32], taste: NDArray[np.float32]) -> list[onnx.NodeProto]:
    """The score is twice the item's base, its kind, and twice what the user's taste adds; the rank is its row and 1."""
    columns = dict.fromkeys(EXPLAINED, "nought")
    columns |= {"kind": "kind", "customer": "customer", "logit": "logit", "category_rank": "rank"}
    values = [name for name in dict.fromkeys(columns.values()) if name != "rank"]
    return [
        *_taste_scores(base, taste),
        _constant("two", np.array(2, dtype=np.float32)),
        _constant("none", np.array(0, dtype=np.float32)),
        _constant("each", np.arange(1, len(base) + 1, dtype=np.float32)[np.newaxis]),
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
        _constant("last_axis", np.array([2], dtype=np.int64)),
        *(helper.make_node("Unsqueeze", [f"{name}_asked", "last_axis"], [name]) for name in (*values, "rank")),
        helper.make_node("Concat", list(columns.values()), ["values"], axis=2),
        _constant("zero_row", np.array(0, dtype=np.int64)),
        _constant("no_row", np.array(-1, dtype=np.int64)),
        helper.make_node("Mul", ["candidate_rows", "zero_row"], ["zero_rows"]),
        helper.make_node("Add", ["zero_rows", "no_row"], ["no_rows"]),
        helper.make_node("Unsqueeze", ["no_rows", "last_axis"], ["one_no_row"]),
        helper.make_node("Concat", ["one_no_row"] * len(REASON_ROWS), ["reason_rows"], axis=2),
    ]


def _tokenizer() -> list[onnx.NodeProto]:
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


def _similar(size: int) -> list[onnx.NodeProto]:
    """Similarity falls with the distance between row numbers."""
    return [
        _constant("numbers", np.arange(size, dtype=np.int64)[np.newaxis]),
        helper.make_node("Sub", ["numbers", "item_row"], ["signed"]),
        helper.make_node("Abs", ["signed"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["nearness"]),
        helper.make_node("Cast", ["nearness"], ["all_similarity"], to=TensorProto.FLOAT),
        *_top("all_similarity", size),
        helper.make_node("Identity", ["top"], ["similarity"]),
    ]


def _write_catalogue(
    folder: Path, version: int, columns: Mapping[str, Sequence[str]], prices: NDArray[np.float32]
) -> None:
    """Each item has been there a day longer than the one before; how long the last has is not known."""
    since = np.where(np.arange(len(prices)) < len(prices) - 1, int(NOW) - 86_400 * np.arange(1, len(prices) + 1), 0)
    nodes = [helper.make_node("Add", ["offset", "count"], ["end"])]
    for name, values in columns.items():
        tensor = helper.make_tensor(name, TensorProto.STRING, [len(values)], [text.encode() for text in values])  # type: ignore[misc]
        nodes.append(helper.make_node("Constant", [], [f"all_{name}"], value=tensor))
        nodes.append(helper.make_node("Slice", [f"all_{name}", "offset", "end"], [name]))
    for name, numbers in (("prices", prices), ("available_since", since)):
        nodes += [
            _constant(f"all_{name}", numbers),
            helper.make_node("Slice", [f"all_{name}", "offset", "end"], [name]),
        ]
    nodes.append(_constant("number", np.array([len(prices)], dtype=np.int64)))
    nodes.append(helper.make_node("Identity", ["number"], ["size"]))
    outputs: dict[str, tuple[str, int]] = dict.fromkeys(columns, ("BYTES", -1))
    outputs |= {"prices": ("FP32", -1), "available_since": ("INT64", -1), "size": ("INT64", 1)}
    _write(folder, "catalogue", version, {"offset": ("INT64", 1), "count": ("INT64", 1)}, outputs, nodes, batched=False)


def _write(
    folder: Path,
    model: str,
    version: int,
    inputs: Ports,
    outputs: Ports,
    nodes: list[onnx.NodeProto],
    *,
    batched: bool = True,
) -> None:
    def ports(named: Ports, kind: str) -> list[onnx.ValueInfoProto]:
        first = ["batch"] if batched else []
        return [
            helper.make_tensor_value_info(
                name, _TYPES[datatype], [*first, *(f"{kind}_{name}" if width < 0 else width for width in dims(size))]
            )
            for name, (datatype, size) in named.items()
        ]

    graph = helper.make_graph(nodes, model, ports(inputs, "in"), ports(outputs, "out"))
    onnx_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)], ir_version=8
    )
    onnx.checker.check_model(onnx_model)
    _install(folder, model, version, inputs, outputs, onnx_model, batched=batched)


def _install(
    folder: Path,
    model: str,
    version: int,
    inputs: Ports,
    outputs: Ports,
    onnx_model: onnx.ModelProto,
    *,
    batched: bool = True,
) -> None:
    (folder / model / str(version)).mkdir(parents=True)
    onnx.save(onnx_model, str(folder / model / str(version) / "model.onnx"))

    def lines(named: Ports) -> str:
        names = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "BYTES": "TYPE_STRING"}
        return ", ".join(
            f'{{ name: "{name}" data_type: {names[datatype]} dims: {list(dims(size))} }}'
            for name, (datatype, size) in named.items()
        )

    told = ",".join(EXPLAINED)
    escaped = CONTRACT.to_json().replace("\\", "\\\\").replace('"', '\\"')
    (folder / model / "config.pbtxt").write_text(
        f'name: "{model}"\nbackend: "onnxruntime"\nmax_batch_size: {64 if batched else 0}\n'
        f"input [ {lines(inputs)} ]\noutput [ {lines(outputs)} ]\n"
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        "version_policy: { all { } }\n"
        f'parameters {{ key: "feature_contract" value {{ string_value: "{escaped}" }} }}\n'
        + (f'parameters {{ key: "value_columns" value {{ string_value: "{told}" }} }}\n' if "values" in outputs else "")
    )
