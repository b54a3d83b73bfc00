"""The tracked configurations are the generated ones, and any Triton reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from shops import ROOT, Shop
from tritonclient.grpc import model_config_pb2

from recsys_plugin.export.configuration import render_config
from recsys_plugin.export.description import Model, Tensor, describe_repository, own_row_count
from recsys_plugin.export.install import write_configurations
from recsys_plugin.export.merged import lay_out
from recsys_plugin.export.new_item_graphs import PACKED_WIDTH
from recsys_plugin.export.options import ExportOptions
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline.feast_repository import contract_of, open_store

TRACKED = ROOT / "model_repository"


@pytest.fixture(scope="module")
def contract(small_shop: Shop) -> FeatureContract:
    return contract_of(open_store(small_shop.settings, small_shop.redis_url))


@pytest.fixture(scope="module")
def steps(contract: FeatureContract) -> tuple[Model, ...]:
    return describe_repository(
        contract, vector=64, text_vector=384, own_rows=own_row_count(contract), item=PACKED_WIDTH
    )


@pytest.fixture(scope="module")
def described(steps: tuple[Model, ...]) -> tuple[Model, ...]:
    return lay_out(steps, ExportOptions().graphs)


@pytest.fixture(scope="module")
def generated(described: tuple[Model, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    write_configurations(folder, described)
    return folder


def parsed(models: tuple[Model, ...]) -> dict[str, Any]:
    return {model.name: text_format.Parse(render_config(model), model_config_pb2.ModelConfig()) for model in models}


@pytest.fixture(scope="module", params=["steps", "described"])
def configs(request: pytest.FixtureRequest) -> dict[str, Any]:
    return parsed(request.getfixturevalue(request.param))


def texts(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("*/config.pbtxt"), folder / "README.md"]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}


def test_tracked_configurations_are_the_generated_ones(generated: Path) -> None:
    # When this fails: `recsys export` in the checkout, or write_configurations, and commit what it wrote.
    assert texts(TRACKED) == texts(generated)


def test_only_stock_backends(configs: dict[str, Any]) -> None:
    for name, config in configs.items():
        assert config.name == name
        if config.platform:
            assert (config.platform, config.backend) == ("ensemble", "")
        else:
            assert config.backend in ("onnxruntime", "python")
            assert config.instance_group[0].count >= 1
        assert config.max_batch_size == {"catalogue": 0, "popularity": 0, "explain": 8}.get(name, 64)
        assert config.HasField("dynamic_batching") == (not config.platform and name not in ("catalogue", "popularity"))
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        assert config.version_policy.latest.num_versions == 2
    assert [name for name, config in configs.items() if config.backend == "python"] == ["tokenizer", "item_tokenizer"]


def test_merged_graphs_take_the_place_of_ensembles(steps: tuple[Model, ...], described: tuple[Model, ...]) -> None:
    requests = {"recommend", "rank", "search", "similar", "similar_users"}
    alone = {"new_item", "rank_new", "explain"}
    assert {model.name for model in steps if model.is_ensemble} == requests
    assert {model.name for model in steps if model.merged_from} == alone
    assert {model.name for model in described if model.merged_from} == requests | alone
    assert not any(model.is_ensemble for model in described)
    assert {model.name for model in steps} - {model.name for model in described} == {
        "item_index",
        "text_index",
        "ctr_ranker",
        "user_index",
    }


def shapes(tensors: Any) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in tensors}


def test_ensembles_hand_on_tensors_of_the_right_type(steps: tuple[Model, ...]) -> None:
    configs = parsed(steps)
    for name, config in configs.items():
        if not config.platform:
            continue
        known = shapes(config.input)
        used = set()
        for step in config.ensemble_scheduling.step:
            model = configs[step.model_name]
            takes, gives = shapes(model.input), shapes(model.output)
            assert step.input_map.keys() == takes.keys(), f"{name}: {step.model_name}"
            for inner, outer in step.input_map.items():
                assert known[outer][0] == takes[inner][0]
                assert len(known[outer][1]) == len(takes[inner][1])
                used.add(outer)
            known |= {outer: gives[inner] for inner, outer in step.output_map.items()}
        # Triton refuses a tensor that nobody takes.
        outputs = shapes(config.output)
        assert known.keys() == used | outputs.keys()
        assert all(known[output][0] == kind for output, (kind, _) in outputs.items())


def test_ensembles_carry_the_contract(configs: dict[str, Any], contract: FeatureContract) -> None:
    for name in ("recommend", "rank", "search", "rank_new", "similar_users", "explain"):
        carried = FeatureContract.from_json(configs[name].parameters["feature_contract"].string_value)
        assert carried == contract
        inputs = shapes(configs[name].input)
        for tensor, width in contract.widths.items():
            assert inputs[str(tensor)][1] == (width,)


def test_text_in_a_configuration_is_escaped() -> None:
    difficult = 'quote " backslash \\ newline \n tab \t ü 日 \u2028'
    model = Model(
        "m", "", (Tensor("x", "FP32", (-1,), ""),), (Tensor("y", "FP32", (1, 2), ""),), parameters={"p": difficult}
    )
    config = text_format.Parse(render_config(model), model_config_pb2.ModelConfig())
    assert config.parameters["p"].string_value == difficult
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert list(config.output[0].dims) == [1, 2]


def test_the_readme_names_every_model_and_tensor(generated: Path, described: tuple[Model, ...]) -> None:
    readme = (generated / "README.md").read_text(encoding="utf-8")
    for model in described:
        assert f"## {model.name}\n" in readme
        for tensor in (*model.inputs, *model.outputs):
            assert f"`{tensor.name}`" in readme
