"""From the streams to Parquet, each entry once: read, write, acknowledge, and only then trim.

A batch is what one read of the consumer group ``archive`` delivers. Its file is named after the entries in it, and all
of it is acknowledged in one transaction. After a crash in between, the same entries are delivered again, since they are
pending, and give the same file.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from recsys_plugin.consent.refusals import Refusals
from recsys_plugin.digits import whole_number
from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.events.dead_letters import dead_letter
from recsys_plugin.events.event import EVENT_FIELD, RECORDED_FIELD, Event, EventRefused, microseconds_of
from recsys_plugin.events.keys import PARTITIONS, EventKeys
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.identifiers import checked_id
from recsys_plugin.impressions.document import Impression
from recsys_plugin.impressions.log import PAGE_FIELD
from recsys_plugin.impressions.parquet import EVENTS, IMPRESSIONS, write_days
from recsys_plugin.pseudonyms import Pseudonyms

__all__ = ["ARCHIVE_GROUP", "PROFILES_GROUP", "Archived", "Archiver", "Progress", "alone_in_archive"]

#: Consumer groups: ours, and that of ``recsys stream``.
ARCHIVE_GROUP, PROFILES_GROUP = "archive", "profiles"
_CONSUMER = "archive"

#: Entries of a stream in a batch.
_COUNT = 5_000
_TIMEOUT = 10.0

#: What is under way, how much is done, of how much.
Progress = Callable[[str, int, int], None]

_Entries = list[tuple[bytes, dict[bytes, bytes]]]


@dataclass(slots=True)
class Archived:
    """What a run did."""

    impressions: int = 0
    events: int = 0
    malformed: int = 0
    """Entries that are no event or no page: an event is the worker's to dead-letter, a page is dead-lettered here."""
    files: int = 0
    dropped: int = 0
    """Entries of people who were forgotten, or refuse to be tracked: not archived, and taken out of the streams."""
    trimmed: int = 0
    """Entries that every consumer group had acknowledged, taken out of the streams."""


