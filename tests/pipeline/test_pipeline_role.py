"""The steps that fill the store work for the Redis user of the pipeline, who may do nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from shops import CommandLine
from synthetic import write_tables
from watched_redis import WatchedRedis

from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.pipeline import online, steps
from recsys_plugin.pipeline.feature_tables import FEATURE_TABLES
from recsys_plugin.security.acl import CONNECTING, role
from recsys_plugin.settings import Settings


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[WatchedRedis]:
    with WatchedRedis(tmp_path / "watched") as server:
        yield server


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def test_apply_and_materialize_need_no_more_than_the_role_has(watched: WatchedRedis, tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", users=40, items=60, seed=3)
    command = CommandLine.in_new_home(tmp_path / "home")
    url = watched.url("pipeline")
    settings = Settings.from_environment(command.environment | {"RECSYS_REDIS_URL": url})
    prepare_data(settings, folder=tmp_path / "tables", now=datetime(2025, 5, 2, tzinfo=UTC))
    with watched.watched() as asked:
        steps.apply(settings, no_progress)
        assert set(online.materialize(settings, no_progress)) == {*FEATURE_TABLES, online.LIVE_STATE}
        online.materialize(settings, no_progress, force=True)
    assert watched.refusals() == []
    allowed = set(role("pipeline").commands)
    assert asked.commands - {"auth"} <= allowed | set(CONNECTING)
    assert {"hsetex", "evalsha", "eval"} & asked.commands, asked.commands
    with watched.connect() as admin, RedisAddress.parse(url).connect(5) as pipeline:
        assert admin.dbsize() > 100
        assert pipeline.hgetall("recsys:materialized:recsys")
