"""What the model ``explain`` answers: the groups of features that a score is made of, and what reasons can name."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EXPLAINED", "FEATURE_GROUPS", "FIGURES", "ITEM_WIDTH", "MOST_EXPLAINED", "REASON_ROWS"]

#: The groups of features in plain words. Each input column of a CTR model belongs to exactly one of them.
FEATURE_GROUPS: Mapping[str, str] = {
    "own_history": "what you did with this item before",
    "likeness": "how like it is to what you bought",
    "bought_together": "how often it is bought with your items",
    "visit": "your recent visits",
    "customer": "who you are and how you shop",
    "popularity": "how well it sells",
    "price": "its price",
    "forecast": "what is expected to be bought, and when you buy next",
    "kind": "what it is: category, brand, description",
}

#: The further columns of the model's ``values``, after one for each group:
#: the log-odds of the baseline and of the score; the cosine of the texts of the item and of the history item nearest to
#: it; how much the history item that speaks most for it does so; the item's rank by sales in its category, 0 for none.
FIGURES = ("base", "logit", "nearest_cosine", "companion_weight", "category_rank")
#: All columns of the model's ``values``.
EXPLAINED = (*FEATURE_GROUPS, *FIGURES)
#: The columns of the model's ``reason_rows``: catalogue rows of the nearest history item and of the one that speaks
#: most for the candidate, -1 for none.
REASON_ROWS = ("nearest", "companion")
#: The parameter that tells the width of a packed item newer than the catalogue, see the model ``new_item``.
ITEM_WIDTH = "item_width"
#: Items of one call to the model.
MOST_EXPLAINED = 50
