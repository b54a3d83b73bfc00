"""Items newer than the catalogue that is built into the models: encoded once, then ranked beside it.

The served model ``new_item`` turns what the shop says of an item into one packed row; ``rank_new`` scores such rows for
a user. Scores of an item do not depend on the other candidates, so they are merged with the catalogue's as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.catalogue import UNKNOWN_STOCK
from recsys_plugin.inference.tensors import Array

__all__ = ["MOST_NEW_ITEMS", "ItemFacts", "NewItems", "encode_items", "item_text"]

#: More new items than this wait for the next export: each is ranked in every request.
MOST_NEW_ITEMS = 512
#: Items in one call to the encoder.
_BATCH = 32


def item_text(title: str, category: str, brand: str) -> str:
    """The text by which an item is known to the encoder: the parts that there are, as sentences."""
    return ". ".join(part for part in (title, category, brand) if part.strip())


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What the feature store says of an item; texts are empty and the price NaN where it says nothing."""

    item_id: str
    title: str
    category: str
    subcategory: str
    brand: str
    price: float
    stock: int = UNKNOWN_STOCK

    def same_but_for_stock(self, other: ItemFacts) -> bool:
        """Whether the models know both alike."""
        # Compared as text, since a price that is not known does not equal itself.
        return repr(replace(self, stock=other.stock)) == repr(other)


@dataclass(frozen=True, slots=True, eq=False)
class NewItems:
    """Items that one version's catalogue lacks, encoded by that version; immutable."""

    facts: tuple[ItemFacts, ...] = ()
    places: Mapping[str, int] = field(default_factory=dict)
    """Item id → place."""
    packed: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """``[n, W]``, what ``rank_new`` takes."""
    texts: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """``[n, D]``, unit vectors of the texts."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.facts)

    def restocked(self, stock: Mapping[str, int]) -> NewItems:
        """The same with other stocks of some: item id → how many."""
        if not stock:
            return self
        facts = (replace(fact, stock=stock.get(fact.item_id, fact.stock)) for fact in self.facts)
        return replace(self, facts=tuple(facts))

    def with_items(self, facts: Sequence[ItemFacts], packed: Array, texts: Array) -> NewItems:
        """These and others; an item that is here already is replaced."""
        replaced = {fact.item_id for fact in facts}
        kept = [place for place, fact in enumerate(self.facts) if fact.item_id not in replaced]
        every = (*(self.facts[place] for place in kept), *facts)
        return NewItems(
            every,
            {fact.item_id: place for place, fact in enumerate(every)},
            np.concatenate([self.packed[kept], packed]) if kept else packed,
            np.concatenate([self.texts[kept], texts]) if kept else texts,
        )


def encode_items(
    version: int, before: NewItems, facts: Sequence[ItemFacts]
) -> Generator[Infer, dict[str, Array], NewItems]:
    """Encode items with one version's models and add them to those that are known.

    Raises:
        InferenceUnavailable: if a model is not there or answers something else.
    """
    known = before
    for start in range(0, len(facts), _BATCH):
        batch = facts[start : start + _BATCH]
        text = np.empty((len(batch), 1), dtype=object)
        strings = np.empty((len(batch), 3), dtype=object)
        for line, fact in enumerate(batch):
            text[line, 0] = item_text(fact.title, fact.category, fact.brand).encode()
            strings[line] = [fact.category.encode(), fact.subcategory.encode(), fact.brand.encode()]
        tokens = yield Infer("item_tokenizer", version, {"query": text}, _tokens(len(batch)))
        inputs: dict[str, Any] = {
            **tokens,
            "item_string": strings,
            "price": np.array([[fact.price] for fact in batch], dtype=np.float32),
        }
        found = yield Infer(
            "new_item",
            version,
            inputs,
            {name: OutputSpec("FP32", (len(batch), -1)) for name in ("item", "text_embedding")},
        )
        known = known.with_items(batch, found["item"], found["text_embedding"])
    return known


def _tokens(lines: int) -> dict[str, OutputSpec]:
    return {name: OutputSpec("INT64", (lines, -1)) for name in ("input_ids", "attention_mask")}
