"""For how long things are kept, by the type of the event: a document of the home, and what carries it out.

``{"click": "180d", "impression": "30d", "pages": "90d", "dead_letters": "14d"}``: names of event types, and ``pages``
(the log of pages and what came of them) and ``dead_letters``. What is not named is kept.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.events import ordered_events
from recsys_plugin.data.store import MANIFEST, load_dataset, locked, write_dataset
from recsys_plugin.errors import InvalidInput
from recsys_plugin.events.event import EVENT_FIELD, EVENT_TYPE_CODES, EVENT_TYPES
from recsys_plugin.events.keys import PARTITIONS, EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.impressions.archive import alone_in_archive
from recsys_plugin.limits import MOST_DOCUMENT_BYTES
from recsys_plugin.pipeline.workspace import Workspace, atomic_text
from recsys_plugin.privacy.files import kept_rows, without_rows
from recsys_plugin.privacy.servers import Servers, all_servers
from recsys_plugin.privacy.streams import rewrite_stream
from recsys_plugin.settings import Settings

__all__ = ["SCHEMA", "Applied", "Retention", "apply_retention", "retention_path"]

Progress = Callable[[str, int, int], None]
_TIMEOUT = 60.0
PAGES, DEAD_LETTERS = "pages", "dead_letters"
_NAMES = (*EVENT_TYPES, PAGES, DEAD_LETTERS)
_LENGTH = re.compile(r"([1-9][0-9]{0,5})(h|d)")
#: JSON schema of the document.
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "For how long things are kept",
    "type": "object",
    "properties": {
        name: {"type": "string", "pattern": f"^{_LENGTH.pattern}$", "description": "Days (180d) or hours (48h)."}
        for name in _NAMES
    },
    "additionalProperties": False,
}


def retention_path(settings: Settings) -> Path:
    """Where a home keeps the document."""
    return settings.state / "privacy" / "retention.json"


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long things are kept: name → time; what is not named is kept for ever."""

    kept: Mapping[str, timedelta]

    @classmethod
    def from_json(cls, text: str) -> Retention:
        """Read the document.

        Raises:
            InvalidInput: naming what is wrong with it.
        """
        if len(text) > MOST_DOCUMENT_BYTES:
            raise InvalidInput(f"retention: more than {MOST_DOCUMENT_BYTES} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"retention: no JSON: {error}") from error
        if not isinstance(document, dict):
            raise InvalidInput(f"retention: JSON {type(document).__name__}, expected an object of names and times")
        kept = {}
        for name, length in document.items():
            if name not in _NAMES:
                raise InvalidInput(f"retention: {name!r:.60} is none of {', '.join(_NAMES)}")
            match = _LENGTH.fullmatch(length) if isinstance(length, str) else None
            if match is None:
                raise InvalidInput(f"retention: {name}: {length!r:.60} is no time such as 180d or 48h")
            kept[name] = timedelta(**{"h": {"hours": int(match[1])}, "d": {"days": int(match[1])}}[match[2]])
        return cls(kept)

    @classmethod
    def read(cls, settings: Settings) -> Retention:
        """That of a home; without a document nothing is named.

        Raises:
            InvalidInput: if it is no document.
        """
        path = retention_path(settings)
        return cls.from_json(path.read_text(encoding="utf-8")) if path.is_file() else cls({})

    def write(self, settings: Settings) -> None:
        """Make it that of a home."""
        atomic_text(retention_path(settings), json.dumps(self.to_dict(), indent=1) + "\n")

    def to_dict(self) -> dict[str, str]:
        """As the document has it."""
        hours = {name: length // timedelta(hours=1) for name, length in self.kept.items()}
        return {name: f"{count // 24}d" if count % 24 == 0 else f"{count}h" for name, count in hours.items()}

    def over(self, name: str, now: datetime) -> int | None:
        """The moment before which nothing of a name is kept, microseconds since the epoch; ``None`` for no such."""
        length = self.kept.get(name)
        return None if length is None else int((now - length).timestamp() * 1_000_000)


@dataclass(slots=True)
class Applied:
    """What was taken out, or would be: place → type → rows or entries."""

    dry_run: bool
    removed: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, place: str, name: str, count: int) -> None:
        """Count something."""
        if count:
            of_place = self.removed.setdefault(place, {})
            of_place[name] = of_place.get(name, 0) + count

    @property
    def total(self) -> int:
        """All of it."""
        return sum(count for of_place in self.removed.values() for count in of_place.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "total": self.total}


def apply_retention(
    settings: Settings,
    redis_url: str,
    retention: Retention,
    *,
    now: datetime,
    dry_run: bool = False,
    project: str = "recsys",
    progress: Progress = lambda what, done, total: None,
) -> Applied:
    """Take what is too old out of streams, live acts, archives, outcomes and tables.

    Feature tables and models are made of the tables: `recsys apply` and the next training leave out what is gone.

    Args:
        now: aware. dry_run: only count.

    Raises:
        StoreUnavailable, DeadlineExceeded: for Redis. StepFailed, ConfigurationError: if the pipeline or an archive is
            at work in the home.
    """
    done = Applied(dry_run)
    keys = EventKeys(project)
    with ExitStack() as stack:
        servers = stack.enter_context(all_servers(RedisAddress.parse(redis_url), _TIMEOUT))
        _in_streams(servers, keys, retention, now, done, progress)
        _in_acts(servers.client, keys, retention, now, done, progress)
        servers.check_layout()
        stack.enter_context(Workspace(settings.state).lock())
        stack.enter_context(alone_in_archive(settings.state))
        _in_archives(settings.state, retention, now, done, progress)
        _in_tables(settings, retention, now, done, progress)
    return done


def _in_streams(
    servers: Servers, keys: EventKeys, retention: Retention, now: datetime, done: Applied, progress: Progress
) -> None:
    streams = [keys.events(number) for number in range(PARTITIONS)]
    for number, stream in enumerate(streams):
        progress("streams", number, len(streams) + 2)
        _in_stream(servers.holding(stream), stream, lambda fields: _old_event(fields, retention, now), done)
    for name, stream in ((PAGES, keys.impressions), (DEAD_LETTERS, keys.dead)):
        over = retention.over(name, now)
        if over is not None:
            client = servers.holding(stream)
            found = client.xrange(stream, max=f"({over // 1000}-0", count=1)
            count = len(client.xrange(stream, max=f"({over // 1000}-0")) if found else 0
            done.add(stream, name, count)
            if count and not done.dry_run:
                client.xtrim(stream, minid=f"{over // 1000}-0", approximate=False)
                rewrite_stream(client, stream, lambda fields: False)  # what is trimmed may still lie in a node
    progress("streams", len(streams) + 2, len(streams) + 2)


def _in_stream(client: Any, stream: str, old: Callable[[Mapping[bytes, bytes]], str | None], done: Applied) -> None:
    counts: dict[str, int] = {}
    start = "-"
    while part := client.xrange(stream, min=start, count=500):
        for _, fields in part:
            if (name := old(fields)) is not None:
                counts[name] = counts.get(name, 0) + 1
        start = f"({part[-1][0].decode()}"
    for name, count in counts.items():
        done.add(stream, name, count)
    if counts and not done.dry_run:
        rewrite_stream(client, stream, lambda fields: old(fields) is not None)


def _old_event(fields: Mapping[bytes, bytes], retention: Retention, now: datetime) -> str | None:
    """The type of an event that is too old; ``None`` for any other."""
    try:
        event = json.loads(fields[EVENT_FIELD])
        name, moment = event["event_type"], int(event["timestamp"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None  # the worker's to dead-letter
    over = retention.over(name, now) if isinstance(name, str) else None
    return name if over is not None and moment < over else None


def _in_acts(
    client: Any, keys: EventKeys, retention: Retention, now: datetime, done: Applied, progress: Progress
) -> None:
    """Of users' latest acts; their features follow with their next act."""
    over = {
        code: moment for name, code in EVENT_TYPE_CODES.items() if (moment := retention.over(name, now)) is not None
    }
    if not over:
        return
    names = {code: name for name, code in EVENT_TYPE_CODES.items()}
    pattern = keys.user("*").replace("{", "[{]").replace("}", "[}]")
    for number, key in enumerate(client.scan_iter(match=pattern, count=1_000)):
        if number % 1_000 == 0:
            progress("live acts", number, 0)
        gone = []
        for member, score in client.zrangebyscore(key, "-inf", max(over.values()), withscores=True):
            code = json.loads(member)[2]
            if code in over and score < over[code]:
                gone.append(member)
                done.add("live acts", names[code], 1)
        if gone and not done.dry_run:
            client.zrem(key, *gone)


def _in_archives(state: Path, retention: Retention, now: datetime, done: Applied, progress: Progress) -> None:
    events = sorted((state / "live_events").glob("day=*/*.parquet"))
    pages = sorted([*(state / "impressions").glob("day=*/*.parquet"), *(state / "outcomes").glob("*/day=*/*.parquet")])
    for number, path in enumerate([*events, *pages]):
        progress("archives", number, len(events) + len(pages))
        place = path.relative_to(state).parts[0]

        def counted(name: str, mask: Any, place: str = place) -> None:
            done.add(place, name, int(pc.sum(mask).as_py() or 0))

        if path in events:
            without_rows(path, lambda table: _old_rows(table, retention, now), counted=counted, dry_run=done.dry_run)
        else:
            over = retention.over(PAGES, now)
            if over is not None:
                without_rows(
                    path,
                    lambda table, over=over: {PAGES: pc.less(table["served_at"], _scalar(table["served_at"], over))},  # type: ignore[misc]
                    counted=counted,
                    dry_run=done.dry_run,
                )


def _old_rows(events: pa.Table, retention: Retention, now: datetime) -> dict[str, Any]:
    """Type → which events of it are too old, bool [rows]."""
    masks = {}
    for name in EVENT_TYPES:
        over = retention.over(name, now)
        if over is not None:
            old = pc.less(events["timestamp"], _scalar(events["timestamp"], over))
            masks[name] = pc.and_(pc.equal(events["event_type"], name), old)
    return masks


def _scalar(column: Any, microseconds: int) -> Any:
    return pa.scalar(microseconds, pa.int64()).cast(pa.timestamp("us", tz="UTC")).cast(column.type)


def _in_tables(settings: Settings, retention: Retention, now: datetime, done: Applied, progress: Progress) -> None:
    if not (settings.tables / MANIFEST).is_file() or not retention.kept.keys() & set(EVENT_TYPES):
        return
    with locked(settings):
        dataset = load_dataset(settings)
        total = dataset.counts["events"]
        before = done.total

        def kept(*, count: bool) -> Iterator[pa.Table]:
            read = 0
            for piece in dataset.batches("events"):
                progress("table events", read, total)
                read += piece.num_rows
                masks = _old_rows(piece, retention, now)
                if count:
                    for name, mask in masks.items():
                        done.add("table events", name, int(pc.sum(mask).as_py() or 0))
                yield kept_rows(piece, masks)

        for _ in kept(count=True):
            pass
        removed = done.total - before
        if not removed or done.dry_run:
            return
        if removed == total:
            raise InvalidInput("retention: no event of the tables would be left; nothing could be learnt from them")
        for left in settings.state.glob(".events-keeping-*"):
            shutil.rmtree(left)
        with TemporaryDirectory(prefix=".events-keeping-", dir=settings.state) as scratch:
            events = ordered_events((piece for piece in kept(count=False) if len(piece)), "events", Path(scratch))
            others = {name: dataset.table(name) for name in dataset.counts if name != "events"}
            write_dataset(settings, others, events, dataset.description)
