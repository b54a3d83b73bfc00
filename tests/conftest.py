"""Trained shops, each made once per session: one on real data, a small one on data with clicks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from shops import Shop, trained_shop
from synthetic import write_tables


@pytest.fixture(scope="session")
def data_source() -> str:
    """The real Online Retail II where ``RECSYS_DATA`` names a folder with it, else the packaged demo data."""
    folder = os.environ.get("RECSYS_DATA")
    if folder and (Path(folder) / "online_retail_ii" / "online_retail_ii.parquet").exists():
        return "online_retail"
    print("\nRECSYS_DATA names no folder with online_retail_ii: the tests run on complete_journey instead")
    return "complete_journey"


@pytest.fixture(scope="session")
def shop(data_source: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Every step of the command line on real data, with the training's defaults."""
    with trained_shop(tmp_path_factory.mktemp("shop"), data_source, "--source", data_source) as made:
        yield made


@pytest.fixture(scope="session")
def small_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """150 users, 120 items and two months of synthetic visits, clicks included; trained just long enough to work."""
    tables = tmp_path_factory.mktemp("tables")
    write_tables(tables)
    short = ("--two-tower-steps", "60", "--ranker-epochs", "1")
    home = tmp_path_factory.mktemp("small_shop")
    with trained_shop(home, "synthetic", "--from", str(tables), training=short) as made:
        yield made


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """When tests run side by side, those that share a trained shop run in one process, and the longest begin first."""
    if not getattr(config.option, "loadgroup", False):  # pytest-xdist sets it in the processes that run tests
        return
    groups = []
    for item in items:
        # Some tests ask for a shop by a parameter; all of those of an export are of the small one.
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        names = {*getattr(item, "fixturenames", ()), *(value for value in parameters if isinstance(value, str))}
        if item.path.parent.name == "export":
            names.add("small_shop")
        group = next((name for name in ("shop", "small_shop") if name in names), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))
        groups.append(("shop", "small_shop", str(item.path)).index(group))
    order = sorted(range(len(items)), key=groups.__getitem__)
    items[:] = [items[position] for position in order]
