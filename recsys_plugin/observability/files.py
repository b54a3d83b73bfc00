"""Grafana's dashboards and Prometheus' alert rules, which come with the package as files.

Every panel and alert is made of metrics that :mod:`recsys_plugin.observability.metrics`,
:mod:`recsys_plugin.observability.stream_metrics` and Triton show.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from recsys_plugin.errors import ConfigurationError, InvalidInput

__all__ = ["FILES", "file_text", "write_files"]

#: What there is.
FILES = ("requests.json", "streams.json", "alerts.yml")


def file_text(name: str) -> str:
    """One of :data:`FILES`."""
    return (files("recsys_plugin.observability") / "files" / name).read_text(encoding="utf-8")


def write_files(folder: Path, *, force: bool = False) -> list[Path]:
    """Copy all of them into a folder, which is made if need be; what is there already and the same is left.

    Raises:
        InvalidInput: if one is there and differs, unless ``force``; nothing is written then.
        ConfigurationError: if the folder cannot be written.
    """
    texts = {folder / name: file_text(name) for name in FILES}
    try:
        differing = [path for path, text in texts.items() if path.exists() and path.read_text() != text]
        if differing and not force:
            names = ", ".join(str(path) for path in differing)
            raise InvalidInput(f"{names}: there already, and different; --force replaces them")
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error}") from error
    return list(texts)
