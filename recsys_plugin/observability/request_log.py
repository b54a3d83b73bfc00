"""Slow, degraded and failed requests, kept in a file of bounded size so that each can be explained afterwards.

Another thread notes the times of every request, in memory. Those that took unusually long, fell back on something or
failed are written as a line of JSON each: see :class:`RequestRecord`. Users are in it by their pseudonyms,
or not at all.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from recsys_plugin.errors import InvalidInput, RecsysError
from recsys_plugin.observability.background import BackgroundQueue
from recsys_plugin.observability.request import ANSWERED, FULL, ClientState, FinishedRequest, Observer
from recsys_plugin.pseudonyms import Pseudonyms

__all__ = ["ELSEWHERE", "RequestFile", "RequestLog", "RequestRecord", "find_request", "read_requests"]

#: The stage of what no other stage accounts for: a call that failed, or waiting for the processor.
ELSEWHERE = "elsewhere"
#: The latest requests of a shelf that tell what is usual, and how many there must be.
_RECENT, _LEAST = 1_024, 64
#: After so many requests of a shelf, what is usual is worked out anew.
_AGAIN = 256
#: A request is slow if it takes so many times what 95 of 100 take at most.
_SLOW_FACTOR = 2.0
#: Requests that may wait to be looked at: more than a process answers within seconds.
_MOST_WAITING = 10_000
_PERCENTILES = (50, 95, 99)
#: Feature names that a record holds at most.
_MOST_NAMES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """What is known of one request; times in milliseconds."""

    at: float
    """When it began, unix seconds."""
    request_id: str
    shelf: str
    why: str
    """Why it was written: ``failed``, ``degraded`` or ``slow``."""
    ms: float
    stages: Mapping[str, float]
    usual: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Stage, or ``total`` → percentiles 50, 95 and 99 of the requests of this shelf before it."""
    usual_requests: int = 0
    """How many these were."""
    outcome: str = ANSWERED
    error: str = ""
    level: str = FULL
    reason: str = ""
    version: int = 0
    catalogue_version: int = 0
    contract: str | None = None
    timeout_ms: float = 0.0
    users: Sequence[str] = ()
    """Pseudonyms."""
    user_count: int = 0
    known_users: int = 0
    features: int = 0
    """Features of a user that the contract takes from the store."""
    missing: Sequence[str] = ()
    expired: Sequence[str] = ()
    items: int = 0
    candidates: int = 0
    away: Sequence[str] = ()
    """Servers that the client did not ask when this was written, as they had not answered before."""
    trace_id: str = ""
    """32 hexadecimal digits, if the request was traced."""
    process: int = 0

    def encode(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> RequestRecord:
        """Read what :meth:`encode` wrote; what a later version wrote besides is left out.

        Raises:
            InvalidInput: if it is no such line.
        """
        try:
            values = json.loads(line)
            known = {item.name for item in fields(cls)}
            record = cls(**{name: value for name, value in values.items() if name in known})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput(f"request log: {line!r:.60} is no record: {error}") from error
        if not isinstance(record.request_id, str) or not isinstance(record.stages, dict):
            raise InvalidInput(f"request log: {line!r:.60} is no record")
        return record


class RequestLog(Observer):
    """Writes down requests that somebody may want explained.

    Args:
        path: the file; several processes may share it. When half of ``most_bytes`` are in it, it becomes ``PATH.1`` in
            place of the one before.
        slow: seconds from which on a request is slow. By default one is that takes twice as long as 95 of 100 of its
            shelf, once 64 were seen.
        most_bytes: what both files may hold.
        pseudonyms: names users; without it records do not say whose they are.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        slow: float | None = None,
        most_bytes: int = 8 * 1024 * 1024,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._file = RequestFile(Path(path), most_bytes)
        self._slow, self._pseudonyms = slow, pseudonyms
        self._recent: dict[str, deque[tuple[float, ...]]] = {}
        self._seen: dict[str, int] = {}
        self._limits: dict[str, float] = {}
        self._usual: dict[str, tuple[list[list[float]], int]] = {}
        self._clients: dict[str, Callable[[], ClientState | None]] = {}
        self._queue: BackgroundQueue[FinishedRequest] = BackgroundQueue(
            "recsys-request-log", self._work, most=_MOST_WAITING
        )

    def finished(self, request: FinishedRequest) -> None:
        """Take it, to be looked at in another thread."""
        self._queue.offer(request)

    def follow(self, name: str, state: Callable[[], ClientState | None]) -> None:
        """Note which servers a client does not ask."""
        self._clients[name] = state

    def leave(self, name: str) -> None:
        """That client makes no more requests."""
        self._queue.flush()
        self._clients.pop(name, None)

    def flush(self) -> None:
        """Write what waits."""
        self._queue.flush()

    @property
    def left_out(self) -> int:
        """Requests that are not looked at: more waited than may."""
        return self._queue.dropped

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        self._queue.close()
        self._file.close()

    # What follows runs in the other thread.

    def _work(self, requests: Sequence[FinishedRequest]) -> None:
        lines = [self._record(request).encode() for request in requests if self._stands_out(request)]
        if lines:
            self._file.append(lines)

    def _stands_out(self, request: FinishedRequest) -> bool:
        """Whether it is slow, degraded or failed; of one that is none of the latter, the times are noted."""
        if request.error is not None or request.level != FULL:
            return True
        shelf = request.shelf
        self._recent.setdefault(shelf, deque(maxlen=_RECENT)).append((request.seconds, *request.stages.values()))
        seen = self._seen[shelf] = self._seen.get(shelf, 0) + 1
        if seen % _AGAIN == _LEAST:
            self._find_usual(shelf)
        return request.seconds >= (self._limits.get(shelf, float("inf")) if self._slow is None else self._slow)

    def _find_usual(self, shelf: str) -> None:
        # All requests of a shelf have the same stages, in the same order.
        rows = list(self._recent.get(shelf, ()))
        width = max(map(len, rows), default=0)
        times = np.array([row for row in rows if len(row) == width])
        if len(times) < _LEAST:
            return
        self._usual[shelf] = np.percentile(times, _PERCENTILES, axis=0).T.tolist(), len(times)
        self._limits[shelf] = _SLOW_FACTOR * float(np.percentile(times[:, 0], 95))

    def _record(self, request: FinishedRequest) -> RequestRecord:
        stages = {name: seconds * 1e3 for name, seconds in request.stages.items()}
        stages[ELSEWHERE] = max(0.0, request.seconds * 1e3 - sum(stages.values()))
        usual, count = self._usual.get(request.shelf, ([], 0))
        why = "failed" if request.error is not None else "degraded" if request.level != FULL else "slow"
        reports, (message, reason) = request.features, request.told(self._name)
        return RequestRecord(
            at=request.started_at,
            request_id=request.request_id,
            shelf=request.shelf,
            why=why,
            ms=round(request.seconds * 1e3, 3),
            stages={name: round(value, 3) for name, value in stages.items()},
            usual={
                name: [round(value * 1e3, 3) for value in values]
                for name, values in zip(("total", *request.stages), usual, strict=False)
            },
            usual_requests=count,
            outcome=request.outcome,
            error=message,
            level=request.level,
            reason=reason,
            version=request.version,
            catalogue_version=request.catalogue_version,
            contract=request.contract,
            timeout_ms=request.timeout * 1e3,
            users=() if self._pseudonyms is None else [self._pseudonyms.of(user) for user in request.users[:20]],
            user_count=len(request.users),
            known_users=sum(report.known for report in reports),
            features=max((report.total for report in reports), default=0),
            missing=_names(report.missing for report in reports),
            expired=_names(report.expired for report in reports),
            items=request.items,
            candidates=request.candidates,
            away=self._away(),
            trace_id="" if request.trace is None else f"{request.trace.trace_id:032x}",
            process=os.getpid(),
        )

    def _away(self) -> list[str]:
        states = [state() for state in list(self._clients.values())]
        return sorted({server for state in states if state for server, away in state.open_breakers.items() if away})

    def _name(self, user: str) -> str:
        return "…" if self._pseudonyms is None else self._pseudonyms.of(user)


class RequestFile:
    """Lines in a file that is begun anew when it is full; several processes may append to it."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path, self._most = path, most_bytes // 2
        self._descriptor: int | None = None

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines.

        Raises:
            RecsysError: if the file cannot be written.
        """
        try:
            with self._locked() as descriptor:
                os.write(descriptor, b"".join(lines))
                if os.fstat(descriptor).st_size >= self._most:
                    os.replace(self._path, _before(self._path))
        except OSError as error:
            self.close()
            raise RecsysError(f"request log {self._path}: {error}") from error

    @contextmanager
    def alone(self) -> Iterator[tuple[Path, Path]]:
        """Keep every process from appending for a while: gives the files, the older first, which may be replaced.

        Whoever waits meanwhile appends to what is then the file of that name.
        """
        try:
            with self._locked():
                yield _before(self._path), self._path
        finally:
            self.close()

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The descriptor of the file of that name, held against everybody else."""
        import fcntl  # here, so that clients without a log run where there is none

        while True:
            descriptor = self._open()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                if self._is_current(descriptor):
                    yield descriptor
                    return
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file is still the one of that name."""
        try:
            found, mine = os.stat(self._path), os.fstat(descriptor)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def read_requests(path: Path) -> list[RequestRecord]:
    """All records that are kept, the oldest first; a line that was not written whole is left out.

    Raises:
        InvalidInput: if the file is missing or cannot be read.
    """
    records: list[RequestRecord] = []
    for file in (_before(path), path):
        try:
            lines = file.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InvalidInput(f"request log {file}: {error}") from error
        for line in lines:
            try:
                records.append(RequestRecord.decode(line))
            except InvalidInput:
                continue
    if not records and not path.exists() and not _before(path).exists():
        raise InvalidInput(
            f"request log {path} does not exist: name the one that clients write with RECSYS_REQUEST_LOG or "
            "--request-log; it begins with the first slow, degraded or failed request"
        )
    return records


def find_request(path: Path, request_id: str) -> RequestRecord:
    """The latest record of a request.

    Raises:
        InvalidInput: if there is none, or no log.
    """
    records = read_requests(path)
    for record in reversed(records):
        if record.request_id == request_id:
            return record
    since = f", which holds {len(records)} requests" if records else ", which is empty"
    raise InvalidInput(
        f"request {request_id!r:.80} is not in {path}{since}: it was neither slow nor degraded, its client writes "
        "another log, or it is so long ago that it was dropped"
    )


def _before(path: Path) -> Path:
    """Where the file goes when it is full."""
    return path.with_name(path.name + ".1")


def _names(each: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in each for name in names))[:_MOST_NAMES]
