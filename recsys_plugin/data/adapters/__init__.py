"""Sources of data behind one protocol.

To add one, write a module here with a frozen dataclass that has the four members of :class:`Adapter`, and add a line to
``ADAPTERS``. Its tables pass the same validation as a shop's own files, so an adapter cannot bring in what the schema
forbids.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from recsys_plugin.data.files import LargeTable, RawTable
from recsys_plugin.errors import InvalidInput

__all__ = ["ADAPTERS", "Adapter", "Places", "Report", "SourceTables", "adapter_named"]

#: name -> "module:class"; imported when asked for, since a source may need a package of its own.
ADAPTERS = {
    "complete_journey": "recsys_plugin.data.adapters.complete_journey:CompleteJourney",
    "online_retail": "recsys_plugin.data.adapters.online_retail:OnlineRetail",
}


class Report(Protocol):
    """Hears what is being done, how much of it is done, and how much there is (0 if unknown)."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Called often; must not block."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a source's files may lie: the user's ``path``, the folder of data sets, the folder for downloads."""

    path: Path | None
    data: Path | None
    downloads: Path


@dataclass(frozen=True, slots=True)
class SourceTables:
    """What an adapter read: tables not yet validated, and what it knows about them.

    ``historical`` is ``None`` where the age of the last event decides; without ``test_start`` and
    ``validation_start``, the last tenth of the time span is the test period and the tenth before it validation.
    """

    tables: Mapping[str, RawTable | LargeTable]
    name: str
    description: str
    citation: str = ""
    historical: bool | None = None
    test_start: datetime | None = None
    validation_start: datetime | None = None
    notes: tuple[str, ...] = ()


class Adapter(Protocol):
    """One source of data. Its ``repr`` states its options and version: a change of it makes stored tables outdated."""

    @property
    def name(self) -> str:
        """What ``--source`` and the manifest call it."""

    def locate(self, places: Places, report: Report) -> tuple[Path, ...]:
        """The files to read, downloaded if need be; cheap when they are there."""

    def read(self, files: tuple[Path, ...]) -> SourceTables:
        """Read those files into tables with canonical column names."""


def adapter_named(name: str) -> Adapter:
    """The adapter of that name, with its default options.

    Raises:
        InvalidInput: if there is none; the message lists those there are.
    """
    if name not in ADAPTERS:
        raise InvalidInput(f"unknown source {name!r}; there are {', '.join(ADAPTERS)}, or a folder of your own tables")
    module, attribute = ADAPTERS[name].split(":")
    adapter: Adapter = getattr(importlib.import_module(module), attribute)()
    return adapter
