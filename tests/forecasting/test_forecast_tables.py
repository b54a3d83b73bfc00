"""The forecast tables of a shop: of the past only, the same as time goes on, and defined where there is nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import synthetic

from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import InvalidInput
from recsys_plugin.forecasting.models import TABLE_MODELS
from recsys_plugin.forecasting.series import CLASSES
from recsys_plugin.forecasting.tables import build_forecast_tables, fit_timing, read_purchases, valid_moment
from recsys_plugin.pipeline.feature_tables import FORECAST_TABLES
from recsys_plugin.settings import Settings

NOW = datetime(2025, 5, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("forecasts")
    synthetic.write_tables(folder / "shop", users=60, items=50)
    return prepare_data(Settings(home=folder), folder=folder / "shop", now=NOW)


@pytest.fixture(scope="module")
def built(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    told: list[tuple[str, int, int]] = []
    rows = build_forecast_tables(
        folder, dataset, as_of=pd.Timestamp(NOW), progress=lambda name, done, total: told.append((name, done, total))
    )
    assert rows == {name: pq.read_metadata(folder / f"{name}.parquet").num_rows for name in FORECAST_TABLES}
    assert ("forecasts: users", 60, 60) in told
    return folder


def frame(folder: Path, name: str) -> pd.DataFrame:
    table: pd.DataFrame = pq.read_table(folder / f"{name}.parquet").to_pandas()
    return table


def test_every_moment_knows_its_past_only(dataset: Dataset, built: Path, tmp_path: Path) -> None:
    for moment in (pd.Timestamp("2025-04-07", tz="UTC"), pd.Timestamp("2025-04-21", tz="UTC")):
        folder = tmp_path / str(moment.date())
        folder.mkdir()
        build_forecast_tables(folder, dataset, as_of=moment)
        for name in FORECAST_TABLES:
            whole, alone = (
                table[table["event_timestamp"] == moment] for table in (frame(built, name), frame(folder, name))
            )
            assert len(alone) > 3
            pd.testing.assert_frame_equal(whole.reset_index(drop=True), alone.reset_index(drop=True))


def test_rows_are_sorted_and_say_what_they_should(dataset: Dataset, built: Path) -> None:
    items, categories = frame(built, "item_demand_forecast"), frame(built, "category_demand_forecast")
    users = frame(built, "user_purchase_forecast")
    for table, key in ((items, "item_id"), (categories, "category"), (users, "user_id")):
        assert table[[key, "event_timestamp"]].equals(
            table[[key, "event_timestamp"]].sort_values([key, "event_timestamp"])
        )
        assert not table.duplicated([key, "event_timestamp"]).any()
        assert table["event_timestamp"].max() == pd.Timestamp(NOW)
    assert (items["purchases_next_7d"] >= 0).all()
    assert set(items["demand_class"]) <= set(CLASSES)
    assert set(items["model"]) <= {"none", *(model.name for model in TABLE_MODELS)}
    # Two months of about as many visits each week: next week is as the weeks before it were.
    bought = dataset.frame("events", event_types=["purchase"])
    lately = bought["timestamp"].between(pd.Timestamp("2025-04-04", tz="UTC"), pd.Timestamp(NOW))
    newest = items[items["event_timestamp"] == pd.Timestamp(NOW)].set_index("item_id")
    assert newest["purchases_next_7d"].sum() == pytest.approx(lately.sum() / 4, rel=0.25)
    # The category's forecast stands beside each of its items, and nothing beside an item without one.
    named = dataset.frame("items", ["item_id", "category"]).set_index("item_id")["category"]
    of = categories[categories["event_timestamp"] == pd.Timestamp(NOW)].set_index("category")["purchases_next_7d"]
    wanted = of.reindex(named.reindex(newest.index)).to_numpy(np.float32)
    assert np.array_equal(newest["category_purchases_next_7d"].to_numpy(np.float32), wanted, equal_nan=True)
    assert len(of) == named.dropna().nunique()
    assert synthetic.NEVER_BOUGHT not in newest.index


def test_user_rows_are_what_the_model_says_of_the_user(dataset: Dataset, built: Path) -> None:
    users = frame(built, "user_purchase_forecast")
    assert synthetic.NEVER_SEEN not in set(users["user_id"])
    shop = read_purchases(dataset, before=pd.Timestamp(NOW))
    moment = pd.Timestamp("2025-04-28", tz="UTC")
    timing = fit_timing(shop.users, [moment - pd.Timedelta(weeks=weeks) for weeks in range(8, -1, -1)])
    asked, known = shop.users.customers(moment)
    chance = timing[-1].parameters.days_to_next(known)
    mine = users[users["event_timestamp"] == moment].set_index("user_id")
    assert mine.index.tolist() == shop.user_ids[asked].tolist()
    assert mine["days_to_next_purchase"].to_numpy() == pytest.approx(chance, rel=0.1)
    assert mine["purchase_probability_7d"].between(0, 1).all()
    assert mine["active_probability"].between(0, 1).all()


def test_without_purchases_or_with_too_few_days_the_tables_are_empty(
    dataset: Dataset, built: Path, tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    events = dataset.table("events")
    pq.write_table(events.filter(pc.equal(events["event_type"], "click")), shop / "events.parquet")
    for name in ("users", "items"):
        pq.write_table(dataset.table(name), shop / f"{name}.parquet")
    clicks = prepare_data(Settings(home=tmp_path / "home"), folder=shop, now=NOW)
    for number, (data, as_of) in enumerate(
        ((clicks, pd.Timestamp(NOW)), (dataset, pd.Timestamp(dataset.first_event) + pd.Timedelta(hours=3)))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = build_forecast_tables(folder, data, as_of=as_of)
        assert set(rows.values()) == {0}
        for name in FORECAST_TABLES:
            assert pq.read_schema(folder / f"{name}.parquet") == pq.read_schema(built / f"{name}.parquet")


def test_who_has_been_away_for_a_year_has_no_row(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    synthetic.write_tables(shop, users=20, items=40)
    events = pq.read_table(shop / "events.parquet").to_pandas()
    away = events["user_id"] == "user-003"
    events.loc[away, "timestamp"] -= pd.Timedelta(days=500)
    pq.write_table(pa.Table.from_pandas(events, preserve_index=False), shop / "events.parquet")
    data = prepare_data(Settings(home=tmp_path / "home"), folder=shop, now=NOW)
    build_forecast_tables(tmp_path, data, as_of=pd.Timestamp(NOW))
    rows = frame(tmp_path, "user_purchase_forecast")
    assert "user-003" in set(rows["user_id"])
    assert "user-003" not in set(rows.loc[rows["event_timestamp"] == pd.Timestamp(NOW), "user_id"])


def test_moments_that_the_tables_do_not_know(dataset: Dataset) -> None:
    assert valid_moment(dataset) == pd.Timestamp(NOW)
    for moment in (datetime(2025, 5, 3, tzinfo=UTC), dataset.first_event, datetime(2020, 1, 1, tzinfo=UTC)):
        with pytest.raises(InvalidInput, match="the tables know events from 2025-03-01"):
            valid_moment(dataset, moment)
