"""Reduced graphs against those in 32 bits: smaller, near, measured on real users, and refused beyond the bound."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exports import Exported, no_progress
from onnx import TensorProto, helper, numpy_helper
from shops import Shop

from recsys_plugin.errors import CheckFailed, InvalidInput, StepFailed
from recsys_plugin.export import precision
from recsys_plugin.export.export import ExportMaterial, export_repository
from recsys_plugin.export.local import LocalRepository, tokenizer_of
from recsys_plugin.export.options import PRECISIONS, ExportOptions
from recsys_plugin.export.precision import reduce_precision, reduced_encoder, reduced_tables, text_loss
from recsys_plugin.training.frames import Split, read_frames

_Array = np.ndarray[Any, Any]


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def ticking() -> Callable[[], float]:
    """A clock that goes on by one second with each look at it."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    return clock


@pytest.fixture(scope="module")
def split(small_shop: Shop) -> Split:
    return read_frames(small_shop.settings.state / "training" / "frames").test


@pytest.fixture
def graphs(exported: Exported, tmp_path: Path) -> dict[str, Path]:
    return exported.copy(tmp_path)


def tables_graph(path: Path, table: _Array) -> None:
    """Looks rows of a table up by a matrix of row numbers, and multiplies what it finds by another table."""
    other = np.eye(table.shape[1], dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "rows"], ["found"]),
            helper.make_node("MatMul", ["found", "other"], ["out"]),
        ],
        "tables",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n", "c"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "c", table.shape[1]])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(other, "other")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.parametrize(("precision", "part"), [("fp16", 2), ("int8", 4)])
def test_tables_shrink_and_their_rows_stay_near(precision: str, part: int, tmp_path: Path) -> None:
    # Columns of very different size: one scale for all would lose the small ones.
    sizes = np.array([1e-3, 1.0, 100.0] * 16, np.float32)
    table = np.random.default_rng(0).normal(size=(2000, 48)).astype(np.float32) * sizes
    table[:, 5] = 0.0
    tables_graph(tmp_path / "wide.onnx", table)
    reduced_tables(tmp_path / "wide.onnx", tmp_path / "small.onnx", precision)
    wide, small = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("wide", "small"))
    assert small < wide / part * 1.1
    rows = np.arange(2000).reshape(40, 50)
    (found,) = session(tmp_path / "small.onnx").run(None, {"rows": rows})
    assert found.dtype == np.float32
    largest = np.abs(table).max(0)
    step = largest / (254 if precision == "int8" else 2048)
    assert (np.abs(found.reshape(2000, 48) - table) <= step * 1.01 + 1e-12).all()


def test_a_table_that_more_than_look_ups_read_stays(tmp_path: Path) -> None:
    table = np.ones((64, 64), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "table"], ["out"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "wide.onnx")
    reduced_tables(tmp_path / "wide.onnx", tmp_path / "same.onnx", "int8")
    assert onnx.load(tmp_path / "same.onnx").graph == model.graph


@pytest.mark.parametrize(("precision", "size", "cosine"), [("fp16", 0.52, 0.99999), ("int8", 0.3, 0.98)])
def test_the_text_encoder(
    precision: str, size: float, cosine: float, exported: Exported, graphs: dict[str, Path], material: ExportMaterial
) -> None:
    small = graphs["text_encoder"].with_name("small.onnx")
    reduced_encoder(graphs["text_encoder"], small, precision)
    assert small.stat().st_size < size * graphs["text_encoder"].stat().st_size
    found = text_loss(
        (session(graphs["text_encoder"]), session(small)),
        material.titles[:40],
        tokenizer_of(exported.tokenizer),
        clock=ticking(),
    )
    assert found["texts"] == len(set(material.titles[:40]))
    assert found["cosine"]["mean"] > cosine
    assert found["cosine"]["least"] <= found["cosine"]["mean"]
    assert found["loss"]["cosine"] == 1.0 - found["cosine"]["mean"]
    assert 0.9 < found["ndcg@20"] <= 1.0
    # By a clock that ticks at each look, both take as long.
    assert found["cpu_time_ratio"] == 1.0


