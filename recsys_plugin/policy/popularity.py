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

    Of somebody who belongs to several segments their lifts, ``p(item | segment) / p(item)``, have their geometric mean
    (a logarithmic opinion pool; Genest and Zidek 1986): segments overlap, and multiplied as if they were independent
    they did worse than everybody's popularity. An item of which a segment tells nothing counts there as it does with
    everybody.
    """

    shares: NDArray[np.float32]
    """``[N]``, 0 and above: the share of each item in everybody's purchases, the later ones counting more"""
    segments: Mapping[Segment, PopularItems] = field(default_factory=dict)
    order: NDArray[np.int64] = field(init=False)
    """``[N]``: all rows by their share with everybody, the largest first; equal ones by row."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", np.argsort(-self.shares, kind="stable"))

    @property
    def attributes(self) -> frozenset[str]:
        """What segments are told apart by."""
        return frozenset(attribute for attribute, _ in self.segments)

    def known(self, said: Mapping[str, str]) -> tuple[Segment, ...]:
        """Those of some segments of which anything is told, in the order of their names."""
        return tuple(sorted(segment for segment in said.items() if segment in self.segments))

    def best(
        self, segments: tuple[Segment, ...], count: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows of the largest shares with those who belong to some segments: ``[n]``, best first, and the shares.

        Args:
            segments: of :meth:`known`. count: how many. allowed: ``[N]``, which may be among them; ``None`` for all.
        """
        told = self.told_of(segments)
        mask = allowed
        if len(told):
            mask = np.ones(len(self.order), np.bool_) if allowed is None else allowed.copy()
            mask[told] = False
            told = told if allowed is None else told[allowed[told]]
        rows = self.order[:count] if mask is None else self.order[np.flatnonzero(mask[self.order])[:count]]
        if not len(told):
            return rows, self.shares[rows]
        rows = np.concatenate([told, rows])
        shares = self.shares_of(segments)[rows]
        chosen = np.argsort(-shares, kind="stable")[:count]
        return rows[chosen], shares[chosen]

    def told_of(self, segments: tuple[Segment, ...]) -> NDArray[np.int64]:
        """The rows of which at least one of some segments tells something, ascending."""
        if not segments:
            return np.empty(0, np.int64)
        return np.unique(np.concatenate([self.segments[segment].rows for segment in segments]))

    def shares_of(self, segments: tuple[Segment, ...]) -> NDArray[np.float32]:
        """The shares of all items with those who belong to some segments, float32 ``[N]``, not scaled to sum to 1."""
        shares = self.shares
        if not segments:
            return shares
        product, told = shares.copy(), self.told_of(segments)
        product[told] = np.maximum(shares[told], _LEAST) * self.lifts(segments)[told]
        return product

    def lifts(self, segments: tuple[Segment, ...]) -> NDArray[np.float32]:
        """How many times as large as with everybody each item's share is, float32 ``[N]``."""
        lifts = np.ones(len(self.shares), np.float32)
        for segment in segments:
            told = self.segments[segment]
            lift = told.shares / np.maximum(self.shares[told.rows], _LEAST)
            lifts[told.rows] *= lift ** np.float32(1 / len(segments))
        return lifts


def nothing_popular(items: int) -> Popularity:
    """The snapshot of a catalogue of which nothing is known."""
    return Popularity(np.zeros(items, np.float32))
