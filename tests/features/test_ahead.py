"""Making the parts of an iterator ahead of who uses them: order, errors, and an early end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.features.ahead import ahead


@given(st.lists(st.none() | st.integers()), st.integers(1, 5))
def test_the_same_parts_in_order(parts: list[int | None], depth: int) -> None:
    assert [*ahead(iter(parts), depth)] == parts


def test_an_error_comes_in_the_place_of_its_part() -> None:
    def parts() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    with closing(ahead(parts(), 4)) as found:
        assert [next(found), next(found)] == [1, 2]
        with pytest.raises(ValueError, match="the third"):
            next(found)


def test_no_more_than_the_depth_is_made_ahead_and_an_early_end_stops_the_thread() -> None:
    made: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    with closing(ahead(parts(), 3)) as found:
        assert [next(found), next(found)] == [0, 1]
    assert len(made) <= 2 + 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_parts_are_made_while_others_are_used() -> None:
    second = threading.Event()

    def parts() -> Iterator[str]:
        yield "first"
        second.set()
        yield "second"

    with closing(ahead(parts(), 2)) as found:
        assert next(found) == "first"
        assert second.wait(60), "the second is made before it is asked for"
