"""A Triton model repository of tiny ONNX graphs, one per thing that the onnxruntime backend must get right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

MATRIX = np.random.default_rng(7).standard_normal((4, 10)).astype(np.float32)
TABLE = np.arange(5, dtype=np.float32) * 10

Tensor = tuple[str, int, Sequence[int | str]]

_TRITON: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.STRING: "TYPE_STRING",
}


def write_model(
    repository: Path,
    name: str,
    nodes: Sequence[Any],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
    max_batch_size: int = 8,
    extra: str = "",
    version: int = 1,
) -> None:
    """Write ``<name>/<version>/model.onnx`` and a complete, stock ``config.pbtxt``."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(n, kind, list(shape)) for n, kind, shape in inputs],
        [helper.make_tensor_value_info(n, kind, list(shape)) for n, kind, shape in outputs],
        [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))

    def described(tensors: Sequence[Tensor], side: str) -> str:
        lines = []
        for tensor, kind, shape in tensors:
            dims = [size if isinstance(size, int) else -1 for size in shape[1 if max_batch_size else 0 :]]
            lines.append(f'{side} {{ name: "{tensor}" data_type: {_TRITON[kind]} dims: {dims} }}\n')
        return "".join(lines)

    (repository / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
        + described(inputs, "input")
        + described(outputs, "output")
        + "instance_group { count: 1 kind: KIND_CPU }\n"
        + 'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }\n'
        + "version_policy { all { } }\n"
        + extra
    )


def write_double(repository: Path, version: int = 1, factor: float = 2.0) -> None:
    """Y = factor * x, two numbers a row."""
    write_model(
        repository,
        "double",
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", TensorProto.FLOAT, ["rows", 2])],
        [("y", TensorProto.FLOAT, ["rows", 2])],
        constants={"factor": np.array([factor], dtype=np.float32)},
        extra="dynamic_batching { }\n",
        version=version,
    )


def write_broken(repository: Path) -> None:
    """A model whose weights are no ONNX file."""
    write_double(repository)
    folder = repository / "broken"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"not a graph")
    config = (repository / "double" / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config.replace('name: "double"', 'name: "broken"'))


def write_repository(repository: Path) -> None:
    """Everything but the broken model."""
    write_double(repository)
    write_model(
        repository,
        "negate",
        [helper.make_node("Neg", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["rows", 2])],
        [("y", TensorProto.FLOAT, ["rows", 2])],
    )
    (repository / "chain" / "1").mkdir(parents=True)
    (repository / "chain" / "config.pbtxt").write_text(
        'name: "chain"\nplatform: "ensemble"\nmax_batch_size: 8\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [2] }\noutput { name: "y" data_type: TYPE_FP32 dims: [2] }\n'
        "ensemble_scheduling {\n"
        '  step { model_name: "double" model_version: -1 input_map { key: "x" value: "x" } '
        'output_map { key: "y" value: "doubled" } }\n'
        '  step { model_name: "negate" model_version: -1 input_map { key: "x" value: "doubled" } '
        'output_map { key: "y" value: "y" } }\n}\n'
    )
    write_model(
        repository,
        "scorer",
        [
            helper.make_node("MatMul", ["query", "matrix"], ["similarity"]),
            helper.make_node("ReduceMax", ["count"], ["most"], keepdims=0),
            helper.make_node("Reshape", ["most", "one"], ["k"]),
            helper.make_node("TopK", ["similarity", "k"], ["scores", "rows"], axis=1),
            helper.make_node(
                "LabelEncoder",
                ["country"],
                ["country_index"],
                domain="ai.onnx.ml",
                keys_strings=["UK", "Österreich"],
                values_int64s=[1, 2],
                default_int64=0,
            ),
        ],
        [
            ("query", TensorProto.FLOAT, ["batch", 4]),
            ("count", TensorProto.INT64, ["batch", 1]),
            ("country", TensorProto.STRING, ["batch", 1]),
        ],
        [
            ("scores", TensorProto.FLOAT, ["batch", "k"]),
            ("rows", TensorProto.INT64, ["batch", "k"]),
            ("country_index", TensorProto.INT64, ["batch", 1]),
        ],
        constants={"matrix": MATRIX, "one": np.array([1], dtype=np.int64)},
        extra="dynamic_batching { max_queue_delay_microseconds: 20000 }\n",
    )
    write_model(
        repository,
        "lookup",
        [helper.make_node("Gather", ["table", "position"], ["value"])],
        [("position", TensorProto.INT64, ["batch", 1])],
        [("value", TensorProto.FLOAT, ["batch", 1])],
        constants={"table": TABLE},
        extra="dynamic_batching { max_queue_delay_microseconds: 20000 }\n",
    )
    for name, kind, operator in (
        ("invert", TensorProto.BOOL, "Not"),
        ("half", TensorProto.FLOAT16, "Neg"),
        ("integers", TensorProto.INT32, "Neg"),
    ):
        write_model(
            repository,
            name,
            [helper.make_node(operator, ["x"], ["y"])],
            [("x", kind, ["batch", "length"])],
            [("y", kind, ["batch", "length"])],
        )
    write_model(
        repository,
        "page",
        [
            helper.make_node("Identity", ["titles"], ["same_titles"]),
            helper.make_node("Identity", ["octets"], ["same_octets"]),
        ],
        [("titles", TensorProto.STRING, ["n"]), ("octets", TensorProto.UINT8, ["m"])],
        [("same_titles", TensorProto.STRING, ["n"]), ("same_octets", TensorProto.UINT8, ["m"])],
        max_batch_size=0,
        extra='parameters { key: "session.intra_op.allow_spinning" value: { string_value: "0" } }\n'
        'parameters { key: "execution_mode" value: { string_value: "1" } }\n',
    )


def write_known_answers(state: Path, *, version: int = 1, factor: float = 2.0, tolerance: float = 1e-5) -> None:
    """What ``double`` must answer."""
    tensor = {"datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, -3.0, 0.5]}
    wanted = {**tensor, "data": [factor * value for value in [1.0, 2.0, -3.0, 0.5]]}
    answer = {"model": "double", "inputs": {"x": tensor}, "outputs": {"y": wanted}, "tolerance": tolerance}
    path = state / "export" / "known_answers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": version, "answers": [answer]}))
