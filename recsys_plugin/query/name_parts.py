"""Names that have parts, such as "National, manufacturer 781": by which parts they go."""

from __future__ import annotations

from collections.abc import Iterable

from recsys_plugin.inference.labels import Labels

__all__ = ["NameParts", "parts_of"]


def parts_of(name: str) -> tuple[str, ...]:
    """The whole name first, then the parts between its commas."""
    return tuple(dict.fromkeys((name, *(part.strip() for part in name.split(",")))))


class NameParts:
    """A column's texts by their parts; it keeps up with texts that are new to the column, and threads may share it.

    Args:
        column: what is looked up.
    """

    __slots__ = ("_codes", "_column", "_known")

    def __init__(self, column: Labels) -> None:
        self._column = column
        self._codes: dict[str, set[int]] = {}
        self._known = 0

    def codes(self, names: Iterable[str]) -> set[int]:
        """The numbers of the texts that go by one of some names."""
        for code in range(self._known, len(self._column.names)):
            for part in parts_of(self._column.names[code]):
                self._codes.setdefault(part, set()).add(code)
            self._known = code + 1
        return set[int]().union(*(self._codes.get(name, ()) for name in names))
