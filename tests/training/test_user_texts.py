"""A user's own texts: the mean so far, nothing of the future, and the same axes on every machine."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys_plugin.training.user_texts import narrow, own_texts, user_text_table

FIRST = pd.Timestamp("2024-01-01", tz="UTC")


def written(*rows: tuple[str, str, str, str | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["entity", "entity_id", "text", "timestamp"])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
    return frame


def test_only_users_in_order_of_time_and_undated_first() -> None:
    texts = written(
        ("user", "b", "late", "2024-03-01"),
        ("item", "b", "no", None),
        ("user", "b", "early", None),
        ("user", "a", "one", "2024-02-01"),
        ("user", "a", " ", "2024-01-05"),
    )
    found = own_texts(texts, FIRST)
    assert found["text"].tolist() == ["one", "early", "late"]
    assert found["timestamp"].iloc[1] == FIRST
    assert len(own_texts(texts.iloc[:0], FIRST)) == 0


def test_rows_hold_the_mean_of_the_texts_so_far() -> None:
    texts = own_texts(
        written(
            ("user", "a", "1", "2024-02-01"),
            ("user", "a", "2", "2024-02-02"),
            ("user", "a", "3", "2024-02-02"),
            ("user", "b", "4", "2024-02-01"),
        ),
        FIRST,
    )
    vectors = np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 3.0], [1.0, 1.0]], np.float32)
    table = user_text_table(texts, vectors, np.eye(2, dtype=np.float32))
    assert table["user_id"].to_pylist() == ["a", "a", "b"]
    assert table["texts"].to_pylist() == [1, 3, 1]
    assert table["vector"].to_pylist() == [[3.0, 0.0], [2.0, 2.0], [1.0, 1.0]]
    none = user_text_table(texts.iloc[:0], vectors[:0], np.eye(2, dtype=np.float32))
    assert none.num_rows == 0
    assert none.schema == table.schema


def test_axes_keep_distances_and_fill_up_with_zeros() -> None:
    flat = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    wide = np.concatenate([flat, np.zeros((40, 5), np.float32)], axis=1)
    axes = narrow(wide, 6)
    assert axes.shape == (8, 6)
    projected = wide @ axes
    np.testing.assert_allclose(
        np.linalg.norm(projected[0] - projected[1]), np.linalg.norm(flat[0] - flat[1]), rtol=1e-4
    )
    np.testing.assert_array_equal(narrow(wide, 6), axes)
