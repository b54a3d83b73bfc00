"""A healthy shop shows no skew, and each deliberate shift is named: online, offline, by unit, by a stale view."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from shops import Shop

from recsys_plugin.aggregation.live import LIVE_USER_VIEWS
from recsys_plugin.checks.features import PackedUsers
from recsys_plugin.checks.served import ServedModel, exported_model, read_pages, served_users
from recsys_plugin.checks.skew import (
    SkewComparison,
    SkewLimits,
    covered_lines,
    live_users,
    offline_users,
    require_no_skew,
)
from recsys_plugin.cli._group import recsys
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import CheckFailed, ConfigurationError, StepFailed
from recsys_plugin.features.codec import decode_value, hash_field, timestamp_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import ReadPlan
from recsys_plugin.features.value_encoding import encode_timestamp, encode_value
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.report.checks import skew_page
from recsys_plugin.training.packing import UserTensors

_USERS = 120


@dataclass(frozen=True)
class Checked:
    """A shop with what a check needs, and what history says of its users at its moment."""

    shop: Shop
    store: Any
    model: ServedModel
    version: int
    entities: pd.DataFrame
    history: UserTensors

    @property
    def users(self) -> list[str]:
        return [str(user) for user in self.entities["user_id"]]

    @property
    def tables(self) -> Path:
        return self.shop.settings.feature_repo / "data"

    def served(self, skip: Callable[[str, int], None], until: datetime) -> tuple[PackedUsers, dict[str, Any]]:
        return live_users(
            RedisAddress.parse(self.shop.redis_url),
            self.model.contract,
            self.users,
            self.model.item_ids,
            moment=self.shop.as_of,
            until=until,
            skip=skip,
        )

    def live(self, *, limits: SkewLimits | None = None) -> dict[str, Any]:
        """The document of a check of the store as it is now."""
        found = SkewComparison()
        served, covered = self.served(found.skip, self.shop.as_of)
        found.add(self.model.contract, served, self.history, self.entities, covered)
        return found.document(limits or SkewLimits(), source="test")


@pytest.fixture(scope="module")
def checked(small_shop: Shop) -> Checked:
    settings = small_shop.settings
    version = max(int(path.stem) for path in (settings.state / "export" / "versions").glob("*.json"))
    model = exported_model(settings.state, settings.model_repository, version)
    assert model is not None
    store = open_store(settings, small_shop.redis_url)
    entities = pd.DataFrame(
        {"user_id": small_shop.some_users[:_USERS], "event_timestamp": pd.Timestamp(small_shop.as_of).as_unit("us")}
    )
    return Checked(
        small_shop, store, model, version, entities, offline_users(store, model.contract, entities, model.item_ids)
    )


@pytest.fixture
def rows(checked: Checked) -> Iterator[dict[str, bytes]]:
    """User → key of his row in Redis; all rows are as they were after the test."""
    plan = ReadPlan(checked.model.contract)
    keys = {user: plan.key(user) for user in checked.users}
    with RedisAddress.parse(checked.shop.redis_url).connect(5.0) as client:
        before = {key: client.dump(key) for key in keys.values()}
        yield keys
        for key, dump in before.items():
            if dump is None:
                client.delete(key)
            else:
                client.restore(key, 0, dump, replace=True)


def change(checked: Checked, rows: Mapping[str, bytes], feature: str, dtype: str, new: Callable[[Any], Any]) -> None:
    """Write another value of a feature for every user who has one."""
    field = hash_field(feature)
    with RedisAddress.parse(checked.shop.redis_url).connect(5.0) as client:
        for key in rows.values():
            stored = client.hget(key, field)
            if stored:
                client.hset(key, field, encode_value(dtype, new(decode_value(stored)[1])))


def test_a_healthy_shop_has_no_skew(checked: Checked) -> None:
    document = checked.live()
    assert document["compared"] == _USERS
    assert document["failed"] == document["skipped"] == {}
    assert {found["different"] for found in document["features"]} == {0}
    require_no_skew(document)
    # Not because all of it is missing.
    present = {found["feature"] for found in document["features"] if found["both_missing"] < _USERS / 2}
    assert {"user_profile:country", "user_statistics:spend_90d", "user_recent_items:item_ids"} <= present


def test_a_feature_shifted_online_is_named(checked: Checked, rows: dict[str, bytes]) -> None:
    change(checked, rows, "user_statistics:purchases_30d", "FLOAT", lambda value: value + 1.0)
    document = checked.live()
    assert list(document["failed"]) == ["user_statistics:purchases_30d"]
    (found,) = (one for one in document["features"] if one["feature"] == "user_statistics:purchases_30d")
    assert found["largest_difference"] == 1.0
    assert found["different"] == found["compared"] - found["equal"] > _USERS / 2
    assert "history has" in found["example"]
    with pytest.raises(CheckFailed, match="user_statistics:purchases_30d"):
        require_no_skew(document)
    # A view may be allowed to lag, and then only its PSI fails.
    lenient = checked.live(limits=SkewLimits(views={"user_statistics": 1.0}, psi=1e9))
    assert lenient["failed"] == {}


def test_a_feature_in_another_unit_is_named(checked: Checked, rows: dict[str, bytes]) -> None:
    change(checked, rows, "user_statistics:spend_90d", "FLOAT", lambda value: value * 100.0)
    document = checked.live(limits=SkewLimits(different=1.0))
    # Pence for pounds: another distribution altogether.
    assert list(document["failed"]) == ["user_statistics:spend_90d"]
    assert "PSI" in document["failed"]["user_statistics:spend_90d"]


def test_a_stale_view_is_named(checked: Checked, rows: dict[str, bytes]) -> None:
    """Online still holds the rows of three weeks ago."""
    table = pq.read_table(checked.tables / "user_recent_items.parquet")
    then = pa.scalar(checked.shop.as_of - timedelta(days=21), pa.timestamp("us", tz="UTC"))
    old = (
        table.filter(pc.less_equal(table["event_timestamp"], then)).to_pandas().drop_duplicates("user_id", keep="last")
    )
    written = 0
    with RedisAddress.parse(checked.shop.redis_url).connect(5.0) as client:
        for row in old.itertuples():
            if row.user_id in rows:
                values = {
                    timestamp_field("user_recent_items"): encode_timestamp(row.event_timestamp.to_pydatetime()),
                    hash_field("user_recent_items:item_ids"): encode_value("STRING_LIST", list(row.item_ids)),
                    hash_field("user_recent_items:event_type_codes"): encode_value(
                        "INT64_LIST", [int(code) for code in row.event_type_codes]
                    ),
                }
                client.hset(rows[row.user_id], mapping=values)
                written += 1
    assert written > _USERS / 2
    document = checked.live()
    assert {"user_recent_items:item_ids", "user_recent_items:event_type_codes"} <= set(document["failed"])
    assert all(feature.startswith("user_recent_items:") for feature in document["failed"])


def test_a_view_that_is_gone_online_counts_as_missing_there(checked: Checked, rows: dict[str, bytes]) -> None:
    with RedisAddress.parse(checked.shop.redis_url).connect(5.0) as client:
        for key in rows.values():
            client.hdel(key, timestamp_field("user_profile"))
    document = checked.live()
    (found,) = (one for one in document["features"] if one["feature"] == "user_profile:country")
    assert found["only_online_missing"] == found["different"] > _USERS / 2
    assert found["only_offline_missing"] == 0


def test_rows_newer_than_the_tables_are_not_compared(checked: Checked, rows: dict[str, bytes]) -> None:
    change(checked, rows, "user_recent_items:event_type_codes", "INT64_LIST", lambda codes: [2, *codes][:50])
    newer = encode_timestamp(checked.shop.as_of + timedelta(seconds=1))
    with RedisAddress.parse(checked.shop.redis_url).connect(5.0) as client:
        for key in rows.values():
            client.hset(key, timestamp_field("user_recent_items"), newer)
    document = checked.live()
    assert document["failed"] == {}
    ((reason, count),) = document["skipped"].items()
    assert reason.startswith("user_recent_items: written since")
    assert count == _USERS


def test_a_check_that_compared_nothing_fails(checked: Checked) -> None:
    found = SkewComparison()
    long_ago = datetime.fromisoformat("2000-01-01T00:00:00+00:00")
    served, covered = checked.served(found.skip, long_ago)
    nobody = {view: np.zeros_like(lines) for view, lines in covered.items()}
    found.add(checked.model.contract, served, checked.history, checked.entities, nobody)
    document = found.document(SkewLimits(), source="test")
    assert document["failed"] == {}
    with pytest.raises(
        CheckFailed, match=r"no feature could be compared .*written since the feature tables were built"
    ):
        require_no_skew(document)
    assert "Nothing could be compared" in skew_page(document)


def test_a_feature_shifted_in_the_offline_table_is_named(checked: Checked, tmp_path: Path) -> None:
    path = checked.tables / "user_statistics.parquet"
    kept = shutil.copy(path, tmp_path)
    try:
        table = pq.read_table(path)
        place = table.schema.get_field_index("baskets_90d")
        shifted = pc.add(table["baskets_90d"], pa.scalar(2.0, pa.float32()))
        pq.write_table(table.set_column(place, table.schema.field(place), shifted), path)
        history = offline_users(checked.store, checked.model.contract, checked.entities, checked.model.item_ids)
    finally:
        shutil.copy(kept, path)
    found = SkewComparison()
    served, covered = checked.served(found.skip, checked.shop.as_of)
    found.add(checked.model.contract, served, history, checked.entities, covered)
    assert list(found.document(SkewLimits())["failed"]) == ["user_statistics:baskets_90d"]


def pages_of(checked: Checked, served: PackedUsers, moments: list[pd.Timestamp], **more: Any) -> pa.Table:
    """Impressions as the archive holds them."""
    lines = range(len(checked.users))
    documents = [
        json.dumps(
            {
                "user_float": served.user_float[line].astype(float).tolist(),
                "user_int": served.user_int[line].tolist(),
                "user_string": [text.decode() for text in served.user_string[line]],
            }
        )
        for line in lines
    ]
    columns = {
        "request_id": [f"request-{line}" for line in lines],
        "user_id": checked.users,
        "served_at": pa.array(moments, pa.timestamp("us", tz="UTC")),
        "model": ["recommend"] * len(lines),
        "version": [checked.version] * len(lines),
        "contract": [checked.model.contract.fingerprint] * len(lines),
        "scores": [[0.5, 0.25]] * len(lines),
        "features": documents,
    }
    return pa.table({**columns, **more})


def archive(folder: Path, pages: pa.Table) -> None:
    days = pc.strftime(pages["served_at"], "%Y-%m-%d").to_pylist()
    for day in sorted(set(days)):
        (folder / f"day={day}").mkdir(parents=True, exist_ok=True)
        pq.write_table(pages.filter(pa.array([one == day for one in days])), folder / f"day={day}" / "one.parquet")


def logged(checked: Checked, folder: Path, *, settle: float = 0.0) -> dict[str, Any]:
    """The document of a check of archived pages."""
    found = SkewComparison()
    groups, skipped = served_users(read_pages(folder), {checked.version: checked.model}, most=1000, seed=0)
    for reason, count in skipped.items():
        found.skip(reason, count)
    for group in groups:
        joined = offline_users(checked.store, checked.model.contract, group.entities, checked.model.item_ids)
        covered = covered_lines(
            checked.tables,
            checked.model.contract,
            group.entities,
            until=load_dataset(checked.shop.settings).as_of,
            settle=settle,
            skip=found.skip,
        )
        found.add(checked.model.contract, group.users, joined, group.entities, covered)
    return found.document(SkewLimits(), source="test")


def test_logged_features_equal_the_join_at_the_time_of_the_request(checked: Checked, tmp_path: Path) -> None:
    served, _ = checked.served(lambda reason, count: None, checked.shop.as_of)
    moment = pd.Timestamp(checked.shop.as_of)
    pages = pages_of(checked, served, [moment] * _USERS)
    # A page that was written twice counts once; one of a version that is gone, or without features, is told.
    extra = pages.slice(0, 2).set_column(0, "request_id", pa.array(["other", "another"]))
    gone = extra.set_column(4, "version", pa.array([99, 99]))
    bare = extra.set_column(7, "features", pa.array([None, None], pa.string())).set_column(
        0, "request_id", pa.array(["bare", "bare too"])
    )
    archive(tmp_path, pa.concat_tables([pages, pages.slice(3, 5), gone, bare]))
    document = logged(checked, tmp_path)
    assert document["requests"] == document["compared"] == _USERS
    assert document["failed"] == {}
    assert document["skipped"] == {
        "their features were not sampled": 2,
        "their model version is not on disk any more": 2,
    }


def test_only_views_that_history_tells_of_are_compared(checked: Checked, tmp_path: Path) -> None:
    """An hour after the tables end, the stream's views may hold anything; the others may not."""
    served, _ = checked.served(lambda reason, count: None, checked.shop.as_of)
    later = pd.Timestamp(checked.shop.as_of) + pd.Timedelta(hours=1)
    codes = checked.model.contract.slots["user_recent_items:event_type_codes"]
    served.user_int[:, codes.offset] = 5
    spend = checked.model.contract.slots["user_statistics:spend_90d"]
    served.user_float[:, spend.offset] *= 100.0
    archive(tmp_path, pages_of(checked, served, [later] * _USERS))
    document = logged(checked, tmp_path)
    assert list(document["failed"]) == ["user_statistics:spend_90d"]
    live = {spec.view for spec in checked.model.contract.stored_features} & set(LIVE_USER_VIEWS)
    assert {reason.split(":")[0] for reason in document["skipped"]} == live
    assert set(document["skipped"].values()) == {_USERS}


