"""What the software is made of, and the pages for those who run it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner

from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.security.software import audit, bill_of_materials, site_packages

SERIAL = UUID("12345678-1234-5678-1234-567812345678")
MADE_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_every_installed_package_is_listed_once_with_what_it_needs() -> None:
    folder = site_packages(Path(sys.executable))
    document = bill_of_materials([folder, folder], serial=SERIAL, made_at=MADE_AT)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["serialNumber"] == f"urn:uuid:{SERIAL}"
    assert document["metadata"]["timestamp"] == "2026-01-02T03:04:05Z"
    references = [component["bom-ref"] for component in document["components"]]
    assert len(references) == len(set(references))
    known = {component["name"].lower(): component for component in document["components"]}
    numpy = known["numpy"]
    assert numpy["purl"] == f"pkg:pypi/numpy@{numpy['version']}"
    assert numpy["licenses"]
    needs = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    assert numpy["purl"] in needs[known["pandas"]["purl"]]
    assert {reference for needed in needs.values() for reference in needed} <= set(references)


def test_the_bill_is_written_for_both_environments(tmp_path: Path) -> None:
    done = CliRunner().invoke(recsys, ["security", "sbom", "--output", str(tmp_path / "sbom.json")])
    assert done.exit_code == 0, done.output
    names = {component["name"] for component in json.loads((tmp_path / "sbom.json").read_text())["components"]}
    assert {"feast", "nvidia-pytriton"} <= names


def test_an_interpreter_outside_of_an_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no site-packages"):
        site_packages(tmp_path / "bin" / "python")


def test_an_audit_without_its_tool_says_what_to_install() -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'recsys-plugin\[security\]'"):
        audit([])
    assert CliRunner().invoke(recsys, ["security", "audit"]).exit_code == ConfigurationError.exit_code


def test_the_threat_model_names_commands_that_exist() -> None:
    done = CliRunner().invoke(recsys, ["security", "threats"])
    assert done.exit_code == 0
    assert done.output.startswith("# Threat model")
    for command in ("acl", "sbom", "audit"):
        assert f"recsys security {command}" in done.output
        assert CliRunner().invoke(recsys, ["security", command, "--help"]).exit_code == 0
