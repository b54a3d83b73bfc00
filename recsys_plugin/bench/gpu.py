"""The ranking stage on a GPU against the CPU, on any machine: no network, no servers, no trained shop.

::

    python -m recsys_plugin.bench.gpu [--device cuda|cpu] [--repository FOLDER] [--json FILE]

It needs numpy and PyTorch, or numpy, onnxruntime and an exported repository.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from recsys_plugin.bench.gpu_backends import Runner, has, onnx_runners, stage_graph, torch_runners
from recsys_plugin.bench.machine import describe_machine, load_average
from recsys_plugin.bench.timing import PERCENTILES, Samples, Subject, interleave, p50_ratio
from recsys_plugin.errors import CheckFailed, ConfigurationError, InvalidInput, RecsysError
from recsys_plugin.features.contract import FeatureContract

__all__ = ["DEVICES", "GpuBenchmark", "GpuOptions", "main", "measure_gpu", "show"]

_Array = np.ndarray[Any, np.dtype[Any]]
_Request = dict[str, _Array]

#: The choices of ``--device``.
DEVICES = ("cuda", "cpu")
#: Largest absolute difference of a score or probability from the CPU's.
_TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
_REQUESTS = 16
_CLOCKS = "name,driver_version,memory.total,pstate,clocks.sm,clocks.max.sm,clocks.mem,power.limit"


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What to measure.

    Attributes:
        device: one of :data:`DEVICES`; ``cpu`` measures the baseline alone.
        repository: a model repository whose newest exported ``rank`` is run; None generates a stage.
        candidates: numbers of candidates. items: of the generated catalogue.
        calls: of each way to run, for each number of candidates. seed: fixes weights, requests and orders.
        compiled: whether ``torch.compile`` takes part.
    """

    device: str = "cuda"
    repository: Path | None = None
    candidates: tuple[int, ...] = (128, 512, 2048)
    items: int = 50_000
    calls: int = 500
    seed: int = 0
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InvalidInput(f"there is no device {self.device!r}; choose one of {', '.join(DEVICES)}")
        if min((*self.candidates, self.items, self.calls)) < 1 or not self.candidates:
            raise InvalidInput("candidates, items and calls must each be 1 or more")


@dataclass(slots=True)
class GpuBenchmark:
    """What was found: figures by name, as in the other reports; milliseconds end with ``_ms``."""

    machine: dict[str, Any]
    versions: dict[str, str]
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The JSON form of every benchmark's report."""
        return json.dumps(asdict(self), indent=2)

    def lines(self) -> list[str]:
        """For people."""
        names = sorted({name.rpartition(".")[0] for name in self.figures if name.endswith("_ms")}, key=_in_order)
        shown = [
            f"{'candidates and way':<36}{'calls':>7}" + "".join(f"{f'p{p}':>10}" for p in PERCENTILES) + "  CPU/GPU"
        ]
        for name in names:
            times = "".join(f"{self.figures[f'{name}.p{percentile}_ms']:>7.3f} ms" for percentile in PERCENTILES)
            ratio = ""
            if f"{name}.cpu_to_this.ratio_p50" in self.figures:
                value, low, high = (self.figures[f"{name}.cpu_to_this.ratio_p50{end}"] for end in ("", "_low", "_high"))
                ratio = f"  {value:.2f} ({low:.2f}–{high:.2f})"
            shown.append(f"{name.removeprefix('rank.'):<36}{self.figures[f'{name}.calls']:>7.0f}{times}{ratio}")
        return [*shown, *(f"- {note}" for note in self.notes)]


def _in_order(name: str) -> tuple[int, bool, str]:
    _, candidates, way = name.split(".")
    return int(candidates), not way.endswith("cpu"), way


