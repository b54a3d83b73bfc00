"""Texts by source and images: what is missing is masked, and nothing of the future is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from recsys_plugin.errors import DataError, StepFailed
from recsys_plugin.training.modalities import (
    ItemModalities,
    ModalityFusion,
    compact_along,
    compact_texts,
    image_vectors,
    pool_sources,
    read_modalities,
    source_texts,
    write_modalities,
)

ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c"],
        "title": ["Mug", "Cup", "Plate"],
        "description": ["A red mug.", None, ""],
        "category": ["kitchen", None, "kitchen"],
        "brand": [None, None, "Acme"],
    }
)


def written(*rows: tuple[str, str, str, str | None], entity: str = "item") -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["entity_id", "source", "text", "timestamp"])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
    return frame.assign(entity=entity)


def test_sources_and_their_texts() -> None:
    texts = written(("b", "review", "good", None), ("b", "review", "bad", "2024-02-01"), ("z", "review", "?", None))
    found = source_texts(ITEMS, texts)
    assert list(found) == ["title", "description", "review"]
    assert found["title"] == [["Mug. kitchen"], ["Cup"], ["Plate. kitchen. Acme"]]
    assert found["description"] == [["A red mug."], [], []]
    # The dated one is the newer; unknown items are left out.
    assert found["review"] == [[], ["bad", "good"], []]


def test_texts_of_the_future_and_of_users_are_not_read() -> None:
    texts = written(("b", "review", "later", "2024-02-01"), ("b", "review", "before", "2024-01-01"))
    before = pd.Timestamp("2024-02-01", tz="UTC")
    assert source_texts(ITEMS, texts, before=before)["review"] == [[], ["before"], []]
    assert "review" not in source_texts(ITEMS, written(("b", "review", "x", None), entity="user"))


def test_many_texts_are_cut_to_the_newest_distinct() -> None:
    rows = [("a", "social", f"text {n}", f"2024-01-{n + 1:02}") for n in range(25)]
    found = source_texts(ITEMS, written(*rows, *rows))["social"][0]
    assert found == [f"text {n}" for n in range(24, 4, -1)]


def test_pooling_is_the_mean_and_absence_is_told() -> None:
    lists = {"title": [["x"], ["y"]], "review": [[], ["p", "q"]]}
    vectors = np.array([[1, 0], [0, 1], [2, 0], [0, 4]], np.float32)
    pooled, present = pool_sources(lists, vectors, 2)
    assert pooled[0].tolist() == [[1, 0], [0, 0]]
    assert pooled[1].tolist() == [[0, 1], [1, 2]]
    assert present.tolist() == [[True, False], [True, True]]


def test_images() -> None:
    vectors, present = image_vectors(pd.Series([[3.0, 4.0], None, [0.0, 0.0]]), 3)
    np.testing.assert_allclose(vectors, np.array([[0.6, 0.8], [0, 0], [0, 0]]))
    assert present.tolist() == [True, False, False]
    nothing, present = image_vectors(None, 2)
    assert nothing.shape == (2, 0)
    assert not present.any()
    with pytest.raises(DataError, match=r"image_vector.*lengths \[2, 3\]"):
        image_vectors(pd.Series([[1.0, 2.0], [1.0, 2.0, 3.0]]), 2)


def some(images: bool = True) -> ItemModalities:
    generator = np.random.default_rng(0)
    texts = generator.normal(size=(3, 2, 4)).astype(np.float32)
    has_text = np.array([[True, True], [True, False], [False, False]])
    width = 5 if images else 0
    vectors = generator.normal(size=(3, width)).astype(np.float32)
    compact, axes = compact_texts(texts, has_text, np.eye(4, dtype=np.float32))
    return ItemModalities(
        ("title", "review"), texts, has_text, vectors, np.array([images, False, False]), compact, axes
    )


def test_fusion_ignores_what_is_missing() -> None:
    torch.manual_seed(0)
    modalities = some()
    fusion = ModalityFusion(modalities, 6)
    with torch.no_grad():
        fusion.no_text.fill_(7.0)
        fusion.no_image.fill_(0.5)
        before = fusion()
        # Values behind a mask must not matter, not even NaN-like large ones.
        fusion.texts[1, 1] = 1e9
        fusion.texts[2] = 1e9
        fusion.images[1:] = 1e9
        np.testing.assert_array_equal(fusion().numpy(), before.numpy())
    np.testing.assert_allclose(before[2].numpy(), np.full(6, 7.5))
    assert np.isfinite(before.numpy()).all()


def test_compact_texts_are_unit_vectors_and_zero_without_a_text() -> None:
    compact = some().compact
    np.testing.assert_allclose(np.linalg.norm(compact, axis=1), [1, 1, 0], atol=1e-6)
    nothing, axes = compact_texts(np.ones((2, 1, 4), np.float32), np.zeros((2, 1), bool), np.eye(4, dtype=np.float32))
    assert not nothing.any()
    assert not axes.centre.any()


def test_items_that_come_later_have_the_same_compact_vector(tmp_path: Path) -> None:
    modalities = some()
    write_modalities(tmp_path / "m.safetensors", modalities)
    axes = read_modalities(tmp_path / "m.safetensors").axes
    later = compact_along(modalities.texts[::-1], modalities.has_text[::-1], axes)
    np.testing.assert_allclose(later, modalities.compact[::-1], atol=1e-6)
    alone = compact_along(modalities.texts[:1], modalities.has_text[:1], axes)
    np.testing.assert_allclose(alone, modalities.compact[:1], atol=1e-6)


def test_a_file_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_modalities(path, some())
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if name != "centre"}, path)
    with pytest.raises(StepFailed, match="run `recsys train` again"):
        read_modalities(path)


def test_source_weights_are_learned() -> None:
    torch.manual_seed(0)
    fusion = ModalityFusion(some(images=False), 6)
    np.testing.assert_allclose(fusion.source_shares(), [0.5, 0.5])
    fusion()[0].sum().backward()
    assert fusion.source_weight.grad is not None
    assert bool((fusion.source_weight.grad != 0).all())


def test_all_texts_left_out_and_the_disk(tmp_path: Path) -> None:
    modalities = some()
    write_modalities(tmp_path / "m.safetensors", modalities)
    again = read_modalities(tmp_path / "m.safetensors")
    assert again.sources == modalities.sources
    np.testing.assert_array_equal(again.has_text, modalities.has_text)
    assert not again.without_text().has_text.any()
    fused = ModalityFusion(again.without_text(), 6)()
    assert np.isfinite(fused.detach().numpy()).all()
