"""The Python-based onnxruntime backend inside the real tritonserver."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny_models import MATRIX, write_broken, write_double
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype
from waiting import holds_within

from recsys_plugin.errors import ConfigurationError, InferenceUnavailable
from recsys_plugin.runtime.triton_server import EmbeddedTriton

Array = npt.NDArray[Any]


@pytest.fixture
def client(triton: EmbeddedTriton) -> Iterator[Any]:
    with InferenceServerClient(triton.url.removeprefix("grpc://")) as connection:
        yield connection


def infer(client: Any, model: str, outputs: list[str] | None = None, **inputs: Array) -> dict[str, Array]:
    tensors = []
    for name, values in inputs.items():
        tensor = InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    wanted = None if outputs is None else [InferRequestedOutput(name) for name in outputs]
    reply = client.infer(model, tensors, outputs=wanted, client_timeout=20)
    return {output.name: reply.as_numpy(output.name) for output in reply.get_response().outputs}


def strings(*rows: str) -> Array:
    return np.array([[row.encode()] for row in rows], dtype=object)


def test_string_input_and_top_k_with_a_dynamic_axis(client: Any) -> None:
    query = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    got = infer(
        client,
        "scorer",
        query=query,
        count=np.array([[3]] * 3, dtype=np.int64),
        country=strings("UK", "Österreich", "nowhere"),
    )
    similarity = query @ MATRIX
    rows = np.argsort(-similarity, axis=1)[:, :3]
    np.testing.assert_array_equal(got["rows"], rows)
    np.testing.assert_allclose(got["scores"], np.take_along_axis(similarity, rows, 1), rtol=1e-5)
    assert got["country_index"].ravel().tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("model", "values", "wanted"),
    [
        ("invert", np.array([[True, False, True]]), np.array([[False, True, False]])),
        ("half", np.array([[1.5, -2.25]], dtype=np.float16), np.array([[-1.5, 2.25]], dtype=np.float16)),
        ("integers", np.array([[7, -(2**31) + 1]], dtype=np.int32), np.array([[-7, 2**31 - 1]], dtype=np.int32)),
        ("invert", np.zeros((2, 0), dtype=np.bool_), np.zeros((2, 0), dtype=np.bool_)),
    ],
)
def test_types_survive_the_way_through(client: Any, model: str, values: Array, wanted: Array) -> None:
    got = infer(client, model, x=values)["y"]
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("titles", [["Tee", "茶杯 🍵", "", 'a"b\n'], []])
def test_strings_and_bytes_without_a_batch_axis(client: Any, titles: list[str]) -> None:
    values = np.array([title.encode() for title in titles], dtype=object)
    octets = np.arange(256, dtype=np.uint8)
    got = infer(client, "page", titles=values, octets=octets)
    assert [item.decode() for item in got["same_titles"]] == titles
    np.testing.assert_array_equal(got["same_octets"], octets)


def test_ensemble_of_two_steps(client: Any) -> None:
    x = np.array([[1, 2], [3, 4]], dtype=np.float32)
    np.testing.assert_array_equal(infer(client, "chain", x=x)["y"], -2 * x)


def test_only_the_outputs_asked_for_are_returned(client: Any) -> None:
    inputs: dict[str, Any] = {
        "query": np.ones((1, 4), dtype=np.float32),
        "count": np.array([[2]], dtype=np.int64),
        "country": strings("UK"),
    }
    assert list(infer(client, "scorer", ["rows"], **inputs)) == ["rows"]


def test_concurrent_requests_run_together_and_come_back_apart(client: Any, triton: EmbeddedTriton) -> None:
    def executions() -> tuple[int, int]:
        (model,) = client.get_inference_statistics("scorer").model_stats
        return model.inference_count, model.execution_count

    generator = np.random.default_rng(3)
    queries = [generator.standard_normal((1 + i % 3, 4)).astype(np.float32) for i in range(64)]

    def ask(query: Array) -> Array:
        size = len(query)
        return infer(
            client,
            "scorer",
            query=query,
            count=np.full((size, 1), 4, dtype=np.int64),
            country=strings(*["UK"] * size),
        )["rows"]

    before = executions()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, queries))
    for query, rows in zip(queries, answers, strict=True):
        np.testing.assert_array_equal(rows, np.argsort(-(query @ MATRIX), axis=1)[:, :4])
    # Triton counts a request a moment after it has answered.
    assert holds_within(lambda: executions()[0] - before[0] >= sum(map(len, queries)), 20)
    assert executions()[1] - before[1] < len(queries), "no two requests were ever run together"


def test_one_bad_request_in_a_batch_fails_alone(client: Any) -> None:
    def ask(position: int) -> float | str:
        try:
            value = infer(client, "lookup", position=np.array([[position]], dtype=np.int64))["value"]
        except InferenceServerException as error:
            return str(error.message())
        return float(value[0, 0])

    positions = [index % 5 if index % 7 else 99 for index in range(48)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, positions))
    for position, answer in zip(positions, answers, strict=True):
        if position == 99:
            assert isinstance(answer, str)
            assert "lookup" in answer
            assert "out of data bounds" in answer
        else:
            assert answer == 10.0 * position


def test_wrong_inputs_are_named(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="not UTF-8"):
        infer(
            client,
            "page",
            titles=np.array([b"fine", b"\xff\xfe"], dtype=object),
            octets=np.zeros(1, dtype=np.uint8),
        )
    with pytest.raises(InferenceServerException, match="shape"):
        infer(client, "double", x=np.ones((1, 3), dtype=np.float32))
    with pytest.raises(InferenceServerException, match="FP32"):
        infer(client, "double", x=np.ones((1, 2), dtype=np.float64))
    np.testing.assert_array_equal(infer(client, "double", x=np.ones((1, 2), dtype=np.float32))["y"], [[2, 2]])


def test_a_broken_model_is_reported_by_name_and_nothing_is_left(tmp_path: Path, triton_python: Path) -> None:
    write_broken(tmp_path / "model_repository")
    server = EmbeddedTriton(tmp_path / ".recsys", tmp_path / "model_repository", triton_python)
    with pytest.raises(InferenceUnavailable, match=r"(?s)broken version 1: .*INVALID_PROTOBUF") as raised:
        server.start()
    assert "double version" not in str(raised.value)
    assert "initialize" not in str(raised.value), "a stack trace is for the log, not for the message"
    assert not server.process.running


def test_configuration_that_contradicts_the_graph_is_reported(tmp_path: Path, triton_python: Path) -> None:
    write_double(tmp_path / "model_repository")
    config = tmp_path / "model_repository" / "double" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_FP32", "TYPE_INT64"))
    server = EmbeddedTriton(tmp_path / ".recsys", tmp_path / "model_repository", triton_python)
    with pytest.raises(InferenceUnavailable, match=r"double version 1.*'x' is tensor\(float\) in the graph"):
        server.start()


def test_an_instance_kind_left_to_the_server_is_served(tmp_path: Path, triton_python: Path) -> None:
    write_double(tmp_path / "model_repository")
    config = tmp_path / "model_repository" / "double" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU", "KIND_AUTO"))
    server = EmbeddedTriton(tmp_path / ".recsys", tmp_path / "model_repository", triton_python)
    try:
        server.start()
        with InferenceServerClient(server.url.removeprefix("grpc://")) as connection:
            got = infer(connection, "double", x=np.ones((1, 2), dtype=np.float32))
        np.testing.assert_array_equal(got["y"], [[2, 2]])
    finally:
        server.stop()


def test_a_repository_without_exported_versions_says_so(tmp_path: Path, triton_python: Path) -> None:
    (tmp_path / "model_repository" / "empty").mkdir(parents=True)
    (tmp_path / "model_repository" / "empty" / "config.pbtxt").write_text('name: "empty"\n')
    server = EmbeddedTriton(tmp_path / ".recsys", tmp_path / "model_repository", triton_python)
    with pytest.raises(ConfigurationError, match=r"no version to serve of empty.*recsys export"):
        server.start()