def measure_gpu(
    options: GpuOptions, tell: Callable[[str, int, int], None] = lambda what, done, total: None
) -> GpuBenchmark:
    """Check that all ways answer alike, then time them in turn.

    Raises:
        ConfigurationError: if a GPU is asked for and none can be used, or nothing here can run the stage.
        CheckFailed: if a way answers otherwise than the CPU does.
    """
    if options.device == "cuda":
        _require_gpu()
    machine: dict[str, Any] = describe_machine() | {"load_average_before": load_average(), "clocks_before": _clocks()}
    found = GpuBenchmark(machine, _versions())
    with _made(options, found, tell) as make:
        for candidates in options.candidates:
            tell(f"preparing {candidates} candidates", 0, 0)
            requests, baseline, others = make(candidates)
            others = _agreeing(found, candidates, requests, baseline, others)
            subjects = {runner.name: _subject(runner, requests, options.calls) for runner in (baseline, *others)}
            samples = interleave(
                subjects,
                warm_up=min(20, options.calls),
                seed=options.seed,
                progress=lambda done, total, at=candidates: tell(f"{at} candidates", done, total),  # type: ignore[misc]
            )
            for name, sample in samples.items():
                _add(found, f"rank.{candidates}.{name}", sample, samples[baseline.name], seed=options.seed)
    found.machine |= {"load_average_after": load_average(), "clocks_after": _clocks()}
    found.notes += [
        "a call copies one user's request to the device, runs the stage and copies the answer back",
        f"answers were compared with the CPU's first: within {_TOLERANCES['fp32']:g}, in FP16 {_TOLERANCES['fp16']:g}",
        "ways were called in turn, in rounds of random order after warming up; CPU/GPU is the CPU's median over the "
        "way's, with a bootstrap interval of 95 %; one CPU thread",
    ]
    return found


def _require_gpu() -> None:
    """Refuse, in a sentence, a machine on which neither PyTorch nor ONNX Runtime could use a GPU."""
    why = []
    if has("torch"):
        import torch

        if torch.cuda.is_available():
            return
        why.append(f"PyTorch {torch.__version__} sees none")
    if has("onnxruntime"):
        import onnxruntime

        # The provider is listed wherever the package was built with it, GPU or not.
        built = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if built and not has("torch") and _clocks():
            return
        why.append(f"onnxruntime {onnxruntime.__version__} " + ("has CUDA" if built else "has no CUDA provider"))
    reason = "; ".join(why) or "neither PyTorch nor onnxruntime is installed"
    raise ConfigurationError(f"no GPU to measure on: {reason}. `--device cpu` measures the CPU alone")


@contextmanager
def _made(
    options: GpuOptions, found: GpuBenchmark, tell: Callable[[str, int, int], None]
) -> Iterator[Callable[[int], tuple[list[_Request], Runner, list[Runner]]]]:
    """Yield what makes, for a number of candidates, the requests, the baseline on the CPU, and the other ways."""
    said: set[str] = set()

    def note(text: str) -> None:
        if text not in said:
            said.add(text)
            found.notes.append(text)

    if options.repository is not None:
        yield _exported(options, options.repository, note)
        return
    if not has("torch"):
        raise ConfigurationError(
            "a stage is generated with PyTorch, which is not installed; install it, or give an exported repository "
            "with --repository, which onnxruntime alone can run"
        )
    with tempfile.TemporaryDirectory() as folder:
        yield _generated(options, Path(folder), note, tell)


def _exported(
    options: GpuOptions, repository: Path, note: Callable[[str], None]
) -> Callable[[int], tuple[list[_Request], Runner, list[Runner]]]:
    if not has("onnxruntime"):
        raise ConfigurationError("an exported graph is run with onnxruntime, which is not installed")
    graphs = sorted(repository.glob("rank/*/model.onnx"), key=lambda path: int(path.parent.name))
    if not graphs:
        raise InvalidInput(f"{repository} has no rank/<version>/model.onnx; run `recsys export`, merged graphs")
    path = graphs[-1]
    contract = _contract(repository)
    note(f"graph: {path.parent.parent.name} version {path.parent.name} of the repository")

    def make(candidates: int) -> tuple[list[_Request], Runner, list[Runner]]:
        requests = _requests(contract, options, candidates, items=_catalogue_size(path), texts=True)
        (baseline,) = onnx_runners(path, requests[0], device="cpu", tolerances=_TOLERANCES, note=note)
        others = []
        if options.device == "cuda":
            others = onnx_runners(path, requests[0], device="cuda", tolerances=_TOLERANCES, note=note)
            _require_some(others)
        return requests, baseline, others

    return make


