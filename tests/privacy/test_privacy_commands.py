"""``recsys privacy`` from the shell: exit codes, documents, messages without ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_home import KEY, KEYS

from recsys_plugin.cli._group import recsys


@pytest.fixture
def run(event_redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    monkeypatch.setenv("RECSYS_REDIS_URL", event_redis.url)
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", KEY)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(recsys, ["privacy", *arguments])

    return call


def test_consent_is_shown_and_changed_in_parts(run: Any) -> None:
    assert json.loads(run("consent", "someone", "--json").stdout) == {"personalised": True, "tracking": True}
    run("consent", "someone", "--personalised", "no")
    run("consent", "someone", "--tracking", "no")
    assert json.loads(run("consent", "someone", "--json").stdout) == {"personalised": False, "tracking": False}
    run("consent", "someone", "--personalised", "yes", "--tracking", "yes")
    assert json.loads(run("consent", "someone", "--json").stdout) == {"personalised": True, "tracking": True}


def test_forgetting_ends_with_3_where_something_is_left(run: Any, event_redis: Any, tmp_path: Path) -> None:
    (tmp_path / ".recsys").mkdir(exist_ok=True)
    note = tmp_path / ".recsys" / "note.txt"
    note.write_text("call some-person-7f3a")
    with event_redis.connect() as client:
        client.zadd(KEYS.user("some-person-7f3a"), {"[]": 1})
    found = run("search", "some-person-7f3a")
    assert found.exit_code == 3
    left = run("forget", "some-person-7f3a")
    assert left.exit_code == 3
    assert "note.txt" in left.stderr
    note.unlink()
    gone = tmp_path / "gone.txt"
    gone.write_text("some-person-7f3a\n\nanother-person\n")
    done = run("forget", "--file", str(gone), "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["people"], document["found"], document["searched_bytes"]) == (2, [], True)
    assert "some-person" not in done.stdout + done.stderr + found.stderr + left.stderr
    assert run("search", "some-person-7f3a").exit_code == 0
    assert json.loads(run("export", "some-person-7f3a").stdout)["forgotten_before"] is True
    assert "1 of 2" in run("admit", "some-person-7f3a", "never-there").stderr


def test_wrong_input_is_refused(run: Any, tmp_path: Path) -> None:
    assert run("forget").exit_code == 2
    document = tmp_path / "retention.json"
    document.write_text('{"clicks": "1d"}')
    refused = run("retention", "set", str(document))
    assert refused.exit_code == 2
    assert "'clicks' is none of" in refused.stderr


def test_retention_is_kept_and_carried_out(run: Any, tmp_path: Path) -> None:
    document = tmp_path / "retention.json"
    document.write_text('{"click": "48h", "pages": "30d"}')
    assert run("retention", "set", str(document)).exit_code == 0
    assert json.loads(run("retention", "show", "--json").stdout) == {"click": "2d", "pages": "30d"}
    assert json.loads(run("retention", "apply", "--dry-run", "--json").stdout)["total"] == 0
    assert json.loads(run("retention", "schema").stdout)["additionalProperties"] is False
    assert json.loads(run("budget", "--json").stdout)["epsilon"] == 0.0
