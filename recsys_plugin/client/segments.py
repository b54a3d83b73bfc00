"""The segments that a user belongs to: what the shop says of him, or what his features say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.context import RequestContext
from recsys_plugin.errors import InvalidInput
from recsys_plugin.features.contract import FeatureContract, TensorName
from recsys_plugin.policy.popularity import ATTRIBUTES, Segment

__all__ = ["checked_segment", "segment_lifts", "segments_of"]


def checked_segment(value: object) -> dict[str, str]:
    """What a shop says of a user: ``{"age_group": "25-34"}``; nothing for ``None``.

    Raises:
        InvalidInput: for an attribute that no shop tells users apart by, or a value that is no text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"segment: expected texts by name, not {type(value).__name__} ({value!r:.60})")
    for name, text in value.items():
        if name not in ATTRIBUTES:
            raise InvalidInput(f"segment: {name!r:.60} is not one of {', '.join(ATTRIBUTES)}")
        if not isinstance(text, str):
            raise InvalidInput(f"segment: {name} is {text!r:.60}, which is no text")
    return dict(value)


def segments_of(context: RequestContext, user_id: str | None) -> tuple[Segment, ...]:
    """The segments of which the release tells anything: as the request says, else as the user's features say, if they
    were read."""
    popularity = context.release.popularity
    if not popularity.segments:
        return ()
    if context.segment:
        return popularity.known(context.segment)
    read = context.features.get(user_id) if user_id is not None else None
    model = context.release.models.get("recommend")
    if read is None or model is None:
        return ()
    tensors, line = read
    strings = tensors.user_string[line]
    said = {name: strings[place].decode(errors="replace") for name, place in _places(model.plan.contract).items()}
    return popularity.known(said)


def segment_lifts(context: RequestContext) -> NDArray[np.float32] | None:
    """What the scores of a user of whom nothing is known are multiplied by, ``[rows]``, from 0 to 1: how much more than
    others the segment buys each item, in proportion. ``None`` if the request names no segment that is told of.

    Scaled such that no score grows: they are rates, which stay below a ceiling. New items count as with everybody.
    """
    if not context.segment or not (segments := segments_of(context, None)):
        return None
    # The last row is what padding, -1, points at.
    lifts = np.ones(context.release.size + 1, np.float32)
    lifts[: len(context.release.catalogue)] = context.release.popularity.lifts(segments)
    scaled: NDArray[np.float32] = lifts / lifts.max()
    return scaled


def _places(contract: FeatureContract) -> dict[str, int]:
    """Attribute → its place among the texts of a user."""
    found: dict[str, int] = {}
    for spec in contract.stored_features:
        name, slot = spec.reference.partition(":")[2], contract.slots[spec.reference]
        if name in ATTRIBUTES and slot.tensor == TensorName.STRING and slot.width == 1:
            found[name] = slot.offset
    return found
