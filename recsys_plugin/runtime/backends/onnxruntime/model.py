"""A Python-based Triton backend: it serves ``backend: "onnxruntime"`` models through the onnxruntime package.

Triton runs this file in the Triton environment, one process per model instance; nothing of recsys_plugin can
be imported here. It follows the native onnxruntime backend: same file layout (``<version>/model.onnx``), same
configuration parameters, same meaning of ``max_batch_size``, so that one repository serves under either.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as triton
from onnxruntime.capi import onnxruntime_pybind11_state

__all__ = ["TritonPythonModel"]

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
#: A part of a model configuration, as Triton passes it: JSON.
Config = dict[str, Any]

# onnxruntime's exceptions share no base class of their own.
_RUN_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    RuntimeError,
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)

# Triton's name of a type -> what onnxruntime calls it; both sides of a configuration are checked with it.
_ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}

_TENSORRT_PRECISIONS: dict[str, dict[str, str]] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}


class TritonPythonModel:
    """One instance of one version of a model. Triton calls the three methods below, and only those."""

    def initialize(self, args: dict[str, str]) -> None:
        """Create the session and compare the configuration with the graph.

        Raises:
            RuntimeError: if numpy is too new for this build of Triton, or configuration and graph differ.
        """
        if int(np.__version__.split(".")[0]) >= 2:
            # This build's tensors are laid out for numpy 1; under numpy 2 it returns wrong values silently.
            raise RuntimeError(
                f"numpy {np.__version__} would give wrong tensors; install 'numpy<2' in Triton's environment"
            )
        config = json.loads(args["model_config"])
        self._name = config["name"]
        self._batched = config.get("max_batch_size", 0) > 0
        self._dtypes = {item["name"]: item["data_type"] for item in config["input"]}
        self._expected = {name: triton.triton_string_to_numpy(dtype) for name, dtype in self._dtypes.items()}
        self._dims = {item["name"]: _graph_dims(item) for item in config["input"]}
        self._outputs = [item["name"] for item in config["output"]]
        path = os.path.join(
            args["model_repository"],
            args["model_version"],
            config.get("default_model_filename") or "model.onnx",
        )
        if os.path.isdir(path):  # a graph with external data, as the native backend accepts it
            path = os.path.join(path, "model.onnx")
        if not os.path.isfile(path):
            raise RuntimeError(f"model {self._name!r}: {path} is missing")
        wanted = _providers(config, args["model_instance_kind"], int(args["model_instance_device_id"]))
        available = onnxruntime.get_available_providers()
        if _gpu_accelerators(config) and not args["model_instance_kind"].upper().endswith("GPU"):
            triton.Logger.log_warn(f"model {self._name!r} asks for a GPU, but Triton sees none; it is served without")
        for name in [name for name, _ in wanted if name not in available]:
            triton.Logger.log_warn(
                f"model {self._name!r} asks for a GPU, but onnxruntime here has no {name}, "
                f"only {', '.join(available)}; it is served without"
            )
        self._session = onnxruntime.InferenceSession(
            path,
            _session_options(config),
            providers=[provider for provider in wanted if provider[0] in available],
        )
        _check(self._name, "input", config["input"], self._session.get_inputs(), self._batched)
        _check(self._name, "output", config["output"], self._session.get_outputs(), self._batched)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; those of equal shape run together, and one that fails fails alone.

        As under the native backend, an axis whose length the graph computes from values (a top-k whose k is
        the largest asked for in the batch) has the same length for all requests that ran together.
        """
        if len(requests) == 1:  # nearly always
            return [self._answer(requests[0])]
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, Feeds]]] = {}
        for position, request in enumerate(requests):
            try:
                feeds = self._feeds(request)
            except ValueError as error:
                responses[position] = _failure(self._name, error)
                continue
            key = self._group_key(feeds) if self._batched else position
            groups.setdefault(key, []).append((position, feeds))
        for group in groups.values():
            wanted = self._wanted([requests[position] for position, _ in group])
            for (position, _), result in zip(group, self._run_group(group, wanted), strict=True):
                if isinstance(result, Exception):
                    responses[position] = _failure(self._name, result)
                else:
                    mine = set(requests[position].requested_output_names()) or set(wanted)
                    tensors = [triton.Tensor(name, value) for name, value in result.items() if name in mine]
                    responses[position] = triton.InferenceResponse(tensors)
        return responses

    def _answer(self, request: Any) -> Any:
        """The answer to a request that came alone."""
        try:
            feeds = self._feeds(request)
        except ValueError as error:
            return _failure(self._name, error)
        result = self._run_one(feeds, self._wanted([request]))
        if isinstance(result, Exception):
            return _failure(self._name, result)
        return triton.InferenceResponse([triton.Tensor(name, value) for name, value in result.items()])

    def finalize(self) -> None:
        """Free the session before the process ends."""
        self._session = None

    def _feeds(self, request: Any) -> Feeds:
        """The request's inputs as onnxruntime takes them; ValueError says what is wrong with them."""
        feeds: Feeds = {}
        for tensor in request.inputs():
            name, values = tensor.name(), tensor.as_numpy()
            if name not in self._dtypes:
                raise ValueError(f"unknown input {name!r}")
            dims = self._dims[name]
            inner = values.shape[1:] if self._batched else values.shape
            if len(inner) != len(dims) or any(want not in (-1, got) for want, got in zip(dims, inner, strict=True)):
                raise ValueError(f"input {name!r} has shape {list(inner)}, expected {dims}")
            expected = self._expected[name]
            if expected == np.object_:
                values = _decoded(name, values)
            elif values.dtype != expected:
                raise ValueError(f"input {name!r} is {values.dtype}, expected {self._dtypes[name]}")
            feeds[name] = values
        missing = sorted(set(self._dtypes) - set(feeds))
        if missing:
            raise ValueError(f"missing input {', '.join(map(repr, missing))}")
        if self._batched and len({values.shape[0] for values in feeds.values()}) > 1:
            sizes = {name: values.shape[0] for name, values in feeds.items()}
            raise ValueError(f"inputs have different batch sizes: {sizes}")
        return feeds

    @staticmethod
    def _group_key(feeds: Feeds) -> tuple[Any, ...]:
        return tuple((name, feeds[name].shape[1:]) for name in sorted(feeds))

    def _wanted(self, requests: Sequence[Any]) -> list[str]:
        """Outputs that any of the requests asks for, in the configuration's order; none asked means all."""
        asked = [set(request.requested_output_names()) for request in requests]
        if not all(asked):
            return self._outputs
        union = {name for names in asked for name in names}
        return [name for name in self._outputs if name in union]

    def _run_group(self, group: list[tuple[int, Feeds]], wanted: list[str]) -> list[Feeds | Exception]:
        """One result (name -> array) or exception for each member of the group."""
        if len(group) == 1:
            return [self._run_one(group[0][1], wanted)]
        joined = {name: np.concatenate([feeds[name] for _, feeds in group]) for name in group[0][1]}
        together = self._run_one(joined, wanted)
        if isinstance(together, Exception):
            # Somebody's values are at fault: alone, each request gets its own answer or its own error.
            return [self._run_one(feeds, wanted) for _, feeds in group]
        sizes = [next(iter(feeds.values())).shape[0] for _, feeds in group]
        bounds = np.cumsum([0, *sizes])
        return [
            {name: values[start:end] for name, values in together.items()} for start, end in itertools.pairwise(bounds)
        ]

    def _run_one(self, feeds: Feeds, wanted: list[str]) -> Feeds | Exception:
        try:
            values = self._session.run(wanted, feeds)
        except _RUN_ERRORS as error:
            return error
        if self._batched:
            rows = next(iter(feeds.values())).shape[0]
            for name, value in zip(wanted, values, strict=True):
                if value.ndim == 0 or value.shape[0] != rows:
                    return ValueError(
                        f"output {name!r} has shape {list(value.shape)} for a batch of {rows}; a graph with "
                        "max_batch_size > 0 must keep the batch as its first axis"
                    )
        return dict(zip(wanted, values, strict=True))