def _generated(
    options: GpuOptions, folder: Path, note: Callable[[str], None], tell: Callable[[str, int, int], None]
) -> Callable[[int], tuple[list[_Request], Runner, list[Runner]]]:
    import copy

    import torch

    from recsys_plugin.bench.ranking_stage import random_stage

    torch.set_num_threads(1)
    contract = _contract(Path(__file__).resolve().parents[2] / "model_repository")
    stage = random_stage(contract, items=options.items, seed=options.seed)
    note(f"graph: generated, {options.items:,} items, random weights of seed {options.seed}")
    path = folder / "model.onnx"
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if not has(name)]
    if lacking:
        note(f"ONNX Runtime takes no part: {', '.join(lacking)} not installed, and no --repository was given")
    else:
        tell("writing the ONNX graph", 0, 0)
        stage_graph(stage, _requests(contract, options, 3, items=options.items, texts=False)[0], path)
    on_gpu = copy.deepcopy(stage).to("cuda") if options.device == "cuda" and torch.cuda.is_available() else None

    def make(candidates: int) -> tuple[list[_Request], Runner, list[Runner]]:
        requests = _requests(contract, options, candidates, items=options.items, texts=False)
        tolerance, example = _TOLERANCES["fp32"], requests[0]
        baseline, *others = torch_runners(
            stage, example, device="cpu", compiled=options.compiled, tolerance=tolerance, note=note
        )
        if on_gpu is not None:
            others += torch_runners(
                on_gpu, example, device="cuda", compiled=options.compiled, tolerance=tolerance, note=note
            )
        if not lacking:
            quick = onnx_runners(path, example, device="cpu", tolerances=_TOLERANCES, note=note)
            # The quicker of the two on a CPU, and what serves there.
            baseline, others = quick[0], [baseline, *others]
            if options.device == "cuda":
                others += onnx_runners(path, example, device="cuda", tolerances=_TOLERANCES, note=note)
        if options.device == "cuda":
            _require_some([runner for runner in others if "cpu" not in runner.name])
        return requests, baseline, others

    return make


def _require_some(runners: Sequence[Runner]) -> None:
    if not runners:
        raise ConfigurationError("no way to run the stage on the GPU is left; the notes of `--device cpu` say more")


def _contract(repository: Path) -> FeatureContract:
    """The feature contract in the configuration of ``rank``, read without protobuf, which need not be installed."""
    path = repository / "rank" / "config.pbtxt"
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist; run in the checkout, or give --repository")
    text = path.read_text(encoding="utf-8")
    match = re.search(r'key: "feature_contract" value: \{ string_value: ("(?:[^"\\]|\\.)*")', text)
    if match is None:
        raise ConfigurationError(f"{path} carries no feature_contract; run `recsys export`")
    return FeatureContract.from_json(json.loads(match[1]))


def _catalogue_size(graph: Path) -> int:
    """Rows that a graph surely has: the manifest's count of items, or 1 where there is none beside it."""
    manifest = graph.parents[3] / ".recsys" / "export" / "manifest.json"
    return int(json.loads(manifest.read_text(encoding="utf-8"))["items"]) if manifest.exists() else 1


def _requests(
    contract: FeatureContract, options: GpuOptions, candidates: int, *, items: int, texts: bool
) -> list[_Request]:
    from recsys_plugin.bench.stage_inputs import random_inputs

    drawn = (
        random_inputs(contract, items=items, candidates=candidates, seed=options.seed + number)
        for number in range(_REQUESTS)
    )
    return [inputs.with_texts() if texts else inputs.with_codes() for inputs in drawn]


def _subject(runner: Runner, requests: Sequence[_Request], calls: int) -> Subject:
    return Subject(lambda number: runner.call(requests[number % len(requests)]), calls)


