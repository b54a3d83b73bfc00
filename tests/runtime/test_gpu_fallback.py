"""A GPU that was asked for and not obtained: models are served on the CPU, and everybody who asks is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import wait_until

from recsys_plugin.runtime.accelerators import models_asking_for_gpu, models_without_gpu
from recsys_plugin.runtime.doctor import diagnose
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.triton_client import TritonManager

MakeServices = Callable[..., Services]

ACCELERATOR = (
    "optimization { execution_accelerators { gpu_execution_accelerator "
    '{ name: "cuda" parameters { key: "use_tf32" value: "0" } } } }\n'
)


@pytest.fixture
def served(make_services: MakeServices, tmp_path: Path) -> Services:
    """A server whose one model asks for a GPU wherever Triton sees one."""
    services = make_services()
    config = tmp_path / "model_repository" / "double" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU", "KIND_AUTO") + ACCELERATOR)
    return services


def test_it_is_served_on_the_cpu_and_said(served: Services) -> None:
    endpoints = served.up()
    if endpoints.without_gpu == ():
        pytest.skip("this machine has a GPU, and Triton took it")
    assert endpoints.without_gpu == ("double",)
    # The model's process hands its lines to the server, which may write them when the model is ready.
    wait_until(lambda: "model 'double' asks for a GPU" in served.triton.process.log_since_start())
    (gpu,) = [result for result in diagnose(served) if result.name == "GPU"]
    assert (gpu.status, "double" in gpu.found) == ("warn", True)
    with TritonManager(served.triton_url) as triton:
        # Another's server has no log that we could read; its word for the instances is enough.
        assert models_without_gpu(triton, ["double"]) == ["double"]


def test_the_log_tells_of_a_provider_that_is_missing(served: Services) -> None:
    served.up()
    with TritonManager(served.triton_url) as triton:
        log = "model 'double' asks for a GPU, but onnxruntime here has no CUDAExecutionProvider"
        assert models_without_gpu(triton, ["double"], log=log) == ["double"]


def test_who_asks_for_none_is_not_warned(make_services: MakeServices, tmp_path: Path) -> None:
    services = make_services()
    assert models_asking_for_gpu(tmp_path / "model_repository") == []
    assert services.models_without_gpu() == []  # nothing runs, and nothing need be asked
    assert "GPU" not in {result.name for result in diagnose(services)}


def test_an_explicit_kind_counts_too(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text('instance_group { kind: KIND_GPU }\nparameters { key: "x" }\n')
    assert models_asking_for_gpu(tmp_path) == ["m"]
    assert models_asking_for_gpu(tmp_path / "m") == []
