"""Trained shops, each made once per session: one on real data, a small one on data with clicks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from killable_redis import KillableRedis
from shops import Shop, trained_shop
from synthetic import write_tables

# How long an example takes says nothing on a machine that does other work too.
# The same cases in every run, lest a change is refused for what another one did; `--hypothesis-profile=searching` tries
# others, and so does scripts/fuzz.py.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.register_profile("searching", deadline=None)
hypothesis.settings.load_profile("fixed")


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


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillableRedis]:
    """The embedded Redis on its own; tests take it as ``event_redis``."""
    server = KillableRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def event_redis(shared_redis: KillableRedis) -> Iterator[KillableRedis]:
    """An empty server that runs; a test that stops it starts it again."""
    with shared_redis.connect() as client:
        client.flushall()
    yield shared_redis
    shared_redis.start()


#: Folders whose tests run beside those of the trained shop when the suite runs in parts.
_FIRST_PART = (
    "ads", "data", "features", "forecasting", "fuzz", "inference", "off_policy", "policy", "privacy", "quality",
    "query", "report", "resilience", "runtime", "simulation", "training", "trials",
)  # fmt: skip
#: Folders and modules whose tests hold milliseconds against a deadline; they run when the others are done.
_LAST_PART = (
    "chaos", "test_cluster_deadlines.py", "test_in_process_time.py", "test_kept_deadlines.py",
    "test_store_deadlines.py",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--part 1``, ``2`` and ``3`` are the whole suite, to be run by scripts/run_tests.py."""
    parser.addoption(
        "--part", choices=("1", "2", "3"), help="Run a part of the suite; 1 has the tests of the real shop."
    )


def _part_of(item: pytest.Item) -> str:
    if item.path.name in _LAST_PART or item.path.parent.name in _LAST_PART:
        return "3"
    # Some tests ask for the shop by a parameter.
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = (*getattr(item, "fixturenames", ()), *(value for value in parameters if isinstance(value, str)))
    return "1" if "shop" in names or item.path.parent.name in _FIRST_PART else "2"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the other parts."""
    part = config.getoption("--part")
    if part is None:
        return
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        (chosen if _part_of(item) == part else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen
