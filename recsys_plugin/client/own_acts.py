"""What a request knows of the user's own acts, read back from the packed features that it read anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.events.event import EVENT_TYPE_CODES
from recsys_plugin.features.contract import FeatureContract, TensorName
from recsys_plugin.features.plan import FeatureTensors

__all__ = ["RECENT_MOMENTS", "RECENT_ROWS", "RECENT_TYPES", "OwnActs", "own_acts"]

_FAVOURITES = "user_statistics:favourite_items"
#: A user's latest acts: the items, what was done with them, and when.
RECENT_ROWS, RECENT_TYPES, RECENT_MOMENTS = (
    f"user_recent_items:{name}" for name in ("item_ids", "event_type_codes", "timestamps")
)
#: The acts that a reason can speak of, the weightiest first, and how it does.
_SPOKEN = {EVENT_TYPE_CODES["purchase"]: "bought", EVENT_TYPE_CODES["cart"]: "in_cart"}
_SPOKEN[EVENT_TYPE_CODES["click"]] = "looked_at"


@dataclass(frozen=True, slots=True)
class OwnActs:
    """The weightiest thing that a user did with one item: bought it, put it in the cart, or looked at it."""

    kind: str
    """``bought``, ``bought_before`` (when is not known), ``in_cart`` or ``looked_at``."""
    moment: float | None = None
    """The last time, unix seconds."""
    times: int | None = None
    """How often, among the user's last acts."""


def own_acts(contract: FeatureContract, tensors: FeatureTensors, line: int) -> Mapping[int, OwnActs]:
    """Catalogue row → what the user did with it; empty for a contract that does not tell.

    Args:
        contract: how the features are packed. tensors: the packed features. line: the user's.
    """
    found: dict[int, OwnActs] = {}
    favourites = _values(contract, tensors, line, _FAVOURITES)
    if favourites is not None:
        found.update((row, OwnActs("bought_before")) for row in favourites.tolist() if row >= 0)
    rows, types, moments = (
        _values(contract, tensors, line, name) for name in (RECENT_ROWS, RECENT_TYPES, RECENT_MOMENTS)
    )
    if rows is None or types is None or moments is None:
        return found
    weights = {kind: weight for weight, kind in enumerate(reversed(_SPOKEN.values()))}
    for row, code, moment in zip(rows.tolist(), types.tolist(), moments.tolist(), strict=False):
        kind = _SPOKEN.get(code)
        if row < 0 or kind is None:
            continue
        known = found.get(row)
        if known is not None and known.kind == kind:
            found[row] = OwnActs(kind, max(float(moment), known.moment or 0.0), (known.times or 0) + 1)
        elif known is None or kind == "bought" or weights.get(known.kind, len(weights)) < weights[kind]:
            found[row] = OwnActs(kind, float(moment), 1)
    return found


def _values(contract: FeatureContract, tensors: FeatureTensors, line: int, reference: str) -> NDArray[np.int64] | None:
    """The values of a feature that is packed with the integers."""
    slot = contract.slots.get(reference)
    if slot is None or slot.tensor != TensorName.INT:
        return None
    return tensors.user_int[line, slot.offset : slot.offset + slot.width]
