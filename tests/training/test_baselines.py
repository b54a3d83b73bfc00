"""Counters and closed forms against dense numpy, and on cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from synthetic import event_table

from recsys_plugin.training.baselines import Purchases, als_scores, ease_weights, rank_users, standard_baselines
from recsys_plugin.training.neighbours import neighbours_of, no_neighbours, read_neighbours, write_neighbours

NOW = pd.Timestamp("2024-06-01", tz="UTC")
ITEMS = pd.Index(["x", "y", "z"], dtype=object)
USERS = pd.Index(["a", "b"], dtype=object)


def bought(user: str, item: str, days: float, kind: str = "purchase") -> dict[str, object]:
    moment = NOW + pd.Timedelta(days=days)
    name = f"{user}{item}{days}"
    return {"user_id": user, "item_id": item, "event_type": kind, "timestamp": moment, "event_id": name}


EVENTS = event_table(
    [
        bought("a", "x", -1),
        bought("a", "x", -2),
        bought("b", "x", -30),
        bought("b", "y", -31),
        bought("a", "y", 0),
        bought("b", "z", -1, "click"),
        bought("c", "gone", -1),
    ]
)


def of(*rows: tuple[int, int, float], shape: tuple[int, int] = (4, 5)) -> Purchases:
    """Purchases by user, item and days before now."""
    users, items, days = (np.array(column) for column in zip(*rows, strict=True))
    now = NOW.value // 1000
    return Purchases(users, items, now - (days * 86_400_000_000).astype(np.int64), now, shape)


def test_purchases_stop_before_the_moment_and_know_only_the_catalogue() -> None:
    purchases = Purchases.of(EVENTS, USERS, ITEMS, before=NOW)
    assert purchases.owned.toarray().tolist() == [[1, 0, 0], [1, 1, 0]]
    assert purchases.matrix().toarray().tolist() == [[2, 0, 0], [1, 1, 0]]
    assert purchases.popularity().tolist() == [2, 0, 0]
    assert purchases.matrix(half_life=15.0)[1, 0] == pytest.approx(0.25)


def test_purchases_in_pieces_are_the_same_and_an_earlier_moment_knows_less() -> None:
    whole = Purchases.of(EVENTS, USERS, ITEMS, before=NOW)
    pieces = Purchases.of_pieces([EVENTS.iloc[:2], EVENTS.iloc[2:]], USERS, ITEMS, before=NOW)
    np.testing.assert_array_equal(pieces.owned.toarray(), whole.owned.toarray())
    earlier = whole.until(NOW - pd.Timedelta(days=2))
    assert earlier.owned.toarray().tolist() == [[0, 0, 0], [1, 1, 0]]
    assert earlier.before == (NOW - pd.Timedelta(days=2)).value // 1000
    none = Purchases.of_pieces([], USERS, ITEMS, before=NOW)
    assert none.owned.nnz == 0
    assert none.popularity().tolist() == [0, 0, 0]


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 6)), elements=st.sampled_from([0, 0.5, 1, 3]))
)
def test_ease_against_its_definition(matrix: np.ndarray) -> None:
    inverse = np.linalg.inv(matrix.T @ matrix + 10.0 * np.eye(matrix.shape[1]))
    wanted = np.eye(matrix.shape[1]) - inverse / np.diag(inverse)
    found = ease_weights(sparse.csr_matrix(matrix), regularisation=10.0)
    assert found.kept.tolist() == list(range(matrix.shape[1]))
    np.testing.assert_allclose(found.inner, wanted, atol=1e-6)
    scores = found.scores(sparse.csr_matrix(matrix))
    np.testing.assert_allclose(scores, matrix @ wanted, atol=1e-5)


def test_ease_leaves_out_the_least_bought_when_there_are_too_many() -> None:
    matrix = sparse.csr_matrix(np.array([[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 0, 0]], float))
    found = ease_weights(matrix, regularisation=1.0, most_items=2)
    assert found.kept.tolist() == [0, 1]
    assert found.inner[0, 1] > 0
    scores = found.scores(matrix)
    assert scores.shape == (3, 4)
    assert not scores[:, 2:].any()


def test_neighbours_are_the_largest_weights_and_survive_the_disk(tmp_path: object) -> None:
    purchases = of(*[(user, item, 1.0) for user in range(3) for item in (0, 1)], (3, 2, 1.0), (3, 3, 1.0))
    found = neighbours_of(purchases, most=2)
    assert found.rows.shape == (5, 2)
    assert found.rows[0][np.argmax(found.weights[0])] == 1
    assert found.rows[2][np.argmax(found.weights[2])] == 3
    # Nobody bought item 4: no weight, so no neighbour.
    assert found.rows[4].tolist() == [-1, -1]
    assert (found.weights[found.rows < 0] == 0).all()
    path = tmp_path / "neighbours.npz"  # type: ignore[operator]
    write_neighbours(path, [found, no_neighbours(5)], np.array([0, 0, 1]))
    first, second, third = read_neighbours(path)
    assert first is second
    np.testing.assert_array_equal(first.weights, found.weights)
    assert third.rows.tolist() == [[-1]] * 5


def test_neighbours_without_purchases() -> None:
    nothing = np.empty(0, np.int64)
    empty = Purchases(nothing, nothing, nothing, 0, (2, 3))
    assert neighbours_of(empty).rows.tolist() == [[-1]] * 3


def test_every_standard_baseline_ranks_what_it_should() -> None:
    purchases = of((0, 0, 1.0), (0, 0, 5.0), (1, 0, 2.0), (1, 1, 2.0), (2, 0, 3.0), (2, 1, 3.0), (3, 2, 400.0))
    systems = standard_baselines(purchases)
    users = np.arange(4)
    assert rank_users(systems["popularity (30 days)"], users, k=2).tolist() == [[0, 1]] * 4
    # User 0 owns item 0; those who bought it bought item 1.
    for name in ("item-kNN", "EASE^R"):
        assert rank_users(systems[name], users[:1], k=1, without=purchases.owned).tolist() == [[1]]
    assert rank_users(systems["own frequency"], np.array([3]), k=1).tolist() == [[2]]
    for scores in systems.values():
        assert scores(users).shape == (4, 5)
        assert np.isfinite(scores(users)).all()


def test_masked_items_come_last_and_blocks_change_nothing() -> None:
    purchases = of((0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0))
    scores = standard_baselines(purchases)["own frequency"]
    whole = rank_users(scores, np.arange(3), k=5, without=purchases.owned)
    assert whole[:, -1].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(whole, rank_users(scores, np.arange(3), k=5, without=purchases.owned, block=1))
    assert rank_users(scores, np.arange(0), k=5).shape == (0, 5)


def test_als_finds_the_taste() -> None:
    pytest.importorskip("implicit")
    # Two tastes; user 0 has not bought item 2 of his own yet.
    rows = [(user, item, 1.0) for user in range(10) for item in (0, 1, 2) if (user, item) != (0, 2)]
    rows += [(user, item, 1.0) for user in range(10, 20) for item in (3, 4)]
    purchases = of(*rows, shape=(20, 5))
    scores = als_scores(purchases, factors=4, iterations=10, seed=1)
    assert rank_users(scores, np.array([0]), k=1, without=purchases.owned).tolist() == [[2]]
    assert not math.isnan(float(scores(np.array([0])).sum()))
