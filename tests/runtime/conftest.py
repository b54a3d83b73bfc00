from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_models import write_double, write_known_answers, write_repository

from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.triton_server import EmbeddedTriton
from recsys_plugin.settings import Settings

TRITON_PYTHON = Path(
    os.environ.get("RECSYS_TRITON_PYTHON") or Path(__file__).parents[2] / ".venv-triton" / "bin" / "python"
)


@pytest.fixture(scope="session")
def triton_python() -> Path:
    assert TRITON_PYTHON.exists(), f"no Triton environment at {TRITON_PYTHON}; run `bash scripts/test.sh`"
    return TRITON_PYTHON


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, triton_python: Path) -> Iterator[EmbeddedTriton]:
    """One server for the whole session, with every model of ``tiny_models``."""
    home = tmp_path_factory.mktemp("triton")
    write_repository(home / "model_repository")
    server = EmbeddedTriton(home / ".recsys", home / "model_repository", triton_python)
    with server.process.lock():
        server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def make_services(tmp_path: Path, triton_python: Path) -> Iterator[Callable[..., Services]]:
    """Services of a small home folder; whatever they start is stopped after the test."""
    made: list[Services] = []

    def make(**settings: str) -> Services:
        services = Services(Settings(home=tmp_path, triton_python=triton_python, **settings))  # type: ignore[arg-type]
        made.append(services)
        return services

    write_double(tmp_path / "model_repository")
    write_known_answers(tmp_path / ".recsys")
    yield make
    for services in made:
        services.down()


@pytest.fixture
def processes_naming() -> Callable[[Path], list[str]]:
    """Command lines of all live processes that mention a folder."""

    def find(folder: Path) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if str(folder) in line:
                    found.append(f"{entry.name}: {line}")
        return found

    return find
