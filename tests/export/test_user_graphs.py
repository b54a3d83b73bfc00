"""The graphs of neighbours and communities against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import InvalidInput
from recsys_plugin.export.options import ExportOptions
from recsys_plugin.export.user_graphs import communities_graph, user_index_graph
from recsys_plugin.pseudonyms import Pseudonyms, halves_of, of_halves
from recsys_plugin.training.communities import MOST_CATEGORIES, MOST_ITEMS, Communities, People, nobody

NAMES = Pseudonyms("a key of sixteen bytes")
SIZE, WIDTH = 7, 4


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def unit(generator: np.random.Generator, rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = generator.standard_normal((rows, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def people() -> People:
    generator = np.random.default_rng(1)
    rows = generator.integers(0, 50, (3, MOST_ITEMS))
    told = Communities(unit(generator, 3), np.array([30, 20, 25]), rows, (("a", "日本"), (), tuple("bcdef")))
    halves = np.array([halves_of(NAMES.of(f"u{number}")) for number in range(SIZE)], np.int64)
    return People(unit(generator, SIZE), halves, np.array(halves_of(NAMES.check), np.int64), told)


@given(st.lists(st.integers(-1, SIZE + 2), min_size=1, max_size=4), st.integers(0, 2**31))
def test_nearest_users_against_numpy(counts: list[int], seed: int) -> None:
    known = people()
    vectors = unit(np.random.default_rng(seed), len(counts))
    asked = {"user_vector": vectors, "counts": np.array([[count, 0] for count in counts], np.int64)}
    names = ["pseudonyms", "similarities", "community", "key_check"]
    pseudonyms, similarities, community, check = session(user_index_graph(known)).run(names, asked)
    cosines = vectors @ known.vectors.T
    width = min(SIZE, max([1, *counts]))
    assert pseudonyms.shape == (len(counts), width, 2)
    for line, count in enumerate(counts):
        mine = min(max(1, count), width)
        order = np.argsort(-cosines[line], kind="stable")[:mine]
        np.testing.assert_allclose(similarities[line, :mine], cosines[line, order], atol=1e-5)
        assert pseudonyms[line, :mine].tolist() == known.pseudonyms[order].tolist()
        assert not pseudonyms[line, mine:].any()
        assert not similarities[line, mine:].any()
    assert community[:, 0].tolist() == (vectors @ known.communities.centroids.T).argmax(axis=1).tolist()
    assert {of_halves(*line) for line in check.tolist()} == {NAMES.check}


def test_without_users_there_is_nobody() -> None:
    asked = {"user_vector": np.ones((2, WIDTH), np.float32), "counts": np.array([[5, 5], [1, 1]])}
    outputs = session(user_index_graph(nobody(WIDTH))).run(["pseudonyms", "community", "key_check"], asked)
    assert outputs[0].tolist() == [[[0, 0]], [[0, 0]]]
    assert outputs[1].tolist() == [[-1], [-1]]
    assert not outputs[2].any()
    (members,) = session(communities_graph(nobody(WIDTH).communities)).run(["members"], {"community": np.array([[0]])})
    assert members.tolist() == [[0]]


def test_what_is_told_of_communities() -> None:
    told = people().communities
    asked = {"community": np.array([[0], [2], [1], [-1], [3], [2**40]])}
    members, rows, categories = session(communities_graph(told)).run(["members", "item_rows", "categories"], asked)
    assert members[:, 0].tolist() == [30, 25, 20, 0, 0, 0]
    assert rows[:3].tolist() == told.item_rows[[0, 2, 1]].tolist()
    assert (rows[3:] == -1).all()
    assert categories.shape == (6, MOST_CATEGORIES)
    assert [[name for name in line if name] for line in categories] == [["a", "日本"], list("bcdef"), [], [], [], []]


@pytest.mark.parametrize("user_id", ["1", "a", "🫖", "x" * 256])
def test_a_pseudonym_goes_through_two_numbers(user_id: str) -> None:
    name = NAMES.of(user_id)
    assert of_halves(*halves_of(name)) == name
    assert name != Pseudonyms("another key of 16 bytes").of(user_id)
    assert user_id not in repr(NAMES)


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a group of 1 would tell of a single user"):
        ExportOptions(least_group=1)