def _failure(model: str, error: Exception) -> Any:
    return triton.InferenceResponse(error=triton.TritonError(f"model {model!r}: {error}"))


def _decoded(name: str, values: Array) -> Array:
    """BYTES as Python strings, which is what ONNX string tensors hold."""
    flat = np.empty(values.size, dtype=object)
    for position, item in enumerate(values.ravel()):
        try:
            flat[position] = item.decode() if isinstance(item, bytes) else str(item)
        except UnicodeDecodeError as error:
            raise ValueError(f"input {name!r}, element {position}, is not UTF-8: {error}") from error
    return flat.reshape(values.shape)


def _graph_dims(item: Config) -> list[int]:
    """Dimensions that reach the graph, without the batch axis: ``reshape`` wins over ``dims``."""
    reshape = item.get("reshape", {}).get("shape")
    return [int(size) for size in (item["dims"] if reshape is None else reshape)]


def _check(model: str, side: str, configured: list[Config], nodes: list[Any], batched: bool) -> None:
    """Compare the configuration's inputs or outputs with the graph's, naming the first difference."""
    graph = {node.name: node for node in nodes}
    names = [item["name"] for item in configured]
    if side == "input" and set(names) != set(graph):
        raise RuntimeError(f"model {model!r}: config.pbtxt has inputs {sorted(names)}, the graph {sorted(graph)}")
    for item in configured:
        name = item["name"]
        if name not in graph:
            raise RuntimeError(f"model {model!r}: the graph has no {side} {name!r}, only {sorted(graph)}")
        wanted = _ONNX_TYPES.get(item["data_type"])
        if graph[name].type != wanted:
            raise RuntimeError(
                f"model {model!r}: {side} {name!r} is {graph[name].type} in the graph, "
                f"{item['data_type']} in config.pbtxt"
            )
        dims = ([-1] if batched else []) + _graph_dims(item)
        shape = graph[name].shape
        known = shape is not None and len(shape) > 0
        if known and (
            len(shape) != len(dims)
            or any(isinstance(a, int) and a > 0 and b > 0 and a != b for a, b in zip(shape, dims, strict=True))
            or (batched and isinstance(shape[0], int))
        ):
            raise RuntimeError(
                f"model {model!r}: {side} {name!r} has shape {shape} in the graph, {dims} in config.pbtxt "
                f"({'the first is the batch' if batched else 'no batch axis, max_batch_size is 0'})"
            )


