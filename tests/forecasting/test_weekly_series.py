"""Weekly series that end at a moment, and their classes of demand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.forecasting.series import CLASSES, WEEK, Sales, demand_classes, first_weeks

FIRST = pd.Timestamp("2024-01-03 10:00", tz="UTC")


def sales(*bought: tuple[int, str], names: tuple[str, ...] = ("a", "b")) -> Sales:
    """Purchases by series and time."""
    ordered = sorted(bought, key=lambda pair: pair[1])
    times = [pd.Timestamp(text, tz="UTC").value // 1000 for _, text in ordered]
    return Sales(
        np.array([number for number, _ in ordered], np.int64),
        np.array(times, np.int64),
        np.array(names, object),
        FIRST.value // 1000,
    )


def test_weeks_end_just_before_the_moment_and_begin_with_the_data() -> None:
    made = sales((0, "2024-01-03 10:00"), (0, "2024-01-17 09:59:59"), (1, "2024-01-10 10:00"), (1, "2024-01-17 10:00"))
    # Two whole weeks: from the first event on, and a purchase at the moment itself is not known.
    assert made.weeks(pd.Timestamp("2024-01-17 10:00", tz="UTC")).tolist() == [[1.0, 1.0], [0.0, 1.0]]
    # A microsecond later the first purchase is in no whole week, and the other week's first is in the week before.
    later = pd.Timestamp("2024-01-17 10:00:00.000001", tz="UTC")
    assert made.weeks(later).tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert made.weeks(FIRST + pd.Timedelta(days=6)).shape == (2, 0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(8 * 86_400, 60 * 86_400))
def test_weeks_are_counts_and_do_not_know_the_future(seed: int, count: int, moment: int) -> None:
    generator = np.random.default_rng(seed)
    first = FIRST.value // 1000
    series = generator.integers(0, 3, count)
    times = first + np.sort(generator.integers(0, 60 * 86_400, count)) * 1_000_000
    end = FIRST + pd.Timedelta(seconds=moment)
    table = Sales(series, times, np.array(["x", "y", "z"], object), first).weeks(end)
    until = times < end.value // 1000
    assert (table == Sales(series[until], times[until], np.array(["x", "y", "z"], object), first).weeks(end)).all()
    at = end.value // 1000
    for line in range(3):
        for week in range(table.shape[1]):
            stop = at - (table.shape[1] - 1 - week) * WEEK
            mine = times[series == line]
            assert table[line, week] == ((mine >= stop - WEEK) & (mine < stop)).sum()


def test_groups_add_up_their_series() -> None:
    made = sales((0, "2024-01-04"), (1, "2024-01-05"), (2, "2024-01-06"), names=("a", "b", "c"))
    grouped = made.grouped(np.array(["tea", None, "tea"], object))
    assert grouped.names.tolist() == ["tea"]
    assert grouped.weeks(pd.Timestamp("2024-01-10 10:00", tz="UTC")).tolist() == [[2.0]]
    assert made.grouped(np.array([None, "", None], object)).weeks(FIRST + pd.Timedelta(days=8)).shape == (0, 1)


@pytest.mark.parametrize(
    ("series", "wanted"),
    [
        ([3, 4, 3, 4, 3, 4, 3, 4, 3, 4], "smooth"),
        ([1, 9, 1, 1, 20, 1, 1, 1, 30, 1], "erratic"),
        ([1, 0, 0, 1, 0, 1, 0, 0, 1, 0], "intermittent"),
        ([1, 0, 0, 30, 0, 1, 0, 0, 1, 0], "lumpy"),
        ([0, 0, 0, 3, 4, 3, 4, 3, 4, 3], "short"),
        ([5, 0, 0, 0, 0, 0, 0, 0, 0, 0], "short"),
        ([0] * 10, "dormant"),
        ([5] * 10 + [0] * 25, "intermittent"),
        ([5] * 10 + [0] * 26, "dormant"),
    ],
)
def test_classes(series: list[int], wanted: str) -> None:
    found = demand_classes(np.array([series], np.float32))
    assert CLASSES[found[0, -1]] == wanted


def test_a_class_knows_only_the_weeks_before_it() -> None:
    table = np.random.default_rng(0).poisson(0.5, (20, 40)).astype(np.float32)
    whole = demand_classes(table)
    assert whole.shape == (20, 41)
    for origin in range(41):
        assert (demand_classes(table[:, :origin])[:, -1] == whole[:, origin]).all()
    assert first_weeks(np.array([[0, 0, 2], [0, 0, 0]], np.float32)).tolist() == [2, 3]
