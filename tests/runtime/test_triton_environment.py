from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_models import write_double

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.runtime import triton_server
from recsys_plugin.runtime.model_repository import read_model_repository
from recsys_plugin.runtime.triton_environment import TritonEnvironment

BACKEND = Path(triton_server.__file__).parent / "backends" / "onnxruntime" / "model.py"


@pytest.fixture(scope="module")
def environment(triton_python: Path) -> TritonEnvironment:
    return TritonEnvironment.inspect(triton_python)


@pytest.fixture(scope="module")
def backend(environment: TritonEnvironment) -> Any:
    """The backend's module, loaded here for its pure functions, beside Triton's real utilities."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(environment.python_backend))
        specification = importlib.util.spec_from_file_location("onnxruntime_backend_model", BACKEND)
        assert specification is not None
        assert specification.loader is not None
        module: ModuleType = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        yield module


def test_the_environment_is_usable(environment: TritonEnvironment) -> None:
    environment.require_usable()
    assert environment.missing_libraries() == []
    assert environment.variables()["PATH"].split(os.pathsep)[0] == str(environment.interpreter.parent)


def test_an_environment_with_numpy_2_is_refused(environment: TritonEnvironment) -> None:
    wrong = replace(environment, versions={**environment.versions, "numpy": "2.1.0"})
    with pytest.raises(ConfigurationError, match=r"numpy 2\.1\.0.*'numpy<2'"):
        wrong.require_usable()


def test_the_backend_itself_refuses_numpy_2(environment: TritonEnvironment) -> None:
    import numpy

    assert int(numpy.__version__.split(".")[0]) >= 2, "this environment is the one with numpy 2"
    run = subprocess.run(
        [sys.executable, "-c", "import model; model.TritonPythonModel().initialize({})"],
        env={**os.environ, "PYTHONPATH": f"{environment.python_backend}{os.pathsep}{BACKEND.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert f"numpy {numpy.__version__} would give wrong tensors" in run.stderr


@pytest.mark.parametrize("package", ["nvidia-pytriton", "onnxruntime", "numpy"])
def test_a_missing_package_is_named(environment: TritonEnvironment, package: str) -> None:
    without = replace(environment, versions={**environment.versions, package: None})
    with pytest.raises(ConfigurationError, match=package):
        without.require_usable()


def test_a_python_without_a_stub_is_named(environment: TritonEnvironment) -> None:
    with pytest.raises(ConfigurationError, match=r"no Python backend for Python 3\.99, only for .*3\.11"):
        replace(environment, python="3.99").require_usable()


def test_no_interpreter_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no Triton environment at .*RECSYS_TRITON_PYTHON"):
        TritonEnvironment.inspect(tmp_path / "python")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ConfigurationError, match="no such thing"):
        TritonEnvironment.inspect(broken)


def test_execution_providers_follow_the_instance(backend: Any) -> None:
    accelerators = [
        {"name": "tensorrt", "parameters": {"precision_mode": "FP16", "max_workspace_size_bytes": "1024"}},
        {"name": "cuda", "parameters": {"use_ep_level_unified_stream": "1"}},
    ]
    config = {
        "name": "m",
        "optimization": {"execution_accelerators": {"gpu_execution_accelerator": accelerators}},
    }
    assert backend._providers(config, "CPU", 0) == [("CPUExecutionProvider", {})]
    assert backend._providers({"name": "m"}, "GPU", 1) == [
        ("CUDAExecutionProvider", {"device_id": "1"}),
        ("CPUExecutionProvider", {}),
    ]
    assert backend._providers(config, "GPU", 0) == [
        (
            "TensorrtExecutionProvider",
            {"device_id": "0", "trt_fp16_enable": "1", "trt_max_workspace_size": "1024"},
        ),
        ("CUDAExecutionProvider", {"device_id": "0", "use_ep_level_unified_stream": "1"}),
        ("CPUExecutionProvider", {}),
    ]
    accelerators[0] = {"name": "abacus"}
    with pytest.raises(RuntimeError, match="unknown GPU accelerator abacus"):
        backend._providers(config, "GPU", 0)


def test_session_options_follow_the_parameters(backend: Any) -> None:
    texts = {
        "intra_op_thread_count": "1",
        "inter_op_thread_count": "3",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "session.intra_op.allow_spinning": "0",
    }
    config: dict[str, Any] = {
        "name": "m",
        "parameters": {key: {"string_value": value} for key, value in texts.items()},
        "optimization": {"graph": {"level": "-1"}},
    }
    options = backend._session_options(config)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 3)
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert options.enable_cpu_mem_arena is False
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    config["parameters"]["execution_mode"]["string_value"] = "many"
    with pytest.raises(RuntimeError, match="execution_mode='many' is not a number"):
        backend._session_options(config)


def test_the_version_policy_says_what_is_served(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        write_double(tmp_path, version=version)
    config = tmp_path / "double" / "config.pbtxt"
    everything = config.read_text()

    def served(policy: str) -> tuple[int, ...]:
        config.write_text(everything.replace("version_policy { all { } }", policy))
        (model,) = read_model_repository(tmp_path)
        assert model.versions == (1, 2, 10)
        return model.served

    assert served("") == (10,)
    assert served("version_policy { all { } }") == (1, 2, 10)
    assert served("version_policy { latest { num_versions: 2 } }") == (2, 10)
    assert served("version_policy { specific { versions: [1, 3] } }") == (1,)
    config.write_text("name: unquoted")
    with pytest.raises(ConfigurationError, match=r"config\.pbtxt is not a Triton model configuration"):
        read_model_repository(tmp_path)
    with pytest.raises(ConfigurationError, match="holds no model"):
        read_model_repository(tmp_path / "double")


def test_a_rewritten_file_changes_the_fingerprint(tmp_path: Path) -> None:
    write_double(tmp_path)
    (before,) = read_model_repository(tmp_path)
    assert read_model_repository(tmp_path) == [before]
    write_double(tmp_path, factor=3.0)
    os.utime(tmp_path / "double" / "1" / "model.onnx", ns=(1, 1))
    (after,) = read_model_repository(tmp_path)
    assert after.fingerprint != before.fingerprint
