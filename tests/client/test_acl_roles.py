"""What workers, pipeline and operations ask of Redis is what their documented users may do, no less and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from redis.exceptions import NoPermissionError
from synthetic import write_tables
from tiny_people import KEY
from tiny_shop import TinyShop
from watched_redis import Asked, WatchedRedis

from recsys_plugin import Event
from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.ads.campaign import Campaign
from recsys_plugin.cli._group import recsys
from recsys_plugin.consent.consent import restore_consents
from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import InvalidInput
from recsys_plugin.event_import import import_events
from recsys_plugin.events.dead_letters import DeadLetters
from recsys_plugin.events.event import microseconds_of
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.events.status import event_status
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadSchema
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.features.requests import promotion_key, schema_key
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.features.writer import BulkWriter
from recsys_plugin.impressions.archive import Archiver
from recsys_plugin.observability import live
from recsys_plugin.observability.stream_metrics import StreamMetrics
from recsys_plugin.pipeline.live_state import seed_live_state
from recsys_plugin.pipeline.materialize import Cursor
from recsys_plugin.privacy.tombstones import bury_in_store
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.versions import ModelVersions
from recsys_plugin.security.acl import CONNECTING, role
from recsys_plugin.settings import Settings
from recsys_plugin.stream import leases
from recsys_plugin.stream.entries import GROUP
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.worker import StreamWorker
from recsys_plugin.trials.operations import Trials, refuse_during_trial

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEYS = EventKeys("recsys")
ROWS = LiveRows("recsys")
SCHEMA = {
    f"{layout.view}:{name}": dtype
    for layout in (*ROWS.user_views.values(), ROWS.item_view)
    for name, dtype in layout.features.items()
}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedRedis]:
    with WatchedRedis(tmp_path / "watched") as server:
        yield server


#: Commands of an administrator, which MONITOR does not show; that they were allowed is seen by what came of them.
UNSEEN = {"bgrewriteaof", "bgsave", "config|get", "config|set", "slowlog|reset"}


def does_what_it_may(asked: Asked, watched: WatchedRedis, name: str, *, seldom: frozenset[str] = frozenset()) -> None:
    """``seldom``: commands that it needs in a race only."""
    allowed = role(name)
    assert watched.refusals() == []
    assert asked.commands - {"auth"} | set(CONNECTING) == set(allowed.commands) - UNSEEN - seldom
    assert [key for key in (*allowed.read, *allowed.change) if not asked.touches(key)] == []


def add(admin: Any, number: int, days: float = 0.0, **more: Any) -> None:
    moment = NOW + timedelta(days=days, seconds=number)
    event = Event(user_id="u", item_id="i", event_type="click", timestamp=moment, event_id=f"e{number}")
    fields = {"event": event.encode(), "recorded_at": microseconds_of(moment)}
    admin.xadd(KEYS.events(KEYS.partition("u")), fields | more)


def test_workers(watched: WatchedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_TEND_SECONDS", 0.0)  # leases are renewed at once
    stream = KEYS.events(KEYS.partition("u"))
    with watched.connect() as admin:
        admin.set(schema_key("recsys"), json.dumps(SCHEMA))
        add(admin, 1)
        add(admin, 2, reply="a token")
        admin.xadd(KEYS.events(0), {"event": b"nonsense", "recorded_at": 5})
        # A worker that died over an entry, and one that died with nothing to do.
        admin.xgroup_create(stream, GROUP, "0")
        admin.xreadgroup(GROUP, "died", {stream: ">"}, count=1)
        admin.xgroup_createconsumer(stream, GROUP, "idle")
        for number in range(3, 70):
            add(admin, number, days=number)  # more than an item's counters reach back
        bury_in_store(admin, KEYS, Pseudonyms(KEY), ["gone"])
        gone = Event(user_id="gone", item_id="i", event_type="click", timestamp=NOW, event_id="gone")
        admin.xadd(KEYS.events(0), {"event": gone.encode(), "recorded_at": microseconds_of(NOW)})
    address = RedisAddress.parse(watched.url("worker"))
    with watched.watched() as asked:
        reader = FeatureReader(address, timeout=5)
        schema = reader.read_schema(ReadSchema("recsys"), timeout=5)
        reader.close()
        assert schema is not None
        worker = StreamWorker(address, "recsys", schema=schema, clock=NOW.timestamp, names=Pseudonyms(KEY))
        forget_somebody_meanwhile(worker, watched, monkeypatch)
        worker.run(until_idle=True)
        worker.close()
        assert shown(address, "recsys_store_up") == 1  # with --metrics-port
    assert worker.counts.entries > 60
    # When Redis cannot tell how many events wait, its metrics count them.
    does_what_it_may(asked, watched, "worker", seldom=frozenset({"xrange"}))


def shown(address: RedisAddress, name: str) -> float:
    """What the metrics of the streams say."""
    families = StreamMetrics(address).collect()
    return float(sum(sample.value for family in families for sample in family.samples if sample.name == name))


def test_monitoring(watched: WatchedRedis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`recsys top` and the exporter work as this user, and without any one of its commands they say what is missing."""
    # Two seconds for an answer, as a rule, are few on a machine that does other work too.
    monkeypatch.setattr(live, "read", partial(live.read, timeout=20))
    url, stream = watched.url("monitor"), KEYS.events(KEYS.partition("u"))
    for name, value in {"HOME": tmp_path, "REDIS_URL": url, "TRITON_URL": "grpc://127.0.0.1:1"}.items():
        monkeypatch.setenv(f"RECSYS_{name}", str(value))
    with watched.connect() as admin:
        admin.xgroup_create(stream, GROUP, "0", mkstream=True)
        for number in range(6):
            add(admin, number)
        admin.xreadgroup(GROUP, "somebody", {stream: ">"}, count=1)
        admin.xdel(stream, admin.xrange(stream)[3][0])  # now Redis cannot tell how many wait
        admin.xadd(KEYS.dead, {"reason": "malformed"})
        admin.xadd(KEYS.impressions, {"page": b"nonsense"})
        admin.hset(KEYS.counts, "applied", 7)
        admin.zadd(KEYS.workers, {"a worker": 1})
        admin.set(KEYS.owner(0), "a worker")
        admin.hset(KEYS.ads_spent, "tea", 5)
    address = RedisAddress.parse(url)

    def top() -> Result:
        return CliRunner().invoke(recsys, ["top", "--once", "--every", "0.1", "--json"])

    with watched.watched() as asked:
        seen = top()
        assert seen.exit_code == 0, seen.output
        assert (shown(address, "recsys_store_up"), shown(address, "recsys_ads_spent_micros_total")) == (1, 5)
        assert shown(address, "recsys_stream_lag_entries") == 5
    view = json.loads(seen.stdout)
    assert (view["lag"], view["workers"], view["dead_letters"]) == (5, 1, 1)
    does_what_it_may(asked, watched, "monitor")
    for command in set(role("monitor").commands) - set(CONNECTING):
        with watched.connect() as admin:
            admin.execute_command("ACL", "SETUSER", "monitor", f"-{command}")
        assert shown(address, "recsys_store_up") == 0, command
        refused = top()
        assert refused.exit_code != 0
        assert "permission" in refused.output.replace("\n", " "), command
        with watched.connect() as admin:
            admin.execute_command("ACL", "SETUSER", "monitor", f"+{command}")
    assert shown(address, "recsys_store_up") == 1
    with address.connect(5) as monitor, pytest.raises(NoPermissionError):
        monitor.hset(KEYS.counts, "applied", 8)


