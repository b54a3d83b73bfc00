"""Recording against a real server: what is written, what is waited for, and what happens while it is away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from recsys_plugin import AsyncEventRecorder, Event, EventRecorder, EventRefused, Recorded, SpoolFull
from recsys_plugin.errors import ConfigurationError, DeadlineExceeded, InvalidInput, StoreUnavailable
from recsys_plugin.events.keys import PARTITIONS, EventKeys
from recsys_plugin.limits import MOST_EVENT_BYTES
from recsys_plugin.settings import Settings

NOW = 1_700_000_000.0
KEYS = EventKeys("recsys")


def ids() -> Callable[[], str]:
    numbers = iter(range(1_000_000))
    return lambda: f"made-up-{next(numbers)}"


def written(client: Any) -> list[tuple[str, Event, dict[bytes, bytes]]]:
    """Stream, event and fields of every entry, partition by partition."""
    found = []
    for number in range(PARTITIONS):
        key = KEYS.events(number)
        found += [(key, Event.decode(fields[b"event"]), fields) for _, fields in client.xrange(key)]
    return found


def answer(client: Any, reply: bytes | None) -> None:
    """What the worker does for the one entry that somebody waits for."""
    tokens: list[bytes] = []

    def asked() -> bool:
        tokens.extend(fields[b"reply"] for _, _, fields in written(client) if b"reply" in fields)
        return bool(tokens)

    wait_until(asked)
    if reply is not None:
        client.rpush(KEYS.reply(tokens[0].decode()), reply)


def test_an_event_is_written_whole(event_redis: Any) -> None:
    with EventRecorder(event_redis.url, timeout=5, clock=lambda: NOW, event_ids=ids()) as recorder:
        done = recorder.record(Event(user_id=17, item_id="tea", event_type="click", request_id="r1"))  # type: ignore[arg-type]
        named = Event(
            user_id="ann",
            item_id="cup",
            event_type="purchase",
            timestamp=datetime.fromtimestamp(NOW - 60, UTC),
            event_id="e1",
            quantity=2,
            price=3.5,
            basket_id="b",
            query="grüner Tee",
        )
        assert recorder.record(named) == Recorded("e1", "recorded")
    assert done == Recorded("made-up-0", "recorded")
    with event_redis.connect() as client:
        found = {event.user_id: (key, event, fields) for key, event, fields in written(client)}
    key, event, fields = found["17"]
    assert event == Event(
        user_id="17",
        item_id="tea",
        event_type="click",
        timestamp=datetime.fromtimestamp(NOW, UTC),
        event_id="made-up-0",
        request_id="r1",
    )
    assert key == KEYS.events(KEYS.partition("17"))
    assert fields[b"recorded_at"] == b"1700000000000000"
    assert set(fields) == {b"event", b"recorded_at"}
    assert found["ann"][1] == named


def test_a_batch_keeps_its_order_and_is_all_or_nothing(event_redis: Any) -> None:
    batch = [Event(user_id=str(n % 7), item_id=str(n), event_type="click", event_id=str(n)) for n in range(500)]
    with EventRecorder(event_redis.url, timeout=5, clock=lambda: NOW, event_ids=ids()) as recorder:
        assert recorder.record_many(batch) == [Recorded(str(n), "recorded") for n in range(500)]
        assert recorder.record_many([]) == []
        late = Event(user_id="a", item_id="b", event_type="cart", timestamp=datetime(2001, 1, 1, tzinfo=UTC))
        with pytest.raises(EventRefused, match=r"events\[1\].*Import history"):
            recorder.record_many([batch[0], late])
        with pytest.raises(InvalidInput, match="at most 5000"):
            recorder.record_many(batch * 11)
    with event_redis.connect() as client:
        found = written(client)
    assert len(found) == 500
    for user in range(7):
        order = [int(event.item_id) for _, event, _ in found if event.user_id == str(user)]
        assert order == sorted(order)


def test_refusals_say_the_reason(event_redis: Any) -> None:
    def of(**fields: Any) -> Event:
        return Event(user_id="a", item_id="b", event_type="click", **fields)

    with EventRecorder(event_redis.url, timeout=5, clock=lambda: NOW) as recorder:
        refusals: list[tuple[Any, str]] = [
            (of(timestamp=datetime.fromtimestamp(NOW, UTC) + timedelta(minutes=6)), "future"),
            (of(timestamp=datetime.fromtimestamp(NOW, UTC) - timedelta(days=31)), "too_old"),
            ({"user_id": "a"}, "malformed"),
        ]
        for event, reason in refusals:
            with pytest.raises(EventRefused) as refused:
                recorder.record(event)
            assert refused.value.reason == reason
        with pytest.raises(InvalidInput, match="timeout"):
            recorder.record(of(), timeout=0)
    with event_redis.connect() as client:
        assert written(client) == []
    assert MOST_EVENT_BYTES == 65_536


REPLIES = [(b"applied", "visible"), (b"duplicate", "duplicate")]


@pytest.mark.parametrize(("reply", "state"), REPLIES)
def test_visible_waits_for_the_worker(reply: bytes, state: str, event_redis: Any) -> None:
    with event_redis.connect() as client, EventRecorder(event_redis.url, timeout=5) as recorder:
        worker = threading.Thread(target=answer, args=(client, reply))
        worker.start()
        event = Event(user_id="a", item_id="b", event_type="click", event_id="e")
        done = recorder.record(event, visible=True, timeout=20)
        worker.join()
        assert done == Recorded("e", state)  # type: ignore[arg-type]
        assert recorder.record(event).state == "recorded", "the connection is whole"


def test_what_the_worker_refuses_is_raised(event_redis: Any) -> None:
    with event_redis.connect() as client, EventRecorder(event_redis.url, timeout=5) as recorder:
        worker = threading.Thread(target=answer, args=(client, b"refused:too_old:event: it is: old"))
        worker.start()
        with pytest.raises(EventRefused, match="it is: old") as refused:
            recorder.record(Event(user_id="a", item_id="b", event_type="click"), visible=True, timeout=20)
        worker.join()
    assert refused.value.reason == "too_old"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives up waiting for a worker after a tenth of a second, of the twenty that a call may take."""
    monkeypatch.setattr("recsys_plugin.events.transport._MARGIN", 19.9)


