"""The spool: whatever was acknowledged survives a crash at any byte, in order; it is bounded and shared."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.events import Event
from recsys_plugin.events.calls import Entry
from recsys_plugin.events.spool import Spool, SpoolFull

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


def entry(number: int, text: str = "x") -> Entry:
    event = Event.of(
        {"user_id": text, "item_id": "i", "event_type": "click", "timestamp": number, "event_id": str(number)}
    )
    return Entry('recsys:{a "quoted\\ project"}:events:0', event.encode(), number)


def drained(spool: Spool) -> Iterator[Entry]:
    while (spooled := spool.read()) is not None:
        yield from spooled.entries
        spool.advance(spooled)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_first_in_first_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new" / "spool", now=1)
    assert spool.read() is None
    entries = [entry(number) for number in range(1300)]
    spool.append(entries[:3])
    spool.append(entries[3:])
    assert list(drained(spool)) == entries
    assert not spool.pending
    assert not list(spool.folder.iterdir())
    spool.append(entries[:1])
    assert list(drained(spool)) == entries[:1]
    spool.close()


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=12),
    sent=st.integers(0, 12),
    cut=st.integers(0, 400),
)
def test_a_crash_at_any_byte_loses_nothing_that_was_acknowledged(texts: list[str], sent: int, cut: int) -> None:
    """The disk as it is in the middle of writing one more event, after some were sent."""
    entries = [entry(number, text) for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as name:
        spool = Spool(Path(name) / "spool", now=1)
        for one in entries:
            spool.append([one])
        before = {path.name: path.stat().st_size for path in spool.folder.iterdir()}
        if sent:
            first = spool.read()
            assert first is not None
            # Only a part of what was read was sent when the position was last written.
            line = len(b"".join(path.read_bytes() for path in [first.file]).split(b"\n")[0]) + 1
            ends = [line]
            for text in first.file.read_bytes().split(b"\n")[1:-1]:
                ends.append(ends[-1] + len(text) + 1)
            done = min(sent, len(entries) - 1)
            spool.advance(type(first)(first.entries[:done], first.file, ends[done]))
        else:
            done = 0
        spool.append([entry(999, "torn")])
        crashed = Path(name) / "crashed"
        shutil.copytree(spool.folder, crashed)
        for path in crashed.iterdir():
            with path.open("rb+") as file:
                file.truncate(min(path.stat().st_size, before.get(path.name, 0) + cut))
        spool.close()
        heir = Spool(crashed, now=2)
        heir.append([entry(1000, "after")])
        got = list(drained(heir))
        heir.close()
    assert got[: len(entries) - done] == entries[done:]
    rest = got[len(entries) - done :]
    assert rest in ([entry(1000, "after")], [entry(999, "torn"), entry(1000, "after")])


def test_a_crash_while_a_file_is_made_leaves_nothing_to_send(tmp_path: Path) -> None:
    (tmp_path / "0001-a.jsonl").write_bytes(b'{"sent":   ')
    (tmp_path / ".0002-b.new").write_bytes(b"")
    spool = Spool(tmp_path, now=1)
    assert list(drained(spool)) == []
    assert not spool.pending
    spool.close()


def test_a_damaged_line_is_skipped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path / "spool", now=1)
    spool.append([entry(1), entry(2), entry(3)])
    shutil.copytree(spool.folder, tmp_path / "copy")
    spool.close()
    (file,) = (tmp_path / "copy").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"timestamp":2', b'"timestamp":7'))
    heir = Spool(tmp_path / "copy", now=2)
    assert list(drained(heir)) == [entry(1), entry(3)]
    heir.close()
    assert "damaged line" in caplog.text


def test_processes_share_a_folder_and_inherit(folder: Path) -> None:
    first, second = Spool(folder, now=1), Spool(folder, now=2)
    first.append([entry(1)])
    second.append([entry(2)])
    assert second.take_over() == 0, "its owner lives"
    first.close()
    assert second.take_over() == 1
    assert list(drained(second)) == [entry(1), entry(2)], "what was left is older"
    second.close()


def test_nothing_is_appended_to_a_file_of_another_process(folder: Path) -> None:
    first = Spool(folder, now=5)
    first.append([entry(1)])
    first.close()
    (left,) = folder.iterdir()
    with left.open("ab") as file:
        file.write(b'{"recorded_at":9,"crc3')
    second = Spool(folder, now=1)
    second.append([entry(2)])
    assert list(drained(second)) == [entry(1), entry(2)]
    second.close()


def test_it_is_bounded_and_what_was_sent_makes_room(folder: Path) -> None:
    spool = Spool(folder, now=1, most_bytes=2_000)
    line = len(entry(1).event) + 90
    taken = 1_500 // line
    for _ in range(taken):
        spool.append([entry(1)])
    with pytest.raises(SpoolFull, match="at most 2000"):
        spool.append([entry(1)] * 10)
    assert len(list(drained(spool))) == taken
    spool.append([entry(1)])
    spool.close()


def test_a_file_that_another_process_deletes_meanwhile_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has sent what was in it, between our look at the folder and our look at the file."""
    first, second = Spool(folder, now=1), Spool(folder, now=2)
    first.append([entry(1)])
    glob = Path.glob

    def files(self: Path, pattern: str) -> list[Path]:
        found = list(glob(self, pattern))
        list(drained(first))
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Path, "glob", files)
        second.append([entry(2)])
    assert list(drained(second)) == [entry(2)]
    first.close()
    second.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="may write to"):
        Spool(tmp_path / "file", now=1)
