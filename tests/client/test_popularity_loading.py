"""What is popular, from the purchases to the exported table, and from there to the client."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from recsys_plugin.client.popularity import load_popularity
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.export.popularity_graph import popularity_graph
from recsys_plugin.inference.calls import Infer
from recsys_plugin.policy.popularity import PopularItems, Popularity, nothing_popular
from recsys_plugin.training.popularity import PopularityOptions, popularity_of

NOW = pd.Timestamp("2026-01-31", tz="UTC")
ITEMS = pd.Index(["a", "b", "c", "d"])


def purchases(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """User, item, and how many days ago."""
    moments = [NOW - pd.Timedelta(days=days) for _, _, days in rows]
    return pd.DataFrame(
        {"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows], "timestamp": moments}
    )


USERS = pd.DataFrame(
    {"user_id": ["1", "2", "3", "4"], "country": ["DE", "DE", "FR", None], "gender": [None, None, None, None]}
)
OPTIONS = PopularityOptions(half_life=10, window=100, smoothing=1.0)


def test_counts() -> None:
    bought = purchases(
        ("1", "a", 10), ("1", "a", 20),  # once, by the last time: a half
        ("2", "a", 10), ("2", "b", 0.0001), ("3", "b", 0.0001), ("4", "c", 200), ("9", "d", 10), ("1", "gone", 1),
    )  # fmt: skip
    found = popularity_of(bought, USERS, ITEMS, before=NOW, least=2, options=OPTIONS)
    np.testing.assert_allclose(found.shares, np.array([1.0, 2.0, 0.0, 0.5]) / 3.5, atol=1e-4)
    # France has one buyer, and of Germans only one bought b.
    assert list(found.segments) == [("country", "DE")]
    german = found.segments["country", "DE"]
    assert german.rows.tolist() == [0]
    np.testing.assert_allclose(german.shares, [(1.0 + 1.0 / 3.5) / (2.0 + 1.0)], atol=1e-4)
    assert not popularity_of(bought[:0], USERS, ITEMS, before=NOW, least=2).shares.any()
    assert not popularity_of(bought, USERS[["user_id"]], ITEMS, before=NOW, least=2).segments


def drive(answer: Any, items: int, shelves: tuple[str, ...] = ("popularity",)) -> Popularity:
    flow = load_popularity(3, items, shelves)
    try:
        call = next(flow)
        while True:
            assert isinstance(call, Infer)
            call = flow.send(answer(call))
    except StopIteration as end:
        found: Popularity = end.value
        return found


@pytest.mark.parametrize(
    "popularity",
    [
        nothing_popular(3),
        Popularity(np.array([0.1, 0.0, 0.9], np.float32)),
        Popularity(
            np.array([0.1, 0.0, 0.9], np.float32),
            {
                ("country", "Österreich"): PopularItems(np.array([1, 2]), np.array([0.7, 0.2], np.float32)),
                ("gender", "f"): PopularItems(np.array([0]), np.array([0.5], np.float32)),
            },
        ),
    ],
)
def test_the_table_comes_back_page_by_page(popularity: Popularity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_plugin.client.popularity._PAGE_ROWS", 2)
    session = onnxruntime.InferenceSession(popularity_graph(popularity).SerializeToString())

    def answer(call: Infer) -> dict[str, Any]:
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, dict(call.inputs)), strict=True))
        for name in ("attributes", "values"):
            found[name] = np.array([text.encode() for text in found[name]], dtype=object)
        return found

    found = drive(answer, 3)
    np.testing.assert_array_equal(found.shares, popularity.shares)
    assert found.segments.keys() == popularity.segments.keys()
    for segment, told in popularity.segments.items():
        np.testing.assert_array_equal(found.segments[segment].rows, told.rows)
        np.testing.assert_array_equal(found.segments[segment].shares, told.shares)


WHOLE = {
    "segments": np.array([0, 1]),
    "rows": np.array([2, 0]),
    "shares": np.array([0.5, 0.25], np.float32),
    "attributes": np.array([b"", b"country"], dtype=object),
    "values": np.array([b"", b"DE"], dtype=object),
    "size": np.array([2]),
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": np.array([2, 3])},
        {"rows": np.array([-1, 0])},
        {"segments": np.array([0, 2])},
        {"shares": np.array([np.nan, 1], np.float32)},
        {"shares": np.array([-1, 1], np.float32)},
        {"size": np.array([1])},
        {"rows": np.array([2])},
        {"values": np.array([b"", b"\xff"], dtype=object)},
        {"values": np.array([b""], dtype=object)},
    ],
)
def test_a_table_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    assert drive(lambda call: WHOLE, 3).segments.keys() == {("country", "DE")}
    with pytest.raises(InferenceUnavailable, match="model popularity version 3"):
        drive(lambda call: {**WHOLE, **wrong}, 3)


def test_older_versions_tell_of_everybody_or_of_nobody() -> None:
    answer = {"rows": np.array([[2, 0, -1]]), "scores": np.array([[0.5, 0.1, 0.0]], np.float32)}
    found = drive(lambda call: answer, 3, ("complements",))
    np.testing.assert_allclose(found.shares, [0.1, 0.0, 0.5])
    assert not drive(lambda call: answer, 3, ()).shares.any()