def forget_somebody_meanwhile(worker: StreamWorker, watched: WatchedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look at who is refused and the commit; what was under way is then done again, at once."""
    monkeypatch.setattr("recsys_plugin.stream.worker._CLAIM_SECONDS", 0.0)
    commit, times = worker._commit, iter(range(10**6))

    def meanwhile(*arguments: Any) -> bool:
        if next(times) == 0:
            with watched.connect() as admin:
                admin.set(KEYS.refusals, 99)
        return commit(*arguments)

    monkeypatch.setattr(worker, "_commit", meanwhile)


def test_privacy(watched: WatchedRedis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tables(source, users=20, items=60)
    url = watched.url("privacy")
    for name, value in {"HOME": tmp_path, "REDIS_URL": url, "PSEUDONYM_KEY": KEY}.items():
        monkeypatch.setenv(f"RECSYS_{name}", str(value))
    settings = Settings.from_environment()
    prepare_data(settings, folder=source, now=datetime(2025, 5, 2, tzinfo=UTC))
    stream = KEYS.events(KEYS.partition("u"))
    with watched.connect() as admin:
        for number in range(3):
            add(admin, number)
        admin.xgroup_create(stream, GROUP, "0")
        admin.xreadgroup(GROUP, "somebody", {stream: ">"}, count=2)
        admin.xadd(stream, {"event": b'{"user_id":"user-001"}'})
        for user in ("u", "user-001"):
            admin.zadd(KEYS.user(user), {json.dumps(["e", "i", 2, None]): 1})
            admin.zadd(KEYS.seen(user), {"e0": 1})
            admin.hset(KEYS.ads_shown(1, user), "tea", 1)
            admin.hset(ROWS.user_key(user), b"abcd", b"")
        admin.rpush(KEYS.reply("token"), "applied")
        admin.set(schema_key("recsys"), "{}")
        admin.xadd(KEYS.dead, {"reason": "malformed"}, id="1-1")
        admin.xadd(KEYS.dead, {"reason": "malformed"})
        admin.set("counter", 1)

    def run(*arguments: str) -> None:
        done = CliRunner().invoke(recsys, ["privacy", *arguments])
        assert done.exit_code == 0, done.output

    document = tmp_path / "retention.json"
    document.write_text('{"click": "1d", "dead_letters": "1d"}')
    with watched.watched() as asked:
        run("consent", "u", "--personalised", "no")
        run("consent", "u", "--personalised", "yes")
        run("export", "u")
        run("forget", "user-001")
        run("retention", "set", str(document))
        run("retention", "apply")
        run("admit", "user-001")
    does_what_it_may(asked, watched, "privacy", seldom=frozenset({"unwatch", "xgroup|help"}))


def test_the_pipeline(watched: WatchedRedis, tiny: TinyShop, tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", users=20, items=40)
    prepare_data(Settings(home=tmp_path), folder=tmp_path / "tables", now=datetime(2025, 5, 2, tzinfo=UTC))
    dataset = load_dataset(Settings(home=tmp_path))
    url = watched.url("pipeline")
    address = RedisAddress.parse(url)
    with watched.connect() as admin:
        for number in range(3):
            add(admin, number)
        admin.xadd(KEYS.impressions, {"page": b"nonsense"})
        admin.xadd(KEYS.dead, {"reason": "malformed", "event": b"nonsense", "source": "", "entry": "", "at": 1})
        for stream in (KEYS.events(number) for number in range(8)):
            admin.xgroup_create(stream, GROUP, "0", mkstream=True)
        admin.xreadgroup(GROUP, "busy", {KEYS.events(KEYS.partition("u")): ">"}, count=2)
    table = tmp_path / "more.csv"
    table.write_text(
        "user_id,item_id,event_type,timestamp\nu,i,click,2026-03-01T12:00:00Z\nu,i,what,2026-03-01T12:00:00Z\n"
    )
    services = Services(Settings(home=tmp_path, redis_url=url, triton_url=tiny.triton_url))
    with watched.watched() as asked:
        moments = pa.array([NOW, NOW], pa.timestamp("us", tz="UTC"))
        for entity in ("user_id", "item_id", "category"):
            view = ViewLayout("view", "recsys", {entity: "STRING"}, {"value": "FLOAT"})
            columns = {entity: pa.array(["i", "j"]), "value": pa.array([1.0, 2.0]), "event_timestamp": moments}
            for expiry in (None, 1000):
                with BulkWriter(address, timeout=5, expiry_seconds=expiry) as writer:
                    for _ in range(2):  # the second time the rows are there already
                        writer.write(view, pa.record_batch(columns))
                        writer.drain()
        import_events(table, address)
        with address.connect(5) as client:
            cursor = Cursor(client, "recsys:materializing:recsys", "view", "state")
            cursor.write(cursor.read())
            cursor.remove()
            client.hset("recsys:materialized:recsys", "view", "state")
            client.hgetall("recsys:materialized:recsys")
            client.set(schema_key("recsys"), "{}")
            seed_live_state(dataset, client, KEYS, as_of=dataset.as_of)
            restore_consents(client, "recsys")
        ModelVersions(services, "recsys").promote(1)
        ModelVersions(services, "recsys").follow()
        with services.ensure_redis():
            services.status()
        refuse_during_trial(url)
        Archiver(address, tmp_path / "archive", names=Pseudonyms(KEY)).run()
        event_status(address)
        letters = DeadLetters(address)
        found = list(letters.list())
        letters.replay(found)
        letters.delete([letter.id for letter in found])
        letters.close()
    does_what_it_may(asked, watched, "pipeline")


def test_operations(watched: WatchedRedis, monkeypatch: pytest.MonkeyPatch, tiny: TinyShop, tmp_path: Path) -> None:
    variables = {"HOME": tmp_path, "REDIS_URL": watched.url("operations"), "TRITON_URL": tiny.triton_url}
    for name, value in {**variables, "PSEUDONYM_KEY": KEY}.items():
        monkeypatch.setenv(f"RECSYS_{name}", str(value))
    rules, ads = tmp_path / "rules.json", tmp_path / "ads.json"
    rules.write_text('{"default": {"caps": {"category": 2}}}')
    campaign = Campaign(campaign_id="tea", items=("tea",), bid_micros=1_000, budget_per_day_micros=10**6)
    ads.write_text(CampaignBook((campaign,)).to_json())
    with watched.connect() as admin:
        admin.set(promotion_key("recsys"), 1)

    def run(*arguments: str, expect: int = 0) -> None:
        done = CliRunner().invoke(recsys, arguments)
        assert done.exit_code == expect, done.output

    services = Services(Settings.from_environment())
    with watched.watched() as asked:
        for file, group in ((rules, "rules"), (ads, "ads")):
            run(group, "load", str(file))
        run("rules", "show")
        run("rules", "clear")
        run("ads", "list")
        run("ads", "status")
        run("ads", "pause", "tea")
        run("users", "opt-out", "u")
        run("users", "opted-out")
        run("users", "opt-in", "u")
        with Trials(watched.url("operations")) as trials:
            trial = trials.start(control=1, candidate=2, share=0.5, salt="any")
            trials.look_after("token")
            trials.counts(trial)
            trials.looks(trial)
            trials.end("stopped", "enough")
            trials.history()
            trials.remove()
        ModelVersions(services, "recsys").promote(1)
        ModelVersions(services, "recsys").follow()
    does_what_it_may(asked, watched, "operations")


def test_wrong_names_are_refused() -> None:
    with pytest.raises(InvalidInput, match="role"):
        role("root")
    for user in ("", "a b", "x" * 65):
        with pytest.raises(InvalidInput, match="user"):
            role("client").set_user(user)
    with pytest.raises(InvalidInput, match="password"):
        role("client").set_user("shop", "")
