"""``recsys bench materialize`` with few rows: the form of what it finds, and that a difference stops it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from shops import CommandLine

from recsys_plugin.bench import materialize as bench
from recsys_plugin.bench.typed_table import AS_OF, VIEW, typed_view, write_typed_table
from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import CheckFailed
from recsys_plugin.features.codec import VALUE_FIELDS, entity_key_prefix, entity_key_value, hash_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

ROWS = 300


def test_figures(tmp_path: Path) -> None:
    """In a home without a shop, and in a process of its own: one that used Feast before need not grow any more."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
    command = CommandLine(tmp_path, {**inherited, "RECSYS_HOME": str(tmp_path), "COLUMNS": "200"})
    arguments = [
        "--rows",
        str(ROWS),
        "--rounds",
        "2",
        "--sample",
        "200",
        "--pushes",
        "20",
        "--seed",
        "3",
        "--json",
        "-",
    ]
    report = json.loads(command.run("bench", "materialize", *arguments).stdout)
    figures = report["figures"]
    assert all(math.isfinite(value) for value in figures.values())
    assert figures[f"{VIEW}.rows"] == ROWS
    assert figures[f"{VIEW}.rows_compared"] == 200
    for way in ("ours", "stock", "bulk_store"):
        assert figures[f"{VIEW}.{way}.calls"] == 2
        rate = ROWS / figures[f"{VIEW}.{way}.p50_ms"] * 1000
        assert figures[f"{VIEW}.{way}.rows_per_second"] == pytest.approx(rate, rel=1e-6)
        assert figures[f"{VIEW}.{way}.peak_growth_mib"] > 0
    low, value, high = (figures[f"{VIEW}.stock_to_ours.ratio_p50{end}"] for end in ("_low", "", "_high"))
    assert 0 < low <= value <= high
    assert figures["row.ours.calls"] == 20
    assert figures["row.push.calls"] == figures["row.write_to_online_store.calls"] == 2
    assert figures["row.push_to_ours.ratio_p50"] > 0
    assert {"feast", "duckdb", "redis-server"} <= set(report["versions"])
    assert not any(tmp_path.iterdir()), "the benchmark has a Redis and tables of its own, and removes them"


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[Any, Any, Any]]:
    """Stock Feast's store and ours with the same rows, and a client of their Redis."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench._quiet())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = RedisAddress.parse(stack.enter_context(Services(Settings(home=folder)).ensure_redis()))
        table = folder / "table.parquet"
        write_typed_table(table, ROWS, seed=1)
        stock, ours = (bench._store(folder, name, address, [*typed_view(table)]) for name in ("stock", "ours"))
        load = bench._Load(VIEW, (VIEW,), AS_OF)
        bench._stock(stock, load)
        bench._ours(ours, address, load)
        client = stack.enter_context(contextlib.closing(address.connect(5)))
        yield stock, ours, client


def test_every_type_is_the_same(stores: tuple[Any, Any, Any]) -> None:
    stock, ours, _ = stores
    assert bench.require_same_rows(stock, ours, VIEW, sample=10_000, seed=0) == ROWS
    for store in (stock, ours):
        view = store.get_feature_view(VIEW)
        assert view.materialization_intervals == [(AS_OF - view.ttl, AS_OF)]


@pytest.mark.parametrize("dtype", sorted(VALUE_FIELDS))
def test_a_difference_in_any_type_is_found(stores: tuple[Any, Any, Any], dtype: str) -> None:
    stock, ours, client = stores
    key = entity_key_prefix("entity_id") + entity_key_value("entity-00000007") + b"ours"
    field = hash_field(f"{VIEW}:{dtype.lower()}")
    value = client.hget(key, field)
    other = client.hget(key[:-4] + b"stock", hash_field(f"{VIEW}:string"))
    try:
        client.hset(key, field, b"" if value else other + b"\x12\x01x")
        with pytest.raises(CheckFailed, match=f"{VIEW}:{dtype.lower()} of entity_id 'entity-00000007'"):
            bench.require_same_rows(stock, ours, VIEW, sample=ROWS, seed=0)
    finally:
        client.hset(key, field, value)


def test_the_generated_table_has_every_type_nulls_and_older_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_typed_table(path, 1_000, seed=2)
    table = pq.read_table(path)
    assert table.num_rows == 1_250
    assert pc.count_distinct(table["entity_id"]).as_py() == 1_000
    assert set(table.column_names) == {"entity_id", "event_timestamp", *(name.lower() for name in VALUE_FIELDS)}
    for name in VALUE_FIELDS:
        assert 10 < table[name.lower()].null_count < 200
    assert pc.max(table["event_timestamp"]).as_py() <= AS_OF
    write_typed_table(tmp_path / "again.parquet", 1_000, seed=2)
    assert pq.read_table(tmp_path / "again.parquet").equals(table)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--rows", "0"), "--rows"),
        (("--rounds", "0"), "--rounds"),
        (("--seed", "-1"), "--seed"),
        (("--json", "no/such/folder/report.json"), "does not exist"),
    ],
)
def test_wrong_input_ends_with_code_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = CliRunner(env={"RECSYS_HOME": str(tmp_path)}).invoke(recsys, ["bench", "materialize", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_help_has_examples() -> None:
    result = CliRunner().invoke(recsys, ["bench", "materialize", "--help"])
    assert result.exit_code == 0
    assert "recsys bench materialize --" in result.stdout
