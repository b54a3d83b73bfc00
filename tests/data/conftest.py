from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from recsys_plugin.cli._group import recsys

USERS = "user_id,country\nu1,Norway\nu2,\n"
ITEMS = "item_id,title,price\ni1,Red mug,4.5\ni2,Blue mug,\n"
EVENTS = (
    "user_id,item_id,event_type,timestamp\n"
    "u1,i1,click,2024-03-01T10:00:00Z\n"
    "u1,i1,purchase,2024-03-01T10:05:00Z\n"
    "u2,i2,purchase,2024-03-11\n"
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with three small, valid tables."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, text in (("users", USERS), ("items", ITEMS), ("events", EVENTS)):
        (folder / f"{name}.csv").write_text(text, "utf8")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def run(home: Path) -> Callable[..., Result]:
    """Runs ``recsys data`` in ``home``, with the environment variables given by keyword."""

    def invoke(*arguments: str | Path, **environment: str) -> Result:
        # Wide enough that the console breaks no message that a test reads.
        env: dict[str, Any] = {"RECSYS_HOME": str(home), "RECSYS_DATA": "", "COLUMNS": "1000", **environment}
        return CliRunner().invoke(recsys, ["data", *map(str, arguments)], env=env)

    return invoke
