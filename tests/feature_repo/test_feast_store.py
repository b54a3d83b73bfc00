"""Our class as the online store of stock Feast: equal rows, later rows win, and expiry."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from recsys_plugin import feast_store
from recsys_plugin.bench import materialize as bench
from recsys_plugin.bench.materialize import require_same_rows
from recsys_plugin.bench.typed_table import AS_OF, VIEW, typed_view, write_typed_table
from recsys_plugin.errors import CheckFailed, ConfigurationError
from recsys_plugin.features.codec import decode_value, entity_key_prefix, entity_key_value, hash_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

ROWS = 300
KIND = "recsys_plugin.feast_store.BulkRedisOnlineStore"
_DEFINITIONS = """
from pathlib import Path

from recsys_plugin.bench.typed_table import typed_view

entity, view = typed_view(Path({table!r}))
"""
_CONFIGURATION = """
project: bulk
provider: local
registry: {folder}/registry.db
online_store:
  type: {kind}
  connection_string: {connection}
  key_ttl_seconds: 100000
offline_store:
  type: duckdb
entity_key_serialization_version: 3
"""


@pytest.fixture(scope="module")
def address() -> Iterator[RedisAddress]:
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield RedisAddress.parse(stack.enter_context(Services(Settings(home=home)).ensure_redis()))


@pytest.fixture(scope="module")
def stores(address: RedisAddress, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same table, materialised by Feast with its own store, and with the stock command and ours."""
    folder = tmp_path_factory.mktemp("bulk")
    table = folder / "table.parquet"
    write_typed_table(table, ROWS, seed=1)
    stock = bench._store(folder, "stock", address, [*typed_view(table)])
    start = AS_OF - timedelta(days=30)
    with bench._quiet():
        stock.materialize(start_date=start, end_date=AS_OF)
    given = {"folder": folder, "kind": KIND, "connection": f'"{address.feast_connection_string(timeout=5)}"'}
    (folder / "feature_store.yaml").write_text(_CONFIGURATION.format(**given), encoding="utf-8")
    (folder / "definitions.py").write_text(_DEFINITIONS.format(table=str(table)), encoding="utf-8")
    for arguments in (["apply"], ["materialize", start.isoformat(), AS_OF.isoformat()]):
        command = [str(Path(sys.executable).with_name("feast")), "-c", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return {"stock": stock, "bulk": FeatureStore(repo_path=str(folder))}


def connect(address: RedisAddress) -> Any:
    return address.connect(5)


def key_of(number: str, project: str = "bulk") -> bytes:
    return entity_key_prefix("entity_id") + entity_key_value(number) + project.encode()


def row(number: str, moment: datetime, value: int) -> tuple[EntityKey, dict[str, Value], datetime, None]:
    key = EntityKey(join_keys=["entity_id"], entity_values=[Value(string_val=number)])
    return key, {"int64": Value(int64_val=value), "string": Value()}, moment, None


def test_the_stock_command_writes_the_same_by_it(stores: dict[str, Any], address: RedisAddress) -> None:
    assert type(stores["bulk"]._get_provider().online_store).__name__ == "BulkRedisOnlineStore"
    assert require_same_rows(stores["stock"], stores["bulk"], VIEW, sample=10_000, seed=0) == ROWS
    with contextlib.closing(connect(address)) as client:
        for number in (0, ROWS - 1):
            theirs, mine = (client.hgetall(key_of(f"entity-{number:08d}", name)) for name in ("stock", "bulk"))
            assert theirs == mine
            assert 0 < client.ttl(key_of(f"entity-{number:08d}")) <= 100_000
        key, field = key_of("entity-00000000"), hash_field(f"{VIEW}:int64")
        before = client.hget(key, field)
        client.hset(key, field, Value(int64_val=-1234).SerializeToString())
        with pytest.raises(CheckFailed, match="int64 of entity_id 'entity-00000000'"):
            require_same_rows(stores["stock"], stores["bulk"], VIEW, sample=10_000, seed=0)
        client.hset(key, field, before)


@pytest.mark.parametrize("rows_at_a_time", [1, 2, 2048])
def test_the_latest_row_of_an_entity_stays(
    rows_at_a_time: int, stores: dict[str, Any], address: RedisAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a call and over calls, in whatever order; of equal event times the last."""
    monkeypatch.setattr(feast_store, "_ROWS", rows_at_a_time)
    store = stores["bulk"]
    told: list[int] = []
    online, view = store._get_provider().online_store, store.get_feature_view(VIEW)
    moment, second = datetime(2030, 1, 1, tzinfo=UTC), timedelta(seconds=1)
    naive = (moment + second).replace(tzinfo=None)  # Feast takes it for UTC
    name = f"new-{rows_at_a_time}"
    with contextlib.closing(connect(address)) as client:

        def held() -> object:
            return decode_value(client.hget(key_of(name), hash_field(f"{VIEW}:int64")))[1]

        rows = [row(name, moment, 1), row(name, naive, 2), row(name, moment - second, 3), row(f"{name}b", moment, 4)]
        online.online_write_batch(store.config, view, rows, told.append)
        assert (held(), sum(told)) == (2, 4)
        online.online_write_batch(store.config, view, [row(name, moment, 5)], None)
        assert held() == 2
        online.online_write_batch(store.config, view, [row(name, moment + second, 6)], None)
        assert held() == 6
        assert client.hget(key_of(name), hash_field(f"{VIEW}:string")) == b""


def test_two_features_in_one_hash_field_are_refused(stores: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feast_store, "hash_field", lambda name: b"same")
    store = stores["bulk"]
    online, view = store._get_provider().online_store, store.get_feature_view(VIEW)
    with pytest.raises(ConfigurationError, match="int64 and string share the hash field"):
        online.online_write_batch(store.config, view, [row("x", AS_OF, 1)], None)
