"""Read a Triton model repository from disk: models, versions, and which of them Triton would serve."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_plugin.errors import ConfigurationError

__all__ = ["RepositoryModel", "parse_configuration", "read_model_repository", "remove_bytecode"]


@dataclass(frozen=True, slots=True)
class RepositoryModel:
    """One model's folder."""

    name: str
    is_ensemble: bool
    versions: tuple[int, ...]
    """Version folders on disk, ascending."""
    served: tuple[int, ...]
    """Those that the configuration's version policy serves."""
    fingerprint: str
    """Changes when the configuration or a file of a version does (by size and time of change)."""


def remove_bytecode(folder: Path) -> None:
    """Remove what Triton's Python backend leaves beside Python models; it heeds no ``PYTHONDONTWRITEBYTECODE``.

    It is made from them anew, and nobody has vouched for it, so it must neither count as a change nor be loaded. Where
    it cannot be removed it stays, and is found by the check of the repository.
    """
    for cache in folder.glob("*/*/__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)


def read_model_repository(folder: Path) -> list[RepositoryModel]:
    """Every folder with a ``config.pbtxt``, by name; models of which others are made come first.

    Raises:
        ConfigurationError: if the folder holds no model, or a configuration cannot be parsed.
    """
    configurations = sorted(folder.glob("*/config.pbtxt"))
    if not configurations:
        raise ConfigurationError(f"{folder} holds no model (no */config.pbtxt); run `recsys export`")
    models = [_read_model(path) for path in configurations]
    return sorted(models, key=lambda model: (model.is_ensemble, model.name))


def parse_configuration(path: Path) -> Any:
    """A ``config.pbtxt`` as Triton's ``ModelConfig`` message.

    Raises:
        ConfigurationError: if it is none.
    """
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        return text_format.Parse(path.read_text(), ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not a Triton model configuration: {error}") from error


def _read_model(path: Path) -> RepositoryModel:
    config, folder = parse_configuration(path), path.parent
    versions = sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdigit() and p.name != "0")
    policy = config.version_policy
    if policy.HasField("all"):
        served = versions
    elif policy.HasField("specific"):
        served = [version for version in versions if version in set(policy.specific.versions)]
    else:
        served = versions[-max(1, policy.latest.num_versions) :]
    return RepositoryModel(
        name=config.name or folder.name,
        is_ensemble=config.platform == "ensemble",
        versions=tuple(versions),
        served=tuple(served),
        fingerprint=_fingerprint(folder, [path, *(folder / str(version) for version in served)]),
    )


def _fingerprint(folder: Path, parts: list[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for file in [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file()):
            status = file.stat()
            digest.update(f"{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        digest.update(f"{part.name}\n".encode())
    return digest.hexdigest()
