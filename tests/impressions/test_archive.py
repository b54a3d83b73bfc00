"""The archive has each entry once, whatever is killed when; streams are trimmed up to what all have acknowledged."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from recsys_plugin import Event, EventRecorder
from recsys_plugin.errors import ConfigurationError, StoreUnavailable
from recsys_plugin.events.keys import PARTITIONS, EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.impressions import archive as archive_module
from recsys_plugin.impressions.archive import ARCHIVE_GROUP, PROFILES_GROUP, Archiver

KEYS = EventKeys("recsys")
NOW = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
PAGE = (
    b'{"request_id":"r%d","user_id":"u","served_at":%d,"model":"recommend","version":1,"contract":null,"policy":"none",'
    b'"propensity_kind":"exact","items":["a","b"],"scores":[0.5,0.25]}'
)


def fill(url: str, count: int, first: int = 0) -> None:
    """So many events and pages, an hour apart."""
    with EventRecorder(url, timeout=20, clock=lambda: NOW) as recorder, RedisAddress.parse(url).connect(5) as client:
        events = [
            Event(
                user_id=str(n % 7),
                item_id="tea",
                event_type="click",
                event_id=str(n),
                timestamp=datetime.fromtimestamp(NOW - 3600 * (n % 100), UTC),
                query="Tee ü",
            )
            for n in range(first, first + count)
        ]
        for start in range(0, count, 5_000):
            recorder.record_many(events[start : start + 5_000])
        pipeline = client.pipeline(transaction=False)
        for n in range(first, first + count):
            pipeline.xadd(KEYS.impressions, {"page": PAGE % (n, int(NOW * 1e6) - 3_600_000_000 * (n % 100))})
        pipeline.execute()


def archived(folder: Path, what: str) -> pa.Table:
    return ds.dataset(folder / what, format="parquet", partitioning="hive", exclude_invalid_files=False).to_table()


def archiver(server: Any, folder: Path) -> Archiver:
    return Archiver(RedisAddress.parse(server.url), folder, clock=lambda: NOW)


def test_everything_is_archived_by_day_and_read_back(event_redis: Any, tmp_path: Path) -> None:
    fill(event_redis.url, 300)
    told = []
    done = archiver(event_redis, tmp_path).run(lambda *step: told.append(step))
    assert (done.impressions, done.events, done.malformed) == (300, 300, 0)
    assert told[-1] == ("events", 300, 300)
    events = archived(tmp_path, "live_events")
    assert sorted(events["event_id"].to_pylist(), key=int) == [str(n) for n in range(300)]
    (row,) = events.filter(pa.compute.equal(events["event_id"], "25")).to_pylist()
    assert row["timestamp"] == datetime.fromtimestamp(NOW - 25 * 3600, UTC)
    assert row["recorded_at"] == datetime.fromtimestamp(NOW, UTC)
    assert (row["query"], row["price"], str(row["day"])) == ("Tee ü", None, "2026-02-27")
    pages = archived(tmp_path, "impressions")
    assert pages["items"].to_pylist() == [["a", "b"]] * 300
    assert pages["propensities"].to_pylist() == [[1.0, 1.0]] * 300
    assert len(list((tmp_path / "impressions").iterdir())) == 6
    again = archiver(event_redis, tmp_path).run()
    assert (again.impressions, again.events, again.files) == (0, 0, 0)


def test_trimming_waits_for_every_group(event_redis: Any, tmp_path: Path) -> None:
    fill(event_redis.url, 100)
    with event_redis.connect() as client:

        def left() -> int:
            return sum(client.xlen(KEYS.events(number)) for number in range(PARTITIONS))

        archiver(event_redis, tmp_path).run()
        assert client.xlen(KEYS.impressions) == 1, "all but the last delivered"
        assert left() == 100, "recsys stream was never there"
        for number in range(PARTITIONS):
            client.xgroup_create(KEYS.events(number), PROFILES_GROUP, id="0", mkstream=True)
        archiver(event_redis, tmp_path).run()
        assert left() == 100, "it has read nothing yet"
        pending = []
        for number in range(PARTITIONS):
            for stream, entries in client.xreadgroup(PROFILES_GROUP, "w", {KEYS.events(number): ">"}):
                pending += [(stream, entry) for entry, _ in entries]
        archiver(event_redis, tmp_path).run()
        assert left() == 100, "nor acknowledged any"
        for stream, entry in pending:
            client.xack(stream, PROFILES_GROUP, entry)
        used = len({stream for stream, _ in pending})
        assert archiver(event_redis, tmp_path).run().trimmed == 100 - used
        assert left() == used


def test_what_is_malformed_stops_nothing(event_redis: Any, tmp_path: Path) -> None:
    good = json.loads(PAGE % (1, int(NOW * 1e6)))
    half = "\ud800"  # of a character; JSON may hold it, and nothing else may
    pages = [
        json.dumps(good | change)
        for change in (
            {"user_id": half}, {"user_id": 5}, {"request_id": half}, {"contract": 7}, {"items": "ab"}, {"items": None},
            {"served_at": 10**30}, {"version": 2**63}, {"scores": [10**400, 1]}, {"scores": {"0": 1, "1": 2}},
            {"features": {"user_float": [[1]]}}, {"features": [1]}, {half: 1}, {"trace_id": half}, {"candidates": "a"},
        )
    ]  # fmt: skip
    event = json.dumps(
        {"user_id": "u", "item_id": "i", "event_type": "click", "timestamp": int(NOW * 1e6), "event_id": "x"}
    )
    with event_redis.connect() as client:
        client.xadd(KEYS.impressions, {"page": "no page"})
        client.xadd(KEYS.impressions, {"other": "field"})
        for page in pages:
            client.xadd(KEYS.impressions, {"page": page})
        client.xadd(KEYS.events(0), {"event": "no event", "recorded_at": "1"})
        client.xadd(KEYS.events(0), {"x": "y"})
        for recorded_at in ("1" * 30, "1" * 5_000, "-1", "later"):
            client.xadd(KEYS.events(0), {"event": event, "recorded_at": recorded_at})
        client.xadd(KEYS.events(0), {"event": json.dumps({half: half, "user_id": half}), "recorded_at": "1"})
        fill(event_redis.url, 10)
        done = archiver(event_redis, tmp_path).run()
        assert (done.impressions, done.events, done.malformed) == (10, 10, 9 + len(pages))
        dead = [fields for _, fields in client.xrange(KEYS.dead)]
    assert [(one[b"reason"], one[b"source"], one[b"event"]) for one in dead] == [
        (b"malformed", KEYS.impressions.encode(), b"no page"),
        (b"malformed", KEYS.impressions.encode(), b""),
        *((b"malformed", KEYS.impressions.encode(), page.encode()) for page in pages),
    ]


@pytest.mark.parametrize("what", ["impressions", "events"])
def test_a_crash_between_writing_and_acknowledging_doubles_nothing(what: str, event_redis: Any, tmp_path: Path) -> None:
    """The acknowledgement of a real server fails once the file is there: an ACL forbids XACK."""
    fill(event_redis.url, 200)
    if what == "events":
        with event_redis.connect() as client:
            client.delete(KEYS.impressions)
    with event_redis.connect() as client:
        client.acl_setuser("half", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-xack"])
        half = event_redis.url.replace("redis://", "redis://half:x@")
        broken = Archiver(RedisAddress.parse(half), tmp_path, clock=lambda: NOW)
        with pytest.raises(StoreUnavailable, match=r"(?i)permission|execabort"):
            broken.run()
        files = sorted(tmp_path.rglob("*.parquet"))
        assert files
        streams = [KEYS.impressions, *(KEYS.events(number) for number in range(PARTITIONS))]
        assert sum(client.xpending(stream, ARCHIVE_GROUP)["pending"] for stream in streams) == 200
        fill(event_redis.url, 50, first=200)  # what came since goes to another batch
        done = archiver(event_redis, tmp_path).run()
        client.acl_deluser("half")
    assert set(files) <= set(tmp_path.rglob("*.parquet")), "written again under the same names"
    pages = 250 if what == "impressions" else 50
    assert (done.impressions, done.events) == (pages, 250)
    for table, column, count in (("impressions", "request_id", pages), ("live_events", "event_id", 250)):
        found = archived(tmp_path, table)[column].to_pylist()
        assert len(found) == len(set(found)) == count


ARCHIVE = """
import sys
from pathlib import Path
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.impressions import archive

archive._COUNT = 50
print("go", flush=True)
archive.Archiver(RedisAddress.parse(sys.argv[1]), Path(sys.argv[2])).run()
"""


def test_a_killed_archiver_doubles_nothing(event_redis: Any, tmp_path: Path) -> None:
    fill(event_redis.url, 1_000)
    for wanted in (1, 100):
        command = [sys.executable, "-c", ARCHIVE, event_redis.url, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None and sum(1 for _ in tmp_path.rglob("*.parquet")) < wanted:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
    archiver(event_redis, tmp_path).run()
    for what, column in (("impressions", "request_id"), ("live_events", "event_id")):
        found = archived(tmp_path, what)[column].to_pylist()
        assert len(found) == len(set(found)) == 1_000


def test_one_archiver_for_a_folder(event_redis: Any, tmp_path: Path) -> None:
    with (tmp_path / ".archive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="another"):
            archiver(event_redis, tmp_path).run()
    assert archive_module.ARCHIVE_GROUP == "archive"