class Archiver:
    """Archives a project's streams; one at a time for each folder.

    Args:
        address: where Redis is.
        folder: gets ``impressions/day=…/`` and ``live_events/day=…/``.
        project: the Feast project.
        clock: unix seconds, for dead letters.
        names: by which people who were forgotten are recognised.

    Raises, from :meth:`run`: ``StoreUnavailable`` and ``DeadlineExceeded`` for Redis, ``ConfigurationError`` if another
    archiver is at work on the folder, or people were forgotten and ``names`` cannot tell who.
    """

    def __init__(
        self,
        address: RedisAddress,
        folder: Path,
        *,
        project: str = "recsys",
        clock: Callable[[], float] = time.time,
        names: Pseudonyms | None = None,
    ) -> None:
        self._names = names
        self._address, self._folder, self._clock = address, folder, clock
        self._keys = EventKeys(project)
        self._event_streams = [self._keys.events(number) for number in range(PARTITIONS)]
        # What `recsys stream` tells itself of items: nothing to keep, but to free.
        self._item_streams = [self._keys.item_events(number) for number in range(PARTITIONS)]

    def run(self, progress: Progress = lambda what, done, total: None) -> Archived:
        """Archive what there is, and trim what every group has acknowledged."""
        done = Archived()
        with alone_in_archive(self._folder), named_errors(self._address, _TIMEOUT):
            client: Any = self._address.connect(_TIMEOUT)
            try:
                for stream in (self._keys.impressions, *self._event_streams):
                    self._join_group(client, stream)
                self._archive(client, [self._keys.impressions], self._pages, done, progress)
                self._archive(client, self._event_streams, self._events, done, progress)
                done.trimmed += self._trim(client, self._keys.impressions, needs=())
                for stream in (*self._event_streams, *self._item_streams):
                    done.trimmed += self._trim(client, stream, needs=(PROFILES_GROUP,))
            finally:
                client.close()
        return done

    def _join_group(self, client: Any, stream: str) -> None:
        import redis

        try:
            client.xgroup_create(stream, ARCHIVE_GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _archive(
        self,
        client: Any,
        streams: Sequence[str],
        write: Callable[[Any, str, dict[str, _Entries]], tuple[int, int, int]],
        done: Archived,
        progress: Progress,
    ) -> None:
        what = "impressions" if streams == [self._keys.impressions] else "events"
        total, so_far = sum(client.xlen(stream) for stream in streams), 0
        # First what a run before this one read and did not acknowledge.
        start = "0"
        while True:
            reply = client.xreadgroup(ARCHIVE_GROUP, _CONSUMER, dict.fromkeys(streams, start), count=_COUNT)
            batch = {stream.decode(): entries for stream, entries in reply if entries}
            if not batch:
                if start == ">":
                    return
                start = ">"
                continue
            # Redis gives no fields for a pending entry that was deleted meanwhile.
            there = {stream: [one for one in entries if one[1]] for stream, entries in batch.items()}
            refused = self._refused(client, there)
            kept = {stream: [one for one in entries if one not in refused[stream]] for stream, entries in there.items()}
            rows, malformed, files = write(client, _name(batch), kept)
            pipeline = client.pipeline(transaction=True)
            for stream, entries in batch.items():
                if refused.get(stream):
                    pipeline.xdel(stream, *(entry for entry, _ in refused[stream]))
                    done.dropped += len(refused[stream])
                pipeline.xack(stream, ARCHIVE_GROUP, *(entry for entry, _ in entries))
            pipeline.execute()
            setattr(done, what, getattr(done, what) + rows)
            done.malformed += malformed
            done.files += files
            so_far += rows + malformed + sum(map(len, refused.values()))
            progress(what, min(so_far, total), total)

    def _refused(self, client: Any, batch: dict[str, _Entries]) -> dict[str, _Entries]:
        """The entries of users of whom nothing is to be kept."""

        def ask(commands: list[tuple[Any, ...]]) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = pipeline.execute()
            return answers

        users = {id(fields): _user_of(fields) for entries in batch.values() for _, fields in entries}
        reasons = Refusals(ask, self._keys, self._names).of(user for user in users.values() if user is not None).reasons
        return {stream: [one for one in entries if users[id(one[1])] in reasons] for stream, entries in batch.items()}

    def _pages(self, client: Any, name: str, batch: dict[str, _Entries]) -> tuple[int, int, int]:
        rows, malformed = [], 0
        for stream, entries in batch.items():
            for entry, fields in entries:
                try:
                    page = Impression.decode(fields.get(PAGE_FIELD, b""))
                except InvalidInput as error:
                    malformed += 1
                    self._dead_letter(client, stream, entry, fields.get(PAGE_FIELD, b""), str(error))
                    continue
                row = asdict(page)
                row["entry"] = entry.decode()
                row["features"] = None if page.features is None else json.dumps(page.features)
                rows.append(row)
        return len(rows), malformed, len(write_days(self._folder / "impressions", name, IMPRESSIONS, "served_at", rows))

    def _events(self, client: Any, name: str, batch: dict[str, _Entries]) -> tuple[int, int, int]:
        rows, malformed = [], 0
        for stream, entries in batch.items():
            partition = stream.rpartition(":")[2]
            for entry, fields in entries:
                try:
                    event = Event.decode(fields.get(EVENT_FIELD, b""))
                    recorded_at = whole_number(fields.get(RECORDED_FIELD, b""))
                except EventRefused:  # the worker puts it among the dead letters
                    recorded_at = None
                if recorded_at is None:
                    malformed += 1
                    continue
                row: dict[str, Any] = {column: getattr(event, column, None) for column in EVENTS.names}
                assert event.timestamp is not None
                row |= {
                    "entry": f"{partition}:{entry.decode()}",
                    "recorded_at": recorded_at,
                    "timestamp": microseconds_of(event.timestamp),
                }
                rows.append(row)
        return len(rows), malformed, len(write_days(self._folder / "live_events", name, EVENTS, "timestamp", rows))

    def _dead_letter(self, client: Any, stream: str, entry: bytes, document: bytes, message: str) -> None:
        fields = dead_letter(
            "malformed",
            message,
            source=stream,
            entry=entry.decode(),
            event=document,
            recorded_at=None,
            at=int(self._clock() * 1_000_000),
        )
        client.xadd(self._keys.dead, fields)

    def _trim(self, client: Any, stream: str, *, needs: Sequence[str]) -> int:
        """Take out what every group has acknowledged; nothing while a group that needs the stream is not there."""
        if not client.exists(stream):
            return 0
        groups = {group["name"].decode(): group for group in client.xinfo_groups(stream)}
        if not set(needs) <= set(groups):
            return 0
        oldest = []
        for name, group in groups.items():
            pending = client.xpending(stream, name)["min"] if group["pending"] else None
            oldest.append(_id(group["last-delivered-id"] if pending is None else pending))
        first = min(oldest)
        return int(client.xtrim(stream, minid=f"{first[0]}-{first[1]}", approximate=False))


@contextmanager
def alone_in_archive(folder: Path) -> Iterator[None]:
    """Keep others from writing the archive's files at the same time.

    Raises:
        ConfigurationError: if somebody is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".archive.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another `recsys events archive` is at work on {folder}; one is enough"
            ) from error
        yield


def _user_of(fields: dict[bytes, bytes]) -> str | None:
    """Whose entry it is, if that can be told."""
    try:
        user = json.loads(fields.get(EVENT_FIELD) or fields.get(PAGE_FIELD, b""))["user_id"]
        return checked_id(user, "user_id") if isinstance(user, str) else None
    except (ValueError, TypeError, KeyError, RecursionError):  # InvalidInput among them: that is nobody's id
        return None


def _id(entry: bytes) -> tuple[int, int]:
    moment, _, number = entry.partition(b"-")
    return int(moment), int(number)


def _name(batch: dict[str, _Entries]) -> str:
    """A name that the same entries give again, and no others: the first and the last id, and a check sum of all."""
    ids = [entry for entries in batch.values() for entry, _ in entries]
    check = 0
    for stream in sorted(batch):
        check = crc32(b" ".join([stream.encode(), *(entry for entry, _ in batch[stream])]), check)
    return f"{min(ids, key=_id).decode()}_{max(ids, key=_id).decode()}_{check:08x}"
