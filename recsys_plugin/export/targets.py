"""What a target asks of Triton: where each model runs, through what, and what it runs before its first request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys_plugin.export.description import COUNTS, KNOWN_EMBEDDING, MAX_BATCH, Model, Tensor
from recsys_plugin.inference.explanation import MOST_EXPLAINED

__all__ = [
    "CANDIDATE_BUCKETS",
    "ENGINE_CACHE",
    "WarmUp",
    "accelerator_lines",
    "remarks",
    "runs_on_gpu",
    "warm_up_files",
    "warm_ups",
]

#: How many candidates requests come with, rounded up: what is warmed, and what the GPU benchmark measures.
CANDIDATE_BUCKETS = (128, 512, 2048)
#: Where TensorRT keeps what it built, by model; to keep it over restarts of a container, mount a volume there.
ENGINE_CACHE = "/tmp/recsys-tensorrt"

#: The rows of a page, as far as warming up is concerned.
_PAGE = 20
#: Tokens of a text: the shortest that the text encoder takes, a usual query, and the longest.
_TOKENS = (2, 16, 64)
#: The input that says which tokens count; without any, a request whose graph encodes texts does not encode.
_MASK = "attention_mask"
#: Inputs of open length.
_OPEN = {
    "basket_rows", "candidate_rows", "input_ids", _MASK, "excluded_rows", "lexical_rows", "new_items", "own_rows",
}  # fmt: skip
#: Numbers of new items that are warmed.
_NEW_ITEMS = (1, 16, 128)
_WORKSPACE = 1 << 30
#: Tensors of Unix seconds, which are 1.7e9: FP16 ends at 65,504.
_SECONDS = "user_int"


@dataclass(frozen=True, slots=True)
class WarmUp:
    """One sample that Triton runs through each instance of a model before the model is ready.

    Attributes:
        name: says what is special about it.
        users: how many requests of one line each run together.
        shapes: the inputs' dimensions without the batch, by name.
        values: inputs whose values matter, int64 of that shape; all others are zeros, which is row 0 for a row, the
            empty text for a text, and so legal in every catalogue.
    """

    name: str
    users: int
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, tuple[int, ...]]

    def file_of(self, tensor: str) -> str:
        """The name of the file that holds an input's values, below the model's folder ``warmup``."""
        values = self.values[tensor]
        if len(values) > 2 and len(set(values)) == 1:
            return f"{tensor}_{len(values)}_times_{values[0]}"
        return f"{tensor}_" + "_".join(str(value) for value in values)


def runs_on_gpu(model: Model, target: str) -> bool:
    """Whether a target puts a model on a GPU if there is one."""
    return target != "cpu" and _reason_for_cpu(model) is None


def _reason_for_cpu(model: Model) -> str | None:
    """Why a model stays on the CPU whatever the target; None if it need not."""
    if model.backend != "onnxruntime":
        return f"it is a model of the {model.backend} backend"
    if any(tensor.datatype == "STRING" for tensor in model.outputs):
        return "it answers with strings, which no GPU holds"
    return None


def remarks(model: Model, target: str) -> list[str]:
    """What a reader of the configuration should know about the target, a sentence each."""
    if target == "cpu" or model.is_ensemble:
        return []
    reason = _reason_for_cpu(model)
    if reason is not None:
        return [f"Target {target}: this model stays on the CPU, since {reason}."]
    found = [f"Target {target}: KIND_AUTO is every GPU that Triton sees; without one it is the CPU."]
    found += [
        f"{tensor.name} is looked up on the CPU, as ONNX Runtime has no strings on a GPU; only codes of 8 bytes each "
        "are copied there."
        for tensor in model.inputs
        if tensor.datatype == "STRING"
    ]
    found.append(
        "No CUDA graphs: they replay fixed addresses and want every node on one device, and this backend binds other "
        "buffers each time."
    )
    if target == "tensorrt":
        if _precision(model) == "FP32":
            found.append(f"Not FP16: {_why_not_half(model)}.")
        if not _takes_profiles(model):
            found.append(
                "No fixed profiles: the graph is cut where TensorRT lacks an operator, and profiles must name every "
                "tensor at a cut. The warm-up below spans the shapes instead; within them nothing is built again."
            )
    return found


def _why_not_half(model: Model) -> str:
    if any(tensor.name == _SECONDS for tensor in model.inputs):
        return f"{_SECONDS} holds times in seconds, 1.7e9, and FP16 ends at 65,504"
    return "rounded cosines would change which items are nearest"


def _precision(model: Model) -> str:
    """Of TensorRT's kernels: half where nothing is ordered by what comes out, and nothing that goes in is large."""
    return "FP16" if _takes_profiles(model) else "FP32"


def _takes_profiles(model: Model) -> bool:
    """Whether TensorRT takes the whole graph, so that its inputs are the only tensors with open sizes."""
    return {tensor.name for tensor in model.inputs} == {"input_ids", _MASK}


