"""A small frame with something to learn, and a tiny shop without Feast or servers: what the zoo's tests run on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from recsys_plugin.features.contract import FeatureContract, FeatureSpec
from recsys_plugin.training.inputs import ITEM_NUMBERS, ItemInputs, UserInputs, Vocabulary
from recsys_plugin.training.modalities import ItemModalities, TextAxes, compact_texts
from recsys_plugin.training.neighbours import Neighbours
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.two_tower import ItemTower, TwoTower, UserTower
from recsys_plugin.training.user_texts import TEXT_DIMENSIONS
from recsys_plugin.training.zoo.frame import CtrFrame, History
from recsys_plugin.training.zoo.model import CtrOptions

__all__ = ["ITEMS", "QUICK", "SIZES", "VOCABULARIES", "frame", "quiet", "tiny_towers", "tiny_users", "wide_towers"]

QUICK = CtrOptions(epochs=3, batch=128, learning_rate=1e-2, width=4, hidden=(16, 8), least=20, leaves=7)
ITEMS = 40
SIZES = (4, 3, 3)
#: Of the item code columns, as large as ``SIZES`` says.
VOCABULARIES = {
    f"item_catalogue__{name}": Vocabulary(tuple(f"{name} {number}" for number in range(1, size)))
    for name, size in zip(("category", "subcategory", "brand"), SIZES, strict=True)
}
_CONTRACT = FeatureContract(
    project="recsys",
    features=(
        FeatureSpec("user_profile:country", "STRING", ""),
        FeatureSpec("user_profile:segment", "STRING", ""),
        FeatureSpec("user_statistics:purchases_30d", "FLOAT", 0.0),
        FeatureSpec("user_statistics:spent_30d", "FLOAT", 0.0),
        FeatureSpec("user_statistics:last_purchase_at", "UNIX_TIMESTAMP", 0),
        FeatureSpec("user_statistics:favourite_items", "STRING_LIST", -1, encoding="row", length=5),  # type: ignore[arg-type]
        FeatureSpec("user_statistics:favourite_weights", "FLOAT_LIST", 0.0, length=5),
        FeatureSpec("user_recent_items:item_ids", "STRING_LIST", -1, encoding="row", length=6),  # type: ignore[arg-type]
        FeatureSpec("user_recent_items:event_type_codes", "INT64_LIST", 0, length=6),
        FeatureSpec("user_recent_items:timestamps", "UNIX_TIMESTAMP_LIST", 0, length=6),
        FeatureSpec("user_text:vector", "FLOAT_LIST", 0.0, length=3),
        FeatureSpec("request:timestamp", "UNIX_TIMESTAMP", 0),
    ),
)


def quiet(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def frame(lines: int = 900, *, seed: int = 0, heads: tuple[str, ...] = ("click", "cart", "purchase")) -> CtrFrame:
    """A label that depends on a number, on a code and on whether the target is in the history."""
    generator = np.random.default_rng(seed)
    numbers = generator.normal(size=(lines, 3)).astype(np.float32)
    codes = generator.integers(0, 6, (lines, 2))
    items = generator.integers(0, 12, (lines, 5))
    items[generator.random(items.shape) < 0.3] = -1
    target = generator.integers(0, 12, lines)
    again = (items == target[:, None]).any(1)
    score = 1.5 * numbers[:, 0] + np.where(codes[:, 1] > 2, 1.0, -1.0) + 2.0 * again - 1.0
    labels = (generator.random((lines, len(heads))) < 1 / (1 + np.exp(-score))[:, None]).astype(np.float32)
    return CtrFrame(
        numbers=numbers,
        number_names=("first", "second", "third"),
        codes=codes,
        code_names=("country", "brand"),
        code_sizes=(6, 6),
        labels=labels,
        heads=heads,
        weights=np.ones(lines, np.float32),
        group=generator.integers(0, 30, lines),
        lists=np.arange(lines) // 30,
        history=History(items, generator.integers(0, 3, items.shape), np.ones(items.shape, np.float32), target, 12, 3),
    )


def tiny_users(count: int = 8, *, seed: int = 0) -> UserTensors:
    """Packed users; the last has no history and no known text."""
    generator = np.random.default_rng(seed)
    widths = {str(name): width for name, width in _CONTRACT.widths.items()}
    floats = generator.gamma(2.0, 2.0, (count, widths["user_float"])).astype(np.float32)
    integers = np.zeros((count, widths["user_int"]), np.int64)
    now = 1_750_000_000

    def put(reference: str, values: Any) -> None:
        slot = _CONTRACT.slots[reference]
        integers[:, slot.offset : slot.offset + slot.width] = values

    put("request:timestamp", now)
    put("user_statistics:last_purchase_at", now - generator.integers(0, 10**7, (count, 1)))
    for reference in ("user_statistics:favourite_items", "user_recent_items:item_ids"):
        width = _CONTRACT.slots[reference].width
        rows = np.stack([generator.permutation(ITEMS)[:width] for _ in range(count)])
        rows[:, -1] = -1
        rows[-1] = -1
        put(reference, rows)
    put("user_recent_items:event_type_codes", generator.integers(0, 6, (count, 6)))
    put("user_recent_items:timestamps", now - generator.integers(0, 10**6, (count, 6)))
    texts = generator.choice(np.array(["DE", "FR", "日本"], object), (count, widths["user_string"]))
    texts[-1] = "nowhere"
    return UserTensors(floats, integers, texts)


def tiny_towers(*, seed: int = 0) -> tuple[TwoTower, ItemInputs]:
    """An untrained two-tower over a catalogue of :data:`ITEMS` items."""
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    text = generator.normal(size=(ITEMS, 1, 8)).astype(np.float32)
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    modalities = ItemModalities(
        ("title",),
        text,
        np.ones((ITEMS, 1), bool),
        np.zeros((ITEMS, 0), np.float32),
        np.zeros(ITEMS, bool),
        compact=text[:, 0],
        axes=TextAxes(np.zeros(8, np.float32), np.eye(8, dtype=np.float32)),
    )
    rows = np.stack([generator.permutation(ITEMS)[:4] for _ in range(ITEMS)]).astype(np.int64)
    rows[:, -1] = -1
    weights = generator.random(rows.shape).astype(np.float32) * (rows >= 0)
    items = replace(
        ItemInputs(
            modalities,
            np.stack([generator.integers(0, size, ITEMS) for size in SIZES], axis=1),
            generator.normal(size=(ITEMS, 5)).astype(np.float32),
            Neighbours(rows, weights),
        )
    )
    words = Vocabulary(("DE", "FR", "日本"))
    inputs = UserInputs(_CONTRACT, {"user_profile:country": words, "user_profile:segment": words})
    return TwoTower(UserTower(inputs), ItemTower(items, SIZES)).eval(), items


def wide_towers() -> tuple[TwoTower, ItemInputs]:
    """The same with as many numbers of an item, and text dimensions, as a real shop has."""
    towers, items = tiny_towers()
    numbers = np.random.default_rng(1).normal(size=(ITEMS, ITEM_NUMBERS)).astype(np.float32)
    modalities = items.modalities
    directions = np.eye(modalities.texts.shape[2], TEXT_DIMENSIONS, dtype=np.float32)
    compact, axes = compact_texts(modalities.texts, modalities.has_text, directions)
    items = replace(items, numbers=numbers, modalities=replace(modalities, compact=compact, axes=axes))
    torch.manual_seed(1)
    return TwoTower(towers.user, ItemTower(items, SIZES)).eval(), items
