"""Workers against a real Redis: live rows equal history, whatever the order, however often, whoever dies."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from streamed import NOW, PROJECT, SCHEMA, act, live_row, send, work

from recsys_plugin.aggregation.item_activity import item_activity
from recsys_plugin.aggregation.live import user_activity, user_recent_items, user_sessions
from recsys_plugin.errors import ConfigurationError, FeatureContractError
from recsys_plugin.events.event import Event
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.stream.worker import StreamWorker

KEYS = EventKeys(PROJECT)
TYPES = ("click", "click", "click", "cart", "purchase", "return", "impression")


def some_events(count: int, seed: int) -> list[Event]:
    """Events of ten users over two weeks, with ties in time and returns."""
    draw = random.Random(seed)
    events: list[Event] = []
    moment = NOW
    for number in range(count):
        moment += timedelta(microseconds=draw.choice([0, 1, 900_000, 60_000_000, 3_600_000_000, 7_000_000_000]))
        user, item = f"u{draw.randrange(10)}", f"i{draw.randrange(15)}"
        query = draw.choice([None, None, "tea cup"])
        events.append(act(number, user, item, draw.choice(TYPES), timestamp=moment, query=query))
    return events


def frame(events: list[Event]) -> pd.DataFrame:
    names = ("user_id", "item_id", "event_type", "event_id", "timestamp", "query")
    table = pd.DataFrame([{name: getattr(event, name) for name in names} for event in events])
    table["timestamp"] = pd.to_datetime(table["timestamp"], utc=True)
    return table


def seconds(value: Any) -> Any:
    if isinstance(value, list):
        return [seconds(part) for part in value]
    return int(value.timestamp()) if hasattr(value, "timestamp") else value


def history(events: list[Event]) -> dict[tuple[str, str], dict[str, Any]]:
    """View and entity -> its newest row, from the functions that make the training tables."""
    table = frame(events)
    tables = {
        "user_recent_items": user_recent_items(table),
        "user_session": user_sessions(table),
        "user_activity": user_activity(table, {}),
        "item_activity": item_activity(table),
    }
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for view, rows in tables.items():
        for row in rows.to_pylist():
            entity = row.pop("item_id" if view == "item_activity" else "user_id")
            moment = row.pop("event_timestamp")
            known = newest.get((view, entity))
            if known is None or known["event_timestamp"] < moment:
                newest[view, entity] = {"event_timestamp": moment, **{name: seconds(row[name]) for name in row}}
    return newest


def assert_equals_history(client: Any, events: list[Event]) -> None:
    expected = history(events)
    assert expected
    for (view, entity), row in expected.items():
        assert live_row(client, view, entity) == row, (view, entity)


@pytest.mark.parametrize("seed", [1, 2])
def test_live_rows_equal_history_whatever_the_order(
    seed: int, stream_address: RedisAddress, stream_client: Any
) -> None:
    events = some_events(600, seed)
    late = list(events)
    random.Random(seed).shuffle(late)
    send(stream_client, late[:300])
    work(stream_address)
    send(stream_client, late[300:])
    send(stream_client, late[:100])  # again: they count once
    work(stream_address)
    assert_equals_history(stream_client, events)
    counts = stream_client.hgetall(KEYS.counts)
    impressions = sum(event.event_type == "impression" for event in late[:100])
    assert int(counts[b"duplicate"]) == 100 - impressions
    assert int(counts[b"applied"]) == 600 + impressions
    assert int(counts[b"unknown_users"]) == 10


def test_two_events_in_the_same_moment_both_count(stream_address: RedisAddress, stream_client: Any) -> None:
    events = [act(0, item_id="i1"), act(0, item_id="i2", event_id="other")]
    for event in events:
        send(stream_client, [event])
        work(stream_address)
    row = live_row(stream_client, "user_recent_items", "u1")
    assert row is not None
    assert sorted(row["item_ids"]) == ["i1", "i2"]


def test_an_event_counts_once_even_when_its_act_is_no_longer_kept(
    stream_address: RedisAddress, stream_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone who acts very much, and whose late event comes twice."""
    monkeypatch.setattr("recsys_plugin.stream.user_acts.LOOKBACK", 60)
    acts = [act(number, item_id="often") for number in range(200)]
    late = act(-500, item_id="late", event_id="late")
    send(stream_client, [*acts, late])
    work(stream_address)
    send(stream_client, [late, acts[0]])
    work(stream_address)
    for item_id, clicks in (("late", 1), ("often", 200)):
        row = live_row(stream_client, "item_activity", item_id)
        assert row is not None
        assert row["clicks_24h"] == clicks
    assert int(stream_client.hget(KEYS.counts, "duplicate")) == 2
    assert stream_client.zcard(KEYS.user("u1")) == 60
    assert stream_client.zcard(KEYS.seen("u1")) == 141