def accelerator_lines(model: Model, target: str) -> list[str]:
    """The part of ``config.pbtxt`` that says where a model runs: instance group and execution accelerators.

    The keys are those of Triton's onnxruntime backend, which refuses others of ``tensorrt`` and hands those of
    ``cuda`` on to ONNX Runtime as they are.
    """
    if target == "cpu":
        return ["instance_group [ { count: 1 } ]"]
    if not runs_on_gpu(model, target):
        return ["instance_group [ { count: 1 kind: KIND_CPU } ]"]
    # TF32 has 10 bits of mantissa; what it would save here is nothing beside starting the kernels.
    accelerators: list[tuple[str, dict[str, str]]] = [("cuda", {"use_tf32": "0"})]
    if target == "tensorrt":
        folder = f"{ENGINE_CACHE}/{model.name}"
        options = {
            "precision_mode": _precision(model),
            "max_workspace_size_bytes": str(_WORKSPACE),
            # An engine's name in the cache does not depend on the weights; `recsys export` names tensors by them.
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder,
        }
        if _takes_profiles(model):
            low, usual, high = _TOKENS
            for name, users, tokens in (("min", 1, low), ("opt", 1, usual), ("max", MAX_BATCH, high)):
                shapes = ",".join(f"{tensor.name}:{users}x{tokens}" for tensor in model.inputs)
                options[f"trt_profile_{name}_shapes"] = shapes
        # TensorRT first; what it lacks goes to CUDA.
        accelerators.insert(0, ("tensorrt", options))
    lines = ["instance_group [ { count: 1 kind: KIND_AUTO } ]", "optimization { execution_accelerators {"]
    for name, options in accelerators:
        lines.append(f'  gpu_execution_accelerator {{ name: "{name}"')
        lines += [f'    parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items()]
        lines.append("  }")
    return [*lines, "} }"]


def warm_ups(model: Model, target: str) -> tuple[WarmUp, ...]:
    """The samples of a model: one for each bucket of candidates or length of text, one user each.

    For TensorRT they also span what may come, since it builds an engine anew for a shape outside of all before: from
    the smallest of everything to the largest for a full batch. A model with an input of open length that is not among
    those known here is not warmed: a length that it could not take would keep it from being loaded.
    """
    unknown = [tensor.name for tensor in model.inputs if -1 in tensor.dims and tensor.name not in _OPEN]
    if model.is_ensemble or not model.max_batch or unknown:
        return ()
    takes = {tensor.name for tensor in model.inputs}
    if model.name == "explain":
        # Some models are scored hundreds of times for each item.
        sizes: Sequence[int] = (1, _PAGE, MOST_EXPLAINED)
        what = "candidates"
    elif takes & {"candidate_rows", COUNTS}:
        sizes = CANDIDATE_BUCKETS
        what = "candidates"
    elif "input_ids" in takes:
        sizes, what = _TOKENS, "tokens"
    elif "new_items" in takes:
        sizes, what = _NEW_ITEMS, "new items"
    else:
        sizes, what = (1,), "user" if _SECONDS in takes else "line"
    samples = [_sample(model, f"{size} {what}", 1, size, largest=False) for size in sizes]
    if target == "tensorrt" and runs_on_gpu(model, target) and not _takes_profiles(model):
        samples.insert(0, _sample(model, "smallest", 1, 1, largest=False))
        samples.append(_sample(model, "largest", model.max_batch, sizes[-1], largest=True))
    return tuple(samples)


def _sample(model: Model, name: str, users: int, size: int, *, largest: bool) -> WarmUp:
    shapes = {tensor.name: _shape(tensor, size, largest=largest) for tensor in model.inputs}
    values: dict[str, tuple[int, ...]] = {COUNTS: (size, min(size, _PAGE))} if COUNTS in shapes else {}
    if KNOWN_EMBEDDING in shapes:
        values[_MASK] = (1,) * shapes[_MASK][0]
    return WarmUp(name, users, shapes, values)


def _shape(tensor: Tensor, size: int, *, largest: bool) -> tuple[int, ...]:
    """An input's dimensions; what is open there depends on what it is."""
    if tensor.name in ("candidate_rows", "new_items"):
        length = size
    elif tensor.name in ("input_ids", _MASK):
        length = min(max(size, _TOKENS[0]), _TOKENS[-1])
    else:
        length = CANDIDATE_BUCKETS[-1] if largest else 1
    return tuple(length if dim < 0 else dim for dim in tensor.dims)


def warm_up_files(model: Model, target: str) -> dict[str, bytes]:
    """The files that the samples name, to be written below the model's folder ``warmup``."""
    return {
        sample.file_of(name): np.array(values, "<i8").tobytes()
        for sample in warm_ups(model, target)
        for name, values in sample.values.items()
    }
