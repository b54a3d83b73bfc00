"""A small home with a person in every place where one may be: tables, archives, training files, spool, logs, Redis."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from synthetic import write_tables

from recsys_plugin import Event, EventRecorder
from recsys_plugin.data.prepare import prepare
from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.events.calls import Entry
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.events.spool import Spool
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value, hash_field, timestamp_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.value_encoding import encode_timestamp, encode_value
from recsys_plugin.impressions.archive import PROFILES_GROUP, Archiver
from recsys_plugin.impressions.join import join_outcomes, outcomes_folder
from recsys_plugin.observability import FinishedRequest
from recsys_plugin.observability.request_log import RequestLog
from recsys_plugin.pipeline.feature_tables import build_feature_tables
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings
from recsys_plugin.user_names import named_user

KEYS = EventKeys("recsys")
#: Whom the tests forget, and somebody who stays.
PERSON, OTHER = "user-7f3a9c41", "user-018"
KEY = "0123456789abcdef0123456789abcdef"
NAMES = Pseudonyms(KEY)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def write_source(folder: Path) -> None:
    """The synthetic tables, in which a user has a name that cannot occur by chance."""
    write_tables(folder, users=40, items=60)
    for name in ("users", "events"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        frame["user_id"] = frame["user_id"].replace({"user-017": PERSON})
        frame.to_parquet(folder / f"{name}.parquet", index=False)


def settings_of(home: Path) -> Settings:
    return Settings(
        home=home, spool=home / "spool", pseudonym_key=KEY, request_log=home / "requests" / "requests.jsonl"
    )


def load_tables(settings: Settings, source: Path) -> Dataset:
    return prepare(settings, folder=source, now=NOW).dataset


def document(user_id: str, number: int) -> bytes:
    """A page as the log has it."""
    page = {
        "request_id": f"r{number}-{user_id}", "user_id": user_id, "served_at": int(NOW.timestamp() * 1e6) - number,
        "model": "recommend", "version": 1, "contract": None, "policy": "none", "propensity_kind": "exact",
        "items": ["item-001", "item-002"], "scores": [0.5, 0.25],
    }  # fmt: skip
    return json.dumps(page).encode()


def event(user_id: str, number: int) -> Event:
    return Event(
        user_id=user_id,
        item_id="item-001",
        event_type="click",
        event_id=f"{user_id}/{number}",
        timestamp=NOW - timedelta(minutes=number),
    )


def fill_streams(url: str, *, first: int = 0, count: int = 60) -> None:
    """Events and pages of both people in turn, and a dead letter of each."""
    with EventRecorder(url, timeout=20, clock=NOW.timestamp) as recorder, RedisAddress.parse(url).connect(20) as client:
        numbers = range(first, first + count)
        recorder.record_many(event(user, number) for number in numbers for user in (PERSON, OTHER))
        pipeline = client.pipeline(transaction=False)
        for number in numbers:
            for user in (PERSON, OTHER):
                pipeline.xadd(KEYS.impressions, {"page": document(user, number)})
        for user in (PERSON, OTHER):
            pipeline.xadd(KEYS.dead, {"reason": "malformed", "event": b"{" + user.encode()})
        pipeline.execute()


def fill_store(client: Any) -> None:
    """Features and live state of both."""
    for user in (PERSON, OTHER):
        key = entity_key_prefix("user_id") + entity_key_value(user) + b"recsys"
        client.hset(key, hash_field("user_profile:country"), encode_value("STRING", "DE"))
        client.hset(key, timestamp_field("user_profile"), encode_timestamp(NOW))
        pair = (
            entity_key_prefix("item_id", "user_id") + entity_key_value("item-001") + entity_key_value(user) + b"recsys"
        )
        client.hset(pair, b"\1\2\3\4", encode_value("FLOAT", 1.0))
        client.zadd(KEYS.user(user), {json.dumps([f"{user}/1", "item-001", 2, None]): 1})
        client.zadd(KEYS.seen(user), {f"{user}/0": 1})
        client.hset(KEYS.ads_shown(20_000, user), "tea-week", 3)
        client.hset(KEYS.consent, user, "1")


def make_home(home: Path, source: Path, url: str) -> Settings:
    """Everything of both people."""
    settings = settings_of(home)
    dataset = load_tables(settings, source)
    data = settings.feature_repo / "data"
    data.mkdir(parents=True)
    build_feature_tables(data, dataset)
    with RedisAddress.parse(url).connect(20) as client:
        fill_store(client)
        fill_streams(url)
        Archiver(RedisAddress.parse(url), settings.state, clock=NOW.timestamp).run()
        join_outcomes(
            settings.state, outcomes_folder(settings.state, timedelta(hours=1)), window=timedelta(hours=1), now=NOW
        )
        fill_streams(url, first=60)
        client.xgroup_create(KEYS.impressions, PROFILES_GROUP, id="0")
        client.xreadgroup(PROFILES_GROUP, "somebody", {KEYS.impressions: ">"}, count=7)
    _write_training(settings.state / "training")
    _write_spool(settings)
    (settings.state / "logs").mkdir(exist_ok=True)
    (settings.state / "logs" / "stream.log").write_text(f"event of user {PERSON} and of user {OTHER}\n")
    (settings.state / "checks").mkdir()
    (settings.state / "checks" / "skew.json").write_text(json.dumps({"differences": [{"user": PERSON}]}))
    write_requests(settings)
    return settings


def request(number: int, *users: str) -> FinishedRequest:
    """One that failed, which says of whom."""
    error = StoreUnavailable(f"event time of profile for {users[0]!r} is corrupt; see {named_user(users[0], NAMES)}")
    return FinishedRequest(
        "recommend", f"request-{number}", 1.7e9, 0.0, 0.01, {}, outcome="StoreUnavailable", error=error, users=users,
        timeout=0.05,
    )  # fmt: skip


def write_requests(settings: Settings, *, count: int = 40) -> None:
    """Failed requests of both, in the file that is written and in the one that was full."""
    assert settings.request_log is not None
    log = RequestLog(settings.request_log, most_bytes=2 * count * 500, pseudonyms=NAMES)
    for number in range(count):
        log.finished(request(number, *((PERSON, OTHER), (OTHER,), (OTHER, PERSON))[number % 3]))
        log.flush()
    log.close()
    assert settings.request_log.with_name("requests.jsonl.1").exists()


def _write_training(folder: Path) -> None:
    """Contexts as :mod:`recsys_plugin.training.frames` keeps them: of a line each, and of a part of ``rows`` each."""
    (folder / "frames").mkdir(parents=True)
    (folder / "shown_pages").mkdir()
    users = np.array([OTHER, PERSON, OTHER, PERSON, PERSON])
    offsets = np.array([0, 2, 3, 3, 5, 9])
    numbers = np.arange(5)
    np.savez(
        folder / "frames" / "train.npz", user_id=users, moment=numbers, offsets=offsets, rows=np.arange(9),
        user_float=np.arange(10.0).reshape(5, 2),
    )  # fmt: skip
    np.savez(folder / "shown_pages" / "pages.npz", user_id=users, rows=np.arange(10).reshape(5, 2), labels=numbers)


def _write_spool(settings: Settings) -> None:
    assert settings.spool is not None
    spool = Spool(settings.spool, now=1)
    stream = KEYS.events(KEYS.partition(PERSON))
    spool.append([Entry(stream, event(user, 900).encode(), 1) for user in (OTHER, PERSON, OTHER)])
    spool.close()