def test_what_is_no_event_is_a_dead_letter_and_holds_up_nothing(
    stream_address: RedisAddress, stream_client: Any
) -> None:
    stream = KEYS.events(KEYS.partition("u1"))
    good, recorded = act(0).encode(), int(NOW.timestamp() * 1_000_000)
    bad: dict[str, dict[str, Any]] = {
        "malformed": {"event": b"{", "recorded_at": recorded},
        "oversized": {"event": b'{"query":"' + b"x" * 70_000 + b'"}', "recorded_at": recorded},
        "future": {"event": act(3600).encode(), "recorded_at": recorded},
        "too_old": {"event": act(-366 * 86_400).encode(), "recorded_at": recorded},
    }
    for fields in bad.values():
        stream_client.xadd(stream, fields)
    stream_client.xadd(stream, {"something": "else"})
    stream_client.xadd(stream, {"event": good})
    stream_client.xadd(stream, {"event": good, "recorded_at": "1" * 5_000})  # more digits than Python reads
    stream_client.xadd(stream, {"event": b'{"\\ud800":1}', "recorded_at": recorded, "reply": "half"})  # no character
    stream_client.xadd(stream, {"event": good, "recorded_at": recorded, "reply": "x" * 5_000})
    work(stream_address)
    assert stream_client.lrange(KEYS.reply("half"), 0, -1)[0].startswith(b"refused:malformed:")
    assert not stream_client.exists(KEYS.reply("x" * 5_000))
    letters = [fields for _, fields in stream_client.xrange(KEYS.dead)]
    reasons = [fields[b"reason"].decode() for fields in letters]
    assert reasons == [*bad, *["malformed"] * 4]
    assert [fields.get(b"event") for fields in letters[:4]] == [fields["event"] for fields in bad.values()]
    assert {fields[b"source"] for fields in letters} == {stream.encode()}
    row = live_row(stream_client, "user_session", "u1")
    assert row is not None
    assert row["session_clicks"] == 1


def test_whoever_waits_is_told(stream_address: RedisAddress, stream_client: Any) -> None:
    stream, recorded = KEYS.events(KEYS.partition("u1")), int(NOW.timestamp() * 1_000_000)
    for token, event in (("a", act(0)), ("b", act(0)), ("c", act(9999))):
        stream_client.xadd(stream, {"event": event.encode(), "recorded_at": recorded, "reply": token})
    work(stream_address)
    told = [stream_client.blpop(KEYS.reply(token), 1)[1] for token in "abc"]
    assert told[:2] == [b"applied", b"duplicate"]
    assert told[2].startswith(b"refused:future:")


def test_a_row_from_before_the_stream_is_continued(stream_address: RedisAddress, stream_client: Any) -> None:
    """The feature store has a history that the stream was never told of."""
    send(stream_client, [act(number, item_id=f"i{number}") for number in range(3)])
    work(stream_address)
    stream_client.delete(KEYS.user("u1"))
    send(stream_client, [act(60, item_id="i9")])
    work(stream_address)
    row = live_row(stream_client, "user_recent_items", "u1")
    assert row is not None
    assert row["item_ids"] == ["i9", "i2", "i1", "i0"]
    assert stream_client.zcard(KEYS.user("u1")) == 4


