"""Ways to run the ranking stage: PyTorch and ONNX Runtime, on the CPU and on a GPU.

Each call does what a server does: it copies one request to the device, runs the stage and brings the answer back.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys_plugin.errors import StepFailed

if TYPE_CHECKING:
    from recsys_plugin.bench.ranking_stage import RankingStage

__all__ = ["Runner", "has", "onnx_runners", "stage_graph", "torch_runners"]

_Array = np.ndarray[Any, np.dtype[Any]]
_OUTPUT = "values"
_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_fp16": "TensorrtExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class Runner:
    """One way to run the stage for one number of candidates.

    Attributes:
        name: of the way, such as ``torch_cuda_graph``.
        call: the request's tensors by name → ``values`` float32 [1, C, 4] in host memory.
        tolerance: largest absolute difference from the CPU's answer.
    """

    name: str
    call: Callable[[Mapping[str, _Array]], _Array]
    tolerance: float


def has(module: str) -> bool:
    """Whether a module is installed; it is not imported."""
    return importlib.util.find_spec(module) is not None


def torch_runners(
    stage: RankingStage,
    example: Mapping[str, _Array],
    *,
    device: str,
    compiled: bool,
    tolerance: float,
    note: Callable[[str], None],
) -> list[Runner]:
    """Eager PyTorch, and on a GPU a CUDA graph of it, for requests of the example's shape.

    Args:
        stage: on that device. example: one request. device: ``cpu`` or ``cuda``.
        compiled: whether ``torch.compile`` takes part as well, which takes a minute for each number of candidates.
        tolerance: of all runners. note: told in a sentence what is left out, and why.
    """
    import torch

    # Written in FP32, and compared with it.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    names = list(example)

    def eager(model: Callable[..., Any]) -> Callable[[Mapping[str, _Array]], _Array]:
        def call(request: Mapping[str, _Array]) -> _Array:
            with torch.inference_mode():
                given = [torch.from_numpy(request[name]).to(device) for name in names]
                answer: _Array = model(*given).cpu().numpy()
            return answer

        return call

    runners = [Runner(f"torch_{device}", eager(stage), tolerance)]
    if compiled:
        fused = torch.compile(stage, mode="reduce-overhead" if device == "cuda" else "default", dynamic=False)
        runners.append(Runner(f"torch_{device}_compiled", eager(fused), tolerance))
    if device == "cuda":
        try:
            runners.append(Runner("torch_cuda_graph", _captured(stage, example), tolerance))
        except RuntimeError as error:
            note(f"no CUDA graph of the PyTorch stage: {_first_line(error)}")
    return runners


def _captured(stage: RankingStage, example: Mapping[str, _Array]) -> Callable[[Mapping[str, _Array]], _Array]:
    """The stage as a CUDA graph over buffers of its own, each with pinned memory on the host's side."""
    import torch

    with torch.inference_mode():
        host = {name: torch.from_numpy(values.copy()).pin_memory() for name, values in example.items()}
        held = {name: tensor.to("cuda") for name, tensor in host.items()}
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # as PyTorch asks: libraries set themselves up before anything is captured
                stage(*held.values())
        torch.cuda.current_stream().wait_stream(stream)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = stage(*held.values())
        landed = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)

    def call(request: Mapping[str, _Array]) -> _Array:
        with torch.inference_mode():
            for name, values in request.items():
                host[name].numpy()[...] = values
                held[name].copy_(host[name], non_blocking=True)
            graph.replay()
            landed.copy_(answer, non_blocking=True)
            torch.cuda.current_stream().synchronize()
            copied: _Array = landed.numpy().copy()
        return copied

    return call


