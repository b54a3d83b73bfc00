"""Forgetting people in a real cluster of two servers: on each of them, or refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from waiting import wait_until

from recsys_plugin import Event, EventRecorder
from recsys_plugin.errors import RecsysError, StepFailed, StoreUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.codec import entity_key_prefix, entity_key_value, hash_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.value_encoding import encode_value
from recsys_plugin.privacy.forget import admit, forget, search
from recsys_plugin.privacy.held import everything_held
from recsys_plugin.privacy.retention import Retention, apply_retention
from recsys_plugin.privacy.servers import all_servers
from recsys_plugin.pseudonyms import Pseudonyms, opted_out_key
from recsys_plugin.settings import Settings

KEY = "0123456789abcdef0123456789abcdef"
NAMES = Pseudonyms(KEY)
PERSON, OTHER = "user-7f3a9c41", "somebody-else"
KEYS = EventKeys("recsys")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
#: Of a name without braces, each in another slot.
STREAMS = tuple(f"notes-{number}" for number in range(6))


def url_of(nodes: list[redis.Redis]) -> str:
    return f"redis-cluster://127.0.0.1:{nodes[0].connection_pool.connection_kwargs['port']}"


def file_is_whole(node: Any) -> bool:
    """Whether its append-only file is not being made anew and holds all that was answered."""
    told = node.info("persistence")
    return not (told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"] or told["aof_buffer_length"])


@pytest.fixture
def filled(cluster: list[redis.Redis], tmp_path: Path) -> tuple[Settings, str]:
    """Features, acts, events and entries of both, on both servers."""
    url = url_of(cluster)
    for node in cluster:
        node.config_set("appendonly", "yes")
        wait_until(lambda node=node: file_is_whole(node))  # type: ignore[misc]
    events = [
        Event(user_id=user, item_id="tea", event_type="click", timestamp=NOW, event_id=f"{user}/{number}")
        for user in (PERSON, OTHER)
        for number in range(3)
    ]
    with EventRecorder(url, timeout=20, clock=NOW.timestamp) as recorder:
        recorder.record_many(events)
    client: Any = RedisAddress.parse(url).connect(5)
    for user in (PERSON, OTHER):
        for items in range(6):
            names = ("item_id", "user_id")
            key = entity_key_prefix(*names) + entity_key_value(f"item-{items}") + entity_key_value(user) + b"recsys"
            client.hset(key, hash_field("pair:value"), encode_value("FLOAT", 1.0))
        key = entity_key_prefix("user_id") + entity_key_value(user) + b"recsys"
        client.hset(key, hash_field("profile:country"), encode_value("STRING", "DE"))
        client.zadd(KEYS.user(user), {json.dumps([f"{user}/1", "tea", 2, None]): 1})
        client.hset(KEYS.consent, user, "1")
        for stream in STREAMS:
            client.xadd(stream, {"about": user})
    client.set("recsys:schema:recsys", json.dumps({"profile:country": "STRING"}))
    client.close()
    return Settings(home=tmp_path, pseudonym_key=KEY), url


def held_by(nodes: list[redis.Redis], needle: bytes) -> list[list[bytes]]:
    """Keys of each server that hold some bytes, and its files that do."""
    found = []
    each: list[Any] = list(nodes)
    for node in each:
        node.config_set("rdbcompression", "no")
        keys = [key for key in node.scan_iter(count=1000) if needle in key or needle in (node.dump(key) or b"")]
        wait_until(lambda node=node: file_is_whole(node))  # type: ignore[misc]
        folder = Path(node.config_get("dir")["dir"])
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_socket()]
        found.append(keys + [path.name.encode() for path in files if needle in path.read_bytes()])
    return found


def test_nothing_of_a_person_is_left_on_any_server(cluster: list[redis.Redis], filled: tuple[Settings, str]) -> None:
    settings, url = filled
    assert all(len(places) >= 3 for places in held_by(cluster, PERSON.encode()))
    others = [len(places) for places in held_by(cluster, OTHER.encode())]
    store, _ = search(settings, url, [PERSON])
    assert len(store.found) >= 16
    names = {f"127.0.0.1:{node.connection_pool.connection_kwargs['port']}" for node in cluster}
    assert {place.partition(": ")[0] for place in store.found} == names
    held = everything_held(settings, url, PERSON)["store"]
    assert held["features"] == {"profile:country": "DE"}
    assert held["acts"][0]["act"][0] == f"{PERSON}/1"
    assert len(held["other"]) == 6

    done = forget(settings, url, [PERSON])

    assert done.found == ()
    assert done.removed["Redis: entries"] == 3 + len(STREAMS)
    assert done.redis_files.count("wrote its append-only file anew") == 2
    assert held_by(cluster, PERSON.encode()) == [[], []]
    assert [len(places) for places in held_by(cluster, OTHER.encode())] == others
    client: Any = RedisAddress.parse(url).connect(5)
    assert client.smembers(KEYS.forgotten) == {NAMES.of(PERSON).encode()}
    assert client.smembers(opted_out_key("recsys")) == {NAMES.of(PERSON).encode()}
    assert [client.xlen(stream) for stream in STREAMS] == [1] * len(STREAMS)
    client.close()
    assert forget(settings, url, [PERSON]).found == ()
    assert admit(settings, url, [PERSON]) == 1


def test_retention_holds_in_a_cluster(filled: tuple[Settings, str]) -> None:
    settings, url = filled
    kept = Retention.from_json('{"click": "1d"}')
    later = datetime(2026, 3, 9, tzinfo=UTC)
    assert apply_retention(settings, url, kept, now=later).total == 6 + 2
    assert apply_retention(settings, url, kept, now=later).total == 0


def test_slots_that_nobody_has_are_not_passed_over(cluster: list[redis.Redis], filled: tuple[Settings, str]) -> None:
    settings, url = filled
    for node in cluster:
        node.config_set("cluster-require-full-coverage", "no")
        node.execute_command("CLUSTER", "DELSLOTSRANGE", 100, 199)
    for what in (
        lambda: forget(settings, url, [PERSON]),
        lambda: search(settings, url, [PERSON]),
        lambda: everything_held(settings, url, PERSON),
    ):
        with pytest.raises(StoreUnavailable, match="16284 of 16384"):
            what()


def test_slots_that_move_are_not_passed_over(cluster: list[redis.Redis], filled: tuple[Settings, str]) -> None:
    settings, url = filled
    ids = [node.execute_command("CLUSTER", "MYID").decode() for node in cluster]
    with all_servers(RedisAddress.parse(url), 5) as servers:
        servers.check_layout()
        cluster[0].execute_command("CLUSTER", "SETSLOT", 5, "MIGRATING", ids[1])
        with pytest.raises(StepFailed, match="being moved"):
            servers.check_layout()
        with pytest.raises(StepFailed, match="being moved"):
            forget(settings, url, [PERSON])
        # With this the new owner's word outweighs what the old one may still say meanwhile.
        cluster[1].execute_command("CLUSTER", "SETSLOT", 5, "IMPORTING", ids[0])
        for node in reversed(cluster):
            node.execute_command("CLUSTER", "SETSLOT", 5, "NODE", ids[1])
        with pytest.raises(StepFailed, match="moved meanwhile"):
            servers.check_layout()
    assert forget(settings, url, [PERSON]).found == ()


def test_a_server_that_is_away_is_named(cluster: list[redis.Redis], filled: tuple[Settings, str]) -> None:
    settings, url = filled
    port = cluster[1].connection_pool.connection_kwargs["port"]
    cluster[1].shutdown(nosave=True, now=True, force=True)
    with pytest.raises(RecsysError, match=str(port)):
        search(settings, url, [PERSON])
