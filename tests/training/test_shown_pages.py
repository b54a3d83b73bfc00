"""Logged pages as examples: what each item counts for, what is known of it, and what is left out."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.impressions.join import (
    join_outcomes,
    outcome_files,
    outcomes_digest,
    outcomes_folder,
)
from recsys_plugin.impressions.parquet import EVENTS, IMPRESSIONS, write_days
from recsys_plugin.training.impressions import MOST_WEIGHT, ShownPages, shown_pages, with_shown_pages
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, TrainingLists

FIRST = datetime(2026, 3, 2, tzinfo=UTC)
END = FIRST + timedelta(days=10)
ITEMS = pd.Index(list("abcdefgh"), dtype=object)
WINDOW = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CLICK, CART, PURCHASE = range(len(HEADS))


def us(hours: float) -> int:
    return (FIRST + timedelta(hours=hours) - _EPOCH) // timedelta(microseconds=1)


class Log:
    """Pages and events in an archive, joined."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    def page(self, request: str, hours: float, items: str, user: str | None = "ann", **more: Any) -> None:
        page = {
            "entry": f"{len(self.pages)}-0",
            "request_id": request,
            "user_id": user,
            "served_at": us(hours),
            "model": "recommend",
            "version": 1,
            "contract": "c",
            "policy": "none",
            "propensity_kind": "exact",
            "items": list(items),
            "scores": [0.5] * len(items),
            "propensities": [1.0] * len(items),
        }
        self.pages.append(page | more)

    def act(self, request: str, hours: float, item: str, kind: str = "click", user: str = "ann") -> None:
        number = len(self.events)
        event = {"entry": f"0:{number}-0", "event_id": str(number), "recorded_at": us(hours), "timestamp": us(hours)}
        event |= {"user_id": user, "item_id": item, "event_type": kind, "request_id": request}
        self.events.append(event)

    def read(self, *, most: int = 100, heads: tuple[str, ...] = HEADS, seed: int = 0) -> tuple[ShownPages, int]:
        write_days(self.folder / "impressions", "1", IMPRESSIONS, "served_at", self.pages)
        write_days(self.folder / "live_events", "1", EVENTS, "timestamp", self.events)
        output = outcomes_folder(self.folder, WINDOW)
        join_outcomes(self.folder, output, window=WINDOW, now=END + timedelta(days=30))
        return shown_pages(
            outcome_files(output, before=END),
            ITEMS,
            window=pd.Timedelta(WINDOW),
            moments=[pd.Timestamp(FIRST), pd.Timestamp(FIRST + timedelta(days=7))],
            end=pd.Timestamp(END),
            heads=heads,
            most=most,
            seed=seed,
        )


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def same(found: np.ndarray[Any, Any], wanted: list[float]) -> None:
    np.testing.assert_allclose(found, np.array(wanted, np.float32), rtol=1e-6)


def test_what_is_known_of_each_item(log: Log) -> None:
    log.page("r1", 1, "abcd")
    log.act("r1", 2, "b")
    log.act("r1", 3, "b", "purchase")
    log.page("r2", 190, "dcb")
    log.page("r3", 200, "zba")  # z is not in the catalogue
    log.act("r3", 201, "a", "cart")
    pages, count = log.read()
    assert count == len(pages) == 3
    assert pages.entities["user_id"].tolist() == ["ann"] * 3
    assert pages.entities["event_timestamp"].tolist() == [
        pd.Timestamp(FIRST + timedelta(hours=hours)) - pd.Timedelta(1, "us") for hours in (1, 190, 200)
    ]
    assert pages.week.tolist() == [0, 1, 1]
    assert pages.rows.tolist() == [[0, 1, 2, 3], [3, 2, 1, -1], [-1, 1, 0, -1]]
    # Below the last item acted on nobody may have looked; a page without any act was looked at in vain.
    same(pages.labels[0, :, CLICK], [0, 1, math.nan, math.nan])
    same(pages.labels[0, :, PURCHASE], [0, 1, math.nan, math.nan])
    same(pages.labels[0, :, CART], [0, 0, math.nan, math.nan])
    same(pages.labels[1, :, CLICK], [0, 0, 0, math.nan])
    same(pages.labels[2, :, CART], [math.nan, 0, 1, math.nan])
    same(pages.weights[0], [1, 1, 1, 1])
    same(pages.weights[2], [0, 1, 1, 0])