def test_a_request_right_after_an_event_is_not_held_to_it(checked: Checked, tmp_path: Path) -> None:
    """The event was under way when the page was made."""
    times = pq.read_table(checked.tables / "user_recent_items.parquet", columns=["user_id", "event_timestamp"])
    newest = times.to_pandas().groupby("user_id")["event_timestamp"].max()
    moments = [newest.get(user, pd.Timestamp(checked.shop.as_of)) for user in checked.users]
    asked = checked.entities.assign(event_timestamp=pd.DatetimeIndex(moments).as_unit("us"))
    before = asked.assign(event_timestamp=asked["event_timestamp"] - pd.Timedelta(microseconds=1))
    contract, items = checked.model.contract, checked.model.item_ids
    old = offline_users(checked.store, contract, before, items)
    as_bytes = np.array([[text.encode() for text in line] for line in old.user_string], object)
    pages = pages_of(checked, UserTensors(old.user_float, old.user_int, as_bytes), moments)
    archive(tmp_path, pages)
    strict, lenient = logged(checked, tmp_path), logged(checked, tmp_path, settle=1.0)
    live = {"user_recent_items:item_ids", "user_recent_items:timestamps"}
    assert live <= set(strict["failed"])
    assert not live & set(lenient["failed"])
    assert any("less than 1 s after an event" in reason for reason in lenient["skipped"])