def test_what_a_precision_costs_is_measured_and_the_graphs_replaced(
    exported: Exported, graphs: dict[str, Path], material: ExportMaterial, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tables of a hundred items are a small part of their graph.
    monkeypatch.setattr(precision, "_WORTH", 1.0)
    before = {name: path.read_bytes() for name, path in graphs.items()}
    found = reduce_precision(
        graphs,
        ExportOptions("fp16"),
        material.models,
        split,
        material.titles[:20],
        tokenizer_of(exported.tokenizer),
        candidates=50,
    )
    changed = {name for name, path in graphs.items() if path.read_bytes() != before[name]}
    assert changed == {"ctr_ranker", "text_encoder"}
    ranker = found["ctr_ranker"]
    assert ranker["bytes"]["fp16"] == graphs["ctr_ranker"].stat().st_size < ranker["bytes"]["fp32"]
    assert ranker["users"] == min(300, len(split.users))
    for metric in ("ndcg@20", "auc"):
        whole, reduced = ranker[metric]
        assert 0.0 < whole <= 1.0
        assert ranker["loss"][metric] == whole - reduced
        assert abs(whole - reduced) < 0.01
    assert found["text_encoder"]["cpu_time_ratio"] > 0.0
    json.dumps(found, allow_nan=False)
    # Nothing but the models is left beside them.
    assert {path.name for path in graphs["ctr_ranker"].parent.iterdir()} == {"model.onnx"}
    LocalRepository(exported.described, graphs, {"tokenizer": tokenizer_of(exported.tokenizer)})


def test_too_dear_a_precision_is_refused_and_nothing_replaced(
    exported: Exported, graphs: dict[str, Path], material: ExportMaterial, split: Split
) -> None:
    before = {name: path.read_bytes() for name, path in graphs.items()}
    with pytest.raises(CheckFailed, match=r"text_encoder loses 0\.\d+ of cosine.*allowed 1e-09"):
        reduce_precision(
            graphs,
            ExportOptions("int8", 1e-9),
            material.models,
            split,
            material.titles[:20],
            tokenizer_of(exported.tokenizer),
            candidates=50,
        )
    assert {name: path.read_bytes() for name, path in graphs.items()} == before
    assert {path.name for path in graphs["text_encoder"].parent.iterdir()} == {"model.onnx"}


def test_an_export_in_int8(exported: Exported, material: ExportMaterial, split: Split, tmp_path: Path) -> None:
    shutil.copytree(exported.repository, tmp_path / "model_repository")
    asked = dataclasses.replace(material, options=ExportOptions("int8", 0.2))
    with pytest.raises(StepFailed, match="none were given"):
        export_repository(tmp_path / "model_repository", tmp_path / "state", asked, progress=no_progress)
    manifest = export_repository(
        tmp_path / "model_repository",
        tmp_path / "state",
        dataclasses.replace(asked, measured=split),
        progress=no_progress,
    )
    assert manifest["precision"]["precision"] == "int8"
    assert manifest["precision"]["most_loss"] == 0.2
    version = str(manifest["version"])
    size = (tmp_path / "model_repository" / "text_encoder" / version / "model.onnx").stat().st_size
    # Served graphs name their tensors by content, which takes a little room.
    assert size == pytest.approx(manifest["precision"]["text_encoder"]["bytes"]["int8"], rel=0.05)
    # Parity is that of the graphs in 32 bits, checked before.
    assert max(manifest["parity"]["largest_difference"].values()) <= manifest["parity"]["tolerance"]
    answers = json.loads((tmp_path / "state" / "export" / "known_answers.json").read_text(encoding="utf-8"))
    assert {answer["tolerance"] for answer in answers["answers"]} == {1e-3}


@pytest.mark.parametrize(("precision", "most"), [("fp8", 0.01), ("int8", -0.1), ("int8", float("nan"))])
def test_options_that_mean_nothing(precision: str, most: float) -> None:
    with pytest.raises(InvalidInput):
        ExportOptions(precision, most)
    assert ExportOptions().precision == PRECISIONS[0]