def test_unlikely_items_count_for_more_but_a_page_never_for_more_than_its_items(log: Log) -> None:
    log.page("r1", 1, "abc", propensities=[0.5, 0.25, 1.0])
    log.page("r2", 2, "abc", propensities=[1.0, 1e-9, 1.0])
    pages, _ = log.read()
    same(pages.weights[0], [3 * 2 / 7, 3 * 4 / 7, 3 * 1 / 7])
    same(pages.weights[1], [3 / 22, 3 * MOST_WEIGHT / 22, 3 / 22])


def test_what_is_not_learned_from(log: Log) -> None:
    log.page("before", -1, "ab")
    log.page("later", 241, "ab")
    log.page("nobody", 1, "ab", user=None)
    log.page("query", 1, "ab", model="search")
    log.page("beside", 1, "ab", model="similar")
    log.page("open", 239, "ab")
    log.act("open", 239.5, "b")
    log.act("open", 241, "a")  # of the validation: known to nobody then
    pages, count = log.read()
    assert count == 1
    # The window was not over when the validation began: what had not come may yet have come.
    same(pages.labels[0, :, CLICK], [math.nan, 1])
    # What the data cannot tell has no label at all.
    pages, _ = log.read(heads=("purchase",))
    assert np.isnan(pages.labels[..., [CLICK, CART]]).all()


def test_pages_are_drawn_alike_and_again(log: Log) -> None:
    for number in range(60):
        log.page(f"r{number:02}", number * 3, "abc"[: 1 + number % 3], user=f"user-{number}")
    every, count = log.read()
    assert len(every) == count == 60
    few, drawn_from = log.read(most=20, seed=3)
    again, _ = log.read(most=20, seed=3)
    other, _ = log.read(most=20, seed=4)
    assert drawn_from == 60
    assert len(few) == 20
    assert few.entities.equals(again.entities)
    assert not few.entities.equals(other.entities)
    users = every.entities["user_id"].tolist()
    places = [users.index(user) for user in few.entities["user_id"]]
    width = few.rows.shape[1]
    assert few.rows.tolist() == every.rows[places, :width].tolist()


def test_no_log_gives_no_page(log: Log, tmp_path: Path) -> None:
    pages, count = shown_pages(
        outcome_files(tmp_path / "nothing", before=END),
        ITEMS,
        window=pd.Timedelta(WINDOW),
        moments=[pd.Timestamp(FIRST)],
        end=pd.Timestamp(END),
        heads=HEADS,
        most=10,
        seed=0,
    )
    assert (len(pages), count) == (0, 0)
    log.page("later", 500, "ab")
    assert log.read()[1] == 0


def test_the_digest_follows_what_was_joined(log: Log) -> None:
    log.page("r1", 1, "ab")
    log.read()
    files = outcome_files(outcomes_folder(log.folder, WINDOW), before=END)
    before = outcomes_digest(files)
    assert outcomes_digest(files) == before
    log.page("r2", 30, "ab")
    log.read()
    assert outcomes_digest(outcome_files(outcomes_folder(log.folder, WINDOW), before=END)) != before


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_lists_and_pages_stand_side_by_side(lists: int, pages: int, wide: int, shown_wide: int, seed: int) -> None:
    generator = np.random.default_rng(seed)

    def made(count: int, width: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        rows = generator.integers(0, 9, (count, width))
        labels = generator.choice([0.0, 1.0, np.nan], (count, width, len(HEADS))).astype(np.float32)
        return rows, labels, np.ones((count, width), np.float32)

    def users(count: int) -> UserTensors:
        numbers = generator.normal(size=(count, 2)).astype(np.float32)
        return UserTensors(numbers, np.zeros((count, 1), np.int64), np.full((count, 1), "x", object))

    own, shown = made(lists, wide), made(pages, shown_wide)
    entities = pd.DataFrame({"user_id": ["u"] * pages, "event_timestamp": [pd.Timestamp(FIRST)] * pages})
    people, viewers = users(lists), users(pages)
    every, both = with_shown_pages(
        TrainingLists(np.arange(lists), np.zeros(lists, np.int64), *own),
        people,
        ShownPages(entities, np.ones(pages, np.int64), *shown),
        viewers,
    )
    told = np.flatnonzero(~np.isnan(shown[1]).all((1, 2)))
    assert len(every.context) == lists + len(told)
    np.testing.assert_array_equal(both.user_float[every.context[:lists]], people.user_float)
    np.testing.assert_array_equal(both.user_float[every.context[lists:]], viewers.user_float[told])
    assert every.week.tolist() == [0] * lists + [1] * len(told)
    for line, page in enumerate(told, start=lists):
        np.testing.assert_array_equal(every.rows[line, :shown_wide], shown[0][page])
        assert (every.weights[line, shown_wide:] == 0).all()
    np.testing.assert_array_equal(every.labels[:lists, :wide], own[1])