def stage_graph(stage: RankingStage, example: Mapping[str, _Array], path: Path) -> None:
    """Write the stage as an ONNX graph with open axes ``batch`` and ``candidates``; needs onnx and onnxscript."""
    import torch

    batch, candidates = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("candidates", min=2, max=1_000_000)
    shapes = tuple({0: batch, 1: candidates} if name == "candidate_rows" else {0: batch} for name in example)
    # The exporter takes a length of 1 for a constant.
    given = tuple(torch.from_numpy(np.concatenate([values, values])) for values in example.values())
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
            torch.onnx.export(
                stage,
                given,
                str(path),
                dynamo=True,
                input_names=list(example),
                output_names=[_OUTPUT],
                dynamic_shapes=shapes,
                opset_version=18,
                external_data=False,
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def onnx_runners(
    path: Path,
    example: Mapping[str, _Array],
    *,
    device: str,
    tolerances: Mapping[str, float],
    note: Callable[[str], None],
) -> list[Runner]:
    """ONNX Runtime on the CPU, and on a GPU each provider it has, CUDA also as a CUDA graph.

    Args:
        path: the graph. example: one request, as the graph takes it. device: ``cpu`` or ``cuda``.
        tolerances: by ``fp32`` and ``fp16``. note: told in a sentence what is left out, and why.

    Raises:
        StepFailed: if the graph cannot be loaded even on the CPU.
    """
    import onnxruntime

    if device == "cpu":
        return [Runner("onnxruntime_cpu", _on_cpu(path), tolerances["fp32"])]
    runners = []
    for name, options in (
        ("cuda", {"use_tf32": "0"}),
        ("cuda_graph", {"use_tf32": "0", "enable_cuda_graph": "1"}),
        ("tensorrt", {}),
        ("tensorrt_fp16", {"trt_fp16_enable": "1"}),
    ):
        provider = _PROVIDERS[name.removesuffix("_graph")]
        if provider not in onnxruntime.get_available_providers():
            if not name.endswith(("_graph", "_fp16")):
                note(f"onnxruntime {onnxruntime.__version__} here has no {provider}")
            continue
        if name == "cuda_graph" and any(values.dtype == object for values in example.values()):
            note("no IO binding and no CUDA graph of the exported ONNX graph: its texts are looked up on the CPU")
            continue
        try:
            call = _bound(path, example, provider, options)
            call(example)
        except _errors() as error:
            note(f"onnxruntime_{name} is left out: {_first_line(error)}")
            continue
        runners.append(Runner(f"onnxruntime_{name}", call, tolerances["fp16" if name.endswith("fp16") else "fp32"]))
    return runners


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # as in the configurations
    options.log_severity_level = 3
    return options


def _on_cpu(path: Path) -> Callable[[Mapping[str, _Array]], _Array]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise StepFailed(f"{path} cannot be run: {_first_line(error)}") from error

    def call(request: Mapping[str, _Array]) -> _Array:
        (answer,) = session.run([_OUTPUT], dict(request))
        return np.asarray(answer)

    return call


def _bound(
    path: Path, example: Mapping[str, _Array], provider: str, settings: Mapping[str, str]
) -> Callable[[Mapping[str, _Array]], _Array]:
    """A session whose tensors stay at fixed places on the GPU, unless it takes strings, which cannot be bound."""
    import onnxruntime

    options = _options()
    # One shape for each session: sizes become constants, and nothing is left to compute them on the CPU.
    for axis, size in (("batch", 1), ("candidates", example["candidate_rows"].shape[1])):
        options.add_free_dimension_override_by_name(axis, size)
    options.add_free_dimension_override_by_name("candidate_rows_length", example["candidate_rows"].shape[1])
    providers: list[Any] = [(provider, dict(settings))]
    if provider != "CUDAExecutionProvider":
        providers.append(("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    if provider not in session.get_providers():
        raise RuntimeError(f"onnxruntime could not start {provider}; its log says which library it lacks")
    if any(values.dtype == object for values in example.values()):

        def unbound(request: Mapping[str, _Array]) -> _Array:
            return np.asarray(session.run([_OUTPUT], dict(request))[0])

        return unbound
    binding = session.io_binding()
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0) for name, values in example.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    shape = (*example["candidate_rows"].shape, 4)
    answer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
    binding.bind_ortvalue_output(_OUTPUT, answer)

    def call(request: Mapping[str, _Array]) -> _Array:
        for name, values in request.items():
            held[name].update_inplace(values)
        session.run_with_iobinding(binding)
        return np.asarray(answer.numpy())

    return call


def _errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its exceptions share no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own: Sequence[type[Exception]] = [
        kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    return (RuntimeError, ValueError, *own)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
