"""What the software is made of, and whether flaws of any of it are known.

The bill of materials is CycloneDX 1.5 in JSON (https://cyclonedx.org/docs/1.5/json), made from the metadata of what is
installed; advisories are looked up by pip-audit (https://pypi.org/project/pip-audit), which needs a network.

Digests are those that the installer noted, and none is made up: of the archive that a package came from where
``direct_url.json`` has it (PEP 610; not of packages from an index), and of the list of installed files, ``RECORD``,
which has a SHA-256 of each: two installations whose ``RECORD`` has the same digest were of the same files.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import Any
from uuid import UUID

from recsys_plugin.errors import ConfigurationError, StepFailed

__all__ = ["Flaw", "advisories_in", "audit", "bill_of_materials", "site_packages"]

#: Names that CycloneDX has for digests, and the hexadecimal digits of each.
_DIGESTS = {"sha256": ("SHA-256", 64), "sha384": ("SHA-384", 96), "sha512": ("SHA-512", 128), "md5": ("MD5", 32)}

#: Seconds that looking up the advisories of one environment may take.
_AUDIT_SECONDS = 600.0
#: Its flaws have been known since 2019 (CVE-2019-10906, a way out of the sandbox, among them).
_FLAWED = "jinja2==2.10"
#: The beginning of a requirement is the name of a package (PEP 508).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A known flaw of an installed package."""

    package: str
    version: str
    advisory: str
    """Its number, such as ``PYSEC-2024-1``."""
    fixed_in: tuple[str, ...]
    """Versions without it; none if there is no such."""


def site_packages(interpreter: Path) -> Path:
    """The folder with the packages of the environment of an interpreter.

    Raises:
        ConfigurationError: if it has none.
    """
    found = sorted(interpreter.parent.parent.glob("lib/python3*/site-packages"))
    if not found:
        raise ConfigurationError(f"{interpreter} is not the interpreter of an environment: no site-packages beside it")
    return found[-1]


def bill_of_materials(folders: Sequence[Path], *, serial: UUID, made_at: datetime) -> dict[str, Any]:
    """A CycloneDX document of all packages in some folders, each version once.

    Args:
        folders: ``site-packages`` of the environments. serial: names the document. made_at: the moment, in UTC.
    """
    packages: dict[str, Distribution] = {}
    for folder in folders:
        for package in distributions(path=[str(folder)]):
            packages.setdefault(_purl(package), package)
    by_name: dict[str, list[str]] = {}
    for purl, package in packages.items():
        by_name.setdefault(_normal(package.name), []).append(purl)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": serial.urn,
        "version": 1,
        "metadata": {
            "timestamp": made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "name": "recsys-plugin", "bom-ref": "recsys-plugin"},
        },
        "components": [_component(purl, packages[purl]) for purl in sorted(packages)],
        "dependencies": [
            {"ref": purl, "dependsOn": sorted(_needed(packages[purl], by_name))} for purl in sorted(packages)
        ],
    }


def _value(told: PackageMetadata, name: str) -> str | None:
    """What a package says under a name, if anything."""
    return told[name] if name in told else None  # noqa: SIM401 - the type has no get


def _component(purl: str, package: Distribution) -> dict[str, Any]:
    told = package.metadata
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
    }
    if expression := _value(told, "License-Expression"):
        component["licenses"] = [{"expression": expression}]
    else:
        classified = [
            value.rpartition(" :: ")[2] for value in told.get_all("Classifier") or () if value.startswith("License ::")
        ]
        # Some packages put the whole text there, which is no name.
        said = [
            line for line in [(_value(told, "License") or "").strip()] if line and len(line) < 80 and "\n" not in line
        ]
        if names := classified or said:
            component["licenses"] = [{"license": {"name": name}} for name in names]
    if summary := _value(told, "Summary"):
        component["description"] = summary
    if hashes := _archive_hashes(package):
        component["hashes"] = hashes
    if properties := _record_properties(package):
        component["properties"] = properties
    return component


