"""Exported graphs answer as the trained models do, texts included; one that does not is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exports import Exported, no_progress
from onnx import numpy_helper

from recsys_plugin.errors import CheckFailed, StepFailed
from recsys_plugin.export import export as export_module
from recsys_plugin.export.explain_graphs import explainer_graph
from recsys_plugin.export.export import ExportMaterial, export_repository
from recsys_plugin.export.index_graphs import answer_version, best_graph
from recsys_plugin.export.install import exported_versions
from recsys_plugin.export.new_item_graphs import item_encoder_graph, new_item_ranker_graph
from recsys_plugin.export.parity import TOLERANCE, check_merged, check_parity, example_requests, user_inputs
from recsys_plugin.export.torch_graphs import SCORE_WEIGHTS, ranker_graph
from recsys_plugin.inference.models import SERVED_MODELS
from recsys_plugin.runtime.known_answers import load_known_answers
from recsys_plugin.training.text import load_encoder


def check(exported: Exported, **replaced: Path) -> dict[str, float]:
    material = exported.material
    encoder, tokenizer = load_encoder()
    return check_parity(
        exported.local(**replaced),
        material.models,
        material.users,
        encoder,
        tokenizer,
        ["a mug", "ü 日"],
        candidates=50,
    )


def test_the_exported_graphs_are_right(exported: Exported) -> None:
    differences = check(exported)
    assert differences.keys() == {
        "user_tower.user_vector",
        "item_index.similarities",
        "item_index.rows",
        "item_embedding.item_vector",
        "ctr_ranker.cart_probability",
        "ctr_ranker.click_probability",
        "ctr_ranker.purchase_probability",
        "text_encoder.text_embedding",
    }
    assert max(differences.values()) < TOLERANCE / 10


def perturbed(path: Path, target: Path) -> Path:
    """The graph with its largest table of floats a little off."""
    model = onnx.load(path)
    tables = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    largest = max(tables, key=lambda tensor: int(np.prod(tensor.dims)))
    values = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array((values * 1.02).astype(np.float32), largest.name))
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("name", ["user_tower", "item_index", "ctr_ranker", "item_embedding", "text_encoder"])
def test_a_perturbed_graph_is_refused(name: str, exported: Exported, tmp_path: Path) -> None:
    graph = perturbed(exported.graphs[name], tmp_path / "model.onnx")
    with pytest.raises(CheckFailed, match=rf"differ from the trained models: {name}\.\S+ by \S+ .*\(allowed 0.0001\)"):
        check(exported, **{name: graph})


def test_nothing_is_installed_when_a_graph_is_wrong(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(staging: Path, *rest: Any) -> dict[str, Path]:
        copies = exported.copy(staging)
        perturbed(copies["item_index"], copies["item_index"])
        # Parts of merged graphs, which no repository keeps.
        models, empty = exported.material.models, torch.zeros(1, dtype=torch.int64)
        for name, graph in {
            "item_encoder": item_encoder_graph(models, empty),
            "new_item_ranker": new_item_ranker_graph(models),
            "explainer": explainer_graph(models),
        }.items():
            copies[name] = staging / f"{name}.onnx"
            onnx.save(graph, copies[name])
        return copies

    monkeypatch.setattr(export_module, "_write_graphs", wrong)
    with pytest.raises(CheckFailed, match="item_index"):
        export_repository(tmp_path / "repository", tmp_path / "state", exported.material, progress=no_progress)
    assert not (tmp_path / "repository").exists()
    assert list((tmp_path / "state" / "export").iterdir()) == []


def test_another_catalogue_than_the_trained_one_is_refused(exported: Exported, tmp_path: Path) -> None:
    fewer = replace(exported.material, catalogue=exported.material.catalogue.iloc[1:])
    with pytest.raises(StepFailed, match="name different items; run `recsys train` again"):
        export_repository(tmp_path / "repository", tmp_path / "state", fewer, progress=no_progress)


def test_texts_are_looked_up_in_the_graph(exported: Exported) -> None:
    towers, users = exported.material.models.towers, exported.material.users
    inputs = towers.user.inputs
    countries = inputs.vocabularies["user_profile:country"].values
    assert "日本" in countries
    column = inputs.contract.slots["user_profile:country"].offset
    texts = [*countries, "", "unknown", "日本国", "d", "DE "]
    lines = users.take(np.zeros(len(texts), np.int64))
    lines.user_string[:, column] = texts
    got = exported.local().run("user_tower", user_inputs(lines))["user_vector"]
    np.testing.assert_allclose(got, towers.user_vectors(lines), atol=TOLERANCE / 10)
    # All that the vocabulary lacks means the same, and nothing that it has means that.
    for line in range(len(countries), len(texts)):
        np.testing.assert_allclose(got[line], got[-1], atol=1e-6)
    assert all(np.abs(got[line] - got[-1]).max() > 1e-4 for line in range(len(countries)))


@pytest.mark.parametrize("users", [1, 5])
def test_ensembles_compose(users: int, exported: Exported) -> None:
    material, local = exported.material, exported.local()
    packed = user_inputs(material.users.take(np.arange(users)))
    excluded = np.tile(np.array([[0, 5, -1]]), (users, 1))
    counts = np.full((users, 2), 500)
    answer = local.run("recommend", {**packed, "excluded_rows": excluded, "counts": counts})
    size = len(material.catalogue)
    rows = answer["rows"]
    assert rows.shape == (users, size)
    for line in rows:
        assert sorted(line) == sorted([*(set(range(size)) - {0, 5}), -1, -1])
    alone = local.run("rank", {**packed, "candidate_rows": np.maximum(rows, 0)})
    there = rows >= 0
    np.testing.assert_allclose(alone["scores"][there], answer["scores"][there], atol=1e-5)
    assert np.isfinite(answer["click_probability"]).all()
    probability = sum(SCORE_WEIGHTS[head] * answer[f"{head}_probability"] for head in material.models.heads)
    np.testing.assert_allclose(answer["scores"], probability, atol=1e-6)
    asked = {
        **packed,
        "query": np.array([["blue mugs"]] * users, object),
        "lexical_rows": np.full((users, 1), -1),
        "excluded_rows": excluded,
        "counts": counts,
    }
    found = local.run("search", asked)
    assert "mugs" in material.catalogue["title"][found["rows"][0, 0]]
    last = int(found["rows"][0][found["rows"][0] >= 0][-1])
    by_words = {"lexical_rows": np.array([[last, -1]] * users), "counts": np.ones((users, 2), np.int64)}
    assert local.run("search", {**asked, **by_words})["rows"].tolist() == [[last]] * users
    near = local.run("similar", {"item_row": np.array([[3]]), "excluded_rows": excluded[:1], "counts": counts[:1]})
    assert near["rows"][0, 0] == 3
    assert near["similarity"][0, 0] == pytest.approx(1.0, abs=1e-5)


def test_a_head_that_was_never_trained_is_nan(exported: Exported, tmp_path: Path) -> None:
    material = exported.material
    graph = ranker_graph(replace(material.models, heads=("purchase",)))
    onnx.save(answer_version(graph, 1), tmp_path / "model.onnx")
    local = exported.local(ctr_ranker=tmp_path / "model.onnx")
    packed = user_inputs(material.users)
    answer = local.run("rank", {**packed, "candidate_rows": np.zeros((len(material.users), 2), np.int64)})
    assert np.isnan(answer["click_probability"]).all()
    assert answer["scores"].tolist() == answer["purchase_probability"].tolist()


def test_known_answers_and_manifest(exported: Exported) -> None:
    known = load_known_answers(exported.state / "export" / "known_answers.json")
    assert known.version == exported.version
    new = {
        "item_tokenizer", "new_item", "rank_new", "complements", "similar_users", "communities", "explain",
        "popularity",
    }  # fmt: skip
    assert {answer.model for answer in known.answers} == new.union(SERVED_MODELS)
    local = exported.local()
    for answer in known.answers:
        decoded = {
            name: np.vectorize(lambda text: text.decode(), otypes=[object])(value) if value.dtype == object else value
            for name, value in answer.inputs.items()
        }
        outputs = local.run(answer.model, decoded)
        assert outputs.keys() == answer.outputs.keys()
    assert exported_versions(exported.repository)[-1] == exported.version
    for name, digest in exported.manifest["sha256"].items():
        assert hashlib.sha256((exported.repository / name).read_bytes()).hexdigest() == digest
    assert exported.manifest["contract"] == exported.material.models.contract.fingerprint
    assert not (exported.state / "export" / "staging").exists()
    json.dumps(exported.manifest, allow_nan=False)


def test_merged_graphs_answer_as_their_steps(exported: Exported, merged: Exported) -> None:
    assert (exported.manifest["graphs"], merged.manifest["graphs"]) == ("ensembles", "merged")
    differences = check_merged(exported.local(), merged.local(), merged.material.users, ["blue mugs"], candidates=50)
    asked = {"recommend", "rank", "search", "search_of_known_text", "similar"}
    assert {name.partition(".")[0] for name in differences} == asked


def test_who_else_is_in_a_batch_changes_nothing(merged: Exported) -> None:
    local = merged.local()
    inputs = example_requests(merged.material.users.take(np.arange(3)), "mugs", 1)["recommend"]
    inputs["counts"] = np.array([[4, 2], [60, 30], [7, 7]])
    inputs["excluded_rows"] = np.array([[0, 1], [-1, -1], [5, -1]])
    together = local.named("recommend", inputs)
    for line, (candidates, results) in enumerate(inputs["counts"]):
        alone = local.named("recommend", {name: values[line : line + 1] for name, values in inputs.items()})
        found = alone["rows"][0] >= 0
        assert found.sum() == min(candidates, results)
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][line][: len(found)][found], values[0][found], atol=1e-5)
        assert (together["rows"][line][found.sum() :] == -1).all()


def test_a_score_that_is_not_a_number_comes_first() -> None:
    """A page that hid it would look right."""
    graph = best_graph("scores", {"rows": onnx.TensorProto.INT64, "scores": onnx.TensorProto.FLOAT})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    rows, scores = session.run(
        ["rows", "scores"],
        {
            "candidate_rows": np.array([[4, 7, -1, 9]]),
            "candidate_scores": np.array([[0.5, np.nan, 9.0, 0.7]], np.float32),
            "counts": np.array([[4, 3]]),
        },
    )
    assert rows.tolist() == [[7, 9, 4]]
    assert np.isnan(scores[0, 0])


def test_titles_are_a_sample(material: ExportMaterial) -> None:
    assert len(material.titles) == 64
    assert len(set(material.titles)) == 64
