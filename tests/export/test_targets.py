"""Configurations of each target: any Triton parses them, and what they say fits the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exports import Exported
from google.protobuf import text_format
from shops import ROOT
from tritonclient.grpc import model_config_pb2

from recsys_plugin.errors import InvalidInput
from recsys_plugin.export.configuration import render_config
from recsys_plugin.export.description import MAX_BATCH, Model, Tensor, describe_repository, own_row_count
from recsys_plugin.export.export import name_by_content
from recsys_plugin.export.install import write_configurations
from recsys_plugin.export.merged import lay_out
from recsys_plugin.export.new_item_graphs import PACKED_WIDTH
from recsys_plugin.export.options import GRAPHS, TARGETS, ExportOptions
from recsys_plugin.export.targets import CANDIDATE_BUCKETS, runs_on_gpu, warm_up_files, warm_ups
from recsys_plugin.features.contract import FeatureContract

TRACKED = ROOT / "model_repository"
#: What the onnxruntime backend's README lists for `tensorrt`; it refuses any other key.
DOCUMENTED = {
    "precision_mode", "max_workspace_size_bytes", "trt_engine_cache_enable", "trt_engine_cache_path",
    "trt_timing_cache_enable", "trt_timing_cache_path", "trt_profile_min_shapes", "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
}  # fmt: skip


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def contract() -> FeatureContract:
    """That of the tracked configurations."""
    config = parsed((TRACKED / "recommend" / "config.pbtxt").read_text(encoding="utf-8"))
    return FeatureContract.from_json(config.parameters["feature_contract"].string_value)


@pytest.fixture(scope="module", params=GRAPHS)
def models(request: pytest.FixtureRequest, contract: FeatureContract) -> tuple[Model, ...]:
    steps = describe_repository(
        contract, vector=64, text_vector=384, own_rows=own_row_count(contract), item=PACKED_WIDTH
    )
    return lay_out(steps, request.param)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def accelerators(config: Any) -> dict[str, dict[str, str]]:
    named = config.optimization.execution_accelerators.gpu_execution_accelerator
    return {item.name: dict(item.parameters) for item in named}


def test_the_cpu_is_the_default(models: tuple[Model, ...]) -> None:
    assert ExportOptions().target == TARGETS[0] == "cpu"
    for model in models:
        text = render_config(model)
        assert text == render_config(model, "cpu")
        config = parsed(text)
        assert not accelerators(config)
        if not model.is_ensemble:
            assert config.instance_group[0].kind == config.instance_group[0].KIND_AUTO  # as when nothing is said


def test_models_ask_for_a_gpu_but_for_those_that_cannot_use_one(models: tuple[Model, ...], target: str) -> None:
    for model in models:
        text = render_config(model, target)
        config = parsed(text)
        assert config.name == model.name
        if model.is_ensemble or target == "cpu":
            assert not accelerators(config)
            continue
        (group,) = config.instance_group
        stays = model.name in ("tokenizer", "item_tokenizer", "catalogue", "popularity", "communities")
        assert group.kind == (group.KIND_CPU if stays else group.KIND_AUTO)
        assert list(group.gpus) == []  # Triton takes all it sees
        assert stays == ("stays on the CPU, since" in text)
        expected = [] if stays else ["tensorrt", "cuda"] if target == "tensorrt" else ["cuda"]
        assert list(accelerators(config)) == expected
        if any(tensor.name == "user_string" for tensor in model.inputs):
            assert "user_string is looked up on the CPU" in text


def test_tensorrt_is_given_what_its_backend_knows(models: tuple[Model, ...]) -> None:
    for model in (model for model in models if runs_on_gpu(model, "tensorrt") and not model.is_ensemble):
        options = accelerators(parsed(render_config(model, "tensorrt")))["tensorrt"]
        assert options.keys() <= DOCUMENTED
        assert options["trt_engine_cache_path"].endswith(f"/{model.name}")
        # Half precision ends at 65,504, and a time in seconds does not.
        if any(tensor.name == "user_int" for tensor in model.inputs):
            assert options["precision_mode"] == "FP32"
    encoder = next(model for model in models if model.name == "text_encoder")
    assert accelerators(parsed(render_config(encoder, "tensorrt")))["tensorrt"]["precision_mode"] == "FP16"


def test_profiles_name_each_input_and_are_ordered(models: tuple[Model, ...]) -> None:
    with_profiles = []
    for model in (model for model in models if runs_on_gpu(model, "tensorrt") and not model.is_ensemble):
        options = accelerators(parsed(render_config(model, "tensorrt")))["tensorrt"]
        if "trt_profile_min_shapes" not in options:
            continue
        with_profiles.append(model.name)
        bounds = {}
        for bound in ("min", "opt", "max"):
            entries = [entry.split(":") for entry in options[f"trt_profile_{bound}_shapes"].split(",")]
            bounds[bound] = {name: tuple(map(int, shape.split("x"))) for name, shape in entries}
            assert bounds[bound].keys() == {tensor.name for tensor in model.inputs}
        for tensor in model.inputs:
            low, usual, high = (bounds[bound][tensor.name] for bound in ("min", "opt", "max"))
            assert len(low) == len(tensor.dims) + 1
            assert all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True))
            assert high[0] == model.max_batch
        for sample in warm_ups(model, "tensorrt"):
            for name, shape in sample.shapes.items():
                lines = (sample.users, *shape)
                assert all(a <= b <= c for a, b, c in zip(bounds["min"][name], lines, bounds["max"][name], strict=True))
    assert with_profiles == ["text_encoder"]


def test_every_bucket_is_warmed(models: tuple[Model, ...], target: str) -> None:
    for model in models:
        config = parsed(render_config(model, target))
        if model.is_ensemble or model.name in ("catalogue", "popularity"):
            assert not config.model_warmup
            continue
        assert config.model_warmup
        files = warm_up_files(model, target)
        used = set()
        for sample in config.model_warmup:
            assert 1 <= sample.batch_size <= model.max_batch <= MAX_BATCH
            assert sample.inputs.keys() == {tensor.name for tensor in model.inputs}
            for tensor in model.inputs:
                given = sample.inputs[tensor.name]
                assert model_config_pb2.DataType.Name(given.data_type) == f"TYPE_{tensor.datatype}"
                assert len(given.dims) == len(tensor.dims)
                assert all(b in (-1, a) and a > 0 for a, b in zip(given.dims, tensor.dims, strict=True))
                if given.input_data_file:
                    used.add(given.input_data_file)
                    assert len(files[given.input_data_file]) == 8 * int(np.prod(given.dims))
                else:
                    assert given.zero_data  # row 0 is in every catalogue; random rows are not
        assert used == files.keys()
        names = [sample.name for sample in config.model_warmup if sample.batch_size == 1]
        if model.name in ("recommend", "rank", "search", "ctr_ranker", "item_index"):
            assert [f"{bucket} candidates" in names for bucket in CANDIDATE_BUCKETS] == [True] * 3


def test_the_values_of_samples_are_where_triton_looks(contract: FeatureContract, tmp_path: Path) -> None:
    steps = describe_repository(
        contract, vector=64, text_vector=384, own_rows=own_row_count(contract), item=PACKED_WIDTH
    )
    write_configurations(tmp_path, lay_out(steps, "merged"), target="tensorrt")
    path = tmp_path / "recommend" / "warmup" / "counts_512_20"
    np.testing.assert_array_equal(np.frombuffer(path.read_bytes(), "<i8"), [512, 20])


def test_an_input_of_unknown_length_is_not_guessed() -> None:
    model = Model("m", "", (Tensor("novel", "FP32", (-1,), ""),), (Tensor("y", "FP32", (1,), ""),))
    assert warm_ups(model, "cpu") == ()
    assert "model_warmup" not in render_config(model)
    with pytest.raises(InvalidInput, match="no target 'tpu'"):
        ExportOptions(target="tpu")


def test_names_in_a_graph_follow_its_weights(merged: Exported, tmp_path: Path) -> None:
    # TensorRT's engine cache tells engines apart by names alone.
    graph = onnx.load(merged.graphs["rank"])
    assert not any(node.output[0].startswith("ctr_ranker") for node in graph.graph.node)

    def names(model: onnx.ModelProto) -> set[str]:
        onnx.save(model, tmp_path / "model.onnx")
        name_by_content([tmp_path / "model.onnx"])
        named = onnx.load(tmp_path / "model.onnx")
        assert [value.name for value in named.graph.input] == [value.name for value in model.graph.input]
        assert [value.name for value in named.graph.output] == [value.name for value in model.graph.output]
        return {name for node in named.graph.node for name in node.output} - {"values"}

    first = names(graph)
    assert first == names(graph)
    weights = next(tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    changed = onnx.numpy_helper.to_array(weights) + np.float32(1.0)
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    assert not first & names(graph)
