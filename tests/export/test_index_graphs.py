"""The hand-written graphs against numpy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.export.index_graphs import IR_VERSION, OPSET, catalogue_graph, index_graph, lookup_graph

SIZE, WIDTH = 12, 3
#: Few distinct values, so that cosines tie.
VECTORS = np.random.default_rng(3).choice([-0.5, 0.0, 0.5], (SIZE, WIDTH)).astype(np.float32)
ROWS = st.lists(st.integers(-3, SIZE - 1), min_size=1, max_size=SIZE + 4)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@lru_cache
def index(own_rows: bool) -> onnxruntime.InferenceSession:
    return session(index_graph(VECTORS, own_rows=own_rows))


def padded(lists: list[list[int]]) -> np.ndarray:
    width = max(len(rows) for rows in lists)
    return np.array([[*rows, *[-1] * (width - len(rows))] for rows in lists], np.int64)


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]], list[list[int]], list[int]]:
    """Queries, own rows, excluded rows and counts of up to four users."""
    users = draw(st.integers(1, 4))
    queries = np.array(
        [[draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0])) for _ in range(WIDTH)] for _ in range(users)], np.float32
    )
    own, excluded = ([draw(ROWS) for _ in range(users)] for _ in range(2))
    counts = [draw(st.one_of(st.integers(-2, SIZE + 9), st.just(10_000))) for _ in range(users)]
    return queries, own, excluded, counts


@given(requests(), st.booleans())
def test_index_against_numpy(request: Any, own_rows: bool) -> None:
    queries, own, excluded, counts = request
    inputs = {
        "query_vector": queries,
        "own_rows": padded(own),
        "excluded_rows": padded(excluded),
        "counts": np.array([[count, 0] for count in counts], np.int64),
    }
    if not own_rows:
        del inputs["own_rows"]
    rows, similarities = index(own_rows).run(["rows", "similarities"], inputs)
    # The largest count of the batch decides on the width, at least one and at most the catalogue.
    k = min(max(1, *counts), SIZE)
    assert rows.shape == similarities.shape == (len(queries), k)
    for line, query in enumerate(queries):
        cosines = VECTORS @ query
        ordering = cosines.copy()
        if own_rows:
            ordering[[row for row in set(own[line]) if row >= 0]] += 4
        banned = {row for row in excluded[line] if row >= 0}
        best = [row for row in sorted(range(SIZE), key=lambda row: (-ordering[row], row)) if row not in banned]
        wanted = (best[: max(1, counts[line])] + [-1] * SIZE)[:k]
        assert rows[line].tolist() == wanted
        there = rows[line] >= 0
        np.testing.assert_allclose(similarities[line][there], cosines[rows[line][there]], atol=1e-6)


def test_row_outside_the_catalogue_is_refused() -> None:
    one = np.array([[SIZE + 1]], np.int64)
    inputs = {"query_vector": VECTORS[:1], "excluded_rows": one, "counts": np.array([[1, 1]])}
    with pytest.raises(Exception, match=r"ScatterElements|out of bounds|indices"):
        index(False).run(None, inputs)


def test_lookup() -> None:
    found = session(lookup_graph(VECTORS)).run(["item_vector", "own_rows"], {"item_row": np.array([[3], [0], [11]])})
    assert found[0].tolist() == VECTORS[[3, 0, 11]].tolist()
    assert found[1].tolist() == [[-1], [-1], [-1]]


@given(
    st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4), st.floats(width=32)), min_size=1, max_size=6),
    st.integers(-3, 9),
    st.one_of(st.integers(-3, 9), st.just(50_000)),
)
def test_catalogue_pages(items: list[tuple[str, str, float]], offset: int, count: int) -> None:
    ids = [f"{number}" for number in range(len(items))]
    titles, categories = [title for title, _, _ in items], [category for _, category, _ in items]
    prices = np.array([price for *_, price in items], np.float32)
    texts = {"item_ids": ids, "titles": titles, "categories": categories, "subcategories": ids, "brands": titles}
    since = np.arange(len(items)) * 86_400
    found = session(catalogue_graph(texts, prices, since)).run(
        [*texts, "prices", "available_since", "size"], {"offset": np.array([offset]), "count": np.array([count])}
    )
    start = min(max(offset, 0), len(items))
    page = slice(start, max(start, min(offset + count, len(items))))
    for got, wanted in zip(found, texts.values(), strict=False):
        assert got.tolist() == wanted[page]
    np.testing.assert_array_equal(found[5], prices[page])
    assert found[6].tolist() == since[page].tolist()
    assert found[7].tolist() == [len(items)]


def test_graphs_are_of_a_version_that_the_server_reads() -> None:
    for graph in (index_graph(VECTORS, own_rows=True), lookup_graph(VECTORS)):
        assert graph.ir_version == IR_VERSION
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
