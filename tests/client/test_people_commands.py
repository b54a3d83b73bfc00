"""``recsys similar-users|community|users`` against the tiny shop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_people import KEY, PSEUDONYMS
from tiny_shop import NOW, TinyShop

from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.pipeline.people import opted_out
from recsys_plugin.pseudonyms import opted_out_key
from recsys_plugin.settings import Settings


@pytest.fixture
def environ(tiny: TinyShop, tmp_path: Path) -> Iterator[dict[str, str | None]]:
    yield {
        "RECSYS_HOME": str(tmp_path),
        "RECSYS_REDIS_URL": tiny.redis_url,
        "RECSYS_TRITON_URL": tiny.triton_url,
        "RECSYS_AS_OF": datetime.fromtimestamp(NOW, UTC).isoformat(),
        "RECSYS_PSEUDONYM_KEY": KEY,
        "COLUMNS": "160",
    }
    redis: Any = RedisAddress.parse(tiny.admin_url).connect(5)
    redis.delete(opted_out_key("recsys"))
    redis.close()


def run(environ: dict[str, str | None], *arguments: str) -> Result:
    return CliRunner(env=environ).invoke(recsys, arguments)


def test_who_is_like_a_user(environ: dict[str, str | None]) -> None:
    slow = ("--timeout", "10")
    found = json.loads(run(environ, "similar-users", "mug-lover", "-k", "2", "--json", *slow).stdout)
    assert [user["pseudonym"] for user in found["users"]] == [PSEUDONYMS.of("second"), PSEUDONYMS.of("third")]
    table = run(environ, "similar-users", "mug-lover", "-k", "2", *slow).stdout
    assert table.index(PSEUDONYMS.of("second")) < table.index(PSEUDONYMS.of("third"))
    told = json.loads(run(environ, "community", "mug-lover", "--json", *slow).stdout)
    assert (told["members"], told["item_ids"]) == (40, ["mug", "tea"])
    assert "Community 0 of 40 users" in run(environ, "community", "mug-lover", *slow).stdout
    assert "belongs to no community" in run(environ, "community", "never seen", *slow).stdout
    assert run({**environ, "RECSYS_PSEUDONYM_KEY": None}, "community", "mug-lover", *slow).exit_code == 2


def test_opting_out_and_in(tiny: TinyShop, environ: dict[str, str | None], tmp_path: Path) -> None:
    operations: dict[str, str | None] = {**environ, "RECSYS_REDIS_URL": tiny.operations_url}
    result = run(operations, "users", "opt-out", "second", "third", "second")
    assert result.exit_code == 0, result.output
    assert "2 of 3 users opted out" in result.output
    listed = run(operations, "users", "opted-out").stdout
    assert set(listed.split()) == {PSEUDONYMS.of("second"), PSEUDONYMS.of("third")}
    found = json.loads(run(environ, "similar-users", "mug-lover", "--json", "--timeout", "10").stdout)
    assert found["users"][0]["pseudonym"] == PSEUDONYMS.of("fourth")
    # What is printed is what exports take.
    (tmp_path / "gone.txt").write_text(f"{listed}\n  an id \n")
    assert opted_out(Settings(home=tmp_path, opted_out=tmp_path / "gone.txt")) == {*listed.split(), "an id"}
    assert "1 of 1 users are no longer opted out" in run(operations, "users", "opt-in", "third").output
    assert json.loads(run(operations, "users", "opted-out", "--json").stdout) == [PSEUDONYMS.of("second")]


def test_a_key_and_ids_are_needed(environ: dict[str, str | None], tmp_path: Path) -> None:
    result = run({**environ, "RECSYS_PSEUDONYM_KEY": None}, "users", "opt-out", "second")
    assert result.exit_code == 2
    assert "RECSYS_PSEUDONYM_KEY" in result.output
    assert run(environ, "users", "opt-out").exit_code == 2
    assert run(environ, "users", "opt-out", "").exit_code == 2
    with pytest.raises(ConfigurationError, match=r"RECSYS_OPTED_OUT=.*missing\.txt cannot be read"):
        opted_out(Settings(home=tmp_path, opted_out=tmp_path / "missing.txt"))
