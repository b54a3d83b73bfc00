"""To which group of features each input column of a CTR model belongs, so that explanations can speak of few things."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys_plugin.inference.explanation import FEATURE_GROUPS
from recsys_plugin.training.inputs import ITEM_NUMBER_GROUPS, UserInputs
from recsys_plugin.training.pair_features import PAIR_FEATURES
from recsys_plugin.training.zoo.shop import ShopColumns

__all__ = [
    "GROUPS",
    "PAIR_GROUPS",
    "dense_groups",
    "frame_code_groups",
    "frame_number_groups",
    "group_mask",
    "item_number_groups",
]

#: The groups in the order of every explanation.
GROUPS = tuple(FEATURE_GROUPS)

_OF_PAIR = {
    "likeness": "likeness",
    "likeness_to_recent": "likeness",
    "category_share": "likeness",
    "category_share_root": "likeness",
    "own_purchases": "own_history",
    "own_purchase_share": "own_history",
    "bought_before": "own_history",
    "own_recency": "own_history",
    "own_purchases_to_most": "own_history",
    "neighbour_score": "bought_together",
    "neighbour_score_to_most": "bought_together",
}
_OF_VIEW = {
    "user_session": "visit",
    "user_activity": "visit",
    "user_recent_items": "visit",
    "user_purchase_forecast": "forecast",
}
#: How many of an item's numbers, the last ones, tell its price.
_PRICE_NUMBERS = 2

#: The groups of :data:`~recsys_plugin.training.pair_features.PAIR_FEATURES`, in order.
PAIR_GROUPS = tuple(_OF_PAIR[name] for name in PAIR_FEATURES)


def _of_reference(reference: str) -> str:
    """The group of a user feature; what is in no view of its own tells of the customer."""
    return _OF_VIEW.get(reference.partition(":")[0], "customer")


def dense_groups(inputs: UserInputs) -> tuple[str, ...]:
    """The groups of the columns of the dense vector that :class:`UserInputs` makes."""
    numbers = [_of_reference(spec.reference) for spec in (*inputs.numbers, *inputs.times)]
    never = [_of_reference(spec.reference) for spec in inputs.times]
    left = inputs.width - len(numbers) - len(never) - inputs.own_text.width
    width = left // max(1, len(inputs.texts))
    texts = [_of_reference(spec.reference) for spec in inputs.texts for _ in range(width)]
    own_text = [_of_reference(inputs.own_text.reference)] * inputs.own_text.width
    return (*numbers, *never, *texts, *own_text)


def item_number_groups(count: int) -> tuple[str, ...]:
    """The groups of an item's numbers, of which the last two are its price."""
    forecasts = ITEM_NUMBER_GROUPS["demand forecast"]
    told = ("forecast" if position in forecasts else "popularity" for position in range(count - _PRICE_NUMBERS))
    return (*told, *["price"] * _PRICE_NUMBERS)


def frame_number_groups(shop: ShopColumns) -> tuple[str, ...]:
    """The groups of the number columns of a shop's frames."""
    item = len(shop.number_names) - shop.user_numbers - len(PAIR_FEATURES)
    return (*dense_groups(shop.inputs)[: shop.user_numbers], *item_number_groups(item), *PAIR_GROUPS)


def frame_code_groups(shop: ShopColumns) -> tuple[str, ...]:
    """The groups of the code columns of a shop's frames: the user's texts, then what the item is."""
    texts = tuple(_of_reference(spec.reference) for spec in shop.inputs.texts)
    return (*texts, *["kind"] * (len(shop.code_names) - len(texts)))


def group_mask(groups: Sequence[str]) -> Tensor:
    """float32 [G, columns]: 1 where a column belongs to a group, in order of :data:`GROUPS`."""
    places = torch.tensor([GROUPS.index(group) for group in groups], dtype=torch.int64)
    return torch.nn.functional.one_hot(places, len(GROUPS)).T.to(torch.float32)