def _parameter(config: Config, key: str) -> str:
    return str(config.get("parameters", {}).get(key, {}).get("string_value", ""))


def _number(config: Config, key: str) -> int:
    text = _parameter(config, key) or "0"
    try:
        return int(text)
    except ValueError:
        raise RuntimeError(f"model {config['name']!r}: parameter {key}={text!r} is not a number") from None


def _session_options(config: Config) -> Any:
    """The native backend's parameters, and any ``session.*`` entry of onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _number(config, "intra_op_thread_count")
    options.inter_op_num_threads = _number(config, "inter_op_thread_count")
    mode = _number(config, "execution_mode")
    if mode not in (0, 1):
        raise RuntimeError(f"model {config['name']!r}: parameter execution_mode is {mode}, expected 0 or 1")
    options.execution_mode = (
        onnxruntime.ExecutionMode.ORT_PARALLEL if mode else onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    )
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }.get(int(config.get("optimization", {}).get("graph", {}).get("level", 0)), levels.ORT_ENABLE_ALL)
    if _parameter(config, "enable_mem_arena"):
        options.enable_cpu_mem_arena = _parameter(config, "enable_mem_arena").lower() in ("1", "true")
    if _parameter(config, "enable_mem_pattern"):
        options.enable_mem_pattern = _parameter(config, "enable_mem_pattern").lower() in ("1", "true")
    for key in config.get("parameters", {}):
        if key.startswith("session."):
            options.add_session_config_entry(key, _parameter(config, key))
    return options


def _providers(config: Config, kind: str, device: int) -> list[tuple[str, dict[str, str]]]:
    """Execution providers with their options, the preferred one first, whether onnxruntime has them or not."""
    providers: list[tuple[str, dict[str, str]]] = []
    if kind.upper().endswith("GPU"):
        settings = _gpu_accelerators(config)
        unknown = sorted(set(settings) - {"tensorrt", "cuda"})
        if unknown:
            raise RuntimeError(f"model {config['name']!r}: unknown GPU accelerator {', '.join(unknown)}")
        if "tensorrt" in settings:
            options = _tensorrt_options(config["name"], settings["tensorrt"])
            providers.append(("TensorrtExecutionProvider", {"device_id": str(device), **options}))
        providers.append(("CUDAExecutionProvider", {"device_id": str(device), **settings.get("cuda", {})}))
    return [*providers, ("CPUExecutionProvider", {})]


def _gpu_accelerators(config: Config) -> dict[str, dict[str, str]]:
    """The execution accelerators for a GPU that the configuration names, with their parameters."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    return {item["name"]: item.get("parameters", {}) for item in accelerators.get("gpu_execution_accelerator", [])}


def _tensorrt_options(model: str, parameters: dict[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in parameters.items():
        if key == "precision_mode":
            if value not in _TENSORRT_PRECISIONS:
                raise RuntimeError(f"model {model!r}: TensorRT precision_mode {value!r} is unknown")
            options.update(_TENSORRT_PRECISIONS[value])
        elif key == "max_workspace_size_bytes":
            options["trt_max_workspace_size"] = value
        else:
            options[key if key.startswith("trt_") else f"trt_{key}"] = value
    return options
