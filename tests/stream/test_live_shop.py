"""A served shop whose shoppers click: the next page reflects it, Feast reads the same, and history agrees."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shops import CommandLine, Shop
from streamed import live_row

from recsys_plugin import Event, EventRecorder, Exploration, GumbelTopK, ImpressionLog, Recommender
from recsys_plugin.aggregation.live import user_activity, user_recent_items, user_sessions
from recsys_plugin.checks.replay import replay, require_equal
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import CheckFailed
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.impressions.archive import Archiver
from recsys_plugin.impressions.join import join_outcomes
from recsys_plugin.off_policy.evaluate import EvaluationOptions, evaluate_policy
from recsys_plugin.off_policy.log import ImpressionLog as DecisionLog
from recsys_plugin.off_policy.served import served_log
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.pipeline.steps import PROJECT
from recsys_plugin.stream.supervisor import stored_schema
from recsys_plugin.stream.worker import StreamWorker


@dataclass(frozen=True)
class LiveShop:
    """The small shop with a Redis database of its own, and a worker that runs."""

    shop: Shop
    redis_url: str


@pytest.fixture(scope="module")
def live_shop(small_shop: Shop) -> Iterator[LiveShop]:
    url = small_shop.redis_url.removesuffix("/0") + "/2"
    environment = small_shop.command.environment | {"RECSYS_REDIS_URL": url}
    CommandLine(small_shop.command.home, environment).run("materialize")
    address = RedisAddress.parse(url)
    worker = StreamWorker(address, PROJECT, schema=stored_schema(address, PROJECT))
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield LiveShop(small_shop, url)
    worker.stop()
    thread.join()
    worker.close()
    with address.connect(5.0) as client:
        client.flushdb()


def clicked(shop: LiveShop, user_id: str, item_id: str, seconds: int, **more: Any) -> Event:
    """Record a click some seconds after the data's end, and wait until it is visible."""
    event = Event(
        user_id=user_id, item_id=item_id, event_type="click", event_id=f"{user_id} {seconds}",
        timestamp=shop.shop.as_of + timedelta(seconds=seconds), **more,
    )  # fmt: skip
    with EventRecorder(shop.redis_url, timeout=20.0, clock=lambda: shop.shop.as_of.timestamp() + seconds) as recorder:
        assert recorder.record(event, visible=True, timeout=20.0).state == "visible"
    return event


def busy_users(shop: LiveShop, count: int) -> list[str]:
    events = load_dataset(shop.shop.settings).frame("events")
    return [str(user) for user in events["user_id"].value_counts().index[:count]]


def test_the_next_page_reflects_the_click(live_shop: LiveShop) -> None:
    (user_id,) = busy_users(live_shop, 1)
    now = live_shop.shop.as_of.timestamp() + 60
    with Recommender(live_shop.redis_url, live_shop.shop.triton_url, timeout=20.0, clock=lambda: now) as recommender:
        before = recommender.recommend(user_id, 30)
        liked = before.items[-1].item_id
        for seconds in range(5):
            clicked(live_shop, user_id, liked, seconds)
        after = recommender.recommend(user_id, 30)
    scores = [{item.item_id: item.score for item in page.items} for page in (before, after)]
    shared = scores[0].keys() & scores[1].keys()
    assert any(scores[0][item_id] != scores[1][item_id] for item_id in shared)


def test_a_live_row_goes_on_from_history(live_shop: LiveShop) -> None:
    """What was materialised and what was recorded make the row that all of it as history makes."""
    user_id = busy_users(live_shop, 2)[1]
    event = clicked(live_shop, user_id, "item-none-knows", 10, query="blue cup")
    dataset = load_dataset(live_shop.shop.settings)
    events, items = dataset.frame("events"), dataset.frame("items")
    known = events[events["user_id"] == user_id].astype({"user_id": str, "item_id": str, "event_type": str})
    new = {
        name: getattr(event, name) for name in ("user_id", "item_id", "event_type", "event_id", "timestamp", "query")
    }
    history = pd.concat([known, pd.DataFrame([new])], ignore_index=True)
    history["timestamp"] = pd.to_datetime(history["timestamp"], utc=True).dt.as_unit("us")
    categories = dict(zip(items["item_id"].astype(str), items["category"].astype(object).fillna(""), strict=True))
    made = {
        "user_recent_items": user_recent_items(history),
        "user_session": user_sessions(history),
        "user_activity": user_activity(history, categories),
    }
    with RedisAddress.parse(live_shop.redis_url).connect(5.0) as client:
        for view, table in made.items():
            expected = table.slice(table.num_rows - 1).to_pylist()[0]
            expected.pop("user_id")
            row = live_row(client, view, user_id)
            assert row is not None
            for name, value in expected.items():
                assert row[name] == (value if name == "event_timestamp" else _stored(value)), (view, name)


