"""Which model versions there are, which of them serves, and changing that without a request noticing.

Every client looks once a second which version is promoted (a key in Redis) and takes it up between two requests. Triton
keeps the version before it loaded, so going back needs no loading either. Without a promotion the newest serves.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_plugin.errors import ConfigurationError, StoreUnavailable
from recsys_plugin.export.install import exported_versions, promotion_path
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.reader import promotion_key
from recsys_plugin.inference.models import SERVED_MODELS
from recsys_plugin.pipeline.workspace import atomic_text
from recsys_plugin.runtime.known_answers import check_known_answers, load_known_answers
from recsys_plugin.runtime.model_repository import read_model_repository
from recsys_plugin.runtime.services import Services, known_answers_path, public_url
from recsys_plugin.runtime.triton_client import TritonManager
from recsys_plugin.runtime.triton_server import require_models_ready
from recsys_plugin.security.model_manifest import CheckedVersion, check_repository

__all__ = ["ModelVersion", "ModelVersions"]

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of all models."""

    version: int
    on_disk: bool
    """Whether the home's model repository has it."""
    ready: bool
    """Whether Triton serves all its models."""
    serves: bool
    """Whether clients ask for it."""
    promoted: bool
    """Whether it serves because somebody said so, rather than because it is the newest."""
    ctr_model: str | None = None
    items: int | None = None
    contract: str | None = None
    """Fingerprint of its feature contract."""


class ModelVersions:
    """The versions of one home and its servers.

    Args:
        services: names the home, Redis and Triton.
        project: the Feast project.

    Raises, from every method: StoreUnavailable or InferenceUnavailable if a server does not answer.
    """

    def __init__(self, services: Services, project: str) -> None:
        self._services = services
        self._key = promotion_key(project)

    def list(self) -> list[ModelVersion]:
        """Every version on disk or in Triton, ascending."""
        ready = self._ready()
        with self._redis() as redis:
            promoted = _number(redis.get(self._key))
        serving = _serving(ready, promoted)
        on_disk = set(exported_versions(self._services.settings.model_repository))
        return [
            ModelVersion(
                version,
                version in on_disk,
                version in ready,
                version == serving,
                version == promoted,
                **_described(self._services.settings.state, version),
            )
            for version in sorted(on_disk | ready)
        ]

    def load(self, note: Note = lambda text: None) -> ModelVersion:
        """Load what was exported last beside the version that serves, which goes on serving; the loaded one.

        Raises:
            CheckFailed: if it answers wrongly; the version that serves is not touched.
            ModelRefused: if it is not what was exported, or not signed by the key; nor is it then.
        """
        known = load_known_answers(known_answers_path(self._services.settings))
        # Before anything is pinned or loaded, whoever's Triton it is.
        self.verify()
        with self._redis() as redis:
            serving = _serving(self._ready(), _number(redis.get(self._key)))
            if serving is not None:
                self._promote(redis, serving)
        if self._services.triton_is_embedded:
            self._services.triton.start(note=note)
        else:
            models = read_model_repository(self._services.settings.model_repository)
            with TritonManager(self._services.triton_url) as triton:
                for model in models:
                    note(f"Triton: loading {model.name}")
                    triton.load(model.name)
                require_models_ready(triton, models)
        note(f"checking {len(known.answers)} known answers")
        check_known_answers(self._services.triton_url, known)
        return self._one(known.version)

    def promote(self, version: int | None = None) -> ModelVersion:
        """Let a version serve, the newest that is ready by default; clients take it up within a second or two.

        Raises:
            ConfigurationError: if Triton does not serve it.
            ModelRefused: if its files are here and are not what was exported.
        """
        ready = self._ready()
        wanted = max(ready, default=None) if version is None else version
        if wanted is None or wanted not in ready:
            found = ", ".join(map(str, sorted(ready))) or "none"
            raise ConfigurationError(
                f"Triton does not serve version {'?' if wanted is None else wanted}; it has {found}. "
                "Run `recsys models load` first"
            )
        if wanted in exported_versions(self._services.settings.model_repository):
            self.verify([wanted])
        with self._redis() as redis:
            self._promote(redis, wanted)
        return self._one(wanted)

    def verify(self, versions: Iterable[int] | None = None) -> Sequence[CheckedVersion]:
        """Check the files of versions on disk, all by default, see :func:`check_repository`; asks no server.

        Raises:
            ModelRefused: naming what is wrong.
        """
        settings = self._services.settings
        return check_repository(settings.model_repository, versions, key=settings.model_key)

    def pin(self, version: int) -> None:
        """Let a version go on serving whatever is exported; only Redis is asked."""
        with self._redis() as redis:
            redis.set(self._key, version)
        atomic_text(promotion_path(self._services.settings.state), json.dumps({"version": version}))

    def rollback(self) -> ModelVersion:
        """Let the version serve that did before.

        Raises:
            ConfigurationError: if there is none, or Triton no longer serves it.
        """
        with self._redis() as redis:
            previous = _number(redis.get(f"{self._key}:previous"))
        if previous is None:
            ready, versions = self._ready(), self.list()
            serving = next((version.version for version in versions if version.serves), None)
            older = [version for version in ready if serving is not None and version < serving]
            if not older:
                raise ConfigurationError("no version served before this one; `recsys models list` shows what there is")
            previous = max(older)
        return self.promote(previous)

    def follow(self) -> ModelVersion | None:
        """Let the newest version serve from now on, whatever was promoted; the one that does, if any is ready."""
        with self._redis() as redis:
            redis.delete(self._key, f"{self._key}:previous")
        promotion_path(self._services.settings.state).unlink(missing_ok=True)
        return next((version for version in self.list() if version.serves), None)

    def _promote(self, redis: Any, version: int) -> None:
        before = _serving(self._ready(), _number(redis.get(self._key)))
        pipeline = redis.pipeline(transaction=True)
        if before is not None and before != version:
            pipeline.set(f"{self._key}:previous", before)
        pipeline.set(self._key, version)
        pipeline.execute()
        # The next export must not delete the version that serves.
        atomic_text(promotion_path(self._services.settings.state), json.dumps({"version": version}))

    def _one(self, version: int) -> ModelVersion:
        return next(found for found in self.list() if found.version == version)

    def _ready(self) -> set[int]:
        """Versions of which Triton serves all models that clients ask."""
        with TritonManager(self._services.triton_url, timeout=5.0) as triton:
            states = triton.index()
        each: dict[str, set[int]] = {name: set() for name in SERVED_MODELS}
        for state in states:
            if state.ready and state.version is not None and state.name in each:
                each[state.name].add(state.version)
        return set.intersection(*each.values())

    @contextlib.contextmanager
    def _redis(self) -> Iterator[Any]:
        import redis

        url = self._services.redis_url
        try:
            client = RedisAddress.parse(url).connect(5.0)
            try:
                yield client
            finally:
                client.close()
        except redis.RedisError as error:
            raise StoreUnavailable(f"Redis at {public_url(url)} does not answer: {error}") from error


def _serving(ready: set[int], promoted: int | None) -> int | None:
    return promoted if promoted in ready else max(ready, default=None)


def _number(text: bytes | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _described(state: Path, version: int) -> dict[str, Any]:
    """What the export wrote down about a version."""
    path = state / "export" / "manifests" / f"{version}.json"
    if not path.exists():
        return {}
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return {name: manifest[name] for name in ("ctr_model", "items", "contract")}
