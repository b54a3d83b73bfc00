"""The stream keeps nothing of people who were forgotten or refuse to be tracked, even of an event under way."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from made_home import KEY, KEYS, OTHER, PERSON

from recsys_plugin import Event, EventRecorder
from recsys_plugin.consent.consent import CONSENT_FIELD, Consent, consent_commands, restore_consents
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.privacy.tombstones import bury_in_store, raise_in_store
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.worker import StreamWorker

NAMES = Pseudonyms(KEY)
ROWS = LiveRows("recsys")
SCHEMA = {
    f"{layout.view}:{name}": dtype
    for layout in (*ROWS.user_views.values(), ROWS.item_view)
    for name, dtype in layout.features.items()
}


def worker(url: str, names: Pseudonyms | None = NAMES) -> StreamWorker:
    return StreamWorker(RedisAddress.parse(url), "recsys", schema=SCHEMA, names=names)


def click(user_id: str) -> Event:
    return Event(user_id=user_id, item_id="tea", event_type="click")


def test_events_of_the_forgotten_and_the_untracked_are_dropped(event_redis: Any) -> None:
    with event_redis.connect() as client, EventRecorder(event_redis.url, timeout=20) as recorder:
        bury_in_store(client, KEYS, NAMES, [PERSON])
        for command in consent_commands("recsys", "private", Consent(tracking=False)):
            client.execute_command(*command)
        recorder.record_many([click(PERSON), click("private"), click(OTHER)])
        working = worker(event_redis.url)
        working.run(until_idle=True)
        assert client.exists(KEYS.user(OTHER)) == 1
        assert client.exists(KEYS.user(PERSON), KEYS.user("private"), ROWS.user_key(PERSON)) == 0
        assert client.hmget(KEYS.counts, "applied", "forgotten", "untracked") == [b"1", b"1", b"1"]
        assert sum(client.xlen(KEYS.events(number)) for number in range(8)) == 1
        # Whoever waits is told.
        running = threading.Thread(target=working.run)
        running.start()
        try:
            assert recorder.record(click(PERSON), visible=True, timeout=20).state == "dropped"
            assert recorder.record(click(OTHER), visible=True, timeout=20).state == "visible"
            raise_in_store(client, KEYS, NAMES, [PERSON])
            assert recorder.record(click(PERSON), visible=True, timeout=20).state == "visible"
        finally:
            working.stop()
            running.join()
            working.close()


def test_consent_is_put_beside_features_that_were_deleted(event_redis: Any) -> None:
    with event_redis.connect() as client:
        for command in consent_commands("recsys", "private", Consent(personalised=False)):
            client.execute_command(*command)
        client.delete(ROWS.user_key("private"))
        assert restore_consents(client, "recsys") == 1
        assert client.hget(ROWS.user_key("private"), CONSENT_FIELD) == b"1"


def test_what_is_under_way_when_somebody_is_forgotten_is_not_committed(
    event_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys_plugin.stream.leases.LEASE_SECONDS", 600.0)  # held up, it keeps its partitions
    with event_redis.connect() as client, EventRecorder(event_redis.url, timeout=20) as recorder:
        working = worker(event_redis.url)
        working.step()
        recorder.record(click(PERSON))
        entries = working._read(working._users, None)
        asked = working._commit

        def forgotten_meanwhile(*arguments: Any) -> bool:
            bury_in_store(client, KEYS, NAMES, [PERSON])
            return asked(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(working, "_commit", forgotten_meanwhile)
            assert working._work(working._users, entries) == 0
        assert client.exists(KEYS.user(PERSON), ROWS.user_key(PERSON)) == 0
        assert working._work(working._users, entries) == 1
        assert client.exists(KEYS.user(PERSON), ROWS.user_key(PERSON)) == 0
        working.close()


def test_a_worker_without_the_key_takes_nothing_in(event_redis: Any) -> None:
    with event_redis.connect() as client, EventRecorder(event_redis.url, timeout=20) as recorder:
        bury_in_store(client, KEYS, NAMES, [PERSON])
        recorder.record(click(PERSON))
        for names in (None, Pseudonyms("f" * 32)):
            working = worker(event_redis.url, names)
            with pytest.raises(ConfigurationError, match="set RECSYS_PSEUDONYM_KEY"):
                working.run(until_idle=True)
            working.close()
        with pytest.raises(ConfigurationError, match="another RECSYS_PSEUDONYM_KEY"):
            bury_in_store(client, KEYS, Pseudonyms("f" * 32), [OTHER])
        assert client.exists(KEYS.user(PERSON)) == 0
