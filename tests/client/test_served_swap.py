"""Versions change on the real servers while clients ask: no failed request, no page of two versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recsys_plugin.bench.swap import measure_swap
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.pipeline.steps import PROJECT
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.versions import ModelVersions


def answer(done: Any) -> Any:
    return json.loads(done.stdout)


def test_versions_change_without_a_failed_request(small_shop: Any) -> None:
    command, versions = small_shop.command, ModelVersions(Services(small_shop.settings), PROJECT)
    before = next(version.version for version in versions.list() if version.serves)
    options = ("--two-tower-steps", "60", "--ranker-epochs", "1")
    try:
        exported = answer(command.run("export", "--force", "--json", *options))["version"]
        assert [version.ready for version in versions.list() if version.version == exported] == [False]
        report = measure_swap(
            small_shop.settings,
            now=small_shop.as_of.timestamp(),
            clients=4,
            seconds=8.0,
            seed=0,
            tell=lambda *progress: None,
        )
        figures = report.figures
        assert figures["requests.failed"] == figures["requests.mixed"] == 0
        assert figures[f"requests.of_version_{before}"] > 0
        assert figures[f"requests.of_version_{exported}"] > 0
        listed = answer(command.run("models", "list", "--json"))["versions"]
        assert {line["version"]: (line["serves"], line["promoted"]) for line in listed} == {
            before: (False, False),
            exported: (True, True),
        }
        assert answer(command.run("models", "rollback", "--json"))["version"] == before
        # What serves must outlive the next export, and goes on serving after `recsys up`.
        assert "which goes on serving" in command.run("up").stderr
        with pytest.raises(ConfigurationError, match="Triton does not serve version 99"):
            versions.promote(99)
    finally:
        command.run("models", "follow")
    assert [version.version for version in versions.list() if version.serves] == [exported]
