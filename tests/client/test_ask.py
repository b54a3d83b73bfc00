"""``recsys recommend`` and the other commands that ask one question, against the tiny shop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_shop import CONTRACT, NOW, TinyShop

from recsys_plugin.cli._group import recsys
from recsys_plugin.cli.ask import request_moment
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.settings import Settings

MOMENT = datetime.fromtimestamp(NOW, UTC)


@pytest.fixture
def environ(tiny: TinyShop, tmp_path: Path) -> dict[str, str | None]:
    return {
        "RECSYS_HOME": str(tmp_path),
        "RECSYS_REDIS_URL": tiny.redis_url,
        "RECSYS_TRITON_URL": tiny.triton_url,
        "RECSYS_AS_OF": MOMENT.isoformat(),
        "COLUMNS": "160",
    }


def run(environ: dict[str, str | None], *arguments: str) -> Result:
    return CliRunner(env=environ).invoke(recsys, [*arguments, "--timeout", "10"])


@pytest.mark.parametrize(
    "arguments, item_ids",
    [
        (("recommend", "mug-lover", "-k", "2"), ["mug", "tea"]),
        (("recommend", "mug-lover", "-k", "2", "--exclude", "mug", "--exclude", "tea"), ["box", "cup"]),
        (("rank", "mug-lover", "box", "mug", "gone"), ["mug", "box"]),
        (("search", "mug-lover", "to drink", "-k", "1"), ["tea"]),
        (("search", "-", "to drink", "-k", "1"), ["tea"]),
        (("similar", "mug", "-k", "2"), ["pot", "jar"]),
        (("cross-sell", "tea", "gone", "-k", "2"), ["pot", "cup"]),
        (("cross-category", "mug-lover"), ["tea", "box"]),
        (("popular", "-k", "3"), ["tea", "cup", "pot"]),
        (("popular", "-k", "2", "--segment", "country=DE", "--category", "kitchen"), ["mug", "cup"]),
    ],
)
def test_json_and_table(environ: dict[str, str | None], arguments: tuple[str, ...], item_ids: list[str]) -> None:
    result = run(environ, *arguments, "--json")
    assert result.exit_code == 0, result.output
    page = json.loads(result.stdout)
    assert [item["item_id"] for item in page["items"]] == item_ids
    result = run(environ, *arguments)
    assert result.exit_code == 0, result.output
    places = [result.stdout.index(f" {item_id} ") for item_id in item_ids]
    assert places == sorted(places)
    served = {"cross-sell": "complements", "cross-category": "cross_category"}.get(arguments[0], arguments[0])
    assert f"model {served} version 1, catalogue version 1 (6 items)" in result.stdout


def test_footer_says_what_served_and_what_was_missing(environ: dict[str, str | None]) -> None:
    output = run(environ, "rank", "mug-lover", "box", "gone").stdout
    assert CONTRACT.fingerprint[:12] in output
    assert "known user: 3 of 3 features present, 0 missing, 0 expired" in output
    assert "not in the catalogue: gone" in output
    assert "unknown user, served from defaults: 0 of 3 features present" in run(environ, "recommend", "x").stdout


def test_search_says_what_it_understood(environ: dict[str, str | None]) -> None:
    output = run(environ, "search", "-", "kitchne mug under 1 without tea").stdout
    assert "“kitchne” is not known here; looked for “kitchen”" in output
    assert "understood: price at most 1; category kitchen; without tea" in output
    assert "nothing fits all of that, so this was given up: price" in output
    plain = run(environ, "search", "-", "kitchne mug under 1", "--plain").stdout
    assert "understood" not in plain
    assert "not known here" not in plain


def test_wrong_arguments_end_with_code_2(environ: dict[str, str | None]) -> None:
    result = run(environ, "recommend", "mug-lover", "-k", "-1")
    assert result.exit_code == 2
    assert run(environ, "search", "a", " ").exit_code == 2
    assert run({**environ, "RECSYS_TRITON_URL": "http://x"}, "recommend", "a").exit_code == 2


def test_the_moment_of_a_request(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert request_moment(settings) is None
    assert request_moment(Settings(home=tmp_path, as_of=MOMENT)) == MOMENT
    settings.tables.mkdir(parents=True)
    description = settings.tables / "dataset.json"
    description.write_text(json.dumps({"historical": True, "as_of": "2011-12-09T12:50:00+00:00"}))
    assert request_moment(settings) == datetime(2011, 12, 9, 12, 50, tzinfo=UTC)
    description.write_text(json.dumps({"historical": False, "as_of": "2011-12-09T12:50:00+00:00"}))
    assert request_moment(settings) is None
    for broken in ("{", "[]", "{}"):
        description.write_text(broken)
        with pytest.raises(ConfigurationError, match="recsys data"):
            request_moment(settings)