@pytest.mark.usefixtures("short_waits")
def test_without_a_worker_the_event_is_recorded_all_the_same(event_redis: Any) -> None:
    event = Event(user_id="a", item_id="b", event_type="click", event_id="e")
    with EventRecorder(event_redis.url, timeout=5) as recorder:
        with pytest.raises(DeadlineExceeded, match=r"'e' is recorded.*recsys stream"):
            recorder.record(event, visible=True, timeout=20)
        assert recorder.record(event).state == "recorded", "the connection is whole"
    with event_redis.connect() as client:
        assert len(written(client)) == 2


async def test_the_awaiting_recorder_does_the_same(event_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event(user_id="a", item_id="b", event_type="click", event_id="e")
    with event_redis.connect() as client:
        async with AsyncEventRecorder(event_redis.url, timeout=5, clock=lambda: NOW, event_ids=ids()) as recorder:
            assert await recorder.record(event) == Recorded("e", "recorded")
            assert len(await recorder.record_many([event] * 20)) == 20
            with monkeypatch.context() as short_waits:
                short_waits.setattr("recsys_plugin.events.transport._MARGIN", 19.9)
                with pytest.raises(DeadlineExceeded, match=r"'e' is recorded.*recsys stream"):
                    await recorder.record(event, visible=True, timeout=20)
            with pytest.raises(EventRefused):
                await recorder.record(Event(user_id="a", item_id="b", event_type="x"))
            client.delete(KEYS.events(KEYS.partition("a")))
            worker = asyncio.create_task(asyncio.to_thread(answer, client, b"applied"))
            assert (await recorder.record(event, visible=True, timeout=20)).state == "visible"
            await worker
            done = await asyncio.gather(*(recorder.record(event) for _ in range(50)))
            assert {one.state for one in done} == {"recorded"}
        assert len(written(client)) == 51


def found_again(recorder: EventRecorder | AsyncEventRecorder) -> bool:
    """Whether the recorder knows that the server is back."""
    assert recorder._transport is not None
    return recorder._transport._connections.breaker.state == "closed"


def test_without_a_spool_a_server_that_is_away_is_an_error(event_redis: Any) -> None:
    event = Event(user_id="a", item_id="b", event_type="click")
    with EventRecorder(event_redis.url, timeout=20) as recorder:
        recorder.record(event)
        event_redis.kill()
        with pytest.raises(StoreUnavailable):
            recorder.record(event)
        event_redis.start()
        wait_until(lambda: found_again(recorder))
        assert recorder.record(event).state == "recorded"
    with event_redis.connect() as client:
        assert len(written(client)) == 2, "what was acknowledged outlived the kill"


def test_with_a_spool_nothing_is_lost_and_order_is_kept(event_redis: Any, tmp_path: Path) -> None:
    def of(number: int) -> Event:
        return Event(user_id="a", item_id=str(number), event_type="click", event_id=str(number))

    with EventRecorder(event_redis.url, timeout=20, spool=tmp_path) as recorder:
        assert recorder.record(of(0)).state == "recorded"
        event_redis.kill()
        assert recorder.record(of(1)).state == "spooled"
        assert [one.state for one in recorder.record_many([of(2), of(3)])] == ["spooled", "spooled"]
        assert recorder.record(of(4), visible=True).state == "spooled"
        event_redis.start()
        number = 5
        while recorder.record(of(number)).state != "recorded":  # the watcher sends what is queued, within a second
            number += 1
            time.sleep(0.01)
        assert not recorder.spooling
        assert recorder.flush() == 0
    with event_redis.connect() as client:
        order = [int(event.item_id) for _, event, _ in written(client)]
    assert list(dict.fromkeys(order)) == list(range(number + 1))
    assert not list(tmp_path.iterdir())


async def test_the_awaiting_recorder_spools_too(event_redis: Any, tmp_path: Path) -> None:
    event = Event(user_id="a", item_id="b", event_type="click")
    async with AsyncEventRecorder(event_redis.url, timeout=20, spool=tmp_path, spool_bytes=1_000) as recorder:
        await asyncio.to_thread(event_redis.kill)
        assert (await recorder.record(event)).state == "spooled"
        with pytest.raises(SpoolFull):
            await recorder.record_many([event] * 100)
        with pytest.raises(StoreUnavailable):
            await recorder.flush()
        await asyncio.to_thread(event_redis.start)
        async with asyncio.timeout(20):
            while not found_again(recorder):
                await asyncio.sleep(0.005)
        assert await recorder.flush() in (0, 1)  # unless the watcher was first
        assert (await recorder.record(event)).state == "recorded"
    with event_redis.connect() as client:
        assert len({event.event_id for _, event, _ in written(client)}) == 2


def test_from_environment(event_redis: Any, tmp_path: Path) -> None:
    environ = {
        "RECSYS_REDIS_URL": event_redis.url,
        "RECSYS_SPOOL": str(tmp_path / "spool"),
        "RECSYS_AS_OF": "2011-12-09T12:00:00Z",
    }
    with EventRecorder.from_environment(environ) as recorder:
        recorder.record(Event(user_id="a", item_id="b", event_type="click"))
    assert (tmp_path / "spool").is_dir()
    with event_redis.connect() as client:
        ((_, event, _),) = written(client)
    assert event.timestamp == datetime(2011, 12, 9, 12, tzinfo=UTC)


@pytest.mark.parametrize("share", ["2", "-0.1", "all"])
def test_a_share_of_pages_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(ConfigurationError, match="RECSYS_IMPRESSIONS"):
        Settings.from_environment({"RECSYS_IMPRESSIONS": share})
