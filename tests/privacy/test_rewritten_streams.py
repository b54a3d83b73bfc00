"""A stream written anew is the same stream without some entries, also while it is written to and read from."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.errors import StepFailed
from recsys_plugin.privacy import streams
from recsys_plugin.privacy.streams import rewrite_stream

STREAM = "recsys:{recsys}:events:0"


def meant(fields: Any) -> bool:
    return bytes(fields[b"user"]) == b"gone"


def state(client: Any) -> dict[str, Any]:
    """What readers can tell of a stream."""
    information = client.xinfo_stream(STREAM)
    groups = {
        group["name"]: (
            group["last-delivered-id"],
            [
                (one["message_id"], one["consumer"], one["times_delivered"])
                for one in client.xpending_range(STREAM, group["name"], "-", "+", 10_000)
            ],
        )
        for group in client.xinfo_groups(STREAM)
    }
    return {"last": information["last-generated-id"], "added": information["entries-added"], "groups": groups}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    users=st.lists(st.booleans(), min_size=1, max_size=60),
    read=st.integers(0, 60),
    acknowledged=st.integers(0, 60),
    deleted=st.integers(0, 10),
)
def test_groups_and_what_they_were_handed_stay(
    event_redis: Any, users: list[bool], read: int, acknowledged: int, deleted: int
) -> None:
    with event_redis.connect() as client:
        client.flushall()
        ids = [client.xadd(STREAM, {"user": "gone" if gone else "stays", "n": n}) for n, gone in enumerate(users)]
        client.xgroup_create(STREAM, "workers", id="0")
        client.xgroup_create(STREAM, "archive", id="$")
        if read:
            client.xreadgroup("workers", "first", {STREAM: ">"}, count=read)
        if acknowledged:
            client.xack(STREAM, "workers", *ids[:acknowledged])
        if deleted:
            client.xdel(STREAM, *ids[:deleted])
        before = state(client)
        there = {entry for entry, _ in client.xrange(STREAM)}
        gone = {one for one, mine in zip(ids, users, strict=True) if mine} & there
        assert rewrite_stream(client, STREAM, meant) == len(gone)
        after = state(client)
        assert {entry for entry, _ in client.xrange(STREAM)} == there - gone
        assert (after["last"], after["added"]) == (before["last"], before["added"])
        # Of one without entries nothing is left to write, whatever its groups wait for.
        rewritten = gone or (there and len(there) < len(ids))
        for name, (last, pending) in before["groups"].items():
            kept = [one for one in pending if one[0] in there - gone] if rewritten else pending
            assert after["groups"][name] == (last, kept)
        if there - gone and (gone or deleted):
            client.config_set("rdbcompression", "no")
            assert (b"gone" in client.dump(STREAM)) is False
        assert list(client.scan_iter()) == [STREAM.encode()]


def test_nothing_is_lost_while_others_write_and_read(event_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry that stays is read once, in order."""
    monkeypatch.setattr(streams, "_ATTEMPTS", 1_000_000)  # more than there are entries
    count = 3_000
    seen: list[int] = []
    written = threading.Event()

    def write() -> None:
        with event_redis.connect() as client:
            for number in range(count):
                client.xadd(STREAM, {"user": "gone" if number % 3 == 0 else "stays", "n": number})
        written.set()

    def read() -> None:
        with event_redis.connect() as client:
            while True:
                over = written.is_set()
                reply = client.xreadgroup("workers", "reader", {STREAM: ">"}, count=50, block=50)
                entries = [one for _, found in reply for one in found]
                seen.extend(int(fields[b"n"]) for _, fields in entries if fields[b"user"] == b"stays")
                if entries:
                    client.xack(STREAM, "workers", *(entry for entry, _ in entries))
                elif over:
                    return

    with event_redis.connect() as client:
        client.xgroup_create(STREAM, "workers", id="0", mkstream=True)
        threads = [threading.Thread(target=write), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        rewritten = 0
        while not written.is_set():
            rewritten += rewrite_stream(client, STREAM, meant)
        for thread in threads:
            thread.join()
        rewritten += rewrite_stream(client, STREAM, meant)
        assert rewritten == count // 3
        assert seen == [number for number in range(count) if number % 3]
        assert client.xlen(STREAM) == count - count // 3
        assert client.xpending(STREAM, "workers")["pending"] == 0


def test_a_stream_that_changes_too_fast_stays_as_it_was(event_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with event_redis.connect() as client, event_redis.connect() as other:
        client.xadd(STREAM, {"user": "gone"})
        state_of = streams._state

        def changed(*arguments: Any) -> Any:
            other.xadd(STREAM, {"user": "stays"})
            return state_of(*arguments)

        monkeypatch.setattr(streams, "_state", changed)
        monkeypatch.setattr(streams, "_ATTEMPTS", 5)
        with pytest.raises(StepFailed, match="changes too fast"):
            rewrite_stream(client, STREAM, meant)
        assert client.xlen(STREAM) == 6
        assert list(client.scan_iter()) == [STREAM.encode()]
