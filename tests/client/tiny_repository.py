"""The tiny shop's models, written into a Triton model repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import tiny_people
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tiny_graphs import (
    complements_of_tiny_shop,
    constant,
    explain_nodes,
    popularity_of_tiny_shop,
    rank_nodes,
    recommend_nodes,
    search_nodes,
    similar_nodes,
    tokenizer_nodes,
)
from tiny_shop import BASE, BRANDS, CATEGORIES, CONTRACT, ITEM_IDS, NOW, PRICES, TASTE, TITLES, VECTORS

from recsys_plugin.export.complement_graphs import complements_graph
from recsys_plugin.export.popularity_graph import popularity_graph
from recsys_plugin.export.user_graphs import communities_graph
from recsys_plugin.inference.explanation import EXPLAINED, REASON_ROWS
from recsys_plugin.training.communities import MOST_CATEGORIES, MOST_ITEMS

__all__ = ["write_repository"]

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
    """Write one version of the models.

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
        recommend_nodes(base, taste, np.float32(spoilt), int(slow)),
    )
    search_inputs = {**_USER, "query": ("BYTES", 1), "lexical_rows": ("INT64", -1), **_RETRIEVAL}
    _write(
        folder,
        "search",
        version,
        search_inputs,
        {"rows": ("INT64", -1), "relevance": ("FP32", -1), **_SCORES},
        search_nodes(base, taste),
    )
    _write(folder, "rank", version, {**_USER, "candidate_rows": ("INT64", -1)}, _SCORES, rank_nodes(base, taste))
    explained: Ports = {"values": ("FP32", (-1, len(EXPLAINED))), "reason_rows": ("INT64", (-1, len(REASON_ROWS)))}
    asked: Ports = {**_USER, "candidate_rows": ("INT64", -1)}
    _write(folder, "explain", version, asked, explained, explain_nodes(base, taste))
    _write(
        folder,
        "similar",
        version,
        {"item_row": ("INT64", 1), **_RETRIEVAL},
        {"rows": ("INT64", -1), "similarity": ("FP32", -1)},
        similar_nodes(size),
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
        "popularity",
        version,
        {"offset": ("INT64", 1), "count": ("INT64", 1)},
        {
            "segments": ("INT64", -1),
            "rows": ("INT64", -1),
            "shares": ("FP32", -1),
            "attributes": ("BYTES", -1),
            "values": ("BYTES", -1),
            "size": ("INT64", 1),
        },
        popularity_graph(popularity_of_tiny_shop(size)),
        batched=False,
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
        tokenizer_nodes(),
    )
    _write(
        folder,
        "item_embedding",
        version,
        {"item_row": ("INT64", 1)},
        {"item_vector": ("FP32", VECTORS.shape[1])},
        [
            constant("vectors", np.resize(VECTORS, (size, VECTORS.shape[1]))),
            constant("flat", np.array([-1], dtype=np.int64)),
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
            constant(f"all_{name}", numbers),
            helper.make_node("Slice", [f"all_{name}", "offset", "end"], [name]),
        ]
    nodes.append(constant("number", np.array([len(prices)], dtype=np.int64)))
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