def test_workers_share_the_partitions_and_take_over_from_the_dead(
    stream_address: RedisAddress, stream_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys_plugin.stream.leases._TEND_SECONDS", 0.0)
    monkeypatch.setattr("recsys_plugin.stream.leases.LEASE_SECONDS", 600.0)  # no worker dies of being held up
    first, second = (StreamWorker(stream_address, PROJECT, schema=SCHEMA) for _ in range(2))
    first.step()
    assert first.partitions == frozenset(range(8))
    second.step()
    first.step()
    second.step()
    assert len(first.partitions) == len(second.partitions) == 4
    assert not first.partitions & second.partitions
    # The second reads events, and dies before it has committed them.
    user = next(f"u{number}" for number in range(99) if KEYS.partition(f"u{number}") in second.partitions)
    send(stream_client, [act(0, user)])
    second._read(second._users, None)
    second.close()
    stream_client.delete(*(KEYS.owner(number) for number in second.partitions))
    stream_client.zrem(KEYS.workers, second.name)
    while first.partitions != frozenset(range(8)) or not first.counts.entries:
        first.step()
    row = live_row(stream_client, "user_session", user)
    assert row is not None
    stream = KEYS.events(KEYS.partition(user))
    assert [consumer["name"] for consumer in stream_client.xinfo_consumers(stream, "profiles")] == [first.name.encode()]
    first.run(until_idle=True)
    assert not stream_client.exists(*(KEYS.owner(number) for number in range(8)))


def test_who_lost_a_partition_commits_nothing(stream_address: RedisAddress, stream_client: Any) -> None:
    worker = StreamWorker(stream_address, PROJECT, schema=SCHEMA)
    worker.step()
    send(stream_client, [act(0)])
    entries = worker._read(worker._users, None)
    assert len(entries) == 1
    stream_client.set(KEYS.owner(KEYS.partition("u1")), "somebody else")
    assert worker._work(worker._users, entries) == 0
    assert live_row(stream_client, "user_session", "u1") is None
    assert not stream_client.exists(KEYS.user("u1"))
    worker.close()


def test_an_entry_that_breaks_workers_is_given_up(stream_address: RedisAddress, stream_client: Any) -> None:
    """What every worker fails on must not fail them for ever."""
    stream = KEYS.item_events(KEYS.partition("i1"))
    worker = StreamWorker(stream_address, PROJECT, schema=SCHEMA)
    worker.step()
    stream_client.xadd(stream, {"acts": "no json"})
    failures = 0
    while not stream_client.xlen(KEYS.dead):
        worker._looked_at_items = worker._claimed = float("-inf")
        try:
            worker.step()
            stream_client.xclaim(
                stream, "profiles", "nobody", 0, [e[0] for e in stream_client.xrange(stream)], idle=9999
            )
        except ValueError:
            failures += 1
            assert failures < 20
    (letter,) = [fields for _, fields in stream_client.xrange(KEYS.dead)]
    assert letter[b"reason"] == b"failed"
    worker.run(until_idle=True)


def test_a_store_of_another_schema_is_refused(stream_address: RedisAddress) -> None:
    with pytest.raises(FeatureContractError, match=r"user_session:session_clicks is missing.*recsys apply"):
        StreamWorker(stream_address, PROJECT, schema={name: "FLOAT" if "1h" in name else dtype for name, dtype
                                                      in SCHEMA.items() if "session_clicks" not in name})  # fmt: skip


def test_a_cluster_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="one server or sentinels"):
        StreamWorker(RedisAddress.parse("redis-cluster://127.0.0.1:1"), PROJECT, schema=SCHEMA)
