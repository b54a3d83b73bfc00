"""Answers of the candidate that no user sees: how alike they and the served ones are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["kendall_tau", "overlap"]


def overlap(control: Sequence[str], candidate: Sequence[str]) -> float:
    """Which share of the control's page is on the candidate's too, whatever the order; 1 for an empty page."""
    return len({*control} & {*candidate}) / len(control) if control else 1.0


def kendall_tau(control: Sequence[str], candidate: Sequence[str]) -> float | None:
    """Rank correlation of the items on both pages: 1 for the same order, -1 for the reverse; ``None`` under two items.

    Kendall (1938): the share of pairs in the same order less the share of those in the other. Ranks have no ties.
    """
    places = {item_id: place for place, item_id in enumerate(candidate)}
    ranks = np.array([places[item_id] for item_id in control if item_id in places])
    count = len(ranks)
    if count < 2:
        return None
    above = np.triu_indices(count, 1)
    return float(np.sign(ranks[above[1]] - ranks[above[0]]).mean())