def _archive_hashes(package: Distribution) -> list[dict[str, str]]:
    """Digests of the archive that a package was installed from, as far as the installer noted them."""
    try:
        archive = json.loads(package.read_text("direct_url.json") or "{}")["archive_info"]
        # "hash" is of the first version of the file's format: "sha256=…".
        noted = archive.get("hashes") or dict([archive["hash"].split("=", 1)])
        found = [(*_DIGESTS[name], str(digest).lower()) for name, digest in sorted(noted.items()) if name in _DIGESTS]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [
        {"alg": algorithm, "content": digest}
        for algorithm, digits, digest in found
        if re.fullmatch(f"[0-9a-f]{{{digits}}}", digest)
    ]


def _record_properties(package: Distribution) -> list[dict[str, str]]:
    """The digest of the list of installed files, and how many of them have one of their own there."""
    # Of text, line ends would not be those that the digest is of.
    paths = [path for path in package.files or () if path.name == "RECORD" and path.parent.suffix == ".dist-info"]
    try:
        (record,) = [Path(str(path.locate())).read_bytes() for path in paths]
    except (OSError, ValueError):  # an editable one, or another kind of installer's
        return []
    # Lines are path, "sha256=" and the digest, size; a file's own and compiled ones have no digest (PEP 376).
    lines = csv.reader(record.decode(errors="replace").splitlines())
    digests = sum(len(line) > 1 and line[1].startswith("sha256=") for line in lines)
    return [
        {"name": "recsys:record:sha256", "value": hashlib.sha256(record).hexdigest()},
        {"name": "recsys:record:files", "value": str(digests)},
    ]


def _needed(package: Distribution, by_name: dict[str, list[str]]) -> set[str]:
    """What a package says that it needs, as far as it is there."""
    names = (_NAME.match(line) for line in package.requires or ())
    return {purl for name in names if name for purl in by_name.get(_normal(name.group()), ())}


def _normal(name: str) -> str:
    """A name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _purl(package: Distribution) -> str:
    return f"pkg:pypi/{_normal(package.name)}@{package.version}"


def audit(folders: Iterable[Path]) -> tuple[tuple[Flaw, ...], tuple[str, ...]]:
    """The known flaws of all packages in some folders, and the packages that nothing could be learned of.

    pip-audit passes over what the index does not know, a package of the shop's own, say, and takes an index that knows
    no advisories, as a mirror may, for one that has none. So it is asked first for a flaw that everybody knows.

    Raises:
        ConfigurationError: if pip-audit is not installed.
        StepFailed: if the advisories could not be looked up, without a network for instance.
    """
    if importlib.util.find_spec("pip_audit") is None:
        raise ConfigurationError("an audit needs pip-audit: pip install 'recsys-plugin[security]'")
    found: list[Flaw] = []
    unknown: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        requirement = Path(scratch, "requirements.txt")
        requirement.write_text(f"{_FLAWED}\n", encoding="utf-8")
        known, _ = advisories_in(_asked("-r", str(requirement), "--no-deps", "--disable-pip"), _FLAWED)
    if not known:
        raise StepFailed(f"the index has no advisory for {_FLAWED}, which has known flaws, so nothing it says counts")
    for folder in folders:
        flaws, skipped = advisories_in(_asked("--path", str(folder)), str(folder))
        found += flaws
        unknown += skipped
    return tuple(dict.fromkeys(found)), tuple(sorted(set(unknown)))


def advisories_in(document: Any, what: str) -> tuple[list[Flaw], list[str]]:
    """The flaws in pip-audit's JSON, and the names of the packages that it passed over.

    Args:
        what: it was asked about, for the message.

    Raises:
        StepFailed: if it passed over all: then it could not ask.
    """
    packages = document["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if packages and len(skipped) == len(packages):
        raise StepFailed(
            f"pip-audit found none of the {len(packages)} packages of {what} on pypi.org: "
            f"{packages[0]['skip_reason']}. Try again where pypi.org can be reached"
        )
    flaws = [
        Flaw(package["name"], package["version"], flaw["id"], tuple(flaw["fix_versions"]))
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    return flaws, skipped


def _asked(*arguments: str) -> Any:
    """What pip-audit answers."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_AUDIT_SECONDS, check=False)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise StepFailed(
            f"pip-audit was not done after {_AUDIT_SECONDS:g} s; try again with a better network"
        ) from None
    except ValueError:
        said = done.stderr.strip().splitlines()
        raise StepFailed(
            f"pip-audit could not look anything up: {said[-1] if said else 'it said nothing'}. It asks pypi.org for "
            "advisories; try again where that can be reached"
        ) from None
