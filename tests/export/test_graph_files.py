"""Graphs with their weights in a file beside them: the same answers, digests that see every byte, and merging."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from exports import Exported, no_progress

from recsys_plugin.errors import StepFailed
from recsys_plugin.export import export as export_module
from recsys_plugin.export import graph_files
from recsys_plugin.export.export import export_repository
from recsys_plugin.export.graph_files import data_path, digest_of, load_graph, save_graph, spill, tidy, total_bytes
from recsys_plugin.export.index_graphs import lookup_graph
from recsys_plugin.export.options import ExportOptions

VECTORS = np.random.default_rng(0).standard_normal((5000, 64), dtype=np.float32)


def answer(path: Path) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["item_vector"], {"item_row": np.array([[7], [4999]], np.int64)})[0]


@pytest.fixture
def spilled(tmp_path: Path) -> Path:
    path = tmp_path / "first" / "model.onnx"
    path.parent.mkdir()
    onnx.save(lookup_graph(VECTORS), path)
    before = total_bytes([path])
    spill(path)
    assert path.stat().st_size < before // 100
    assert total_bytes([path]) >= before - 200
    return path


def test_a_spilled_graph_answers_the_same_wherever_it_is_moved(spilled: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(answer(spilled), VECTORS[[7, 4999]])
    written = [file.read_bytes() for file in (spilled, data_path(spilled))]
    spill(spilled)
    assert [file.read_bytes() for file in (spilled, data_path(spilled))] == written, "a second time changes nothing"
    copy = tmp_path / "second" / "model.onnx"
    copy.parent.mkdir()
    save_graph(load_graph(spilled), copy)
    shutil.rmtree(spilled.parent)
    np.testing.assert_array_equal(answer(copy), VECTORS[[7, 4999]])
    assert (onnx.load(copy).graph.initializer[0].raw_data) == VECTORS.tobytes()


def test_the_digest_sees_the_weights(spilled: Path) -> None:
    before = digest_of(spilled)
    content = bytearray(data_path(spilled).read_bytes())
    content[len(content) // 2] ^= 1
    data_path(spilled).write_bytes(content)
    assert digest_of(spilled) != before


def test_a_file_of_weights_that_ends_early_is_an_error(spilled: Path, tmp_path: Path) -> None:
    data = data_path(spilled)
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(StepFailed, match="ends 10 bytes early"):
        save_graph(load_graph(spilled), tmp_path / "model.onnx")


def test_weights_that_no_graph_names_are_removed(spilled: Path) -> None:
    tidy(spilled)
    assert data_path(spilled).exists()
    onnx.save(lookup_graph(VECTORS), spilled)
    tidy(spilled)
    assert not data_path(spilled).exists()


def test_an_export_of_any_size_has_its_weights_beside_the_graphs(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole export, parity included, as a catalogue of millions would have it."""
    monkeypatch.setattr(export_module, "GRAPH_LIMIT", 0)
    monkeypatch.setattr(graph_files, "_LEAST", 1 << 10)
    material = replace(exported.material, options=ExportOptions())
    repository, state = tmp_path / "repository", tmp_path / "state"
    repository.mkdir()
    manifest = export_repository(repository, state, material, progress=no_progress)
    assert manifest["graphs"] == "merged"
    assert manifest["parity"]["largest_difference"].keys() >= exported.manifest["parity"]["largest_difference"].keys()
    files = {name for name in manifest["sha256"] if name.endswith(".data")}
    assert {"recommend/1/model.onnx.data", "rank/1/model.onnx.data", "search/1/model.onnx.data"} <= files
    assert all((repository / name).stat().st_size for name in files)
