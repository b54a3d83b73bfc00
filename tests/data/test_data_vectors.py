"""Image vectors of items: from Parquet lists or JSON text, refused with file, column and row."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.data.coerce import coerce_column
from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.schema import TABLES
from recsys_plugin.errors import DataError
from recsys_plugin.settings import Settings

Run = Callable[..., Result]
NOW = datetime(2025, 1, 1, tzinfo=UTC)
(COLUMN,) = (column for column in TABLES["items"].columns if column.name == "image_vector")


def coerced(values: pa.Array) -> list[Any]:
    found = coerce_column(pa.chunked_array([values]), COLUMN, file="items.csv", now=NOW)
    assert found.type == pa.list_(pa.float32())
    listed: list[Any] = found.to_pylist()
    return listed


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)
VECTORS = st.integers(1, 4).flatmap(
    lambda size: st.lists(st.none() | st.lists(NUMBERS, min_size=size, max_size=size), max_size=6)
)


@given(VECTORS)
@settings(deadline=None)
def test_vectors_survive_text_and_lists_alike(vectors: list[list[float] | None]) -> None:
    text = pa.array([None if vector is None else json.dumps(vector) for vector in vectors], pa.string())
    assert coerced(text) == coerced(pa.array(vectors, pa.list_(pa.float64()))) == vectors
    assert coerced(pa.array(vectors, pa.large_list(pa.float32()))) == vectors


def test_other_lists_of_numbers_are_taken() -> None:
    assert coerced(pa.array([[1, 2], None], pa.list_(pa.int16()))) == [[1.0, 2.0], None]
    assert coerced(pa.array([[1.0, 2.0], None], pa.list_(pa.float16(), 2))) == [[1.0, 2.0], None]
    assert coerced(pa.array(["", " [1] "])) == [None, [1.0]]
    assert coerced(pa.nulls(2)) == [None, None]


@pytest.mark.parametrize(
    ("values", "row", "reason"),
    [
        pytest.param(["[1, 2]", "[1, 2, 3]"], 2, "has 3 numbers where row 1 has 2", id="longer than the first"),
        pytest.param(["[1, NaN]"], 1, "not a finite number", id="NaN"),
        pytest.param(["[1]", "[Infinity]"], 2, "not a finite number", id="infinite"),
        pytest.param(["[1e39]"], 1, "not a finite number", id="beyond float32"),
        pytest.param([f"[{10**400}]"], 1, "beyond float32", id="beyond a double"),
        pytest.param(["[]"], 1, "empty list", id="empty list"),
        pytest.param(["[true]"], 1, "not a JSON list of numbers", id="truth value"),
        pytest.param(["[null]"], 1, "not a JSON list of numbers", id="null inside"),
        pytest.param(["", "0.5, 1"], 2, "not a JSON list of numbers", id="no brackets"),
        pytest.param(['{"a": 1}'], 1, "not a JSON list of numbers", id="object"),
        pytest.param([None, [1.0, None]], 2, "holds None", id="null inside a Parquet list"),
        pytest.param([[1.0], [float("nan")]], 2, "not a finite number", id="NaN inside a Parquet list"),
        pytest.param([["a"]], None, "expected lists of numbers", id="Parquet list of text"),
        pytest.param([1.0], None, "expected lists of numbers", id="a number"),
    ],
)
def test_malformed_vectors_are_refused(values: list[Any], row: int | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        coerced(pa.array(values))
    assert (caught.value.file, caught.value.column, caught.value.row) == ("items.csv", "image_vector", row)


def test_vectors_through_the_command_and_back(run: Run, shop: Path, home: Path) -> None:
    (shop / "items.csv").write_text('item_id,title,image_vector\ni1,Red mug,"[0.5, -1.25]"\ni2,Blue mug,\n')
    assert run("--from", shop).exit_code == 0
    (shop / "items.csv").write_text('item_id,title,image_vector\ni1,Red mug,"[0.5, -1.25]"\ni2,Blue mug,[1]\n')
    refused = run("--from", shop)
    assert refused.exit_code == 2
    assert "items.csv, column 'image_vector', row 2: has 1 numbers where row 1 has 2" in refused.stderr
    dataset = prepare_data(Settings(home=home), folder=_mended(shop), now=NOW)
    vectors = dataset.frame("items", ["item_id", "image_vector"])["image_vector"]
    assert np.asarray(vectors[0]).tolist() == [0.5, -1.25]
    assert vectors[1] is None
    assert dataset.table("items").schema.field("image_vector").type.value_type == pa.float32()


def _mended(shop: Path) -> Path:
    (shop / "items.csv").unlink()
    items = {"item_id": ["i1", "i2"], "title": ["Red mug", "Blue mug"], "image_vector": [[0.5, -1.25], None]}
    parquet.write_table(pa.table(items), shop / "items.parquet")
    return shop


def test_the_schema_says_how_a_vector_is_written(run: Run) -> None:
    described = json.loads(run("--schema", "--json").stdout)["items"]["columns"]
    (column,) = (column for column in described if column["name"] == "image_vector")
    assert column["kind"] == "vector"
    assert any("JSON list such as [0.5, -1.25]" in rule for rule in column["rules"])
