"""A shop's own folder of canonical tables, Parquet or CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recsys_plugin.data.adapters import Places, Report, SourceTables
from recsys_plugin.data.files import find_tables, open_events, read_table
from recsys_plugin.data.schema import TABLES

__all__ = ["Folder"]


@dataclass(frozen=True, slots=True)
class Folder:
    """Reads ``users``, ``items``, ``events`` and ``texts`` from ``folder``; ``users`` and ``texts`` may be absent."""

    folder: Path
    version: int = 1

    name: ClassVar[str] = "folder"

    def locate(self, places: Places, report: Report) -> tuple[Path, ...]:
        """The one file of each table; ``places`` is not used, the folder was named."""
        return tuple(find_tables(self.folder).values())

    def read(self, files: tuple[Path, ...]) -> SourceTables:
        """Read each file under its table's name."""
        return SourceTables(
            tables={
                path.stem: (open_events if path.stem == "events" else read_table)(path, TABLES[path.stem])
                for path in files
            },
            name=self.folder.resolve().name,
            description="The shop's own tables.",
        )
