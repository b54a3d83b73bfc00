from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_known_answers

from recsys_plugin.errors import CheckFailed, ConfigurationError, InferenceUnavailable, StepFailed
from recsys_plugin.runtime.known_answers import check_known_answers, load_known_answers
from recsys_plugin.runtime.triton_server import EmbeddedTriton

X = {"datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
TITLES = {"datatype": "BYTES", "shape": [2], "data": ["Tee", "茶"]}
OCTETS = {"datatype": "UINT8", "shape": [1], "data": [7]}


def known(folder: Path, *answers: dict[str, Any], version: int = 1) -> Any:
    path = folder / "known_answers.json"
    path.write_text(json.dumps({"version": version, "answers": list(answers)}))
    return load_known_answers(path)


def answer(model: str, inputs: dict[str, Any], outputs: dict[str, Any], tolerance: float = 1e-6) -> dict[str, Any]:
    return {"model": model, "inputs": inputs, "outputs": outputs, "tolerance": tolerance}


def test_right_answers_pass(triton: EmbeddedTriton, tmp_path: Path) -> None:
    pages = answer("page", {"titles": TITLES, "octets": OCTETS}, {"same_titles": TITLES, "same_octets": OCTETS})
    near = answer("double", {"x": X}, {"y": {**X, "data": [2.0005, 4.0]}}, tolerance=1e-3)
    check_known_answers(triton.url, known(tmp_path, pages, near))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (answer("double", {"x": X}, {"y": {**X, "data": [2.0, 5.0]}}), r"'y' at position \[0, 1\] is .*4\.0.*5\.0"),
        (answer("double", {"x": X}, {"y": {**X, "shape": [2, 1]}}), r"'y' has shape \[1, 2\], wanted \[2, 1\]"),
        (answer("double", {"x": X}, {"y": {**X, "datatype": "INT64"}}), "'y' is float32, wanted int64"),
        (
            answer(
                "page", {"titles": TITLES, "octets": OCTETS}, {"same_titles": {**TITLES, "data": ["Tee", "Kaffee"]}}
            ),
            r"'same_titles' at position \[1\].*Kaffee",
        ),
    ],
)
def test_wrong_answers_are_named(triton: EmbeddedTriton, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckFailed, match=rf"{wrong['model']} version 1 .*{message}"):
        check_known_answers(triton.url, known(tmp_path, wrong))


def test_a_version_that_is_not_served_is_named(triton: EmbeddedTriton, tmp_path: Path) -> None:
    right = answer("double", {"x": X}, {"y": {**X, "data": [2.0, 4.0]}})
    with pytest.raises(InferenceUnavailable, match="double version 9"):
        check_known_answers(triton.url, known(tmp_path, right, version=9))


def test_no_server_and_no_url_are_told_apart(tmp_path: Path) -> None:
    right = known(tmp_path, answer("double", {"x": X}, {"y": X}))
    with pytest.raises(InferenceUnavailable, match=r"grpc://127\.0\.0\.1:1, double version 1"):
        check_known_answers("grpc://127.0.0.1:1", right, timeout=2)
    with pytest.raises(ConfigurationError, match="grpc://host:port"):
        check_known_answers("127.0.0.1:8001", right)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"version": 1}', '{"version": 1, "answers": [{"model": "m"}]}', '{"version": "x", "answers": []}'],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known_answers.json"
    path.write_text(text)
    with pytest.raises(StepFailed, match=r"known_answers\.json"):
        load_known_answers(path)


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    write_known_answers(tmp_path)
    with pytest.raises(StepFailed, match="recsys export"):
        load_known_answers(tmp_path / "elsewhere.json")
