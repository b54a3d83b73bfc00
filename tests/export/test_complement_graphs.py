"""The graph of complements against numpy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.export.complement_graphs import complements_graph
from recsys_plugin.training.complements import Complements

SIZE, WIDTH = 9, 3
PRIOR = np.linspace(0.4, 0.0, SIZE, dtype=np.float32)
ROWS = st.lists(st.integers(-2, SIZE - 1), min_size=1, max_size=SIZE + 2)


@lru_cache
def tables() -> Complements:
    """Some lines are padded, some weights negative."""
    generator = np.random.default_rng(5)
    rows = np.stack([generator.permutation(SIZE)[:WIDTH] for _ in range(SIZE)]).astype(np.int32)
    weights = generator.choice([-0.5, 0.25, 1.0], rows.shape).astype(np.float32)
    rows[::3, 1:], weights[::3, 1:] = -1, 0.0
    return Complements(rows, weights, PRIOR)


@lru_cache
def session() -> onnxruntime.InferenceSession:
    graph = complements_graph(tables()).SerializeToString()
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def padded(lists: list[list[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    width = max(len(rows) for rows in lists)
    return np.array([[*rows, *[-1] * (width - len(rows))] for rows in lists], np.int64)


def expected(basket: list[int], excluded: list[int], count: int, width: int) -> list[tuple[int, float]]:
    scores = PRIOR.astype(np.float64).copy()
    for row in basket:
        if row >= 0:
            for said, weight in zip(tables().rows[row], tables().weights[row], strict=True):
                if said >= 0:
                    scores[said] += weight
    never = {row for row in (*basket, *excluded) if row >= 0}
    order = sorted(set(range(SIZE)) - never, key=lambda row: (-scores[row], row))[: max(1, count)]
    found = [(row, float(scores[row])) for row in order][:width]
    return found + [(-1, 0.0)] * (width - len(found))


@given(st.lists(st.tuples(ROWS, ROWS, st.integers(-1, SIZE + 3)), min_size=1, max_size=4))
def test_the_graph_against_numpy(requests: list[tuple[list[int], list[int], int]]) -> None:
    baskets, excluded, counts = (list(part) for part in zip(*requests, strict=True))
    rows, scores = session().run(
        ["rows", "scores"],
        {
            "basket_rows": padded(baskets),
            "excluded_rows": padded(excluded),
            "counts": np.array([[count, 0] for count in counts], np.int64),
        },
    )
    width = min(SIZE, max([1, *counts]))
    assert rows.shape == scores.shape == (len(requests), width)
    for line, (basket, left_out, count) in enumerate(requests):
        wanted = expected(basket, left_out, count, width)
        np.testing.assert_allclose(scores[line], [score for _, score in wanted], atol=1e-5)
        # Where scores tie up to rounding, rows may change places.
        assert {row for row in rows[line].tolist() if row >= 0} <= set(range(SIZE)) - {*basket, *left_out}
        assert sorted(rows[line] >= 0) == sorted(row >= 0 for row, _ in wanted)


def test_an_empty_basket_is_answered_by_the_prior() -> None:
    inputs = {"basket_rows": padded([[-1, -1]]), "excluded_rows": padded([[0]]), "counts": np.array([[3, 3]])}
    rows, scores = session().run(["rows", "scores"], inputs)
    assert rows.tolist() == [[1, 2, 3]]
    np.testing.assert_allclose(scores[0], PRIOR[1:4])
