"""Outcomes joined with impressions: attribution, windows, incremental runs; checked against a plain-Python join."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from recsys_plugin.errors import InvalidInput
from recsys_plugin.impressions.join import join_outcomes
from recsys_plugin.impressions.parquet import EVENTS, IMPRESSIONS, write_days

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
LATER = START + 30 * DAY


def us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Archive:
    """An archive written row by row; each call of :meth:`save` makes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pages: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._saved = self._entries = 0

    def page(
        self, request_id: str, user_id: str | None, hours: float, items: str, fallback: str | None = "full"
    ) -> None:
        self._entries += 1
        row = {
            "entry": f"{self._entries}-0",
            "request_id": request_id,
            "user_id": user_id,
            "served_at": us(START + timedelta(hours=hours)),
            "model": "recommend",
            "version": 2,
            "contract": "c",
            "policy": "none",
            "propensity_kind": "exact",
            "items": list(items),
            "scores": [1.0 / (1 + n) for n in range(len(items))],
            "propensities": [0.5] * len(items),
            "fallback": fallback,
        }
        self._pages.append(row)

    def event(self, event_id: str, user: str, kind: str, hours: float, item: str, request: str | None = None) -> None:
        self._entries += 1
        moment = us(START + timedelta(hours=hours))
        row = {
            "entry": f"0:{self._entries}-0",
            "recorded_at": moment,
            "user_id": user,
            "item_id": item,
            "event_type": kind,
            "timestamp": moment,
            "event_id": event_id,
            "request_id": request,
        }
        self._events.append(row)

    def save(self) -> None:
        self._saved += 1
        write_days(self.folder / "impressions", str(self._saved), IMPRESSIONS, "served_at", self._pages)
        write_days(self.folder / "live_events", str(self._saved), EVENTS, "timestamp", self._events)
        self._pages, self._events = [], []


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def rows_of(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(output.rglob("*.parquet")):
        found += parquet.ParquetFile(path).read().to_pylist()
    return found


def outcomes(output: Path) -> dict[tuple[str, str], str]:
    """What became of each item shown: letters for click, cart and purchase."""
    names = {"clicked": "c", "carted": "a", "purchased": "p"}
    return {
        (row["request_id"], row["item_id"]): "".join(letter for name, letter in names.items() if row[name])
        for row in rows_of(output)
    }


def test_pages_of_lower_levels_take_their_events_and_have_no_rows(archive: Archive, tmp_path: Path) -> None:
    archive.page("r1", "ann", 1, "xy")
    archive.page("r2", "ann", 2, "xy", fallback="popularity")
    archive.page("r3", "bob", 2, "x", fallback=None)  # archived before there were levels
    archive.event("1", "ann", "click", 4, "x", "r2")
    archive.event("2", "ann", "cart", 4, "y")  # last touch: the page that has no rows
    archive.event("3", "bob", "click", 4, "x")
    archive.save()
    join_outcomes(archive.folder, tmp_path / "out", window=DAY, now=LATER)
    assert outcomes(tmp_path / "out") == {("r1", "x"): "", ("r1", "y"): "", ("r3", "x"): "c"}


def test_attribution(archive: Archive, tmp_path: Path) -> None:
    archive.page("r1", "ann", 1, "xyz")
    archive.page("r2", "ann", 2, "xy")
    archive.page("r3", None, 3, "x")
    archive.page("r4", "bob", 23, "x")
    archive.page("r5", "bob", 25, "x")
    archive.page("r6", "eve", 1, "x")
    archive.event("1", "ann", "click", 4, "x", "r1")  # by request, though another page came later
    archive.event("2", "ann", "click", 4, "y")  # last touch
    archive.event("3", "ann", "purchase", 1.5, "y")  # before the second page: the first
    archive.event("4", "ann", "click", 4, "z", "r2")  # not on that page
    archive.event("5", "dan", "cart", 4, "x", "r3")  # a page for nobody
    archive.event("6", "dan", "cart", 4, "x", "r1")  # another user's page
    archive.event("7", "bob", "purchase", 26, "x")  # the page of the next day is the last touch
    archive.event("8", "eve", "click", 26, "x")  # after the window
    archive.event("9", "eve", "click", 0.5, "x")  # before the page
    archive.event("10", "eve", "cart", 0.95, "x", "r6")  # by a clock that is three minutes behind
    archive.event("1", "ann", "click", 5, "x", "r2")  # an event id counts once
    archive.event("11", "ann", "return", 4, "x", "r1")  # no outcome
    archive.save()
    done = join_outcomes(archive.folder, tmp_path / "out", window=DAY, now=LATER)
    found = outcomes(tmp_path / "out")
    assert found == {
        ("r1", "x"): "c",
        ("r1", "y"): "p",
        ("r1", "z"): "",
        ("r2", "x"): "",
        ("r2", "y"): "c",
        ("r3", "x"): "a",
        ("r4", "x"): "",
        ("r5", "x"): "p",
        ("r6", "x"): "a",
    }
    assert (done.written, done.rows, done.clicked, done.carted, done.purchased) == (2, 9, 2, 2, 2)
    first = rows_of(tmp_path / "out")[0]
    assert first == {
        "request_id": "r1",
        "user_id": "ann",
        "item_id": "x",
        "position": 1,
        "propensity": 0.5,
        "propensity_kind": "exact",
        "score": 1.0,
        "served_at": START + timedelta(hours=1),
        "policy": "none",
        "model": "recommend",
        "model_version": 2,
        "contract": "c",
        "clicked": True,
        "carted": False,
        "purchased": False,
        "clicked_at": START + timedelta(hours=4),
        "carted_at": None,
        "purchased_at": None,
    }


def test_runs_are_incremental_and_days_become_final(archive: Archive, tmp_path: Path) -> None:
    output = tmp_path / "out"
    archive.page("r1", "ann", 1, "x")
    archive.page("r1", "ann", 1, "x")  # written twice: one page
    archive.save()

    def run(hours: float) -> tuple[int, int, int]:
        done = join_outcomes(archive.folder, output, window=DAY, now=START + timedelta(hours=hours))
        return done.written, done.unchanged, done.final

    assert run(2) == (1, 0, 0)
    assert run(3) == (0, 1, 0)
    assert outcomes(output) == {("r1", "x"): ""}
    archive.event("1", "ann", "click", 5, "x")
    archive.save()
    assert run(6) == (1, 0, 0)
    assert outcomes(output) == {("r1", "x"): "c"}
    assert run(50) == (1, 0, 1)
    archive.event("2", "ann", "purchase", 6, "x")  # too late: models may have learnt from that day
    archive.save()
    assert run(60) == (0, 1, 1)
    assert outcomes(output) == {("r1", "x"): "c"}
    with pytest.raises(InvalidInput, match="another folder"):
        join_outcomes(archive.folder, output, window=2 * DAY, now=LATER)
    with pytest.raises(InvalidInput, match="above 0"):
        join_outcomes(archive.folder, output, window=timedelta(0), now=LATER)


@pytest.mark.parametrize("window", [timedelta(minutes=30), DAY, timedelta(hours=30)])
def test_it_equals_a_join_in_plain_python(window: timedelta, archive: Archive, tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    pages, events = [], []
    for number in range(150):
        user = None if generator.random() < 0.1 else str(generator.integers(5))
        items = "".join(generator.choice(list("abcdefgh"), 4, replace=False))
        # Times differ: between two pages of one moment there is no last touch to speak of.
        pages.append((f"r{number}", user, float(generator.random() * 96) + number * 1e-4, items))
    for number in range(600):
        request = pages[generator.integers(150)][0] if generator.random() < 0.3 else None
        kind = str(generator.choice(["click", "cart", "purchase", "impression"]))
        hours = float(generator.random() * 120)
        events.append(
            (str(number), str(generator.integers(5)), kind, hours, str(generator.choice(list("abcdefgh"))), request)
        )
    for page in pages:
        archive.page(*page)
    for event in events:
        archive.event(*event)
    archive.save()
    expected: dict[tuple[str, str], set[str]] = {(page[0], item): set() for page in pages for item in page[3]}
    slack = timedelta(minutes=5)
    for _, user, kind, hours, item, request in events:
        if kind == "impression":
            continue
        best: tuple[float, str] | None = None
        for name, shown_to, served, items in pages:
            after = timedelta(hours=hours) - timedelta(hours=served)
            if item not in items or after > window:
                continue
            if request is None:
                fits = shown_to == user and after >= timedelta(0)
            else:
                fits = name == request and shown_to in (None, user) and after >= -slack
            if fits and (best is None or served > best[0]):
                best = served, name
        if best is not None:
            expected[best[1], item].add(kind)
    join_outcomes(archive.folder, tmp_path / "out", window=window, now=LATER)
    names = {"clicked": "click", "carted": "cart", "purchased": "purchase"}
    found = {
        (row["request_id"], row["item_id"]): {kind for name, kind in names.items() if row[name]}
        for row in rows_of(tmp_path / "out")
    }
    assert found == expected
    assert sum(map(len, found.values())) > 10
