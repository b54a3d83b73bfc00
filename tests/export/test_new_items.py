"""An item newer than the snapshot: encoded through the exported graphs, and ranked beside what is resident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exports import Exported
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.description import VALUE_COLUMNS
from recsys_plugin.export.new_item_graphs import PACKED_WIDTH
from recsys_plugin.export.new_item_parity import NewItemParity, catalogue_texts, check_new_items, item_request
from recsys_plugin.export.parity import TOLERANCE, user_inputs
from recsys_plugin.inference.new_items import item_text
from recsys_plugin.training.inputs import unsold_items
from recsys_plugin.training.text import load_encoder

_Array = np.ndarray[Any, Any]
PARTS = st.text(max_size=20)


@given(PARTS, PARTS, PARTS)
def test_the_text_of_an_item(title: str, category: str, brand: str) -> None:
    text = item_text(title, category, brand)
    parts = [part for part in (title, category, brand) if part.strip()]
    assert bool(text.strip()) == bool(parts)
    assert len(text) == sum(map(len, parts)) + 2 * max(len(parts) - 1, 0)
    assert all(part in text for part in parts)
    assert item_text(text, "", "") == text  # said once, it stays


def check(exported: Exported, **replaced: Path) -> NewItemParity:
    material = exported.material
    people = material.users.take(np.arange(8))
    return check_new_items(exported.local(**replaced), material.models, material.catalogue, people, *load_encoder())


def encode(exported: Exported, texts: list[str], strings: list[list[str]], prices: list[float]) -> dict[str, _Array]:
    local = exported.local()
    request = {
        **local.run("item_tokenizer", {"query": np.array(texts, object)[:, None]}),
        "item_string": np.array(strings, object),
        "price": np.array(prices, np.float32)[:, None],
    }
    return local.run("new_item", request)


@pytest.fixture(params=["exported", "merged"])
def layout(request: pytest.FixtureRequest) -> Exported:
    made: Exported = request.getfixturevalue(request.param)
    return made


def test_new_items_are_encoded_and_ranked_as_the_models_say(layout: Exported) -> None:
    found = check(layout)
    heads = {f"rank_new.{head}_probability" for head in ("click", "cart", "purchase")}
    assert found.differences.keys() == {
        "new_item.item", "new_item.text_embedding", "rank_new.retrieval_scores", *heads,
    }  # fmt: skip
    assert max(found.differences.values()) < TOLERANCE / 10
    assert found.compared >= 64
    told = layout.manifest["parity"]["largest_difference"]
    assert found.differences.keys() <= told.keys()
    assert layout.manifest["new_items"]["compared"] == found.compared


@pytest.mark.parametrize("name", ["new_item", "rank_new"])
def test_a_graph_that_differs_is_refused(name: str, exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported.graphs[name])
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckFailed, match=rf"for new items differ from the trained models: .*{name}\.\S+ by"):
        check(exported, **{name: tmp_path / "model.onnx"})


def test_text_vectors_are_those_of_the_text_index(exported: Exported) -> None:
    material = exported.material
    # Every third item of the synthetic shop has no description, so title, category and brand are all of its text.
    rows = np.flatnonzero(material.catalogue["item_id"].isin([f"item-{number:03d}" for number in range(0, 30, 3)]))
    assert len(rows) == 10
    request = item_request(exported.local(), material.catalogue.iloc[rows])
    got = exported.local().run("new_item", request)["text_embedding"]
    np.testing.assert_allclose(got, material.text_vectors[rows], atol=TOLERANCE)


def test_items_of_which_little_is_known(exported: Exported) -> None:
    nothing = ["", "", ""]
    answer = encode(
        exported,
        ["", "   ", "red mug", "red mug"],
        [nothing, nothing, ["no such category", "", "no such brand"], nothing],
        [np.nan, np.nan, 3.0, 3.0],
    )
    packed = answer["item"]
    assert packed.shape == (4, PACKED_WIDTH)
    assert np.isfinite(packed).all()
    assert not answer["text_embedding"][:2].any()
    np.testing.assert_allclose(np.linalg.norm(answer["text_embedding"][2:], axis=1), 1.0, atol=1e-5)
    # No text at all is one thing, however it is spelt; what no vocabulary has is as if it were not said.
    np.testing.assert_allclose(packed[0], packed[1], atol=1e-6)
    np.testing.assert_allclose(packed[2], packed[3], atol=1e-6)
    assert np.abs(packed[0] - packed[3]).max() > 1e-2
    local, users = exported.local(), user_inputs(exported.material.users.take(np.arange(2)))
    padded = np.concatenate([packed, np.zeros((2, PACKED_WIDTH), np.float32)])
    values = local.run("rank_new", {**users, "new_items": np.repeat(padded[None], 2, axis=0)})["values"]
    assert values.shape == (2, 6, 5)
    assert np.isfinite(values).all()
    alone = local.run("rank_new", {**users, "new_items": np.repeat(packed[None, 2:3], 2, axis=0)})["values"]
    np.testing.assert_allclose(alone[:, 0], values[:, 2], atol=1e-6)


def test_the_scores_of_a_new_item_and_of_a_resident_one_are_of_one_scale(exported: Exported) -> None:
    local, material = exported.local(), exported.material
    users = user_inputs(material.users)
    count, size = len(material.users), 40
    packed = local.run("new_item", item_request(local, material.catalogue.head(size)))["item"]
    new = local.named("rank_new", {**users, "new_items": np.repeat(packed[None], count, axis=0)})
    resident = local.run("rank", {**users, "candidate_rows": np.tile(np.arange(size), (count, 1))})
    columns = exported.described[[model.name for model in exported.described].index("rank_new")].parameters
    assert list(new) == columns[VALUE_COLUMNS].split(",")
    for name in ("scores", "purchase_probability"):
        assert (new[name] > 0).all()
        assert new[name].max() < 2 * resident[name].max()
    counted = 0.1 * new["click_probability"] + 0.3 * new["cart_probability"] + new["purchase_probability"]
    np.testing.assert_allclose(new["scores"], counted, atol=1e-5)


def test_what_was_never_sold_is_told_beside_its_resident_score(exported: Exported) -> None:
    material = exported.material
    items = material.models.items
    numbers = items.numbers.copy()
    # As if the first ten had not been sold yet.
    nothing = unsold_items(
        np.zeros((1, 384), np.float32), np.zeros(1, bool), np.full((1, 3), "", object), np.ones(1),
        items.modalities, material.models.vocabularies,
    )  # fmt: skip
    numbers[:10, :-2] = nothing.numbers[:, :-2]
    changed = replace(
        exported, material=replace(material, models=replace(material.models, items=replace(items, numbers=numbers)))
    )
    found = check(changed).never_sold
    assert found["items"] >= 10
    assert 0 <= found["mean_difference"] <= found["largest_difference"]
    assert catalogue_texts(material.catalogue)[0].startswith(str(material.catalogue["title"][0]))