def _agreeing(
    found: GpuBenchmark, candidates: int, requests: Sequence[_Request], baseline: Runner, others: Sequence[Runner]
) -> list[Runner]:
    """The ways that answer as the CPU does. One in FP16 that does not is left out, and that is noted.

    Raises:
        CheckFailed: if one in FP32 does not.
    """
    wanted = [baseline.call(request) for request in requests]
    kept = []
    for runner in others:
        got = [runner.call(request) for request in requests]
        # Both give NaN for a head that was never trained; one that only one of them gives is a difference.
        apart = [np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b)) for a, b in zip(got, wanted, strict=True)]
        difference = float(np.max(apart))
        if difference <= runner.tolerance:
            found.figures[f"rank.{candidates}.{runner.name}.largest_difference"] = difference
            kept.append(runner)
            continue
        said = (
            f"{runner.name} answers otherwise than {baseline.name} for {candidates} candidates: largest difference "
            f"{difference:.3g}, allowed {runner.tolerance:g}"
        )
        if not runner.name.endswith("fp16"):
            raise CheckFailed(said)
        found.notes.append(f"left out: {said}")
    return kept


def _add(found: GpuBenchmark, name: str, samples: Samples, baseline: Samples, *, seed: int) -> None:
    found.figures[f"{name}.calls"] = len(samples.total)
    for percentile, value in zip(PERCENTILES, np.percentile(samples.total, PERCENTILES), strict=True):
        found.figures[f"{name}.p{percentile}_ms"] = float(value)
    if samples is not baseline:
        ratio = p50_ratio(baseline, samples, seed=seed)
        for end, value in (("", ratio.value), ("_low", ratio.low), ("_high", ratio.high)):
            found.figures[f"{name}.cpu_to_this.ratio_p50{end}"] = value


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if has("torch"):
        import torch

        versions["cuda"] = str(torch.version.cuda)
    return versions


def _clocks() -> list[dict[str, str]]:
    """Each GPU's name, driver, memory, state, clocks and power limit, as the driver's tool says; none without it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, f"--query-gpu={_CLOCKS}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        return []
    keys = _CLOCKS.split(",")
    return [dict(zip(keys, line.split(", "), strict=False)) for line in done.stdout.strip().splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line without click, which need not be installed; the exit code is that of ``recsys``."""
    parser = argparse.ArgumentParser(prog="bench_gpu", description="The ranking stage on a GPU against the CPU.")
    defaults = GpuOptions()
    parser.add_argument("--device", choices=DEVICES, default=defaults.device, help="cpu measures the baseline alone")
    parser.add_argument("--repository", type=Path, help="an exported model repository; without it one is generated")
    parser.add_argument("--candidates", type=int, nargs="+", default=list(defaults.candidates))
    parser.add_argument("--items", type=int, default=defaults.items, help="of the generated catalogue")
    parser.add_argument("--calls", type=int, default=defaults.calls, help="of each way and number of candidates")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too; takes minutes")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - is standard output")
    given = parser.parse_args(arguments)
    try:
        options = GpuOptions(
            device=given.device,
            repository=given.repository,
            candidates=tuple(given.candidates),
            items=given.items,
            calls=given.calls,
            seed=given.seed,
            compiled=given.compile,
        )
        if given.json not in (None, "-") and not Path(given.json).resolve().parent.is_dir():
            raise InvalidInput(f"--json {given.json}: the folder {Path(given.json).resolve().parent} does not exist")
        found = measure_gpu(options, _tell)
    except RecsysError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    if given.json == "-":
        print(found.to_json())
    elif given.json is not None:
        Path(given.json).write_text(found.to_json() + "\n", encoding="utf-8")
    out = sys.stderr if given.json == "-" else sys.stdout
    for line in show(found):
        print(line, file=out)
    return 0


def show(found: GpuBenchmark) -> list[str]:
    """The report for people: the machine and its versions, then the figures."""
    cards = [", ".join(f"{key} {value}" for key, value in card.items()) for card in found.machine["clocks_after"]]
    return [
        f"CPU: {found.machine['cpu']}, {found.machine['cores']} cores",
        *(f"GPU: {card}" for card in cards or ["none"]),
        ", ".join(f"{name} {version}" for name, version in found.versions.items()),
        *found.lines(),
    ]


def _tell(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}" + (f" {done}/{total}" if total else ""), end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
