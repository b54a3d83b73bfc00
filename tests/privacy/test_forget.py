"""Forgetting leaves nothing: every byte of Redis and of a home is searched for the id; what is others' stays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import made_home
import numpy as np
import pyarrow.parquet as pq
import pytest
from made_home import KEY, KEYS, OTHER, PERSON

from recsys_plugin.data.prepare import prepare
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.impressions.archive import PROFILES_GROUP, Archiver
from recsys_plugin.privacy.forget import admit, forget, search
from recsys_plugin.privacy.tombstones import Tombstones
from recsys_plugin.pseudonyms import Pseudonyms, opted_out_key
from recsys_plugin.settings import Settings

NAMES = Pseudonyms(KEY)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    made_home.write_source(folder)
    return folder


@pytest.fixture
def home(event_redis: Any, source: Path, tmp_path: Path) -> Settings:
    return made_home.make_home(tmp_path, source, event_redis.url)


def bytes_with(folder: Path, needle: bytes) -> list[str]:
    """Files, decoded where they are Parquet, that hold some bytes."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content += json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
            if needle in content or needle.decode().encode("utf-32-le") in content:
                found.append(str(path.relative_to(folder)))
    return found


def redis_with(client: Any, needle: bytes) -> list[bytes]:
    client.config_set("rdbcompression", "no")
    found = [key for key in client.scan_iter(count=1000) if needle in key or needle in client.dump(key)]
    folder = Path(client.config_get("dir")["dir"])
    return [*found, *(path.encode() for path in bytes_with(folder, needle))]


def test_nothing_of_a_person_is_left_and_all_of_others(event_redis: Any, home: Settings) -> None:
    needle = PERSON.encode()
    with event_redis.connect() as client:
        assert len(bytes_with(home.home, needle)) >= 14, bytes_with(home.home, needle)
        assert len(redis_with(client, needle)) >= 9
        others = {key: client.dump(key) for key in client.scan_iter() if OTHER.encode() in key}
        before = load_dataset(home)
        pending = client.xpending(KEYS.impressions, PROFILES_GROUP)["pending"]
        # Trimming leaves the last one that was archived.
        assert (client.xlen(KEYS.impressions), client.xlen(KEYS.dead)) == (121, 4)

        done = forget(home, event_redis.url, [PERSON])

        assert done.found == ()
        assert done.searched_bytes
        assert bytes_with(home.home, needle) == []
        assert redis_with(client, needle) == []
        assert {key: client.dump(key) for key in others} == others
        assert (client.xlen(KEYS.impressions), client.xlen(KEYS.dead)) == (61, 2)
        assert (pending, client.xpending(KEYS.impressions, PROFILES_GROUP)["pending"]) == (7, 4)
        assert {fields[b"page"] for _, fields in client.xrange(KEYS.impressions)} == {
            made_home.document(OTHER, number) for number in range(59, 120)
        }
        assert client.smembers(KEYS.forgotten) == {NAMES.of(PERSON).encode()}
        assert client.smembers(opted_out_key("recsys")) == {NAMES.of(PERSON).encode()}
    after = load_dataset(home)
    assert after.damaged() is None
    assert after.counts["users"] == before.counts["users"] - 1
    assert 0 < after.counts["events"] < before.counts["events"]
    assert sum(after.event_types.values()) == after.counts["events"]
    assert after.sha256 != before.sha256
    with np.load(home.state / "training" / "frames" / "train.npz") as kept:
        assert kept["user_id"].tolist() == [OTHER, OTHER]
        assert (kept["offsets"].tolist(), kept["rows"].tolist()) == ([0, 2, 2], [0, 1])
        assert kept["user_float"].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    with np.load(home.state / "training" / "shown_pages" / "pages.npz") as kept:
        assert kept["rows"].tolist() == [[0, 1], [4, 5]]
    assert OTHER in (home.state / "logs" / "stream.log").read_text()
    again = forget(home, event_redis.url, [PERSON])
    assert (again.removed, again.found) == ({}, ())


def test_what_killed_processes_left_goes_too(event_redis: Any, home: Settings) -> None:
    left = home.feature_repo / "data" / ".user_statistics.parquet"
    left.write_bytes(b"PAR1" + PERSON.encode())
    scratch = home.state / ".events-unsorted-x"
    scratch.mkdir()
    (scratch / "part-0001.arrow").write_bytes(b"anything")
    broken = home.state / "live_events" / "broken.parquet"
    broken.write_bytes(b"PAR1")
    done = forget(home, event_redis.url, [PERSON])
    assert done.found == (".recsys/live_events/broken.parquet: it is no whole parquet file, so nobody can tell",)
    assert not left.exists()
    assert not list(scratch.iterdir())