def test_logs_that_cannot_be_read_are_named(checked: Checked, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no page is archived"):
        read_pages(tmp_path)
    served, _ = checked.served(lambda reason, count: None, checked.shop.as_of)
    pages = pages_of(checked, served, [pd.Timestamp(checked.shop.as_of)] * _USERS)
    broken = pages.set_column(7, "features", pa.array(['{"user_float": [1.0]}'] * _USERS))
    archive(tmp_path, broken)
    with pytest.raises(StepFailed, match="lack"):
        logged(checked, tmp_path)
    other = pages.set_column(5, "contract", pa.array(["another"] * _USERS))
    _, skipped = served_users(other, {checked.version: checked.model}, most=1000, seed=0)
    assert skipped == {"they were served with another contract": _USERS}
    # A fallback has no version.
    versions = pa.array([None] * 3 + [checked.version] * (_USERS - 3), pa.int64())
    groups, skipped = served_users(
        pages.set_column(4, "version", versions), {checked.version: checked.model}, most=1000, seed=0
    )
    assert [group.version for group in groups] == [checked.version]
    assert skipped == {"their model version is not on disk any more": 3}
    groups, skipped = served_users(pages, {checked.version: checked.model}, most=7, seed=0)
    assert len(groups[0].entities) == 7
    assert skipped == {"beyond the sample": _USERS - 7}


def test_the_command_writes_reports_and_ends_with_3(
    checked: Checked, rows: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = checked.shop.settings
    monkeypatch.setenv("RECSYS_HOME", str(settings.home))
    monkeypatch.setenv("RECSYS_REDIS_URL", checked.shop.redis_url)
    monkeypatch.setenv("RECSYS_AS_OF", checked.shop.as_of.isoformat())
    change(checked, rows, "user_profile:country", "STRING", lambda value: f"{value}<b>")
    arguments = ["check", "skew", "--live", "1000", "--output", str(tmp_path)]
    result = CliRunner().invoke(recsys, arguments)
    assert result.exit_code == 3
    document = json.loads((tmp_path / "skew.json").read_text(encoding="utf-8"))
    assert list(document["failed"]) == ["user_profile:country"]
    page = (tmp_path / "skew.html").read_text(encoding="utf-8")
    assert "user_profile:country" in page
    assert "<b>" not in page.replace("<body>", "")
    allowed = [*arguments, "--allow", "user_profile=1", "--most-psi", "1000"]
    assert CliRunner().invoke(recsys, allowed).exit_code == 0
    refused = CliRunner().invoke(recsys, [*arguments, "--allow", "user_profile"])
    assert refused.exit_code == 2
