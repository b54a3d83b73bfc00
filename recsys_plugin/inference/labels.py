"""A column of texts that repeat, such as categories and brands: each text is kept once, each row has its number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Labels"]


class Labels(Sequence[str]):
    """The texts of rows, in order; what a row says may change, and a text's number never does.

    Of 50,000 items in some hundred categories this takes 4 bytes a row instead of a string object for each.

    Args:
        texts: one for each row.
    """

    __slots__ = ("_numbers", "codes", "names")

    def __init__(self, texts: Iterable[str]) -> None:
        self.names: list[str] = []
        """The distinct texts; one's number is its place."""
        self._numbers: dict[str, int] = {}
        self.codes: NDArray[np.int32] = np.empty(0, np.int32)
        """``[N]``: the number of each row's text."""
        self.extend(texts)

    def extend(self, texts: Iterable[str]) -> None:
        """Add rows at the end, one for each text."""
        self.codes = np.concatenate([self.codes, np.fromiter(map(self.number, texts), np.int32)])

    def number(self, text: str) -> int:
        """The number of a text, which it is given if it has none."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.names)
            self.names.append(text)
        return number

    def known(self, text: str) -> int | None:
        """The number of a text; ``None`` if no row ever had it."""
        return self._numbers.get(text)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.codes)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """The text of a row, or those of several."""
        if isinstance(row, slice):
            return [self.names[code] for code in self.codes[row].tolist()]
        return self.names[self.codes.item(row)]

    def __setitem__(self, row: int, text: str) -> None:
        """Let a row say something else."""
        self.codes[row] = self.number(text)
