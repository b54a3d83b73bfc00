"""A bounded queue of events on the local disk, for the time that Redis is away.

A folder holds files of JSON lines. The first line of a file says up to which byte it was sent; each further line is an
event with the moment it was recorded and the CRC-32 of the event. A file belongs to the process that holds its lock
(``flock``), which the system lets go when the process ends, however it ends; another process then takes the file over.
A line that is not whole was never acknowledged and is skipped.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.events.calls import Entry

__all__ = ["SPOOL_BYTES", "Spool", "SpoolFull", "Spooled"]

_log = logging.getLogger("recsys_plugin")

#: Bytes that a folder may hold unless the caller says otherwise: some 200,000 events.
SPOOL_BYTES = 64 * 1024 * 1024
#: Bytes after which another file is begun, so that what was sent is freed.
_FILE_BYTES = 4 * 1024 * 1024
#: Events and bytes that are read, and sent, at a time.
_READ_EVENTS = 500
_READ_BYTES = 1024 * 1024

#: The length of the first line never changes, so the position in it is overwritten in place.
_HEADER = b'{"sent":%20d}\n'
_HEADER_BYTES = len(_HEADER % 0)
_HEADER_FORM = re.compile(rb'\{"sent": *([0-9]+)\}\n')
_LINE_FORM = re.compile(rb'\{"recorded_at":([0-9]+),"crc32":([0-9]+),"stream":("(?:[^"\\]|\\.)*"),"event":(.*)\}')


class SpoolFull(StoreUnavailable):
    """Redis is away and the local spool has no room: the event was not recorded."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """Events at the head of the queue, and where the next ones begin."""

    entries: Sequence[Entry]
    file: Path
    end: int


class _File:
    """One file whose lock this process holds; ``size`` counts whole lines only."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.size = os.fstat(descriptor).st_size
        match = _HEADER_FORM.fullmatch(os.pread(descriptor, _HEADER_BYTES, 0))
        # Without a whole first line no event was ever acknowledged.
        self.sent = max(_HEADER_BYTES, int(match[1])) if match else self.size

    @classmethod
    def create(cls, folder: Path, number: int) -> _File:
        """A new file, locked before any other process can see it under its name."""
        import fcntl

        name = f"{number:020d}-{uuid.uuid4().hex}"
        hidden, path = folder / f".{name}.new", folder / f"{name}.jsonl"
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(descriptor, _HEADER % _HEADER_BYTES, 0)
            os.rename(hidden, path)
            _sync_folder(folder)
        except OSError:
            os.close(descriptor)
            hidden.unlink(missing_ok=True)
            raise
        return cls(path, descriptor)

    @classmethod
    def take_over(cls, path: Path) -> _File | None:
        """A file whose process is gone; ``None`` if the file is owned, or gone by now."""
        import fcntl  # here, so that clients without a spool run where there is none

        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return cls(path, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return None

    def append(self, lines: bytes) -> None:
        """Add lines; on disk when this returns, and not there at all if it fails."""
        try:
            done = 0
            while done < len(lines):
                done += os.pwrite(self.descriptor, lines[done:], self.size + done)
            os.fsync(self.descriptor)
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(lines)

    def read(self) -> Spooled:
        """The next events; lines that are damaged are skipped."""
        block = os.pread(self.descriptor, min(_READ_BYTES, self.size - self.sent), self.sent)
        entries: list[Entry] = []
        end = self.sent
        for line in block.split(b"\n")[:-1][:_READ_EVENTS]:
            end += len(line) + 1
            entry = _entry(line)
            if entry is None:
                _log.warning("%s: a damaged line of %d bytes before byte %d is skipped", self.path, len(line), end)
            else:
                entries.append(entry)
        if end == self.sent:
            # A last line without an end: torn when its process was killed, before it was acknowledged.
            end = self.size
        return Spooled(entries, self.path, end)

    def advance(self, end: int) -> None:
        """Say that everything before ``end`` was sent."""
        os.pwrite(self.descriptor, _HEADER % end, 0)
        self.sent = end

    def close(self, *, delete: bool) -> None:
        """Let go of the file."""
        if delete:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


class Spool:
    """The queue of one process in a folder that several may share; safe to share between threads.

    Args:
        folder: made if it is not there; on a local disk, for its locks.
        most_bytes: what all files in it may hold together.
        now: gives the microseconds that order the files.

    Raises:
        StoreUnavailable: here and from every method, if the folder cannot be used.
    """

    def __init__(self, folder: Path, *, now: int, most_bytes: int = SPOOL_BYTES) -> None:
        self.folder, self._most_bytes = folder, most_bytes
        self._lock = threading.Lock()
        self._files: deque[_File] = deque()
        self._number = now
        #: What is appended to; never a file that was taken over, whose last line may be torn.
        self._newest: _File | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._broken(error) from error
        self.take_over()

    @property
    def pending(self) -> bool:
        """Whether anything is queued: then what is new must queue behind it."""
        return bool(self._files)

    def append(self, entries: Sequence[Entry]) -> None:
        """Queue events; they are on disk when this returns.

        Raises:
            SpoolFull: if there is no room, or the disk is full; none of them is queued.
        """
        lines = b"".join(_line(entry) for entry in entries)
        with self._lock:
            try:
                used = self._used()
                if used + len(lines) > self._most_bytes:
                    raise SpoolFull(
                        f"spool {self.folder} holds {used} bytes of at most {self._most_bytes}: Redis is away for too "
                        "long; the event was not recorded"
                    )
                if self._newest is None or self._newest.size > _FILE_BYTES:
                    self._number += 1
                    self._newest = _File.create(self.folder, self._number)
                    self._files.append(self._newest)
                self._newest.append(lines)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise SpoolFull(f"spool {self.folder}: {error}; the event was not recorded") from error
                raise self._broken(error) from error

    def read(self) -> Spooled | None:
        """The events at the head of the queue; ``None`` if it is empty. They stay until :meth:`advance`."""
        with self._lock:
            try:
                while self._files and self._files[0].sent >= self._files[0].size:
                    self._drop_first()
                return self._files[0].read() if self._files else None
            except OSError as error:
                raise self._broken(error) from error

    def advance(self, spooled: Spooled) -> None:
        """Take away events that were sent."""
        with self._lock:
            try:
                if self._files and self._files[0].path == spooled.file:
                    self._files[0].advance(spooled.end)
                    if spooled.end >= self._files[0].size:
                        self._drop_first()
            except OSError as error:
                raise self._broken(error) from error

    def take_over(self) -> int:
        """Queue what processes left that are gone; returns how many files."""
        with self._lock:
            try:
                mine = {file.path for file in self._files}
                paths = sorted(set(self.folder.glob("*.jsonl")) - mine)
                found = [file for path in paths if (file := _File.take_over(path)) is not None]
            except OSError as error:
                raise self._broken(error) from error
            # They go before what this process has: they are older.
            self._files.extendleft(reversed(found))
            return len(found)

    def close(self) -> None:
        """Let go of the files: what is queued waits for the next process."""
        with self._lock:
            self._newest = None
            while self._files:
                file = self._files.popleft()
                file.close(delete=file.sent >= file.size)

    def _used(self) -> int:
        """The bytes of all files in the folder."""
        used = 0
        for path in self.folder.glob("*.jsonl"):
            with suppress(FileNotFoundError):  # another process has just sent what was in it
                used += path.stat().st_size
        return used

    def _drop_first(self) -> None:
        file = self._files.popleft()
        if file is self._newest:
            self._newest = None
        file.close(delete=True)

    def _broken(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"spool {self.folder}: {error}; it must be a folder that this process may write to")


def _line(entry: Entry) -> bytes:
    return b'{"recorded_at":%d,"crc32":%d,"stream":%b,"event":%b}\n' % (
        entry.recorded_at,
        crc32(entry.event),
        json.dumps(entry.stream).encode(),
        entry.event,
    )


def _entry(line: bytes) -> Entry | None:
    match = _LINE_FORM.fullmatch(line)
    if match is None or crc32(match[4]) != int(match[2]):
        return None
    return Entry(json.loads(match[3]), match[4], int(match[1]))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
