"""A person's traces in Redis: taken out, and looked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.privacy.person import Person, in_file
from recsys_plugin.privacy.servers import Servers
from recsys_plugin.privacy.streams import rewrite_stream
from recsys_plugin.pseudonyms import Pseudonyms, opted_out_key

__all__ = ["Progress", "StoreTraces", "forget_in_store", "persist_anew", "search_store"]

_Value = TypeVar("_Value")
#: What is under way, how much is done, of how much.
Progress = Callable[[str, int, int], None]

_BATCH = 500
#: Elements of a large value that are looked at in one round trip.
_PART = 1_000
_REWRITE_SECONDS = 600.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class StoreTraces:
    """What a search of Redis looked at, and where it found a person.

    Attributes:
        keys, values: how many of each. files: of Redis's own on this machine, every byte of which was looked at.
        found: where, one line each, without the id.
        kept: where a pseudonym is that is to stay: it remembers who was forgotten, and who opted out.
    """

    keys: int
    values: int
    files: tuple[str, ...]
    found: tuple[str, ...]
    kept: tuple[str, ...] = ()


def forget_in_store(
    servers: Servers, people: Sequence[Person], names: Pseudonyms, progress: Progress
) -> dict[str, int]:
    """Take people out of Redis; what was taken, by kind.

    Those who were exported as somebody's neighbour opt out, so that nobody is shown them until the next export.
    """
    project = people[0].project
    keys = EventKeys(project)
    removed = {"features": 0, "live_state": 0, "entries": 0, "consent": 0}
    servers.client.sadd(opted_out_key(project), *(names.of(person.user_id) for person in people))
    removed["consent"] = int(servers.client.hdel(keys.consent, *(person.user_id for person in people)))
    for server in servers.primaries:
        _forget_on(server.client, people, removed, progress)
    servers.check_layout()
    return removed


def _forget_on(client: Any, people: Sequence[Person], removed: dict[str, int], progress: Progress) -> None:
    mine = [key for key in _all_keys(client, progress) if any(person.owns_key(key) for person in people)]
    for key in mine:
        # A feature's key begins with the number of its join keys, ours with a name.
        kind = "live_state" if key.startswith(b"recsys:") else "features"
        if not _is_stream(client, key):
            removed[kind] += int(client.delete(key))

    def meant(fields: Mapping[bytes, bytes]) -> bool:
        return any(person.in_text(value) or person.named_in(value) for person in people for value in fields.values())

    streams = [key for key in _all_keys(client) if _is_stream(client, key)]
    for number, stream in enumerate(streams):
        progress("streams", number, len(streams))
        removed["entries"] += rewrite_stream(client, stream, meant)
    progress("streams", len(streams), len(streams))


def persist_anew(servers: Servers, progress: Progress) -> str:
    """Have Redis write its own files anew, without what was deleted, and wait for it; a sentence about what was done.

    Strings are written without compression meanwhile, so that a search of the files' bytes means something.
    """
    each = [*servers.primaries, *servers.replicas]
    return "; ".join(server.told(_persist_anew(server.client, progress)) for server in each)


def _persist_anew(client: Any, progress: Progress) -> str:
    import redis

    try:
        files = client.config_get("appendonly", "save")
    except redis.ResponseError as error:
        return f"Redis's own files were not written anew ({error}): do it there with BGREWRITEAOF or BGSAVE"
    done = []
    with _uncompressed(client):
        client.slowlog_reset()
        if files.get("appendonly") == "yes":
            progress("append-only file", 0, 0)
            _rewrite(client, "BGREWRITEAOF", "aof_rewrite_in_progress", "aof_last_bgrewrite_status")
            done.append("append-only file")
        if files.get("save") or _has_snapshot(client):
            progress("snapshot", 0, 0)
            _rewrite(client, "BGSAVE", "rdb_bgsave_in_progress", "rdb_last_bgsave_status")
            done.append("snapshot")
    if not done:
        return "Redis keeps no files of its own"
    return f"Redis wrote its {' and its '.join(done)} anew; backups of them elsewhere are yours to delete"


def search_store(servers: Servers, people: Sequence[Person], progress: Progress) -> StoreTraces:
    """Look for people in every key, every value and every stream entry, and in Redis's files if they are here.

    Pseudonyms are looked for in keys and values, not in the files, which hold those that are to stay as well.
    """
    found: list[str] = []
    kept: list[str] = []
    keys = values = 0
    project = people[0].project
    registry = EventKeys(project).consent.encode()
    remembering = {EventKeys(project).forgotten.encode(), opted_out_key(project).encode()}
    for server in servers.primaries:
        client = server.client
        with _uncompressed(client):
            for batch in _batched(_all_keys(client, progress, "searching Redis"), _BATCH):
                for key, kind, dumped in zip(batch, *_types_and_dumps(client, batch), strict=True):
                    keys += 1
                    where, looked, named = _found(client, key, kind, dumped, people, named=key == registry)
                    values += looked
                    if named and key in remembering:
                        kept.append(f"Redis key {_shown(key, people)}")
                    elif named and not where:
                        where = "a pseudonym in Redis key"
                    if where:
                        found.append(server.told(f"{where} {_shown(key, people)}"))
    servers.check_layout()
    each = (*servers.primaries, *servers.replicas)
    files = [(server, path) for server in each if server.local for path in _own_files(server.client)]
    needles = [needle for person in people for needle in person.needles]
    for number, (server, path) in enumerate(files):
        progress("searching Redis's files", number, len(files))
        try:
            if in_file(path, needles):
                found.append(server.told(f"Redis's file {path.name}"))
        except FileNotFoundError:  # written anew meanwhile
            continue
    return StoreTraces(keys, values, tuple(str(path) for _, path in files), tuple(found), tuple(kept))


def _batched(values: Iterable[_Value], size: int) -> Iterator[tuple[_Value, ...]]:
    """So many at a time."""
    rest = iter(values)
    while part := tuple(islice(rest, size)):
        yield part


def _all_keys(client: Any, progress: Progress | None = None, what: str = "keys in Redis") -> Iterator[bytes]:
    total = 0 if progress is None else int(client.dbsize())
    for number, key in enumerate(client.scan_iter(count=_PART)):
        if progress is not None and number % _PART == 0:
            progress(what, min(number, total), total)
        yield key
    if progress is not None:
        progress(what, total, total)


def _is_stream(client: Any, key: bytes) -> bool:
    return bool(client.type(key) == b"stream")


def _types_and_dumps(client: Any, keys: Sequence[bytes]) -> tuple[list[bytes], list[bytes | None]]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.type(key)
    for key in keys:
        pipeline.dump(key)
    answers = pipeline.execute()
    return answers[: len(keys)], answers[len(keys) :]


def _found(
    client: Any, key: bytes, kind: bytes, dumped: bytes | None, people: Sequence[Person], *, named: bool
) -> tuple[str | None, int, bool]:
    """What of a key tells of people, if anything does; how many values were looked at; whether one is a pseudonym.

    Args:
        dumped: what the server writes of it to a file: nodes of streams hold what was only marked as deleted.
        named: whether its fields are ids of users.
    """
    if any(person.owns_key(key) for person in people):
        return "Redis key", 0, False
    looked, by_name = 0, False
    for values in _values(client, key, kind):
        looked += len(values)
        whole = b"\0".join(values)
        by_name = by_name or any(person.named_in(whole) for person in people)
        if any(person.in_bytes(whole) for person in people) or (
            named and any(person.user_id.encode() in values for person in people)
        ):
            return "a value of Redis key", looked, by_name
        documents = [value for value in values if value[:1] in (b"{", b"[")]
        if any(person.in_text(value) for value in documents for person in people):
            return "a document in Redis key", looked, by_name
    if dumped is not None:
        by_name = by_name or any(person.named_in(dumped) for person in people)
        if any(person.in_bytes(dumped) for person in people):
            return "the dump of Redis key", looked, by_name
    return None, looked, by_name


def _values(client: Any, key: bytes, kind: bytes) -> Iterator[list[bytes]]:
    """Everything that a key holds, in parts."""
    if kind == b"string":
        yield [client.get(key) or b""]
    elif kind == b"hash":
        for part in _batched(client.hscan_iter(key, count=_PART), _PART):
            yield [value for pair in part for value in pair]
    elif kind == b"set":
        yield from map(list, _batched(client.sscan_iter(key, count=_PART), _PART))
    elif kind == b"zset":
        for part in _batched(client.zscan_iter(key, count=_PART), _PART):
            yield [member for member, _ in part]
    elif kind == b"list":
        start = 0
        while items := client.lrange(key, start, start + _PART - 1):
            yield items
            start += len(items)
    elif kind == b"stream":
        first = "-"
        while entries := client.xrange(key, min=first, count=_BATCH):
            yield [value for _, fields in entries for value in fields.values()]
            first = f"({entries[-1][0].decode()}"


@contextmanager
def _uncompressed(client: Any) -> Iterator[None]:
    """Have Redis write strings as they are, so that a search of the bytes that it writes means something."""
    import redis

    try:
        before = client.config_get("rdbcompression").get("rdbcompression")
        client.config_set("rdbcompression", "no")
    except redis.ResponseError:  # it lets nobody change that: what was decoded is what can be searched
        before = None
    try:
        yield
    finally:
        if before is not None:
            client.config_set("rdbcompression", before)


def _rewrite(client: Any, command: str, running: str, status: str) -> None:
    """Start it anew, whatever was under way, and wait until it is done."""
    import redis

    deadline = time.monotonic() + _REWRITE_SECONDS
    started = False
    while time.monotonic() < deadline:
        information = client.info("persistence")
        busy = information.get("aof_rewrite_in_progress") or information.get("rdb_bgsave_in_progress")
        if busy or information.get("aof_rewrite_scheduled"):
            time.sleep(_POLL_SECONDS)
        elif not started:
            try:
                client.execute_command(command)
                started = True
            except redis.ResponseError:  # one has just begun
                time.sleep(_POLL_SECONDS)
        elif not information.get(running):
            if information.get(status) != "ok":
                raise StoreUnavailable(f"Redis could not write its files anew ({command}: {information.get(status)})")
            return
    raise StoreUnavailable(f"Redis took more than {_REWRITE_SECONDS:g} s for {command}; run again")


def _has_snapshot(client: Any) -> bool:
    settings = client.config_get("dir", "dbfilename")
    return Path(settings.get("dir", ""), settings.get("dbfilename", "")).is_file()


def _own_files(client: Any) -> list[Path]:
    """The files of a Redis on this machine, if it tells where they are."""
    import redis

    try:
        settings = client.config_get("dir", "dbfilename", "appenddirname")
    except redis.ResponseError:
        return []
    folder = Path(settings.get("dir", ""))
    paths = [folder / settings.get("dbfilename", "dump.rdb")]
    paths += sorted((folder / settings.get("appenddirname", "appendonlydir")).glob("*"))
    return [path for path in paths if path.is_file()]


def _shown(key: bytes, people: Sequence[Person]) -> str:
    """A key for people to read, without the id."""
    for person in people:
        for text in (person.user_id, *person.name_texts):
            key = key.replace(text.encode(), b"<user>")
    return repr(key)[2:-1]
