"""Shops that tests run on: the ``recsys`` command in a home of its own, and what it has trained and serves there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
from watched_redis import make_role_users, url_of_role

from recsys_plugin.runtime.environment import environment_variables
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["CommandLine", "Shop", "trained_shop"]

ROOT = Path(__file__).resolve().parent.parent
RECSYS = Path(sys.executable).with_name("recsys")


@dataclass(frozen=True)
class CommandLine:
    """The ``recsys`` command in a home folder of its own."""

    home: Path
    environment: dict[str, str] = field(repr=False)

    @classmethod
    def in_new_home(cls, home: Path) -> CommandLine:
        """A home with the tracked repositories and nothing else; no data, no state, no weights."""
        home.mkdir(parents=True, exist_ok=True)
        for folder in ("feature_repo", "model_repository"):
            untracked = shutil.ignore_patterns("data", "__pycache__", "[0-9]*")
            shutil.copytree(ROOT / folder, home / folder, ignore=untracked)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
        own = {
            "RECSYS_HOME": str(home),
            "RECSYS_TRITON_PYTHON": str(Settings.from_environment().triton_python),
            "COLUMNS": "200",
        }
        if "RECSYS_DATA" in os.environ:
            own["RECSYS_DATA"] = os.environ["RECSYS_DATA"]
        return cls(home, inherited | own)

    @property
    def settings(self) -> Settings:
        """The settings that the command runs with."""
        return Settings.from_environment(self.environment)

    def run(self, *arguments: str, expect: int = 0, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run ``recsys`` to its end and check its exit code."""
        done = subprocess.run(
            [str(RECSYS), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == expect, f"recsys {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done


@dataclass(frozen=True)
class Shop:
    """A trained and served shop."""

    command: CommandLine
    source: str
    redis_url: str
    triton_url: str
    as_of: datetime
    some_users: list[str]
    some_items: list[str]
    report: dict[str, object]

    @property
    def client_url(self) -> str:
        """Logs in to Redis as the user that a shop's backend has; the user is made, as a restarted server has none."""
        make_role_users(self.redis_url)
        return url_of_role(self.redis_url, "client")

    @property
    def settings(self) -> Settings:
        """The settings of the shop's home, ``as_of`` included."""
        services = Services(self.command.settings)
        return Settings.from_environment(self.command.environment | environment_variables(services))


@contextmanager
def trained_shop(home: Path, source: str, *data: str, training: tuple[str, ...] = ()) -> Iterator[Shop]:
    """Every step of the command line, then both servers; stopped at the end.

    Args:
        home: an empty or new folder.
        source: what to call the data.
        data: arguments of ``recsys data``.
        training: arguments of ``recsys train``.
    """
    command = CommandLine.in_new_home(home)
    command.run("data", *data)
    command.run("apply")
    report = json.loads(command.run("train", "--json", *training).stdout)
    command.run("materialize")
    command.run("export")
    try:
        command.run("up")
        services = Services(command.settings)
        tables = command.settings.tables
        users = pq.read_table(tables / "users.parquet", columns=["user_id"])["user_id"].to_pylist()
        items = pq.read_table(tables / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
        dataset = json.loads((tables / "dataset.json").read_text(encoding="utf-8"))
        yield Shop(
            command=command,
            source=source,
            redis_url=services.redis_url,
            triton_url=services.triton_url,
            as_of=datetime.fromisoformat(dataset["as_of"]),
            some_users=users[:200],
            some_items=items[:200],
            report=report,
        )
    finally:
        command.run("down")
