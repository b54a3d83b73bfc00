"""What is popular, with everybody and in a segment of the users: a snapshot that comes with each release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["ATTRIBUTES", "PopularItems", "Popularity", "Segment", "nothing_popular"]

#: What segments can be told apart by: columns of the shop's table of users.
ATTRIBUTES = ("country", "gender", "age_group", "income_group", "household", "segment")

#: An attribute of users and its value, such as ``("country", "DE")``.
Segment = tuple[str, str]

#: Combinations of segments whose order is kept.
_MOST_KEPT = 64
#: The share that stands for an item that nobody bought, so that what a segment says of it can be compared.
_LEAST = np.float32(1e-12)


@dataclass(frozen=True, slots=True, eq=False)
class PopularItems:
    """What is told of one segment: the share of its purchases that each of some items has."""

    rows: NDArray[np.int64]
    """``[K]`` of the catalogue, distinct, best first"""
    shares: NDArray[np.float32]
    """``[K]``, above 0, descending"""


@dataclass(frozen=True, slots=True, eq=False)
class Popularity:
    """Shares of recent purchases: of each item with everybody, and of some items in each segment.

    Of somebody who belongs to several segments the shares are multiplied as in naive Bayes, as if the segments said
    independent things of an item: ``p(item) * product of p(item | segment) / p(item)``. An item of which a segment
    tells nothing counts there as it does with everybody.
    """

    shares: NDArray[np.float32]
    """``[N]``, 0 and above: the share of each item in everybody's purchases, the later ones counting more"""
    segments: Mapping[Segment, PopularItems] = field(default_factory=dict)
    _orders: dict[tuple[Segment, ...], tuple[NDArray[np.int64], NDArray[np.float32]]] = field(
        init=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        self.ordered(())

    @property
    def attributes(self) -> frozenset[str]:
        """What segments are told apart by."""
        return frozenset(attribute for attribute, _ in self.segments)

    def known(self, said: Mapping[str, str]) -> tuple[Segment, ...]:
        """Those of some segments of which anything is told, in the order of their names."""
        return tuple(sorted(segment for segment in said.items() if segment in self.segments))

    def ordered(self, segments: tuple[Segment, ...]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """All rows by their share with those who belong to some segments: rows ``[N]``, best first, and the shares.

        Worked out once for each combination; of everybody, when the snapshot is made. Equal shares are ordered by row.

        Args:
            segments: of :meth:`known`.
        """
        found = self._orders.get(segments)
        if found is None:
            shares = self.shares_of(segments)
            order = np.argsort(-shares, kind="stable")
            found = order, shares[order]
            if len(self._orders) >= _MOST_KEPT:
                everybody = self._orders[()]
                self._orders.clear()
                self._orders[()] = everybody
            self._orders[segments] = found
        return found

    def shares_of(self, segments: tuple[Segment, ...]) -> NDArray[np.float32]:
        """The shares of all items with those who belong to some segments, float32 ``[N]``, not scaled to sum to 1."""
        shares = self.shares
        if not segments:
            return shares
        product: NDArray[np.float32] = np.maximum(shares, _LEAST) * self.lifts(segments)
        return product

    def lifts(self, segments: tuple[Segment, ...]) -> NDArray[np.float32]:
        """How many times as large as with everybody each item's share is, float32 ``[N]``."""
        lifts = np.ones(len(self.shares), np.float32)
        for segment in segments:
            told = self.segments[segment]
            lifts[told.rows] *= told.shares / np.maximum(self.shares[told.rows], _LEAST)
        return lifts


def nothing_popular(items: int) -> Popularity:
    """The snapshot of a catalogue of which nothing is known."""
    return Popularity(np.zeros(items, np.float32))
