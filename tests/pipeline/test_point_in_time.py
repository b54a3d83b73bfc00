"""No feature of a training context knows its basket or anything later: the real frames against truncated histories."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from shops import Shop

from recsys_plugin.aggregation.item import item_statistics
from recsys_plugin.aggregation.live import user_recent_items, user_sessions
from recsys_plugin.aggregation.user import user_statistics
from recsys_plugin.data.store import load_dataset
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline.feast_repository import contract_of, open_store
from recsys_plugin.training.frames import Split, catalogue_index, read_frames
from recsys_plugin.training.packing import UserTensors, pack_frame

TICK = pd.Timedelta(microseconds=1)
#: Views that are made of something else, or of more than a user's own events.
_NOT_OF_EVENTS = ("user_profile", "user_text", "user_purchase_forecast")
BOTH = pytest.mark.parametrize("which", ["shop", "small_shop"])


@pytest.fixture
def any_shop(which: str, request: pytest.FixtureRequest) -> Shop:
    found: Shop = request.getfixturevalue(which)
    return found


def features_before(events: pd.DataFrame, moment: pd.Timestamp, contract: FeatureContract) -> dict[str, object]:
    """The event features of one user, computed from nothing but his events before a moment."""
    known = events[events["timestamp"] < moment]
    row: dict[str, object] = {}
    for view, table in (
        ("user_statistics", user_statistics(known)),
        ("user_recent_items", user_recent_items(known)),
        ("user_session", user_sessions(known)),
    ):
        limit = next(spec.max_age_seconds for spec in contract.features if spec.view == view)
        assert limit is not None
        last = table.sort_by("event_timestamp").slice(max(table.num_rows - 1, 0)).to_pandas()
        fresh = len(last) and moment - TICK - last["event_timestamp"][0] <= timedelta(seconds=limit)
        for name in table.column_names[2:]:
            row[f"{view}__{name}"] = last[name][0] if fresh else None
    return row


def compare(
    split: Split, chosen: np.ndarray, events: pd.DataFrame, contract: FeatureContract, items: pd.Index[str]
) -> None:
    entities = split.contexts.entities.iloc[chosen].reset_index(drop=True)
    of_user = dict(list(events[events["user_id"].isin(entities["user_id"])].groupby("user_id")))
    rows = [
        features_before(of_user[user], moment + TICK, contract)
        for user, moment in zip(entities["user_id"], entities["event_timestamp"], strict=True)
    ]
    frame = pd.DataFrame(rows).assign(event_timestamp=entities["event_timestamp"])
    for name in frame:
        if str(name).endswith("_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True)
    of_events = FeatureContract(tuple(spec for spec in contract.features if spec.view not in _NOT_OF_EVENTS))
    wanted, got = pack_frame(of_events, frame, items), split.users.take(chosen)
    for reference, slot in of_events.slots.items():
        whole = contract.slots[reference]
        tensor = str(slot.tensor)
        left = getattr(wanted, tensor)[:, slot.offset : slot.offset + slot.width]
        right = getattr(got, tensor)[:, whole.offset : whole.offset + whole.width]
        if tensor == "user_float":
            # Sums over other stretches of a history round differently.
            np.testing.assert_allclose(right, left, rtol=1e-4, atol=1e-3, err_msg=reference)
        else:
            assert right.tolist() == left.tolist(), reference


@BOTH
def test_features_of_contexts_are_of_the_past(any_shop: Shop) -> None:
    frames = read_frames(any_shop.settings.state / "training" / "frames")
    dataset = load_dataset(any_shop.settings)
    events = dataset.frame("events")
    contract = contract_of(open_store(any_shop.settings, any_shop.redis_url))
    items = catalogue_index(dataset.frame("items", ["item_id"]))
    generator = np.random.default_rng(0)
    for split, most in ((frames.train, 60), (frames.pages, 40), (frames.validation, 10), (frames.test, 20)):
        chosen = np.sort(generator.choice(len(split.contexts), most, replace=False))
        compare(split, chosen, events, contract, items)


@BOTH
def test_contexts_are_asked_a_microsecond_before_their_acts(any_shop: Shop) -> None:
    frames = read_frames(any_shop.settings.state / "training" / "frames")
    dataset = load_dataset(any_shop.settings)
    events = dataset.frame("events", ["user_id", "item_id", "event_type", "timestamp"])
    items = catalogue_index(dataset.frame("items", ["item_id"]))
    acts = events[events["event_type"].isin(["click", "cart", "purchase"])]
    baskets = acts.groupby(["user_id", "timestamp"])["item_id"].agg(set)
    validation = pd.Timestamp(dataset.validation_start)
    chosen = np.random.default_rng(1).choice(len(frames.train.contexts), 200, replace=False)
    for index in chosen:
        user, moment = frames.train.contexts.entities.iloc[index]
        assert moment + TICK < validation
        bought = {items[row] for row in frames.train.contexts.positives(int(index))}
        assert bought == baskets[user, moment + TICK]
    for split, start in ((frames.validation, validation), (frames.test, pd.Timestamp(dataset.test_start))):
        assert (split.contexts.entities["event_timestamp"] == start - TICK).all()
        assert split.contexts.entities["user_id"].is_unique


@BOTH
def test_item_snapshots_are_of_the_past(any_shop: Shop) -> None:
    frames = read_frames(any_shop.settings.state / "training" / "frames")
    dataset = load_dataset(any_shop.settings)
    events = dataset.frame("events", ["user_id", "item_id", "event_type", "timestamp", "price"])
    for position in (0, -3, -2, -1):
        moment, snapshot = frames.moments[position], frames.snapshots[position]
        assert (snapshot["event_timestamp"] == moment).all()
        assert list(snapshot["item_id"]) == list(catalogue_index(dataset.frame("items", ["item_id"])))
        # A snapshot may be of the Monday before: the tables are weekly.
        monday = moment.normalize() - pd.Timedelta(days=moment.dayofweek)
        of = moment if position == -1 else monday
        wanted = item_statistics(events[events["timestamp"] < of], [of]).to_pandas().set_index("item_id")
        got = snapshot.set_index("item_id").filter(like="item_statistics__").rename(columns=lambda name: name[17:])
        sold = got[got["lifetime_purchases"].notna()]
        assert set(sold.index) == set(wanted.index)
        for name in ("purchases_7d", "purchases_90d", "buyers_30d", "lifetime_purchases"):
            assert (sold[name] == wanted[name].reindex(sold.index)).all(), (position, name)


@BOTH
def test_the_ranker_sees_the_snapshot_before_each_page(any_shop: Shop) -> None:
    frames = read_frames(any_shop.settings.state / "training" / "frames")
    asked = frames.pages.contexts.entities["event_timestamp"] + TICK
    for week in np.unique(frames.weeks):
        moments = asked[frames.weeks == week]
        if week >= 0:
            assert (moments >= frames.moments[week]).all()
        if week + 1 < len(frames.moments) - 3:
            assert (moments < frames.moments[week + 1]).all()


def test_point_in_time_keeps_order_and_rows_without_features(small_shop: Shop) -> None:
    from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, point_in_time

    store = open_store(small_shop.settings, small_shop.redis_url)
    users = ["user-003", "nobody", "user-001", "user-003"]
    moments = [small_shop.as_of, small_shop.as_of, small_shop.as_of - timedelta(days=30), small_shop.as_of]
    asked = pd.DataFrame({"user_id": users, "event_timestamp": pd.to_datetime(moments, utc=True).as_unit("us")})
    told: list[tuple[int, int]] = []
    frame = point_in_time(store, asked, RANKING_SERVICE, block=3, progress=lambda *done: told.append(done))
    assert told == [(3, 4), (4, 4)]
    assert list(frame["user_id"]) == users
    assert frame["user_statistics__lifetime_purchases"].notna().tolist() == [True, False, True, True]
    whole = point_in_time(store, asked, RANKING_SERVICE)
    contract = contract_of(store)
    index: pd.Index[str] = pd.Index([], dtype=object)
    one, other = (pack_frame(contract, part, index) for part in (frame, whole))
    assert one.user_float.tolist() == other.user_float.tolist()
    empty = pack_frame(contract, point_in_time(store, asked.iloc[:0], RANKING_SERVICE), index)
    assert isinstance(empty, UserTensors)
    assert len(empty) == 0


def test_tables_have_the_types_of_their_views(small_shop: Shop) -> None:
    import pyarrow.parquet as pq

    store = open_store(small_shop.settings, small_shop.redis_url)
    wanted = {
        "FLOAT": pa.float32(),
        "INT64": pa.int64(),
        "STRING": pa.string(),
    }
    for view in store.list_feature_views():
        schema = pq.read_schema(small_shop.settings.feature_repo / "data" / f"{view.name}.parquet")
        for field in view.features:
            kind = field.dtype.to_value_type().name
            found = schema.field(field.name).type
            if kind.endswith("_LIST"):
                found, kind = found.value_type, kind.removesuffix("_LIST")
            if pa.types.is_timestamp(found):
                assert kind == "UNIX_TIMESTAMP"
            else:
                assert found == wanted[kind], field.name
