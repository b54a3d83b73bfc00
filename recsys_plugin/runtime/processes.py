"""Own a detached server process: start it, find it again, stop it with everything it started.

A server outlives the command that starts it, so a later command must find it again without ever mistaking
somebody else's process for it. Two things together identify it: the state file (pid and the moment the
kernel started it, which a recycled pid does not share) and a mark in the process's environment that names
this server and this state folder. Children inherit the mark, so that helpers which lost their parent
(Triton's Python stubs after ``kill -9``) are found and stopped as well, whatever became of the state file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Self

from recsys_plugin.errors import ServiceUnavailable, StepFailed

__all__ = [
    "ProcessRecord",
    "ServerProcess",
    "file_lock",
    "marked_processes",
    "signals_deferred",
    "termination_as_interrupt",
    "write_atomically",
]

#: Environment variable carrying ``<server name>:<state folder>`` in a server and all its children.
MARK = "RECSYS_SERVER"

_POLL_SECONDS = 0.02
#: How long a program may take to be loaded, mostly a millisecond; and how long of that its environment may look empty
#: though it has a place, which some programs' is.
_LOADING_SECONDS, _EMPTY_SECONDS = 5.0, 0.1


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What the state file says about a running server."""

    pid: int
    started_ticks: int
    """Kernel clock ticks between boot and the start of the process (field 22 of ``/proc/<pid>/stat``)."""
    started_at: float
    """Unix seconds."""
    command: tuple[str, ...]
    ports: Mapping[str, int]
    temporary: bool = False
    """Started for one pipeline step only; stopped when its last user is done."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in ``path``, or None when there is none or it is not a whole one."""
        try:
            document = json.loads(path.read_text())
            return cls(**{**document, "command": tuple(document["command"])})
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
            return None  # an interrupted start; the mark in the environment still finds the process


def write_atomically(path: Path, text: str) -> None:
    """Replace the file's contents in one step, so that no reader sees half of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(text)
    temporary.replace(path)


@contextlib.contextmanager
def file_lock(path: Path, *, shared: bool = False, timeout: float = 300.0) -> Iterator[None]:
    """Hold an advisory lock on ``path``, created if absent; the kernel drops it if this process dies.

    Args:
        path: the lock file.
        shared: several holders at once, none of them exclusive.
        timeout: seconds to wait for other holders; 0 means one attempt.

    Raises:
        ServiceUnavailable: if another process holds it for longer than ``timeout``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("a") as handle:
        while not _try_lock(handle, mode):
            if time.monotonic() >= deadline:
                raise ServiceUnavailable(
                    f"another recsys command holds {path}, still after {timeout:g} s; wait for it to end, "
                    f"or find it with: fuser {path}"
                )
            time.sleep(_POLL_SECONDS)
        yield


def _try_lock(handle: IO[str], mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the block ends, then act on them.

    For the moments in which an interruption would lose track of a process. Only the main thread handles
    signals in Python, so in any other thread there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    held: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda got, _frame: received.append(got)) for number in held}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for got in dict.fromkeys(received):
            signal.raise_signal(got)


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise ``KeyboardInterrupt``, so that they clean up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def marked_processes(mark: str) -> list[int]:
    """Pids of the live processes of this user whose environment carries ``RECSYS_SERVER=<mark>``."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return sorted(pid for pid in pids if _mark_of(pid) == mark and _started_ticks(pid) is not None)


def _mark_of(pid: int) -> str | None:
    path, began = Path(f"/proc/{pid}/environ"), time.monotonic()
    try:
        environment = path.read_bytes()
        while not environment and time.monotonic() - began < _may_be_loading_for(pid):
            time.sleep(0.001)
            environment = path.read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # ended meanwhile, or another user's
    prefix = f"{MARK}=".encode()
    for variable in environment.split(b"\0"):
        if variable.startswith(prefix):
            return os.fsdecode(variable[len(prefix) :])
    return None


def _may_be_loading_for(pid: int) -> float:
    """Seconds for which a process may yet execute a program whose environment the kernel does not show, or only since a
    moment ago: it first has no place, then a place of no bytes, and is whole once it was counted."""
    fields = _status_fields(pid)
    if fields is None:
        return 0.0
    memory, begin, end = (int(fields[number]) for number in (20, 47, 48))
    if memory == 0:  # it has ended, or is the kernel's
        return 0.0
    return _EMPTY_SECONDS if begin and begin == end else _LOADING_SECONDS


def _started_ticks(pid: int) -> int | None:
    """Start time of a live process in kernel ticks since boot; None when it has ended (a zombie has)."""
    fields = _status_fields(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def _status_fields(pid: int) -> list[str] | None:
    """``/proc/<pid>/stat`` from its third field on; None when there is no such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may hold spaces and brackets itself.
    return status[status.rindex(")") + 2 :].split()


