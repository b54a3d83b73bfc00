"""Live events into the tables: each once, all or nothing, whoever kills it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from live_archive import archive_events, visits
from synthetic import write_tables

from recsys_plugin.data.merge import merge_live_events
from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import DataError
from recsys_plugin.settings import Settings

NOW = datetime(2025, 5, 21, 12, tzinfo=UTC)
START = datetime(2025, 5, 2, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home with the tables of a small shop that ended on 2025-05-01, and nothing else."""
    write_tables(tmp_path / "tables", users=20, items=40)
    made = Settings(home=tmp_path / "home")
    prepare_data(made, folder=tmp_path / "tables", now=datetime(2025, 5, 2, tzinfo=UTC))
    return made


def test_each_event_counts_once_and_the_splits_move_on(settings: Settings) -> None:
    before = load_dataset(settings)
    live = visits(
        ["user-001", "somebody-new"], ["item-001", "not-in-the-catalogue"], start=START, days=15, each=6, seed=1
    )
    later = {**live[0], "event_id": "later", "item_id": "item-002", "timestamp": NOW + timedelta(minutes=1)}
    archive_events(settings.state, "first", [*live, later])
    archive_events(settings.state, "again", live[:7])
    known = [event for event in live if event["item_id"] == "item-001"]
    merged = merge_live_events(settings, now=NOW)
    assert (merged.added, merged.new_users, merged.ahead) == (len(known), 1, 1)
    assert merged.repeated == 7
    assert merged.unknown_items == len(live) - len(known) > 0
    assert merged.unknown_item_ids == ("not-in-the-catalogue",)
    after = merged.dataset
    assert after.counts["events"] == before.counts["events"] + len(known)
    assert after.counts["users"] == before.counts["users"] + 1
    ids = pq.read_table(after.path("events"))["event_id"]
    assert pc.count_distinct(ids).as_py() == len(ids)
    times = after.table("events")["timestamp"].to_numpy()
    assert (times[1:] >= times[:-1]).all()
    # The newest days are judged now, as many as before.
    assert after.last_event == max(event["timestamp"] for event in known)
    assert after.last_event - after.test_start == before.last_event - before.test_start
    assert after.test_start - after.validation_start == before.test_start - before.validation_start
    assert (after.historical, after.as_of) == (False, NOW)
    assert after.damaged() is None
    assert after.sha256["events"] != before.sha256["events"]
    # Once more changes nothing, and what was ahead comes when its time has.
    again = merge_live_events(settings, now=NOW)
    assert (again.added, again.dataset.sha256) == (0, after.sha256)
    assert merge_live_events(settings, now=NOW + timedelta(minutes=2)).added == 1
    # The source is still the one that was read, so `recsys data` need not read it again.
    assert after.description.fingerprint == before.description.fingerprint


def test_the_tables_win_over_the_archive(settings: Settings) -> None:
    dataset = load_dataset(settings)
    held = dataset.frame("events").iloc[0]
    archive_events(
        settings.state,
        "a",
        [
            {
                "user_id": "x",
                "item_id": held["item_id"],
                "event_type": "click",
                "timestamp": START,
                "event_id": held["event_id"],
            }
        ],
    )
    merged = merge_live_events(settings, now=NOW)
    assert (merged.added, merged.repeated, merged.dataset.sha256) == (0, 1, dataset.sha256)


KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from recsys_plugin.data.merge import merge_live_events
from recsys_plugin.settings import Settings

def progress(what, done, total):
    # Sorting and writing read the events anew each time: die in the middle of the last reading.
    if what == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

merge_live_events(Settings(home=Path(sys.argv[1])), now=datetime.fromisoformat(sys.argv[3]), progress=progress)
"""


@pytest.mark.parametrize("where", ["merging events", "writing tables"])
def test_a_killed_merge_leaves_the_old_tables(settings: Settings, where: str) -> None:
    before = load_dataset(settings)
    live = visits(["user-001"], ["item-001"], start=START, days=15, each=4, seed=2)
    archive_events(settings.state, "a", live)
    command = [sys.executable, "-c", KILLED, str(settings.home), where, NOW.isoformat()]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, check=False, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = load_dataset(settings)
    assert (left.sha256, left.damaged()) == (before.sha256, None)
    merged = merge_live_events(settings, now=NOW)
    assert (merged.added, merged.dataset.damaged()) == (len(live), None)
    assert [path.name for path in settings.state.iterdir() if path.name.startswith(".")] == []


def test_a_malformed_archive_is_refused_by_name(settings: Settings) -> None:
    before = load_dataset(settings)
    event = {"user_id": "u", "item_id": "item-001", "timestamp": START, "event_id": "e"}
    archive_events(settings.state, "bad", [{**event, "event_type": "wink"}])
    with pytest.raises(DataError, match=r"day=2025-05-02/bad.parquet, column 'event_type', row 1: 'wink' is none of"):
        merge_live_events(settings, now=NOW)
    assert load_dataset(settings).sha256 == before.sha256
    (settings.state / "live_events" / "day=2025-05-02" / "bad.parquet").write_bytes(b"no Parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        merge_live_events(settings, now=NOW)
