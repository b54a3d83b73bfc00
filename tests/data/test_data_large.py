"""Tables that are read piece by piece: what comes of them is what comes of the whole."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.data import files
from recsys_plugin.data.dictionaries import dictionary_frame
from recsys_plugin.data.events import PIECE_ROWS, content_hashes, repetitions
from recsys_plugin.data.files import LargeTable, RawTable, open_events
from recsys_plugin.data.partitions import partitions
from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.schema import TABLES
from recsys_plugin.data.tables import validate_tables
from recsys_plugin.errors import DataError
from recsys_plugin.settings import Settings

NOW = datetime(2025, 1, 1, tzinfo=UTC)
START = datetime(2024, 1, 1, tzinfo=UTC)
Row = dict[str, Any]

KEYS = st.sampled_from(["a", "b", "ä", "ab", "z", "Z", "😀"])


@given(st.lists(KEYS, max_size=30), st.integers(1, 8), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_partitions_hold_every_row_once_and_every_key_together(keys: list[str], batch: int, rows: int) -> None:
    table = pa.table({"key": pa.array(keys, pa.string()), "position": pa.array(range(len(keys)), pa.int64())})

    def batches() -> Iterator[pa.Table]:
        return (table.slice(start, batch) for start in range(0, len(keys), batch))

    with tempfile.TemporaryDirectory() as scratch:
        parts = [part.to_pylist() for part in partitions(batches, "key", rows=rows, scratch=Path(scratch))]
        assert list(Path(scratch).iterdir()) == []
    assert sorted(row["position"] for part in parts for row in part) == list(range(len(keys)))
    for part in parts:
        positions = [row["position"] for row in part]
        assert positions == sorted(positions)
        assert len(part) <= rows or len({row["key"] for row in part}) == 1
    named = [{row["key"] for row in part} for part in parts]
    for earlier, later in itertools.pairwise(named):
        assert max(earlier) < min(later)


def events_table(rows: list[Row]) -> pa.Table:
    schema = TABLES["events"].arrow_schema
    defaults = {"quantity": 1.0}
    return pa.Table.from_pylist([{**defaults, **row} for row in rows], schema)


@st.composite
def some_events(draw: st.DrawFn) -> list[Row]:
    """Events out of order, many of them alike, some with an id of their own."""
    count = draw(st.integers(1, 15))
    given_ids = draw(st.lists(st.sampled_from([None, "id"]), min_size=count, max_size=count))
    return [
        {
            "user_id": draw(st.sampled_from("uv")),
            "item_id": draw(st.sampled_from("ij")),
            "event_type": draw(st.sampled_from(["click", "purchase"])),
            "timestamp": START + timedelta(hours=draw(st.integers(0, 5))),
            "query": draw(st.sampled_from([None, "mug"])),
            "event_id": None if given_id is None else f"{given_id}{number}",
        }
        for number, given_id in enumerate(given_ids)
    ]


ITEMS = pa.table({"item_id": ["i", "j"], "title": ["Mug", "Cup"]})


def validated(events: pa.Table, piece_rows: int) -> tuple[dict[str, pa.Table], dict[str, int]]:
    raw = {"events": RawTable("events.parquet", events), "items": RawTable("items.parquet", ITEMS)}
    with tempfile.TemporaryDirectory() as scratch:
        valid = validate_tables(raw, now=NOW, scratch=Path(scratch), piece_rows=piece_rows)
        found = pa.concat_tables(valid.events.pieces())
        bounds = found["timestamp"].to_pylist()
        assert (valid.events.rows, valid.events.first, valid.events.last) == (len(bounds), bounds[0], bounds[-1])
        return {**valid.tables, "events": found}, valid.events.types


@given(some_events(), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_events_in_pieces_become_the_same_events(rows: list[Row], piece_rows: int) -> None:
    events = events_table(rows)
    whole, types = validated(events, PIECE_ROWS)
    pieces, types_of_pieces = validated(events, piece_rows)
    assert pieces["events"].to_pylist() == whole["events"].to_pylist()
    assert pieces["users"].to_pylist() == whole["users"].to_pylist()
    assert types == types_of_pieces
    assert whole["events"]["timestamp"].to_pylist() == sorted(row["timestamp"] for row in rows)


def test_hashes_do_not_depend_on_the_piece() -> None:
    rows = [{"user_id": str(n % 3), "item_id": "i", "event_type": "click", "timestamp": START} for n in range(9)]
    rows[4]["query"] = "mug"
    events = events_table(rows)
    whole = content_hashes(events)
    assert np.concatenate([content_hashes(events.slice(start, 2)) for start in range(0, 9, 2)]).tolist() == list(whole)
    assert repetitions(whole).tolist() == [0, 0, 0, 1, 0, 1, 2, 1, 2]


def large(folder: Path, rows: list[Row]) -> dict[str, RawTable | LargeTable]:
    """Tables whose events are read piece by piece."""
    events, path = events_table(rows), folder / "events.parquet"
    parquet.write_table(events, path)
    return {
        "events": LargeTable(path, list(events.column_names), events.num_rows),
        "items": RawTable("items.parquet", ITEMS),
    }


EVENT: Row = {"user_id": "u", "item_id": "i", "event_type": "click", "timestamp": START}


@pytest.mark.parametrize(
    ("position", "change", "column", "reason"),
    [
        pytest.param(6, {"price": float("nan")}, "price", "not a finite number", id="NaN"),
        pytest.param(6, {"quantity": float("inf")}, "quantity", "not a finite number", id="infinite"),
        pytest.param(4, {"item_id": "absent"}, "item_id", "'absent' is not in items.parquet", id="absent item"),
        pytest.param(9, {"timestamp": NOW + timedelta(1)}, "timestamp", "lies in the future", id="future"),
        pytest.param(8, {"event_id": "e2"}, "event_id", "'e2' is in rows 3 and 9", id="repeated id"),
    ],
)
def test_faults_in_later_pieces_name_the_row_of_the_file(
    position: int, change: Row, column: str, reason: str, tmp_path: Path
) -> None:
    rows = [{**EVENT, "event_id": f"e{number}"} for number in range(10)]
    rows[position] |= change
    with pytest.raises(DataError, match=reason) as caught:
        validate_tables(large(tmp_path, rows), now=NOW, scratch=tmp_path, piece_rows=3)
    assert (caught.value.file, caught.value.column, caught.value.row) == ("events.parquet", column, position + 1)


def test_faults_of_a_piece_are_counted_as_the_least(tmp_path: Path) -> None:
    rows = [{**EVENT, "price": -1.0} for _ in range(4)]
    raw = large(tmp_path, rows)
    with pytest.raises(DataError, match=r"\(at least 2 rows have this fault\)"):
        validate_tables(raw, now=NOW, scratch=tmp_path, piece_rows=2)
    with pytest.raises(DataError, match=r"\(4 rows have this fault\)"):
        validate_tables(raw, now=NOW, scratch=tmp_path)


def test_a_large_file_is_stored_as_a_small_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    rows = [{**EVENT, "timestamp": START + timedelta(hours=number * 7 % 10)} for number in range(10)]
    events = events_table(rows).append_column("colour", pa.array(["red"] * 10))
    parquet.write_table(events, shop / "events.parquet")
    parquet.write_table(ITEMS, shop / "items.parquet")
    small = prepare_data(Settings(home=tmp_path / "small"), folder=shop, now=NOW)
    monkeypatch.setattr(files, "_WHOLE_ROWS", 3)
    assert isinstance(open_events(shop / "events.parquet", TABLES["events"]), LargeTable)
    dataset = prepare_data(Settings(home=tmp_path / "large"), folder=shop, now=NOW)
    assert dataset.manifest() == small.manifest()
    assert "events.parquet: column 'colour' ignored" in dataset.description.notes
    assert [path.name for path in (tmp_path / "large" / ".recsys").iterdir() if path.name.startswith(".events")] == []


def test_dictionary_frames_hold_the_same_values() -> None:
    table = pa.table(
        {
            "text": pa.chunked_array([pa.array(["b", None, "ä"]), pa.array(["a", "b"])]),
            "number": pa.array([1.0, None, 3.0, 4.0, 5.0]),
            "moment": pa.array([START] * 5, pa.timestamp("us", tz="UTC")),
        }
    )
    frame = dictionary_frame(table)
    assert list(frame["text"].cat.categories) == ["a", "b", "ä"]
    assert frame["text"].astype(object).where(frame["text"].notna(), None).tolist() == table["text"].to_pylist()
    plain = table.to_pandas()
    pd.testing.assert_frame_equal(frame[["number", "moment"]], plain[["number", "moment"]])
    assert dictionary_frame(table.schema.empty_table()).empty


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_event_frames_split_no_moment(hours: list[int], rows: int) -> None:
    events = [{**EVENT, "timestamp": START + timedelta(hours=hour)} for hour in hours]
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop"
        shop.mkdir()
        parquet.write_table(events_table(events), shop / "events.parquet")
        parquet.write_table(ITEMS, shop / "items.parquet")
        dataset = prepare_data(Settings(home=Path(folder)), folder=shop, now=NOW)
        pieces = list(dataset.event_frames(["timestamp", "user_id"], rows=rows))
        whole = dataset.frame("events", ["user_id", "timestamp"], dictionary=True)
        assert [set(piece["timestamp"]) for piece in pieces if piece.empty] == []
        moments = [moment for piece in pieces for moment in piece["timestamp"].unique()]
        assert moments == sorted(set(whole["timestamp"]))
        assert pd.concat(pieces)["timestamp"].tolist() == whole["timestamp"].tolist()
        assert len(dataset.frame("events", ["user_id"], event_types=["purchase"])) == 0
        assert len(dataset.frame("events", event_types=["click", "cart"])) == len(hours)
        assert sum(batch.num_rows for batch in dataset.batches("events", rows=rows)) == len(hours)


def test_an_optional_table_that_is_absent_is_empty(tmp_path: Path) -> None:
    parquet.write_table(events_table([EVENT]), tmp_path / "events.parquet")
    parquet.write_table(ITEMS, tmp_path / "items.parquet")
    dataset = prepare_data(Settings(home=tmp_path / "home"), folder=tmp_path, now=NOW)
    texts = dataset.frame("texts")
    assert texts.empty
    assert tuple(texts.columns) == TABLES["texts"].column_names
    assert str(texts["timestamp"].dtype) == "datetime64[us, UTC]"
    assert list(dataset.frame("texts", ["entity_id", "text"], dictionary=True).columns) == ["entity_id", "text"]
    assert list(dataset.batches("texts")) == []


def test_absent_columns_take_their_defaults_in_every_piece() -> None:
    rows = [{**EVENT, "timestamp": START + timedelta(hours=hour)} for hour in range(5)]
    events = events_table(rows).select(["user_id", "item_id", "event_type", "timestamp"])
    found, _ = validated(events, 2)
    assert found["events"]["quantity"].to_pylist() == [1.0] * 5
    assert found["events"]["price"].null_count == 5
