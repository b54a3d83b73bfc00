"""The GPU benchmark where there may be no GPU: the CPU's part, the refusals, and that it measures the real stage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shops import ROOT, Shop

from recsys_plugin.bench import gpu
from recsys_plugin.bench.gpu import GpuBenchmark, GpuOptions, main, measure_gpu
from recsys_plugin.bench.gpu_backends import Runner
from recsys_plugin.bench.ranking_stage import RankingStage, random_stage
from recsys_plugin.bench.stage_inputs import random_inputs
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import CheckFailed, ConfigurationError, InvalidInput
from recsys_plugin.export.torch_graphs import RankerGraph, UserTowerGraph
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.options import TrainingOptions
from recsys_plugin.training.packing import UserTensors, first_users
from recsys_plugin.training.run import TrainingRun

TINY = GpuOptions(device="cpu", candidates=(8,), items=40, calls=3)
NO_GPU = not torch.cuda.is_available()


@pytest.fixture(scope="module")
def trained(small_shop: Shop) -> tuple[TrainedModels, UserTensors]:
    settings = small_shop.settings
    store = open_store(settings, small_shop.redis_url)
    run = TrainingRun(
        settings.state,
        settings.feature_repo / "data",
        load_dataset(settings),
        store,
        TrainingOptions(),
        lambda what, done, total: None,
    )
    return run.models(), first_users(run.frames().test.users, 16)


def test_the_stage_is_the_one_that_is_served(trained: tuple[TrainedModels, UserTensors]) -> None:
    """Trained weights give the same answers in the benchmark's stage as in the graphs that are exported."""
    models, users = trained
    tower = UserTowerGraph(models.towers).eval()
    ranker = RankerGraph(models.ranker, models.towers, models.items, models.heads).eval()
    tables = {name: getattr(ranker.tables(), name) for name in ranker.tables().__dataclass_fields__}
    stage = RankingStage(models.contract, {"embedded": tower.embedded, **tables}).eval()
    for mine, theirs in ((stage.tower, models.towers.user), (stage.ranker, models.ranker)):
        for own, other in zip(mine.inputs.embeddings, theirs.inputs.embeddings, strict=True):
            own.weight = other.weight  # vocabularies are of different sizes
        state = {name: value for name, value in theirs.state_dict().items() if name in mine.state_dict()}
        assert state.keys() == mine.state_dict().keys()
        mine.load_state_dict(state)
    given = [
        torch.from_numpy(values)
        for values in (users.user_float, users.user_int, models.towers.user.inputs.codes(users.user_string))
    ]
    rows = torch.arange(7).repeat(len(users), 1)
    rows[:, -1] = -1
    with torch.inference_mode():
        vector, _ = tower(*given)
        wanted = ranker(*given, vector, rows)[1:]  # scores leave out heads that the data could not train
        got = stage(*given, rows)[..., 1:]
    for head, column in zip(("click", "cart", "purchase"), wanted, strict=True):
        position = ("purchase", "cart", "click").index(head)
        if head in models.heads:
            torch.testing.assert_close(got[..., position], column, rtol=1e-5, atol=1e-6)


def test_the_cpu_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    arguments = ["--device", "cpu", "--candidates", "8", "--items", "40", "--calls", "3", "--json", str(target)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "8.onnxruntime_cpu" in shown
    assert "p99" in shown
    assert "within 0.0001" in shown
    report: dict[str, Any] = json.loads(target.read_text())
    assert report["figures"]["rank.8.torch_cpu.calls"] == 3
    assert report["figures"]["rank.8.torch_cpu.largest_difference"] < 1e-4
    assert report["figures"]["rank.8.torch_cpu.cpu_to_this.ratio_p50"] > 0
    assert {"torch", "onnxruntime"} <= report["versions"].keys()


def test_an_exported_graph(small_shop: Shop) -> None:
    found = measure_gpu(GpuOptions("cpu", small_shop.settings.model_repository, (8,), calls=2))
    assert found.figures["rank.8.onnxruntime_cpu.calls"] == 2


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ConfigurationError.exit_code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "no GPU to measure on" in said.err


def test_a_way_that_answers_otherwise_is_refused() -> None:
    def answering(name: str, value: float) -> Runner:
        return Runner(name, lambda request: np.full((1, 2, 4), value, np.float32), 1e-4)

    found, requests = GpuBenchmark({}, {}), [{"x": np.zeros(1)}]
    baseline = answering("torch_cpu", 0.5)
    kept = gpu._agreeing(found, 2, requests, baseline, [answering("near", 0.50005), answering("far_fp16", 0.6)])
    assert [runner.name for runner in kept] == ["near"]
    assert found.notes[0].startswith("left out: far_fp16 answers otherwise")
    for wrong in (0.6, float("nan")):
        with pytest.raises(CheckFailed, match="far answers otherwise than torch_cpu"):
            gpu._agreeing(found, 2, requests, baseline, [answering("far", wrong)])
    never = answering("torch_cpu", float("nan"))
    assert gpu._agreeing(found, 3, requests, never, [answering("also", float("nan"))])


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1 or more"):
        GpuOptions(calls=0)
    with pytest.raises(InvalidInput, match="no rank/<version>"):
        measure_gpu(GpuOptions("cpu", tmp_path))
    assert main(["--device", "cpu", "--json", str(tmp_path / "missing" / "report.json")]) == 2


def test_everything_follows_from_the_seed() -> None:
    contract = gpu._contract(ROOT / "model_repository")
    first, second = (random_stage(contract, items=5, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    inputs = [random_inputs(contract, items=5, candidates=4, seed=1).with_codes() for _ in range(2)]
    assert all(np.array_equal(values, inputs[1][name]) for name, values in inputs[0].items())
    assert inputs[0]["candidate_rows"].max() < 5


def test_pytorch_and_numpy_are_enough() -> None:
    """What a machine with a GPU may lack is made impossible to import."""
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in sys.argv[1].split(','):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import recsys_plugin.bench.gpu_backends as backends\n"
        "there = backends.has\n"
        "backends.has = lambda name: name not in sys.argv[1].split(',') and there(name)\n"
        "import recsys_plugin.bench.gpu as gpu\n"
        "gpu.has = backends.has\n"
        "sys.exit(gpu.main(['--device', 'cpu', '--candidates', '4', '--items', '9', '--calls', '2']))\n"
    )
    lacking = (
        "pandas,pyarrow,scipy,sklearn,lightgbm,rich,click,redis,hiredis,grpc,tritonclient,google,feast,transformers,"
        "tokenizers,safetensors,onnx,onnxscript,onnxruntime"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, lacking], capture_output=True, text=True, timeout=600, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "4.torch_cpu" in done.stdout
    assert "ONNX Runtime takes no part: onnx, onnxscript, onnxruntime not installed" in done.stdout
