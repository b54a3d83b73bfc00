"""Valid tables: what comes in, from CSV or Parquet, is what is kept."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.data.files import RawTable
from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.schema import EVENT_TYPES, TABLES, describe
from recsys_plugin.data.store import Dataset
from recsys_plugin.data.tables import validate_tables
from recsys_plugin.settings import Settings

Run = Callable[..., Result]
NOW = datetime(2025, 1, 1, tzinfo=UTC)

identifiers = (
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)
    .filter(lambda text: len(text.encode()) <= 256)
    # A column of nothing but such ids is what pandas makes of integers, and is refused.
    .filter(lambda text: not text.endswith(".0"))
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
titles = texts.filter(lambda text: bool(text.strip()))
numbers = st.floats(0, 1e12, allow_nan=False)
moments = st.datetimes(datetime(1971, 1, 1), datetime(2024, 12, 30), timezones=st.just(UTC))
Rows = list[dict[str, Any]]


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


@st.composite
def shops(draw: st.DrawFn) -> dict[str, Rows]:
    """Whole valid shops, every column present, nulls wherever they are allowed."""
    users = draw(st.lists(identifiers, min_size=1, max_size=5, unique=True))
    items = draw(st.lists(identifiers, min_size=1, max_size=5, unique=True))
    profile = ("country", "gender", "age_group", "income_group", "household", "segment")
    event_count = draw(st.integers(1, 8))
    given_ids = draw(st.lists(identifiers, min_size=event_count, max_size=event_count, unique=True))
    return {
        "users": [
            {
                "user_id": user,
                **{name: draw(optional(texts)) for name in profile},
                "signed_up_at": draw(optional(moments)),
            }
            for user in users
        ],
        "items": [
            {
                "item_id": item,
                "title": draw(titles),
                **{name: draw(optional(texts)) for name in ("description", "category", "subcategory", "brand")},
                "price": draw(optional(numbers)),
                "available_from": draw(optional(moments)),
            }
            for item in items
        ],
        "events": [
            {
                "user_id": draw(st.sampled_from(users)),
                "item_id": draw(st.sampled_from(items)),
                "event_type": draw(st.sampled_from(EVENT_TYPES)),
                "timestamp": draw(moments),
                "event_id": event_id,
                "quantity": draw(numbers.filter(bool)),
                "price": draw(optional(numbers)),
                "basket_id": draw(optional(identifiers)),
                "query": draw(optional(texts)),
            }
            for event_id in given_ids
        ],
        "texts": [
            {
                "entity": "item",
                "entity_id": draw(st.sampled_from(items)),
                "source": "review",
                "text": draw(titles),
                "timestamp": draw(optional(moments)),
            }
        ],
    }


def write(folder: Path, shop: dict[str, Rows], suffix: str) -> None:
    folder.mkdir()
    for name, rows in shop.items():
        if suffix == "parquet":
            parquet.write_table(pa.Table.from_pylist(rows, TABLES[name].arrow_schema), folder / f"{name}.parquet")
            continue
        with (folder / f"{name}.csv").open("w", encoding="utf8", newline="") as file:
            writer = csv.DictWriter(file, TABLES[name].column_names, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)


def load(folder: Path, home: Path) -> Dataset:
    return prepare_data(Settings(home=home), folder=folder, now=NOW)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shop=shops())
def test_valid_tables_survive_csv_and_parquet_alike(shop: dict[str, Rows]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        kept = {}
        for suffix in ("csv", "parquet"):
            write(Path(scratch) / suffix, shop, suffix)
            dataset = load(Path(scratch) / suffix, Path(scratch) / f"home-{suffix}")
            kept[suffix] = {name: dataset.table(name) for name in dataset.counts}
        for name, rows in shop.items():
            expected = pa.Table.from_pylist(rows, TABLES[name].arrow_schema)
            if name == "events":
                expected = expected.sort_by("timestamp")
            assert kept["parquet"][name].schema == TABLES[name].arrow_schema
            assert kept["parquet"][name].to_pylist() == expected.to_pylist()
            assert kept["csv"][name].to_pylist() == expected.to_pylist()


def validate(**tables: pa.Table) -> dict[str, pa.Table]:
    raw = {name: RawTable(name, table) for name, table in tables.items()}
    with tempfile.TemporaryDirectory() as scratch:
        valid = validate_tables(raw, now=NOW, scratch=Path(scratch))
        return {**valid.tables, "events": pa.concat_tables(valid.events.pieces())}


def small_shop(**events: pa.Array) -> dict[str, pa.Table]:
    rows = len(next(iter(events.values())))
    columns = {
        "user_id": pa.array(["u"] * rows),
        "item_id": pa.array(["1"] * rows),
        "event_type": pa.array(["click"] * rows),
        "timestamp": pa.array([datetime(2024, 1, 1)] * rows),
        **events,
    }
    items = pa.table({"item_id": pa.array([1]), "title": pa.array(["Mug"])})
    return {"items": items, "events": pa.table(columns)}


def test_integer_ids_become_strings() -> None:
    tables = validate(**small_shop(item_id=pa.array([1, 1], pa.int32()), user_id=pa.array([7, 8])))
    assert tables["items"]["item_id"].to_pylist() == ["1"]
    assert tables["events"]["item_id"].to_pylist() == ["1", "1"]
    assert tables["users"]["user_id"].to_pylist() == ["7", "8"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["2024-01-01T02:00:00+02:00", "2024-01-01", "2024-01-01 00:00", " 2024-01-01T00:00:00.000000Z "]),
        pa.array([datetime(2024, 1, 1)], pa.timestamp("ns")),
        pa.array([datetime(2024, 1, 1)], pa.timestamp("s")),
        pa.array([datetime(2024, 1, 1).date()]),
        pa.array([datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))], pa.timestamp("ms", "Europe/Athens")),
        pa.array(["2024-01-01", "2024-01-01"]).dictionary_encode(),
    ],
    ids=["text", "nanoseconds", "seconds", "date", "another zone", "dictionary"],
)
def test_every_kind_of_timestamp_becomes_utc_microseconds(values: pa.Array) -> None:
    stored = validate(**small_shop(timestamp=values))["events"]["timestamp"]
    assert stored.type == pa.timestamp("us", tz="UTC")
    assert set(stored.to_pylist()) == {datetime(2024, 1, 1, tzinfo=UTC)}


def test_absent_columns_are_added_and_quantity_is_one() -> None:
    events = validate(**small_shop(quantity=pa.array([None, 2])))["events"]
    assert events.schema == TABLES["events"].arrow_schema
    assert events["quantity"].to_pylist() == [1.0, 2.0]
    assert events["query"].null_count == 2


def test_generated_event_ids_depend_on_content_not_on_order() -> None:
    shop = small_shop(query=pa.array(["a", "b", "a", None, "a"]))
    forward = validate(**shop)["events"]
    backward = validate(items=shop["items"], events=shop["events"].take([4, 3, 2, 1, 0]))["events"]
    ids = dict(zip(forward["event_id"].to_pylist(), forward["query"].to_pylist(), strict=True))
    assert dict(zip(backward["event_id"].to_pylist(), backward["query"].to_pylist(), strict=True)) == ids
    assert len(ids) == 5
    assert sorted(name.partition("-")[2] for name, query in ids.items() if query == "a") == ["", "1", "2"]


def test_generated_event_ids_are_the_same_for_ever() -> None:
    assert validate(**small_shop(query=pa.array(["a"])))["events"]["event_id"].to_pylist() == ["89831a10abd2d4ac"]


def test_given_event_ids_stay_and_gaps_are_filled() -> None:
    ids = validate(**small_shop(event_id=pa.array(["mine", None])))["events"]["event_id"].to_pylist()
    assert ids[0] == "mine"
    assert len(ids[1].partition("-")[0]) == 16


def test_events_are_ordered_by_time_and_keep_the_file_order_within_a_moment() -> None:
    late, early = datetime(2024, 1, 2), datetime(2024, 1, 1)
    shop = small_shop(timestamp=pa.array([late, early, early]), query=pa.array(["a", "b", "c"]))
    assert validate(**shop)["events"]["query"].to_pylist() == ["b", "c", "a"]


def test_unknown_columns_are_left_out_and_told(run: Run, shop: Path) -> None:
    (shop / "items.csv").write_text("item_id,title,colour\ni1,Red mug,red\ni2,Blue mug,blue\n")
    result = run("--from", shop, "--json")
    assert result.exit_code == 0, result.stderr
    assert "items.csv: column 'colour' ignored" in json.loads(result.stdout)["notes"]


def test_users_without_a_file_are_derived_from_events(run: Run, shop: Path) -> None:
    (shop / "users.csv").unlink()
    manifest = json.loads(run("--from", shop, "--json").stdout)
    assert manifest["counts"]["users"] == 2
    assert any("derived" in note for note in manifest["notes"])


def test_byte_order_mark_carriage_returns_and_inch_marks_are_read(run: Run, shop: Path) -> None:
    text = '\ufeffitem_id,title\r\ni1,Screen 24" wide\r\ni2,"A ""fine"" mug, red"\r\n'
    (shop / "items.csv").write_bytes(text.encode())
    assert run("--from", shop).exit_code == 0


def test_schema_is_printed_from_the_description_that_validates(run: Run) -> None:
    assert json.loads(run("--schema", "--json").stdout) == describe()
    shown = run("--schema").stdout
    for table in TABLES.values():
        for column in table.columns:
            assert column.name in shown
            assert column.meaning.endswith(".")


def test_help_has_examples(run: Run) -> None:
    assert "recsys data --from" in run("--help").stdout
