"""What the software is made of, and the pages for those who run it."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import ConfigurationError, StepFailed
from recsys_plugin.security.software import Flaw, advisories_in, audit, bill_of_materials, site_packages

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


def install(folder: Path, name: str, **files: str) -> None:
    """What an installer leaves of a package."""
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for file, content in files.items():
        (information / file.replace("_json", ".json")).write_text(content)


def components(folder: Path) -> dict[str, dict[str, Any]]:
    document = bill_of_materials([folder], serial=SERIAL, made_at=MADE_AT)
    return {component["name"]: component for component in document["components"]}


def test_digests_are_those_that_the_installer_noted_and_none_is_made_up(tmp_path: Path) -> None:
    digest, record = "ab" * 32, 'a.py,sha256=x47,5\n"b,c.py",sha256=y,7\na.pyc,,\nlisted-1.0.dist-info/RECORD,,\n'
    install(tmp_path, "noted", direct_url_json=json.dumps({"archive_info": {"hashes": {"sha256": digest}}}))
    install(tmp_path, "older", direct_url_json=json.dumps({"archive_info": {"hash": f"sha256={digest.upper()}"}}))
    install(tmp_path, "listed", RECORD=record)
    for number, wrong in enumerate(
        ("{}", '{"dir_info": {"editable": true}}', "no JSON", '{"archive_info": {}}', '{"archive_info": {"hash": "x"}}',
         '{"archive_info": {"hashes": {"sha256": "abc"}}}', '{"archive_info": {"hashes": {"crc": "ab"}}}', "[1]")
    ):  # fmt: skip
        install(tmp_path, f"none{number}", direct_url_json=wrong)
    found = components(tmp_path)
    expected = [{"alg": "SHA-256", "content": digest}]
    assert (found["noted"]["hashes"], found["older"]["hashes"]) == (expected, expected)
    assert found["listed"]["properties"] == [
        {"name": "recsys:record:sha256", "value": hashlib.sha256(record.encode()).hexdigest()},
        {"name": "recsys:record:files", "value": "2"},
    ]
    assert [name for name, one in found.items() if "hashes" in one] == ["noted", "older"]


def test_installed_packages_have_a_digest_of_their_list_of_files() -> None:
    folder = site_packages(Path(sys.executable))
    numpy = components(folder)["numpy"]
    (record,) = folder.glob(f"numpy-{numpy['version']}.dist-info/RECORD")
    told = {one["name"]: one["value"] for one in numpy["properties"]}
    assert told["recsys:record:sha256"] == hashlib.sha256(record.read_bytes()).hexdigest()
    assert int(told["recsys:record:files"]) > 500


def test_advisories_are_read_and_none_is_no_good_news() -> None:
    flawed = {"name": "jinja2", "version": "2.10", "vulns": [
        {"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "…"},
    ]}  # fmt: skip
    passed_over = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1.0)"}
    sound = {"name": "numpy", "version": "2.2.0", "vulns": []}
    assert advisories_in({"dependencies": [flawed, passed_over, sound]}, "here") == (
        [Flaw("jinja2", "2.10", "PYSEC-2019-217", ("2.10.1",))],
        ["ours"],
    )
    # What pip-audit 2 says, with exit code 0, where pypi.org cannot be reached through the index.
    with pytest.raises(StepFailed, match=r"none of the 1 packages of here on pypi\.org"):
        advisories_in({"dependencies": [passed_over], "fixes": []}, "here")


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
