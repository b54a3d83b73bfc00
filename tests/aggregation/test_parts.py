"""Features of a part of the users, or of the items, are those that all events give: what large data is made from."""

from __future__ import annotations

import pandas as pd
import pytest
from histories import Row, histories, table
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.aggregation.acts import in_user_order
from recsys_plugin.aggregation.arrays import sorted_codes
from recsys_plugin.aggregation.item import item_statistics
from recsys_plugin.aggregation.live import user_recent_items, user_sessions
from recsys_plugin.aggregation.user import user_statistics

USER_TABLES = pytest.mark.parametrize("make", [user_statistics, user_recent_items, user_sessions])


def sets(count: int, names: str) -> st.SearchStrategy[list[set[str]]]:
    """Each name in one of ``count`` parts."""
    chosen = st.lists(st.integers(0, count - 1), min_size=len(names), max_size=len(names))
    return chosen.map(
        lambda parts: [
            {name for name, part in zip(names, parts, strict=True) if part == number} for number in range(count)
        ]
    )


def listed(rows: list[Row], key: str) -> list[Row]:
    return sorted(rows, key=lambda row: (row[key], row["event_timestamp"]))


@USER_TABLES
@settings(max_examples=30, deadline=None)
@given(rows=histories(), parts=sets(3, "abc"), seed=st.integers(0, 3))
def test_users_do_not_depend_on_one_another(make, rows: list[Row], parts: list[set[str]], seed: int) -> None:  # type: ignore[no-untyped-def]
    events = table(rows, seed)
    whole = make(events)
    found = [make(events[events["user_id"].isin(part)]) for part in parts]
    assert {part.schema for part in found} == {whole.schema}
    assert listed([row for part in found for row in part.to_pylist()], "user_id") == listed(
        whole.to_pylist(), "user_id"
    )


@settings(max_examples=30, deadline=None)
@given(rows=histories(), parts=sets(2, "xyzü"), seed=st.integers(0, 3))
def test_items_do_not_depend_on_one_another(rows: list[Row], parts: list[set[str]], seed: int) -> None:
    events = table(rows, seed)
    moments = sorted(events["timestamp"])[::5] or [pd.Timestamp("2024-05-01", tz="UTC")]
    whole = item_statistics(events, moments)
    found = [item_statistics(events[events["item_id"].isin(part)], moments) for part in parts]
    assert {part.schema for part in found} == {whole.schema}
    assert listed([row for part in found for row in part.to_pylist()], "item_id") == listed(
        whole.to_pylist(), "item_id"
    )


@USER_TABLES
@settings(max_examples=30, deadline=None)
@given(rows=histories(), seed=st.integers(0, 3))
def test_categories_in_any_order_change_nothing(make, rows: list[Row], seed: int) -> None:  # type: ignore[no-untyped-def]
    events = table(rows, seed)
    coded = events.copy()
    for name in ("user_id", "item_id", "event_type", "event_id", "query"):
        categories = pd.Index(sorted(set(events[name].dropna()), reverse=True), dtype=object)
        coded[name] = pd.Categorical(events[name], categories)
    assert make(coded).equals(make(events))
    assert make(in_user_order(coded)).equals(make(events))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["b", "ä", "a", "Z", "😀"])))
def test_codes_sort_as_the_texts_do(values: list[str]) -> None:
    column = pd.Series(values, dtype=object)
    for series in (column, column.astype("category")):
        codes, names = sorted_codes(series)  # type: ignore[arg-type]
        assert [names[code] for code in codes] == values
        assert list(names) == sorted(set(values))
