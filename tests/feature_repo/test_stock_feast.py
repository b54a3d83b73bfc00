"""The feature repository is an ordinary one: the stock ``feast`` works on it, and its SDK returns what we read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from feast import FeatureStore
from shops import CommandLine, Shop
from synthetic import NEVER_BOUGHT, NEVER_SEEN

from recsys_plugin.features.codec import entity_key_prefix, entity_key_value, hash_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import Encoding
from recsys_plugin.pipeline.feast_repository import contract_of, feature_schema, open_store

FEAST = Path(sys.executable).with_name("feast")


@pytest.fixture(scope="module")
def empty_redis(small_shop: Shop) -> str:
    """The shop's Redis has fifteen more databases, all empty."""
    return small_shop.redis_url.removesuffix("/0") + "/1"


@pytest.fixture(scope="module")
def environment(small_shop: Shop, empty_redis: str) -> dict[str, str]:
    """What ``eval "$(recsys env)"`` gives a shell, and nothing else of ours."""
    command = CommandLine(small_shop.command.home, small_shop.command.environment | {"RECSYS_REDIS_URL": empty_redis})
    printed: dict[str, str] = json.loads(command.run("env", "--json").stdout)
    return {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")} | printed


def feast(shop: Shop, environment: dict[str, str], *arguments: str) -> str:
    command = [str(FEAST), "-c", str(shop.settings.feature_repo), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def materialized(small_shop: Shop, environment: dict[str, str], empty_redis: str) -> FeatureStore:
    """Applied and materialised with the stock command into an empty Redis."""
    with RedisAddress.parse(empty_redis).connect(5) as client:
        assert client.dbsize() == 0
    feast(small_shop, environment, "apply")
    feast(small_shop, environment, "materialize", "2015-01-01T00:00:00", small_shop.as_of.isoformat())
    store: FeatureStore = open_store(small_shop.settings, empty_redis)
    return store


def test_feature_views_are_listed(small_shop: Shop, environment: dict[str, str]) -> None:
    listed = feast(small_shop, environment, "feature-views", "list")
    for view in ("user_profile", "user_statistics", "user_recent_items", "user_session", "user_embedding"):
        assert view in listed
    for view in ("item_catalogue", "item_statistics", "item_embedding"):
        assert view in listed


def same_bytes(
    store: FeatureStore, redis_url: str, join_key: str, ids: Sequence[str], references: Sequence[str]
) -> dict[str, int]:
    """Compare Feast's answer with the hash fields that the plugin reads; how many values each id has."""
    rows = [{join_key: value} for value in ids]
    answer = store.get_online_features(features=list(references), entity_rows=rows, full_feature_names=True).proto
    columns = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
    assert columns.keys() == {join_key, *(reference.replace(":", "__") for reference in references)}
    present = {}
    with RedisAddress.parse(redis_url).connect(5) as client:
        for number, value in enumerate(ids):
            key = entity_key_prefix(join_key) + entity_key_value(value) + b"recsys"
            stored = client.hmget(key, [hash_field(reference) for reference in references])
            returned = [
                columns[reference.replace(":", "__")].values[number].SerializeToString() for reference in references
            ]
            assert [data or b"" for data in stored] == returned
            present[value] = sum(data is not None for data in stored)
    return present


def test_online_features_of_users_are_what_the_plugin_reads(
    materialized: FeatureStore, small_shop: Shop, empty_redis: str
) -> None:
    references = [spec.reference for spec in contract_of(materialized).stored_features]
    users = [*small_shop.some_users[:40], NEVER_SEEN, "nobody"]
    present = same_bytes(materialized, empty_redis, "user_id", users, references)
    assert present["nobody"] == 0
    assert 0 < present[NEVER_SEEN] <= 7
    assert max(present.values()) > 20


def test_online_features_of_items_are_what_the_codec_reads(
    materialized: FeatureStore, small_shop: Shop, empty_redis: str
) -> None:
    references = [name for name in feature_schema(materialized) if name.startswith("item_")]
    items = [*small_shop.some_items[:40], NEVER_BOUGHT, "nothing"]
    present = same_bytes(materialized, empty_redis, "item_id", items, references)
    assert present["nothing"] == 0
    # Nobody told the stock of any.
    assert present[NEVER_BOUGHT] < max(present.values()) == len(references) - 1


def test_every_definition_says_why(materialized: FeatureStore) -> None:
    views = materialized.list_feature_views()
    assert len(views) == 15
    for view in views:
        assert view.description.endswith(".")
        assert view.ttl
        assert view.tags["freshness"] in ("batch", "daily", "live")
        assert all(field.description.endswith(".") for field in view.features)
    live = {view.name for view in views if view.stream_source is not None}
    assert live == {view.name for view in views if view.tags["freshness"] == "live"}
    for entity in materialized.list_entities():
        assert entity.value_type.name == "STRING"


def test_the_contract_is_derived_from_the_service(materialized: FeatureStore) -> None:
    contract = contract_of(materialized)
    assert contract.project == "recsys"
    assert contract.features[-1].reference == "request:timestamp"
    by_name = {spec.reference: spec for spec in contract.features}
    favourites = by_name["user_statistics:favourite_items"]
    assert (favourites.dtype, favourites.length, favourites.encoding) == ("STRING_LIST", 100, Encoding.ROW)
    assert by_name["user_session:session_clicks"].max_age_seconds == 1800
    assert not contract.differences(feature_schema(materialized))
