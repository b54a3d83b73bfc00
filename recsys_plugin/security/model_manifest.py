"""What a version of the models is made of, to the byte: written with it, checked before Triton loads it.

``MANIFEST.<version>.json`` beside the models holds the SHA-256 of every file of the version, and of what all versions
share (configurations, warm-up samples). With a key, ``MANIFEST.<version>.hmac`` holds an HMAC-SHA256 of it (RFC 2104).

Without a key a manifest finds what went wrong by accident: a disk, a copy, a hand. With one it also refuses what
somebody put there who may write the repository and does not know the key. HMAC rather than a public key's signature: it
is in Python's library, and the key lies where exports and servers have their other secrets already. The price is that
whoever can check can also sign; a server that only checks would need Ed25519 and the package ``cryptography``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_plugin.errors import ConfigurationError, ModelRefused
from recsys_plugin.limits import MOST_MANIFEST_BYTES
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.security.digests import sha256_of

__all__ = [
    "LEAST_KEY_BYTES",
    "CheckedVersion",
    "check_repository",
    "manifested_versions",
    "remove_manifest",
    "write_manifest",
]

LEAST_KEY_BYTES = 16
_FORMAT = 1
#: What is signed begins with this, so that the same key used for something else signs nothing here.
_DOMAIN = b"recsys model manifest 1\n"
_NAME = re.compile(r"MANIFEST\.(\d+)\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CheckedVersion:
    """What a version was found to be."""

    version: int
    files: int
    """How many files have the digest that they should."""
    signed: bool
    """Whether its manifest is signed with the key; ``False`` also where there is no key to check with."""
    manifested: bool = True
    """``False`` if it was exported before there were manifests, so that nothing could be checked."""


def write_manifest(repository: Path, version: int, *, key: str | None = None) -> Path:
    """Write down, in one step, what is on disk of a version now; its path.

    Args:
        repository: the Triton model repository.
        version: complete in it, its configurations written.
        key: signs the manifest; without one, a signature left from before is taken away.

    Raises:
        ConfigurationError: if the key is shorter than :data:`LEAST_KEY_BYTES`.
    """
    secret = None if key is None else _checked_key(key)
    document = {
        "format": _FORMAT,
        "version": version,
        "files": _digests(repository, _version_files(repository, version)),
        "shared": _digests(repository, _shared_files(repository)),
    }
    data = json.dumps(document, indent=1, sort_keys=True).encode()
    path, signature = _manifest_path(repository, version), _signature_path(repository, version)
    # The signature first: a manifest without one would be refused, and one signed for other bytes as well.
    if secret is None:
        signature.unlink(missing_ok=True)
    else:
        atomic_text(signature, _sign(secret, data) + "\n")
    atomic_text(path, data.decode())
    return path


def remove_manifest(repository: Path, version: int) -> None:
    """Take away the manifest of a version that is gone."""
    for path in (_manifest_path(repository, version), _signature_path(repository, version)):
        path.unlink(missing_ok=True)


def manifested_versions(repository: Path) -> list[int]:
    """The versions that have a manifest, ascending."""
    return sorted(int(found[1]) for path in repository.glob("MANIFEST.*") if (found := _NAME.fullmatch(path.name)))


def check_repository(
    repository: Path, versions: Iterable[int] | None = None, *, key: str | None = None
) -> list[CheckedVersion]:
    """Check versions, and what all share, against their manifests.

    What is shared is that of the newest version on disk, which wrote it last. A repository without any manifest,
    exported before there were any, is taken as it is unless there is a key.

    Args:
        repository: the Triton model repository.
        versions: which ones; all that any model has by default.
        key: with it, every manifest must be signed by it.

    Raises:
        ModelRefused: naming every file that is missing, too many, or has another digest than it should, and every
            manifest that is missing or not rightly signed.
        ConfigurationError: if the key is too short.
    """
    secret = None if key is None else _checked_key(key)
    on_disk = _versions_on_disk(repository)
    wanted = sorted(on_disk if versions is None else set(versions))
    if secret is None and not set(manifested_versions(repository)) & set(on_disk):
        return [CheckedVersion(version, 0, signed=False, manifested=False) for version in wanted]
    wrong: list[str] = []
    checked = []
    for version in sorted({*wanted, *on_disk[-1:]}):
        try:
            document = _read_manifest(repository, version, secret)
        except ModelRefused as error:
            wrong.append(str(error))
            continue
        if version in wanted:
            found = _version_files(repository, version)
            wrong += _differences(repository, document["files"], found, f"version {version}")
            checked.append(CheckedVersion(version, len(found), signed=secret is not None))
        if version == on_disk[-1]:
            wrong += _differences(repository, document["shared"], _shared_files(repository), "the repository")
    if wrong:
        raise ModelRefused(
            f"{repository} is not what was exported, so it is not loaded:\n  " + "\n  ".join(wrong) + "\n"
            "Copy it again from where it was made, or run `recsys export`; what serves now goes on serving"
        )
    return checked


def _read_manifest(repository: Path, version: int, secret: bytes | None) -> dict[str, Any]:
    path = _manifest_path(repository, version)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelRefused(f"version {version}: {path.name}: {error.strerror}") from error
    if len(data) > MOST_MANIFEST_BYTES:
        raise ModelRefused(f"version {version}: {path.name} is larger than {MOST_MANIFEST_BYTES} bytes")
    if secret is not None:
        try:
            signature = _signature_path(repository, version).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise ModelRefused(f"version {version}: {path.name} is not signed, and a key for models is set") from None
        if not hmac.compare_digest(signature, _sign(secret, data)):
            raise ModelRefused(f"version {version}: the signature of {path.name} is not by this key")
    try:
        document = json.loads(data)
        right = document["format"] == _FORMAT and document["version"] == version
        right &= all(
            isinstance(name, str) and _DIGEST.fullmatch(digest)
            for part in ("files", "shared")
            for name, digest in document[part].items()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelRefused(f"version {version}: {path.name} is no manifest: {type(error).__name__}") from error
    if not right:
        raise ModelRefused(f"version {version}: {path.name} is no manifest of this version and format {_FORMAT}")
    manifest: dict[str, Any] = document
    return manifest


def _differences(repository: Path, expected: dict[str, str], found: list[Path], where: str) -> list[str]:
    """What is otherwise than a manifest says."""
    there = {path.relative_to(repository).as_posix(): path for path in found}
    wrong = [f"{where}: {name} is missing" for name in sorted(set(expected) - set(there))]
    wrong += [f"{where}: {name} is not in its manifest" for name in sorted(set(there) - set(expected))]
    for name in sorted(set(expected) & set(there)):
        if there[name].is_symlink() or not there[name].is_file():
            wrong.append(f"{where}: {name} is a link or no file")
        elif sha256_of(there[name]) != expected[name]:
            wrong.append(f"{where}: {name} has another SHA-256 than in its manifest")
    return wrong


def _version_files(repository: Path, version: int) -> list[Path]:
    return _below(repository.glob(f"*/{version}"))


def _shared_files(repository: Path) -> list[Path]:
    """Everything that belongs to models but not to one of their versions: what Triton reads, and what it should not."""
    models = [path for path in repository.iterdir() if path.is_dir()]
    inside = [path for model in models for path in model.iterdir() if not path.name.isdigit()]
    # Hidden names are drafts of files that are being written; Triton reads none.
    return _below(path for path in inside if not path.name.startswith("."))


def _below(paths: Iterable[Path]) -> list[Path]:
    """Files and links, those in folders included."""
    found = []
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            found += _below(path.iterdir())
        else:
            found.append(path)
    return sorted(found)


def _versions_on_disk(repository: Path) -> list[int]:
    return sorted({int(path.name) for path in repository.glob("*/*") if path.name.isdigit() and path.is_dir()})


def _digests(repository: Path, files: Iterable[Path]) -> dict[str, str]:
    return {path.relative_to(repository).as_posix(): sha256_of(path) for path in files}


def _checked_key(key: str) -> bytes:
    secret = key.encode()
    if len(secret) < LEAST_KEY_BYTES:
        raise ConfigurationError(
            f"RECSYS_MODEL_KEY must be {LEAST_KEY_BYTES} bytes or more, such as what `openssl rand -hex 32` prints"
        )
    return secret


def _sign(secret: bytes, data: bytes) -> str:
    return hmac.new(secret, _DOMAIN + data, hashlib.sha256).hexdigest()


def _manifest_path(repository: Path, version: int) -> Path:
    return repository / f"MANIFEST.{version}.json"


def _signature_path(repository: Path, version: int) -> Path:
    return repository / f"MANIFEST.{version}.hmac"
