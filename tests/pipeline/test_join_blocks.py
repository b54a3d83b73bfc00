"""Point-in-time joins in blocks: the same features whatever the blocks, which are smaller where keys are busy."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shops import CommandLine
from synthetic import write_tables

from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.pipeline import feast_repository, steps
from recsys_plugin.pipeline.feast_repository import (
    RANKING_SERVICE,
    contract_of,
    open_store,
    point_in_time,
    point_in_time_blocks,
)
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings
from recsys_plugin.training.frames import catalogue_index, joined_users
from recsys_plugin.training.packing import UserTensors, pack_frame


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Feature tables, applied; nothing trained."""
    folder = tmp_path_factory.mktemp("join_blocks")
    write_tables(folder / "shop", users=30, items=40)
    made = CommandLine.in_new_home(folder / "home").settings
    prepare_data(made, folder=folder / "shop", now=datetime(2026, 1, 1, tzinfo=UTC))
    steps.apply(made, lambda *_: None)
    return made


@pytest.fixture(scope="module")
def store(settings: Settings) -> Any:
    return open_store(settings, Services(settings).redis_url)


def entities(settings: Settings) -> pd.DataFrame:
    """Moments between the events, in no order, and a user whom nobody knows."""
    events = pd.read_parquet(settings.tables / "events.parquet", columns=["user_id", "timestamp"])
    drawn = events.sample(60, random_state=0)
    asked = pd.DataFrame(
        {
            "user_id": [*drawn["user_id"], "nobody"],
            "event_timestamp": [*drawn["timestamp"], events["timestamp"].max()],
        }
    )
    return asked.astype({"user_id": object})


def packed(frame: pd.DataFrame, store: Any) -> list[Any]:
    tensors = pack_frame(contract_of(store), frame, pd.Index([], dtype=object))
    return [tensors.user_float.tolist(), tensors.user_int.tolist(), tensors.user_string.tolist()]


def test_blocks_change_nothing(settings: Settings, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = entities(settings)
    whole = point_in_time(store, asked, RANKING_SERVICE)
    assert whole["user_id"].tolist() == asked["user_id"].tolist()
    assert whole["event_timestamp"].tolist() == asked["event_timestamp"].tolist()
    assert packed(point_in_time(store, asked, RANKING_SERVICE, block=7), store) == packed(whole, store)
    monkeypatch.setattr(feast_repository, "JOIN_BYTES", 3e5)
    told: list[tuple[int, int]] = []
    blocks = list(point_in_time_blocks(store, asked, RANKING_SERVICE, progress=lambda *done: told.append(done)))
    assert 3 < len(blocks) < len(asked)
    assert sorted(np.concatenate([rows for rows, _ in blocks])) == list(range(len(asked)))
    assert told[-1] == (len(asked), len(asked))
    keys = [set(frame["user_id"]) for _, frame in blocks]
    assert all(max(earlier) <= min(later) for earlier, later in itertools.pairwise(keys))
    assert packed(point_in_time(store, asked, RANKING_SERVICE), store) == packed(whole, store)
    # Less than one row needs: each row alone.
    monkeypatch.setattr(feast_repository, "JOIN_BYTES", 1.0)
    few = asked.iloc[-3:].reset_index(drop=True)
    assert [len(rows) for rows, _ in point_in_time_blocks(store, few, RANKING_SERVICE)][-2:] == [1, 1]


def test_users_are_packed_block_by_block(settings: Settings, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, contract = entities(settings), contract_of(store)
    items = catalogue_index(pd.read_parquet(settings.tables / "items.parquet", columns=["item_id"]))
    whole = pack_frame(contract, point_in_time(store, asked, RANKING_SERVICE), items)
    monkeypatch.setattr(feast_repository, "JOIN_BYTES", 3e5)
    found = joined_users(store, contract, asked, items)
    for name in ("user_float", "user_int", "user_string"):
        assert getattr(found, name).tolist() == getattr(whole, name).tolist()
        assert getattr(found, name).dtype == getattr(whole, name).dtype
    nobody = joined_users(store, contract, asked.iloc[:0], items)
    assert isinstance(nobody, UserTensors)
    assert len(nobody) == 0