class ServerProcess:
    """One named server of one state folder.

    Files: ``run/<name>.json`` (the record), ``run/<name>.lock``, ``logs/<name>.log``.
    """

    #: Children of this very process, kept so that they can be reaped when they end.
    _children: dict[int, subprocess.Popen[bytes]] = {}  # noqa: RUF012

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        self.state = state.resolve()
        self.log = self.state / "logs" / f"{name}.log"
        self.mark = f"{name}:{self.state}"
        self._record_path = self.state / "run" / f"{name}.json"
        self._log_start = 0

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Exclusive right to start or stop this server."""
        return file_lock(self.state / "run" / f"{self.name}.lock")

    @property
    def record(self) -> ProcessRecord | None:
        """The running server's record; None when it is not running."""
        record = ProcessRecord.read(self._record_path)
        if record is None:
            return None
        child = self._children.get(record.pid)
        if child is not None and child.poll() is not None:
            del self._children[record.pid]
        alive = _started_ticks(record.pid) == record.started_ticks and _mark_of(record.pid) == self.mark
        return record if alive else None

    @property
    def running(self) -> bool:
        """Whether the process lives; says nothing about whether it answers."""
        return self.record is not None

    def start(
        self,
        command: Sequence[str],
        *,
        ports: Mapping[str, int],
        environment: Mapping[str, str] | None = None,
        temporary: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> ProcessRecord:
        """Start the server in a session of its own, output to the log file. The caller holds :meth:`lock`.

        What an earlier, broken run left over is stopped first.

        Args:
            command: program and arguments, paths absolute.
            ports: name -> loopback port, remembered in the record.
            environment: variables on top of this process's own.
            temporary: see :class:`ProcessRecord`.
            clock: unix seconds now.

        Raises:
            StepFailed: if the program cannot be executed.
        """
        self.stop(grace_seconds=5.0)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # Ours stay with us: a URL among them may hold a password, which no server needs.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
        variables = {**inherited, **(environment or {}), MARK: self.mark}
        with signals_deferred(), self.log.open("ab") as output:
            self._log_start = output.tell()
            try:
                child = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=variables,
                    start_new_session=True,
                )
            except OSError as error:
                raise StepFailed(f"{self.name}: cannot execute {command[0]}: {error.strerror}") from error
            self._children[child.pid] = child
            # For an instant after exec the kernel shows no environment yet; without the mark it is nobody's.
            while child.poll() is None and _mark_of(child.pid) != self.mark:
                time.sleep(0.001)
            ticks = _started_ticks(child.pid)
            record = ProcessRecord(child.pid, ticks or 0, clock(), tuple(command), dict(ports), temporary)
            write_atomically(self._record_path, json.dumps(asdict(record), indent=2) + "\n")
        return record

    def keep(self) -> None:
        """Make a temporary server a lasting one."""
        record = self.record
        if record is not None and record.temporary:
            write_atomically(self._record_path, json.dumps(asdict(replace(record, temporary=False)), indent=2) + "\n")

    def stop(self, *, grace_seconds: float = 15.0) -> bool:
        """Stop the server and everything it started; True if anything was running.

        The server alone gets SIGTERM, so that it can end its helpers in order; whatever still lives after
        ``grace_seconds`` gets SIGKILL. Interruptions wait until it is done.

        Raises:
            StepFailed: if a process survives SIGKILL for five seconds (it hangs in the kernel).
        """
        with signals_deferred():
            record = self.record
            members = marked_processes(self.mark)
            if not members:
                self._record_path.unlink(missing_ok=True)
                return False
            leader = record.pid if record is not None else None
            for pid in [leader] if leader is not None else members:
                _send(pid, signal.SIGTERM)
            if not self._gone_within(grace_seconds):
                deadline = time.monotonic() + 5.0
                # Repeated, since a process may be starting another one at this moment.
                while members := self._members():
                    if time.monotonic() > deadline:
                        raise StepFailed(f"{self.name}: processes {members} do not end even on SIGKILL")
                    for pid in members:
                        _send(pid, signal.SIGKILL)
                    time.sleep(_POLL_SECONDS)
            self._record_path.unlink(missing_ok=True)
            return True

    def _members(self) -> list[int]:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]
        return marked_processes(self.mark)

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._members():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return not self._members()  # a second look: a process shows no mark for an instant after exec

    def log_since_start(self) -> str:
        """What the server wrote since this object started it; the last 64 KB when another one did."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(self._log_start or max(0, size - 65536))
            return handle.read().decode(errors="replace")


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
