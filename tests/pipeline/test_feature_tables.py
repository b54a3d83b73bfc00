"""Feature tables made in parts: the same rows, sorted for joins, and nothing left behind."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic

from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.store import Dataset
from recsys_plugin.pipeline.feature_tables import build_feature_tables, write_table, write_tables
from recsys_plugin.settings import Settings

#: The tables that are made of events, and their keys.
KEYS = {
    "user_statistics": "user_id",
    "user_recent_items": "user_id",
    "user_session": "user_id",
    "user_activity": "user_id",
    "item_statistics": "item_id",
    "item_activity": "item_id",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("feature_tables")
    synthetic.write_tables(folder / "shop", users=25, items=40)
    return prepare_data(Settings(home=folder), folder=folder / "shop", now=datetime(2026, 1, 1, tzinfo=UTC))


def test_parts_make_the_same_tables(dataset: Dataset, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    rows = build_feature_tables(tmp_path / "whole", dataset)
    assert build_feature_tables(tmp_path / "parts", dataset, part_rows=100, progress=lambda *x: told.append(x)) == rows
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        path.name for path in (tmp_path / "parts").iterdir()
    }
    for name, key in KEYS.items():
        whole, parts = (
            pq.read_table(tmp_path / folder / f"{name}.parquet").sort_by(
                [(key, "ascending"), ("event_timestamp", "ascending")]
            )
            for folder in ("whole", "parts")
        )
        assert whole.num_rows == rows[name] > 100
        assert parts.to_pylist() == whole.to_pylist(), name
    # Joins skip the row groups of other users: in parts or not, the tables are sorted by user.
    for folder in ("whole", "parts"):
        users = pq.read_table(tmp_path / folder / "user_recent_items.parquet", columns=["user_id"])["user_id"]
        assert users.to_pylist() == sorted(users.to_pylist())
    events = dataset.counts["events"]
    acts = sum(dataset.event_types[kind] for kind in ("click", "cart", "purchase", "return"))
    assert told[-1] == ("item tables", acts, acts)
    assert ("user tables", 0, events) in told
    assert ("user tables", events, events) in told
    assert sum(what == "user tables" for what, _, _ in told) > 5


def test_a_shop_of_clicks_has_empty_sales_tables(dataset: Dataset, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    events = dataset.table("events")
    pq.write_table(events.filter(pa.compute.equal(events["event_type"], "click")), shop / "events.parquet")
    for name in ("users", "items"):
        pq.write_table(dataset.table(name), shop / f"{name}.parquet")
    clicks = prepare_data(Settings(home=tmp_path / "home"), folder=shop, now=datetime(2026, 1, 1, tzinfo=UTC))
    rows = build_feature_tables(tmp_path / "clicks", clicks)
    build_feature_tables(tmp_path / "all", dataset)
    assert rows["item_statistics"] == rows["user_statistics"] == 0
    assert rows["user_recent_items"] == rows["user_session"] > 0
    for name in KEYS:
        schemas = [pq.read_schema(tmp_path / folder / f"{name}.parquet") for folder in ("clicks", "all")]
        assert schemas[0] == schemas[1], name


def test_files_take_their_places_together_or_not_at_all(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.int64())])
    paths = [tmp_path / name for name in ("a.parquet", "b.parquet")]
    old = pa.table({"x": [0]}, schema)
    for path in paths:
        write_table(old, path)
    with pytest.raises(pa.ArrowException), write_tables(dict.fromkeys(paths, schema)) as writers:
        writers[paths[0]].write_table(pa.table({"x": ["no number"]}).cast(schema))
    assert [pq.read_table(path)["x"].to_pylist() for path in paths] == [[0], [0]]
    with write_tables(dict.fromkeys(paths, schema)) as writers:
        for number in (1, 2):
            writers[paths[0]].write_table(pa.table({"x": [number]}, schema))
        assert pq.read_table(paths[0]).num_rows == 1
    assert [pq.read_table(path)["x"].to_pylist() for path in paths] == [[1, 2], []]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]
