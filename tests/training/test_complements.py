"""Baskets, and what goes with what, on purchases small enough to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.training.baskets import Baskets
from recsys_plugin.training.complements import ComplementOptions, complements_of, no_complements

ITEMS = pd.Index(["phone", "phone 2", "case", "bread", "never"])
PLAIN = ComplementOptions(half_life=1e9, size_exponent=0.0, rarity_exponent=0.0, prior=0.0)
NOW = pd.Timestamp("2024-03-01", tz="UTC")


def events(lines: Sequence[tuple[str, str, str, str | None]], types: str = "purchase") -> pd.DataFrame:
    """User, item, moment, basket."""
    frame = pd.DataFrame(lines, columns=["user_id", "item_id", "timestamp", "basket_id"])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    return frame.assign(event_type=types)


def contents(baskets: Baskets) -> list[list[str]]:
    return [[ITEMS[row] for row in sorted(baskets.items[line].indices)] for line in range(len(baskets))]


def test_lines_of_one_basket_belong_together() -> None:
    bought = events(
        [
            ("u", "phone", "2024-01-02T10:00", "b1"),
            ("u", "case", "2024-01-02T10:05", "b1"),
            ("u", "phone", "2024-01-02T10:06", "b1"),
            ("v", "bread", "2024-01-01", None),
            ("v", "case", "2024-01-01", None),
            ("v", "bread", "2024-01-03", None),
            ("v", "gone", "2024-01-03", None),
            ("v", "bread", "2024-03-01", None),
        ]
    )
    baskets = Baskets.of(pd.concat([bought, events([("u", "bread", "2024-01-02", "b1")], "click")]), ITEMS, before=NOW)
    assert contents(baskets) == [["case", "bread"], ["phone", "case"], ["bread"]]
    assert baskets.items.data.tolist() == [1.0] * 5
    assert baskets.users[0] == baskets.users[2] != baskets.users[1]
    day = pd.Timestamp("2024-01-02", tz="UTC")
    assert contents(baskets.until(day)) == [["case", "bread"]]
    assert contents(baskets.since(day)) == [["phone", "case"], ["bread"]]
    without = Baskets.of(bought.drop(columns="basket_id"), ITEMS, before=NOW)
    assert len(without) == 5
    assert contents(Baskets.of(bought.astype({"item_id": "category"}), ITEMS, before=NOW)) == contents(baskets)
    assert len(Baskets.of(bought[:0], ITEMS, before=NOW)) == 0


def test_recency_and_popularity() -> None:
    baskets = Baskets.of(
        events([("u", "case", "2024-02-20", "1"), ("u", "bread", "2024-01-31", "2")]), ITEMS, before=NOW
    )
    np.testing.assert_allclose(baskets.recency(10.0), [0.125, 0.5])
    assert baskets.popularity(14.0).tolist() == [0, 0, 1, 0, 0]


def phones() -> Baskets:
    """Two phones that nobody buys together, a case with either, bread with everything."""
    lines = []
    for number in range(90):
        basket = [["phone", "case"], ["phone 2", "case"], ["bread"]][number % 3]
        for item in [*basket, *(["bread"] if number % 2 else [])]:
            lines.append((f"u{number}", item, "2024-02-25", f"b{number}"))
    return Baskets.of(events(lines), ITEMS, before=NOW)


def test_a_phone_gets_a_case_and_not_another_phone() -> None:
    scores = complements_of(phones(), options=PLAIN).scores(sp.csr_matrix(np.eye(5, dtype=np.float32)))
    phone, other, case, bread, never = range(5)
    assert scores[phone].argmax() == scores[other].argmax() == case
    assert scores[phone, other] < 0
    # Every other phone goes with bread, the most bought of all; so does everything, and most of what is no phone.
    assert scores[phone, bread] < 0
    assert not scores[never].any()
    assert not scores[:, never].any()


def test_an_item_without_purchases_speaks_as_what_it_reads_like() -> None:
    texts = np.eye(5, dtype=np.float32)
    texts[4] = texts[0]  # "never" reads like "phone"
    scores = complements_of(phones(), texts, options=PLAIN).scores(sp.csr_matrix(np.eye(5, dtype=np.float32)))
    assert scores[4].argmax() == 2
    assert scores[4, 4] == 0


def test_tables_are_those_of_the_closed_form_on_centred_baskets() -> None:
    baskets = phones()
    dense = baskets.items.toarray().astype(np.float64)
    centred = dense - dense.mean(axis=0)
    gram = centred.T @ centred
    gram[np.diag_indices(5)] += 7.0 + 0.25 / 0.75 * np.diag(gram)
    inverse = np.linalg.inv(gram)
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0.0)
    chosen = replace(PLAIN, regularisation=7.0, dropout=0.25)
    scores = complements_of(baskets, options=chosen).scores(sp.csr_matrix(np.eye(5, dtype=np.float32)))
    np.testing.assert_allclose(scores, wanted, atol=1e-6)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_tables_hold_each_neighbour_once(most: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    size, count = 8, 30
    items = sp.csr_matrix((generator.random((count, size)) < 0.3).astype(np.float32))
    moments = np.full(count, NOW.value // 1000 - 1)
    baskets = Baskets(items, moments, np.zeros(count, np.int64), NOW.value // 1000)
    texts = generator.standard_normal((size, 3)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    table = complements_of(baskets, texts, options=replace(PLAIN, most=most, text_least=1))
    assert table.rows.shape == table.weights.shape == (size, most)
    assert np.isfinite(table.weights).all()
    for row in range(size):
        known = table.rows[row][table.rows[row] >= 0]
        assert len(set(known)) == len(known)
        assert row not in known
        assert (table.weights[row][table.rows[row] < 0] == 0).all()


def test_seldom_bought_items_are_known_by_one_regression_each() -> None:
    """With room for two items in the closed form, the phones are left out, and still get a case."""
    scores = complements_of(phones(), options=replace(PLAIN, most_items=2)).scores(
        sp.csr_matrix(np.eye(5, dtype=np.float32))
    )
    # 30 of 90 baskets hold a phone, all with a case, which is in 60: (30 − 30 · 60 / 90) / (30 + 10).
    assert scores[0, 2] == pytest.approx(0.25)
    assert scores[0].argmax() == 2
    assert not scores[:, :2].any()


def test_nobody_bought_anything() -> None:
    empty = Baskets.of(events([]), ITEMS, before=NOW)
    for table in (complements_of(empty, options=PLAIN), no_complements(5)):
        assert not table.scores(sp.csr_matrix(np.eye(5, dtype=np.float32))).any()
