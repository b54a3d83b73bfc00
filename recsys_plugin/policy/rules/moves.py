"""What rules did to the order of a page: from where an item came to its position, and which rules moved it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moves"]


class Moves:
    """The orders that a pool of candidates went through; nothing is worked out before it is asked for.

    Args:
        ranked: how many of the pool's places, the first ones, were ranked by the models, in that order.
        stages: the rules of a step, and the places in the order that it left.
        page: the places of the page. placed: place → ``pins`` or ``sponsored``.
    """

    def __init__(
        self,
        ranked: int,
        stages: Sequence[tuple[tuple[str, ...], NDArray[np.intp]]],
        page: NDArray[np.intp],
        placed: Mapping[int, str],
    ) -> None:
        self._ranked, self._stages, self._page, self._placed = ranked, stages, page, placed
        self._ranks: list[dict[int, int]] | None = None

    def original_position(self, position: int) -> int | None:
        """Where the models alone had the item that is at a position, both counted from 1."""
        place = int(self._page[position - 1])
        return place + 1 if place < self._ranked else None

    def is_sponsored(self, position: int) -> bool:
        """Whether the item at a position is one that was brought as sponsored."""
        return self._placed.get(int(self._page[position - 1])) == "sponsored"

    def moved_by(self, position: int) -> tuple[str, ...]:
        """The rules that moved it, in the order in which they were applied."""
        place = int(self._page[position - 1])
        if (rule := self._placed.get(place)) is not None:
            return (rule,)
        if self._ranks is None:
            orders = [order for _, order in self._stages]
            self._ranks = [{each: rank for rank, each in enumerate(order.tolist())} for order in orders]
        before, moved = place, list[str]()
        for (rules, _), ranks in zip(self._stages, self._ranks, strict=True):
            now = ranks.get(place, before)
            if now != before:
                moved += rules
            before = now
        return tuple(dict.fromkeys(moved))
