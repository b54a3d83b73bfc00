"""Everything that is held about a person, as one JSON document that machines read (GDPR, articles 15 and 20)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_plugin.consent.consent import CONSENT_FIELD, Consent
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.codec import MalformedValueError, decode_timestamp, decode_value, hash_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.requests import schema_key
from recsys_plugin.privacy.files import files_of, logged_in, why_named
from recsys_plugin.privacy.person import Person, in_file, people_of
from recsys_plugin.privacy.request_logs import request_log_files, requests_of
from recsys_plugin.privacy.rows import belongs
from recsys_plugin.privacy.servers import all_servers
from recsys_plugin.privacy.tombstones import Tombstones
from recsys_plugin.pseudonyms import Pseudonyms, opted_out_key
from recsys_plugin.settings import Settings

__all__ = ["everything_held"]

_TIMEOUT = 60.0
_BATCH = 500
_BATCH_ROWS = 1 << 16


def everything_held(
    settings: Settings, redis_url: str, user_id: str, *, project: str = "recsys", now: datetime | None = None
) -> dict[str, Any]:
    """What Redis and the files of a home hold of a person.

    Returns:
        ``user_id``, ``pseudonym`` (``None`` without the key, and then nothing that is under it is told), ``made_at``,
        ``store`` (features by name with the time that they are of, live acts, consent, entries of the streams, ad
        counters, whether he opted out) and ``files``: rows of tables by file, with all columns; of training files, how
        many contexts are his, since what they hold is computed from the rows; lines of the log of requests, without
        the pseudonyms of others; of other logs, how many lines name him; models that hold his pseudonym.

    Raises:
        InvalidInput: if it is no id. StoreUnavailable, DeadlineExceeded: for Redis. StepFailed: if slots of a cluster
            moved meanwhile.
    """
    names = None if settings.pseudonym_key is None else Pseudonyms(settings.pseudonym_key)
    (person,) = people_of([user_id], project, names)
    with all_servers(RedisAddress.parse(redis_url), _TIMEOUT) as servers:
        store = _in_store(servers.client, person, names)
        servers.check_layout()
    return {
        "user_id": user_id,
        "pseudonym": person.pseudonym,
        "forgotten_before": user_id in Tombstones.read(settings),
        "made_at": (now or datetime.now(UTC)).isoformat(),
        "store": store,
        "files": dict(_in_files(settings, person)),
    }


def _in_store(client: Any, person: Person, names: Pseudonyms | None) -> dict[str, Any]:
    keys = EventKeys(person.project)
    schema = json.loads(client.get(schema_key(person.project)) or b"{}")
    fields = {hash_field(reference): reference for reference in schema}
    held: dict[str, Any] = {"features": {}, "acts": [], "entries": {}, "ads_shown": {}, "other": []}
    for key in [key for key in client.scan_iter(count=1_000) if person.owns_key(key)]:
        kind = client.type(key)
        if key in person.feature_keys:
            held["features"] |= _features(client.hgetall(key), fields)
        elif key == keys.user(person.user_id).encode():
            held["acts"] = [
                {"at": _moment(int(score)), "act": json.loads(member)}
                for member, score in client.zrange(key, 0, -1, withscores=True)
            ]
        elif key == keys.seen(person.user_id).encode():
            held["earlier_event_ids"] = [member.decode() for member in client.zrange(key, 0, -1)]
        elif key.startswith(keys.prefix.encode() + b"ads:shown:"):
            day = key.split(b":")[-2].decode()
            held["ads_shown"][day] = {name.decode(): int(count) for name, count in client.hgetall(key).items()}
        elif kind == b"hash":
            held["other"].append(_features(client.hgetall(key), fields))
    stated = Consent.decode(client.hget(keys.consent, person.user_id))
    held["consent"] = {"personalised": stated.personalised, "tracking": stated.tracking}
    held["opted_out"] = names is not None and bool(
        client.sismember(opted_out_key(person.project), names.of(person.user_id))
    )
    for key in client.scan_iter(match=f"{keys.prefix.replace('{', '[{]').replace('}', '[}]')}*", count=1_000):
        if client.type(key) == b"stream" and (found := list(_entries(client, key, person))):
            held["entries"][key.decode()] = found
    return held


def _features(stored: Mapping[bytes, bytes], names: Mapping[bytes, str]) -> dict[str, Any]:
    """Feature or view → its value or its time; what the schema does not name is named by its field."""
    found: dict[str, Any] = {}
    for field, value in sorted(stored.items()):
        if field == CONSENT_FIELD:
            continue
        try:
            if field.startswith(b"_ts:"):
                found[f"time of {field[4:].decode()}"] = datetime.fromtimestamp(
                    decode_timestamp(value), UTC
                ).isoformat()
            else:
                found[names.get(field, f"field {field.hex()}")] = _plain(decode_value(value)[1])
        except MalformedValueError:
            found[names.get(field, f"field {field.hex()}")] = value.hex()
    return found


def _entries(client: Any, stream: bytes, person: Person) -> Iterator[dict[str, Any]]:
    start = "-"
    while part := client.xrange(stream, min=start, count=_BATCH):
        for entry, fields in part:
            if any(person.in_text(value) for value in fields.values()):
                yield {"entry": entry.decode(), **{name.decode(): _document(value) for name, value in fields.items()}}
        start = f"({part[-1][0].decode()}"


def _in_files(settings: Settings, person: Person) -> Iterator[tuple[str, Any]]:
    requests = () if settings.request_log is None else request_log_files(settings.request_log)
    for path in files_of(settings):
        name = str(path.relative_to(settings.home)) if path.is_relative_to(settings.home) else str(path)
        if path.suffix == ".parquet":
            rows: list[dict[str, Any]] = []
            with pq.ParquetFile(path) as source:
                for batch in source.iter_batches(_BATCH_ROWS):
                    piece = pa.Table.from_batches([batch])
                    mine = belongs(piece, lambda values: {person.user_id}.intersection(values))
                    if mine is not None and pc.any(mine).as_py():
                        rows += piece.filter(mine).to_pylist()
            if rows:
                yield name, [_plain(row) for row in rows]
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                count = int((arrays["user_id"] == person.user_id).sum()) if "user_id" in arrays.files else 0
            if count:
                yield name, {"training_contexts": count}
        elif path.parent == settings.spool:
            lines = [_document(line.strip()) for line in path.read_bytes().splitlines() if person.in_text(line.strip())]
            if lines:
                yield name, lines
        elif path in requests:
            if found := list(requests_of(path, person)):
                yield name, found
        elif path.parent == settings.state / "logs":
            count = sum(logged_in(line, [person]) for line in path.read_bytes().splitlines())
            if count:
                yield name, {"lines": count}
        elif path.is_relative_to(settings.model_repository) and in_file(path, person.name_needles):
            yield name, {"pseudonym": why_named(path, settings)}


def _document(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value.decode(errors="replace")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _moment(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
