"""Refreshed vectors: equal to what training wrote, and computed only for what has changed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from live_archive import archive_events, visits
from shops import CommandLine, Shop
from trained_copy import copy_of

from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.pipeline.refresh import refresh
from recsys_plugin.pipeline.steps import serving_version
from recsys_plugin.settings import Settings

NOW = datetime(2025, 5, 24, tzinfo=UTC)


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def vectors(settings: Settings, entity: str) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    table = pq.read_table(settings.feature_repo / "data" / f"{entity}_embedding.parquet")
    return dict(zip(table[f"{entity}_id"].to_pylist(), map(np.array, table["vector"].to_pylist()), strict=True))


def moved(
    before: Settings, old: dict[str, dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]]
) -> dict[str, set[str]]:
    """Whose vectors are others now."""
    now = {entity: vectors(before, entity) for entity in old}
    return {
        entity: {key for key, vector in now[entity].items() if key not in each or (vector != each[key]).any()}
        for entity, each in old.items()
    }


def test_only_what_changed_is_computed(small_shop: Shop, tmp_path: Path) -> None:
    command = copy_of(small_shop, tmp_path / "home")
    settings = command.settings
    trained = {entity: vectors(settings, entity) for entity in ("user", "item")}
    # Everything once, by the weights that were kept: what training itself wrote.
    first = refresh(settings, no_progress, now=NOW)
    serving = serving_version(settings)
    assert (first["users"], first["items"], first["serving"]) == (len(trained["user"]), len(trained["item"]), serving)
    assert first["texts"] > 0
    assert first["views"]["user_embedding"] == "materialised"
    for entity, before in trained.items():
        now = vectors(settings, entity)
        assert now.keys() == before.keys()
        for key, vector in before.items():
            np.testing.assert_allclose(now[key], vector, atol=1e-5)
    # Somebody buys something: his vector and that of the item, and no other.
    old = {entity: vectors(settings, entity) for entity in trained}
    live = visits(["user-001"], ["item-001"], start=datetime(2025, 5, 3, tzinfo=UTC), days=2, each=1, seed=1)
    archive_events(settings.state, "a", live)
    second = refresh(settings, no_progress, now=NOW)
    assert (second["added"], second["users"], second["items"], second["texts"]) == (3, 1, 1, 0)
    assert moved(settings, old) == {"user": {"user-001"}, "item": {"item-001"}}
    # Another title: only that item's texts are read. Its table comes from the shop again, and the live events return.
    source = tmp_path / "tables"
    source.mkdir()
    dataset = load_dataset(settings)
    for name in ("users", "items", "events"):
        table = dataset.table(name)
        if name == "events":
            table = table.filter(pc.invert(pc.starts_with(table["event_id"], "live-")))
        if name == "items":
            there = pc.equal(table["item_id"], "item-002")
            titles = pc.if_else(there, "a steam engine of polished brass", table["title"])
            table = table.set_column(table.column_names.index("title"), "title", titles.cast(pa.string()))
        pq.write_table(table, source / f"{name}.parquet")
    prepare_data(settings, folder=source, now=datetime(2025, 5, 2, tzinfo=UTC))
    old = {entity: vectors(settings, entity) for entity in trained}
    third = refresh(settings, no_progress, now=NOW)
    assert (third["added"], third["users"], third["items"]) == (3, 0, 1)
    assert 1 <= third["texts"] <= 3
    assert moved(settings, old) == {"user": set(), "item": {"item-002"}}


def test_before_anything_is_exported(tmp_path: Path, small_shop: Shop) -> None:
    command = CommandLine.in_new_home(tmp_path / "home")
    for name in ("tables", "steps"):
        shutil.copytree(small_shop.settings.state / name, command.settings.state / name)
    with pytest.raises(ConfigurationError, match="no version was exported"):
        refresh(command.settings, no_progress, now=NOW)
