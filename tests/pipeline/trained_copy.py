"""A trained shop again in a home of its own, for tests that change it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from shops import CommandLine, Shop

__all__ = ["copy_of"]


def copy_of(shop: Shop, home: Path) -> CommandLine:
    """Tables, weights and models of a shop, without its servers and what they hold."""
    command = CommandLine.in_new_home(home)
    repository = command.settings.model_repository
    shutil.rmtree(repository)
    shutil.copytree(shop.settings.model_repository, repository, copy_function=os.link)
    shutil.copytree(shop.settings.feature_repo / "data", command.settings.feature_repo / "data")
    (command.settings.feature_repo / "data" / "registry.db").unlink()  # it knows where its tables are
    for name in ("tables", "training", "steps", "export"):
        shutil.copytree(shop.settings.state / name, command.settings.state / name)
    return command