def _stored(value: Any) -> Any:
    if isinstance(value, list):
        return [_stored(part) for part in value]
    return int(value.timestamp()) if hasattr(value, "timestamp") else value


def test_feast_reads_what_the_stream_writes(live_shop: LiveShop) -> None:
    user_id = busy_users(live_shop, 3)[2]
    item_id = str(load_dataset(live_shop.shop.settings).frame("items")["item_id"].iloc[0])
    clicked(live_shop, user_id, item_id, 20)
    store = open_store(live_shop.shop.settings, live_shop.redis_url)
    views = ("user_recent_items", "user_session", "user_activity")
    with RedisAddress.parse(live_shop.redis_url).connect(5.0) as client:
        rows = {view: live_row(client, view, user_id) for view in views}
    for view, row in rows.items():
        assert row is not None
        names = [name for name in row if name != "event_timestamp"]
        answer = store.get_online_features([f"{view}:{name}" for name in names], [{"user_id": user_id}]).to_dict()
        for name in names:
            assert _stored(answer[name][0]) == row[name], (view, name)
    assert rows["user_recent_items"] is not None
    assert rows["user_recent_items"]["item_ids"][0] == item_id


def test_replaying_history_gives_history(live_shop: LiveShop, tmp_path: Path) -> None:
    settings = live_shop.shop.settings
    dataset = load_dataset(settings)

    def replayed(tables: Path) -> Any:
        return replay(
            dataset,
            tables,
            PROJECT,
            days=15,
            moments=3,
            users=60,
            items=30,
            seed=1,
            tell=lambda what, done, total: None,
        )

    found = replayed(settings.feature_repo / "data")
    require_equal(found)
    assert found.rows == 3 * (3 * found.users + found.items)
    assert found.events > 0
    # Red when a feature is shifted.
    shifted = tmp_path / "data"
    shutil.copytree(settings.feature_repo / "data", shifted)
    table = pq.read_table(shifted / "user_session.parquet")
    at = table.schema.get_field_index("session_clicks")
    more = pa.array([count + 1 for count in table["session_clicks"].to_pylist()], pa.int64())
    pq.write_table(table.set_column(at, "session_clicks", more), shifted / "user_session.parquet")
    with pytest.raises(CheckFailed, match="live rows differ from history: user_session of"):
        require_equal(replayed(shifted))


def test_what_pages_earned_can_be_judged(live_shop: LiveShop, tmp_path: Path) -> None:
    """Explored pages, logged; clicks on them, recorded; both archived and joined; and another policy's worth told."""
    moment, numbers = live_shop.shop.as_of, count()
    exploration = Exploration(GumbelTopK(1.0), pool=12)
    users, clicks = busy_users(live_shop, 60), 0
    with Recommender(
        live_shop.redis_url, live_shop.shop.triton_url, timeout=20.0, clock=moment.timestamp, exploration=exploration,
        impressions=ImpressionLog(candidates_sample=1.0), request_ids=lambda: f"page {next(numbers)}",
    ) as recommender:  # fmt: skip
        for number, user_id in enumerate(users):
            page = recommender.recommend(user_id, 4)
            if number % 3 == 0:
                clicks += 1
                event = Event(
                    user_id=user_id, item_id=page[0].item_id, event_type="click", event_id=f"on page {number}",
                    timestamp=moment + timedelta(seconds=5), request_id=page.request_id,
                )  # fmt: skip
                recommender.record(event)
    Archiver(RedisAddress.parse(live_shop.redis_url), tmp_path).run(lambda what, done, total: None)
    window = timedelta(hours=1)
    joined = join_outcomes(tmp_path, tmp_path / "outcomes", window=window, now=moment + timedelta(hours=3))
    assert (joined.rows, joined.clicked) == (4 * len(users), clicks)
    table = served_log(tmp_path / "impressions", tmp_path / "outcomes")
    assert len(table) == 12 * len(users)
    log = DecisionLog.of_table(table, "click")
    options = EvaluationOptions(model="cascade", estimators=("ips", "snips"))
    own = evaluate_policy(log, GumbelTopK(1.0), options)
    for estimate in own.estimates:
        assert estimate.value == pytest.approx(clicks / (4 * len(users)), rel=1e-6)
    other = evaluate_policy(log, GumbelTopK(0.5), options)
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in other.estimates)