def test_a_file_that_cannot_be_cleaned_is_named(event_redis: Any, home: Settings) -> None:
    """What nobody knows how to mend is not passed over."""
    (home.state / "notes.txt").write_text(f"call {PERSON}")
    done = forget(home, event_redis.url, [PERSON])
    assert done.found == (".recsys/notes.txt: its bytes",)


@pytest.mark.parametrize("at", ["_forget_in_tables", "forget_in_files", "persist_anew", "search_store"])
def test_interrupted_it_is_finished_by_the_next_run(
    event_redis: Any, home: Settings, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"recsys_plugin.privacy.forget.{at}", killed)
        with pytest.raises(KeyboardInterrupt):
            forget(home, event_redis.url, [PERSON])
    assert PERSON in Tombstones.read(home)
    assert forget(home, event_redis.url, [PERSON]).found == ()
    assert bytes_with(home.home, PERSON.encode()) == []


def test_what_comes_later_is_dropped(event_redis: Any, home: Settings, source: Path) -> None:
    """Late events, late pages, and the source that the tables were once loaded from."""
    forget(home, event_redis.url, [PERSON])
    made_home.fill_streams(event_redis.url, first=200)
    done = Archiver(RedisAddress.parse(event_redis.url), home.state, names=NAMES, clock=made_home.NOW.timestamp).run()
    assert done.dropped == 120
    made_home.load_tables(home, source)
    with event_redis.connect() as client:
        client.delete(KEYS.dead)
    store, files = search(home, event_redis.url, [PERSON])
    assert files.found == ()
    # Marked as deleted only, until the next `forget`, which writes the streams anew.
    assert all(place.startswith(("the dump of", "Redis's file")) for place in store.found), store.found
    assert forget(home, event_redis.url, [PERSON]).found == ()


def test_who_comes_back_is_let_in(event_redis: Any, home: Settings, source: Path) -> None:
    forget(home, event_redis.url, [PERSON])
    assert admit(home, event_redis.url, [PERSON, "never there"]) == 1
    loaded = made_home.load_tables(home, source)
    assert loaded.counts["users"] == 39
    prepare(home, folder=source, now=made_home.NOW, force=True)
    assert load_dataset(home).counts["users"] == 40


def test_without_the_key_nobody_slips_in(event_redis: Any, home: Settings, source: Path) -> None:
    forget(home, event_redis.url, [PERSON])
    keyless = Settings(home=home.home, spool=home.spool)
    with pytest.raises(ConfigurationError, match="RECSYS_PSEUDONYM_KEY"):
        prepare(keyless, folder=source, now=made_home.NOW, force=True)
    with pytest.raises(ConfigurationError, match="another RECSYS_PSEUDONYM_KEY"):
        Tombstones.read(Settings(home=home.home, pseudonym_key="f" * 32))
    made_home.fill_streams(event_redis.url, first=300, count=1)
    with pytest.raises(ConfigurationError, match="set RECSYS_PSEUDONYM_KEY"):
        Archiver(RedisAddress.parse(event_redis.url), home.state).run()
    with pytest.raises(ConfigurationError, match="keyed hash"):
        forget(keyless, event_redis.url, [PERSON])


def test_short_ids_are_found_where_ids_stand_and_nowhere_else(event_redis: Any, tmp_path: Path) -> None:
    """The number 2020 is a year, a count and a price elsewhere."""
    settings = made_home.settings_of(tmp_path)
    (settings.state / "logs").mkdir(parents=True)
    log = settings.state / "logs" / "stream.log"
    log.write_text("2020-01-01 user 2020 bought 2020 things; user_id='2020'; user 20201\n")
    with event_redis.connect() as client:
        client.set("counter", "2020")
        client.hset("recsys:{recsys}:counts", "applied", 2020)
        client.zadd(KEYS.user("20201"), {"x": 1})
        client.zadd(KEYS.user("2020"), {"x": 1})
        client.xadd(KEYS.events(0), {"event": b'{"user_id":"2020","item_id":"1"}'})
        client.xadd(KEYS.events(0), {"event": b'{"user_id":"1","item_id":"2020"}'})
        done = forget(settings, event_redis.url, ["2020"])
        assert (done.found, done.searched_bytes) == ((), False)
        assert client.exists(KEYS.user("20201"), "counter") == 2
        assert [fields[b"event"] for _, fields in client.xrange(KEYS.events(0))] == [
            b'{"user_id":"1","item_id":"2020"}'
        ]
    assert log.read_text() == "2020-01-01 user **** bought 2020 things; user_id='****'; user 20201\n"
    assert os.listdir(settings.state / "privacy") == ["forgotten.json"]
