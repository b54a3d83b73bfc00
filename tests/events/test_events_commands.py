"""``recsys events`` against a real server: import, dead letters, status, archive, join."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner

from recsys_plugin import Event, EventRecorder
from recsys_plugin.cli._group import recsys
from recsys_plugin.events.keys import PARTITIONS, EventKeys

KEYS = EventKeys("recsys")
NOW = datetime.now(UTC)

Run = Callable[..., Any]


@pytest.fixture
def run(event_redis: Any, tmp_path: Path) -> Run:
    """Runs a command; the JSON it prints, or its exit code if it fails."""

    def call(*arguments: str, code: int = 0) -> Any:
        environ = {"RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": event_redis.url}
        result = CliRunner(env=environ).invoke(recsys, ["events", *arguments], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in arguments and code == 0 else result.stdout

    return call


def written(client: Any) -> list[tuple[Event, int]]:
    found = []
    for number in range(PARTITIONS):
        for _, fields in client.xrange(KEYS.events(number)):
            found.append((Event.decode(fields[b"event"]), int(fields[b"recorded_at"])))
    return found


ROWS: list[dict[str, Any]] = [
    {"user_id": "ann", "item_id": "tea", "event_type": "click", "quantity": None, "request_id": "r1"},
    {"user_id": "ann", "item_id": "tea", "event_type": "click", "quantity": None, "request_id": "r1"},
    {"user_id": "bob", "item_id": "cup", "event_type": "purchase", "quantity": 2.0, "request_id": None},
]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"events.{kind}"
    moment = (NOW - timedelta(hours=1)).replace(microsecond=0)
    rows = [{**row, "timestamp": moment} for row in ROWS]
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        lines = ["user_id,item_id,event_type,quantity,request_id,timestamp"]
        lines += [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_same_rows_in_each_kind_of_file_are_the_same_events(run: Run, event_redis: Any, tmp_path: Path) -> None:
    with event_redis.connect() as client:
        for kind in ("csv", "parquet", "jsonl"):
            done = run("import", str(write(tmp_path, kind)), "--json")
            assert done == {"rows": 3, "recorded": 3, "refused": {}}
        found = written(client)
    assert len(found) == 9
    events = {event.event_id: event for event, _ in found}
    assert len(events) == 3, "named after their content, and after how often it came before"
    assert sorted((event.user_id, event.quantity, event.request_id) for event in events.values()) == [
        ("ann", 1.0, "r1"),
        ("ann", 1.0, "r1"),
        ("bob", 2.0, None),
    ]


BAD = f"""user_id,item_id,event_type,timestamp,event_id
ann,tea,click,{NOW.isoformat()},1
ann,tea,clack,{NOW.isoformat()},2
ann,tea,click,2009-01-01T00:00:00Z,3
ann,tea,click,{(NOW + timedelta(days=1)).isoformat()},4
ann,tea,click
ann,\udcff,click,{NOW.isoformat()},6
,tea,click,{NOW.isoformat()},7
ann,tea,click,{NOW.isoformat()},8
"""


def test_bad_rows_become_dead_letters_and_stop_nothing(run: Run, event_redis: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(BAD, encoding="utf-8", errors="surrogateescape")
    done = run("import", str(path), "--json")
    assert done == {"rows": 8, "recorded": 2, "refused": {"malformed": 4, "too_old": 1, "future": 1}}
    letters = run("dead-letter", "--json")["letters"]
    by_row = {letter["entry"]: letter for letter in letters}
    assert {row: letter["reason"] for row, letter in by_row.items()} == {
        "2": "malformed",
        "3": "too_old",
        "4": "future",
        "5": "malformed",
        "6": "malformed",
        "7": "malformed",
    }
    assert "did you mean 'click'" in by_row["2"]["message"]
    assert by_row["2"]["event"]["event_type"] == "clack"
    assert by_row["5"]["event"] == "ann,tea,click"
    assert "row 7" in by_row["7"]["message"]
    assert len(run("dead-letter", "--json", "--reason", "malformed", "--limit", "3")["letters"]) == 3
    assert "clack" in run("dead-letter")
    assert run("status", "--json")["counts"] == {"future": 1, "malformed": 4, "too_old": 1}

    # One is mended and sent again; the others stay as they are.
    mended = by_row["2"]
    mended["event"] = {
        "user_id": "ann",
        "item_id": "tea",
        "event_type": "click",
        "event_id": "2",
        "timestamp": int(NOW.timestamp() * 1e6),
    }
    (tmp_path / "mended.json").write_text(json.dumps({"letters": [mended]}))
    assert run("dead-letter", "--replay", "--from", str(tmp_path / "mended.json"), "--json") == {
        "sent": 1,
        "refused": [],
    }
    assert len(run("dead-letter", "--replay", "--json")["refused"]) == 5
    assert run("dead-letter", "--delete", "--reason", "malformed", "--json") == {"deleted": 3}
    assert len(run("dead-letter", "--json")["letters"]) == 2
    with event_redis.connect() as client:
        assert sorted(str(event.event_id) for event, _ in written(client)) == ["1", "2", "8"]


def test_history_is_recorded_at_its_own_time(run: Run, event_redis: Any, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    old = datetime(2009, 1, 1, tzinfo=UTC)
    lines = [
        {"user_id": "ann", "item_id": "tea", "event_type": "click", "timestamp": "2009-01-01", "other": 1},
        {"user_id": "ann", "item_id": "tea", "event_type": "cart", "timestamp": int(old.timestamp()) * 1_000_000},
        {"user_id": "ann", "item_id": "tea", "event_type": "click", "timestamp": "2199-01-01"},
        {"user_id": "ann", "item_id": "tea", "event_type": "click", "timestamp": 1.5},
        ["no", "object"],
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n{", encoding="utf-8")
    done = run("import", str(path), "--history", "--json")
    assert done == {"rows": 6, "recorded": 2, "refused": {"future": 1, "malformed": 3}}
    with event_redis.connect() as client:
        assert [recorded for _, recorded in written(client)] == [int(old.timestamp()) * 1_000_000] * 2


def test_files_that_cannot_be_events_are_refused_whole(run: Run, tmp_path: Path) -> None:
    for name, content in (("a.xlsx", b"x"), ("b.csv", b"user_id\n1\n"), ("c.parquet", b"no"), ("d.csv", b"")):
        (tmp_path / name).write_bytes(content)
        run("import", str(tmp_path / name), code=2)
    run("dead-letter", "--from", str(tmp_path / "d.csv"), code=2)
    run("dead-letter", "--from", str(tmp_path / "d.csv"), "--replay", code=2)
    run("join", "--window", "soon", code=2)


def test_status_counts_what_waits(run: Run, event_redis: Any) -> None:
    with EventRecorder(event_redis.url, timeout=5) as recorder:
        recorder.record_many([Event(user_id="ann", item_id="tea", event_type="click") for _ in range(10)])
    partition, key = KEYS.partition("ann"), KEYS.events(KEYS.partition("ann"))
    assert run("status", "--json")["lag"] == 10
    with event_redis.connect() as client:
        client.xgroup_create(key, "profiles", id="0")
        ((_, entries),) = client.xreadgroup("profiles", "w", {key: ">"}, count=6)
        client.xack(key, "profiles", *(entry for entry, _ in entries[:4]))
        client.set(KEYS.owner(partition), "worker-1")
        client.zadd(KEYS.workers, {"worker-1": 5})
        found = run("status", "--json")
        assert (found["lag"], found["workers"]) == (6, {"worker-1": 5.0})
        assert found["partitions"][partition] == {
            "partition": partition,
            "length": 10,
            "lag": 6,
            "not_archived": 10,
            "owner": "worker-1",
        }
        client.xdel(key, entries[0][0])  # the server may lose count of the lag
        assert run("status", "--json")["lag"] == 6
    assert "worker-1" in run("status")


def test_archive_and_join(run: Run, event_redis: Any, tmp_path: Path) -> None:
    page = {
        "request_id": "r1",
        "user_id": "ann",
        "served_at": int((NOW - timedelta(minutes=5)).timestamp() * 1e6),
        "model": "recommend",
        "version": 1,
        "contract": None,
        "policy": "none",
        "propensity_kind": "exact",
        "items": ["tea", "cup"],
        "scores": [0.5, 0.25],
    }
    with event_redis.connect() as client:
        client.xadd(KEYS.impressions, {"page": json.dumps(page)})
    with EventRecorder(event_redis.url, timeout=5) as recorder:
        recorder.record(Event(user_id="ann", item_id="cup", event_type="click", request_id="r1"))
    done = run("archive", "--json")
    assert (done["impressions"], done["events"], done["folder"]) == (1, 1, str(tmp_path / ".recsys"))
    done = run("join", "--window", "24h", "--json")
    assert (done["written"], done["rows"], done["clicked"]) == (1, 2, 1)
    assert len(list(Path(done["folder"]).rglob("*.parquet"))) == 1


def test_without_redis_the_exit_code_says_so(run: Run, event_redis: Any) -> None:
    event_redis.kill()
    for command in ("status", "archive", "dead-letter"):
        run(command, code=1)


def test_help_has_examples(run: Run) -> None:
    for command in ("import", "dead-letter", "status", "archive", "join"):
        text = run(command, "--help")
        assert "Example" in text
        assert f"recsys events {command}" in text


def test_the_embedded_redis_runs_for_as_long_as_a_command_does(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps({"user_id": "u", "item_id": "i", "event_type": "click", "timestamp": "2026-01-01"}))
    environment = {"RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": None}
    imported = CliRunner(env=environment).invoke(recsys, ["events", "import", str(file), "--history"])
    assert imported.exit_code == 0, imported.output
    shown = CliRunner(env=environment).invoke(recsys, ["events", "status", "--json"])
    # It went into a stream, and was there for the next command.
    assert json.loads(shown.stdout)["lag"] == 1, shown.stdout
