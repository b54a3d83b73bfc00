"""The zoo on a shop: one module computes every column, in training and in the exported graph alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.errors import StepFailed
from recsys_plugin.training.inputs import ItemInputs, UserInputs
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.pair_features import PAIR_FEATURES, Candidates, ItemTables, NewItems, pair_features
from recsys_plugin.training.ranker import HEADS, CandidateRanker, TrainingLists, padded_tables
from recsys_plugin.training.two_tower import TwoTower
from recsys_plugin.training.zoo.frame import CtrFrame, History
from recsys_plugin.training.zoo.model import CtrModel
from recsys_plugin.training.zoo.neural import NeuralModel

__all__ = [
    "CandidateColumns",
    "FrameCandidates",
    "FrameRanker",
    "FrameTables",
    "ShopColumns",
    "lists_frame",
    "shop_layout",
]

_Array = np.ndarray[Any, np.dtype[Any]]
_EVENT_TYPES = 6
#: Of the recent items, how many make a history: attention over all of them would cost more than it gains.
_HISTORY = 20


@dataclass(frozen=True, slots=True)
class FrameCandidates(Candidates):
    """Candidates with the items' own columns.

    Attributes:
        numbers: float32 [B, C, numbers]. codes: int64 [B, C, 3].
        items: int64 [B, C], 0 for an item that is not in the catalogue, else its row and 1.
    """

    numbers: Tensor
    codes: Tensor
    items: Tensor


@dataclass(frozen=True, slots=True)
class FrameTables(ItemTables):
    """The resident catalogue with the items' own columns.

    Attributes:
        numbers: float32 [N+1, numbers]. codes: int64 [N+1, 3].
    """

    numbers: Tensor
    codes: Tensor

    def take(self, candidate_rows: Tensor) -> FrameCandidates:
        """See :meth:`ItemTables.take`."""
        rows = self.known(candidate_rows)
        items = torch.where(rows == self.empty, 0, rows + 1)
        return FrameCandidates(
            rows, self.texts[rows], self.categories[rows], self.numbers[rows], self.codes[rows], items
        )


@dataclass(frozen=True, slots=True)
class CandidateColumns:
    """A frame's columns for B users and C candidates each, as tensors."""

    numbers: Tensor  # float32 [B * C, D]
    codes: Tensor  # int64 [B * C, K]
    items: Tensor  # int64 [B * C, L]
    types: Tensor  # int64 [B * C, L]
    ages: Tensor  # float32 [B * C, L]
    target: Tensor  # int64 [B * C]


class ShopColumns(nn.Module):
    """From the contract's raw tensors, candidate rows and the resident catalogue to the columns of a frame.

    Numbers: the user's scaled numbers and ages, the item's statistics, and what both have to do with each other. Codes:
    the user's texts, the item's category, subcategory and brand, and the item itself. History: the recent items.
    """

    def __init__(self, inputs: UserInputs, item_numbers: int, code_sizes: tuple[int, ...], items: int) -> None:
        super().__init__()
        self.inputs = inputs
        user = [spec.reference for spec in (*inputs.numbers, *inputs.times)]
        self.user_numbers = len(user) + len(inputs.times)
        never = [f"{spec.reference}:never" for spec in inputs.times]
        item = [f"item_number_{position}" for position in range(item_numbers)]
        self.number_names = (*user, *never, *item, *PAIR_FEATURES)
        self.code_names = (*(spec.reference for spec in inputs.texts), "category", "subcategory", "brand", "item")
        text_sizes = (len(inputs.vocabularies[spec.reference]) for spec in inputs.texts)
        self.code_sizes = (*text_sizes, *code_sizes, items + 1)
        self.items = items

    def item_tables(self, vectors: Tensor, items: ItemInputs) -> FrameTables:
        """See :meth:`CandidateRanker.item_tables`."""
        numbers, codes = torch.from_numpy(items.numbers), torch.from_numpy(items.codes)
        own = {"numbers": F.pad(numbers, (0, 0, 0, 1)), "codes": F.pad(codes, (0, 0, 0, 1))}
        return FrameTables(**padded_tables(items), **own)

    def new_candidates(self, new: NewItems, tables: ItemTables) -> FrameCandidates:
        """See :meth:`CandidateRanker.new_candidates`."""
        category = new.codes[..., 0]
        rows = torch.full_like(category, tables.empty)
        return FrameCandidates(rows, new.texts, category, new.numbers, new.codes, torch.zeros_like(rows))

    def columns(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: FrameCandidates,
        tables: ItemTables,
    ) -> CandidateColumns:
        """All columns, line after line: user 0 with each of his candidates, then user 1."""
        dense, lists = self.inputs(user_float, user_int, user_codes)
        pair = pair_features(lists, candidates, tables)
        one = torch.zeros_like(candidates.rows).unsqueeze(-1)

        def each(column: Tensor) -> Tensor:
            """[B, W] → [B * C, W]: the user's part beside every candidate."""
            return (column.unsqueeze(1) + one.to(column.dtype)).flatten(0, 1)

        numbers = torch.cat(
            [each(dense[:, : self.user_numbers]), candidates.numbers.flatten(0, 1), pair.flatten(0, 1)], dim=1
        )
        item = candidates.items.reshape(-1, 1)
        codes = torch.cat([each(user_codes), candidates.codes.flatten(0, 1), item], dim=1)
        return CandidateColumns(
            numbers=numbers,
            codes=codes,
            items=each(lists.recent_rows[:, :_HISTORY]),
            types=each(lists.recent_types[:, :_HISTORY]),
            ages=each(lists.recent_ages[:, :_HISTORY]),
            target=item.squeeze(1) - 1,
        )


class FrameRanker(CandidateRanker):
    """A trained model of the zoo as what ranks candidates; ``shop`` makes the columns that it was trained on."""

    def __init__(
        self, model: CtrModel, inputs: UserInputs, item_numbers: int, code_sizes: tuple[int, ...], items: int
    ) -> None:
        super().__init__(inputs)
        self.shop = ShopColumns(inputs, item_numbers, code_sizes, items)
        self.model = model
        self.name = model.name
        if isinstance(model, NeuralModel):
            self.networks = model.networks
        calibration = model.calibration
        self.set_calibration(calibration.scale, calibration.offset)

    def item_tables(self, vectors: Tensor, items: ItemInputs) -> FrameTables:
        """See :meth:`CandidateRanker.item_tables`."""
        return self.shop.item_tables(vectors, items)

    def new_candidates(self, new: NewItems, tables: ItemTables) -> FrameCandidates:
        """See :meth:`CandidateRanker.new_candidates`."""
        return self.shop.new_candidates(new, tables)

    def score(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: Candidates,
        tables: ItemTables,
    ) -> Tensor:
        """See :meth:`CandidateRanker.score`; what was never trained is 0 before calibration."""
        assert isinstance(candidates, FrameCandidates)
        columns = self.shop.columns(user_float, user_int, user_codes, user_vector, candidates, tables)
        if isinstance(self.model, NeuralModel):
            found = [
                network(columns.numbers, columns.codes, columns.items, columns.types, columns.ages, columns.target)
                for network in self.networks
            ]
            flat = torch.stack(found).mean(0)
        else:
            flat = torch.from_numpy(np.nan_to_num(self.model.logits(self.frame(columns))))
        logits = flat * self.scale + self.offset
        return logits.reshape(*candidates.rows.shape, len(HEADS))

    def frame(self, columns: CandidateColumns) -> CtrFrame:
        """Columns as a frame without labels."""
        return _frame(self.shop, columns, np.full((len(columns.numbers), len(HEADS)), np.nan, np.float32))


def shop_layout(shop: ShopColumns) -> dict[str, Any]:
    """:meth:`CtrFrame.layout` of the frames that ``shop`` makes."""
    none = np.empty((0, len(HEADS)), np.float32)
    names = CandidateColumns.__dataclass_fields__
    widths = {"numbers": len(shop.number_names), "codes": len(shop.code_names), "items": 0, "types": 0, "ages": 0}
    columns = {name: torch.zeros((0, widths[name]) if name in widths else (0,)) for name in names}
    whole = {name: columns[name].long() for name in ("codes", "items", "types", "target")}
    return _frame(shop, CandidateColumns(**{**columns, **whole}), none).layout()


def _frame(
    shop: ShopColumns,
    columns: CandidateColumns,
    labels: _Array,
    weights: _Array | None = None,
    group: _Array | None = None,
    lists: _Array | None = None,
) -> CtrFrame:
    lines = len(columns.numbers)
    history = History(
        columns.items.numpy(),
        columns.types.numpy(),
        columns.ages.numpy(),
        columns.target.numpy(),
        shop.items,
        _EVENT_TYPES,
    )
    return CtrFrame(
        numbers=columns.numbers.numpy(),
        number_names=shop.number_names,
        codes=columns.codes.numpy(),
        code_names=shop.code_names,
        code_sizes=shop.code_sizes,
        labels=labels,
        heads=HEADS,
        weights=np.ones(lines, np.float32) if weights is None else weights,
        group=np.zeros(lines, np.int64) if group is None else group,
        lists=np.empty(0, np.int64) if lists is None else lists,
        history=history,
    )


def lists_frame(
    shop: ShopColumns,
    lists: TrainingLists,
    users: UserTensors,
    towers: TwoTower,
    snapshots: Sequence[ItemInputs],
    *,
    tell: Callable[[int, int], None] = lambda done, total: None,
    block: int = 64,
) -> CtrFrame:
    """The frame of candidate lists: one line for each candidate, padding left out.

    Args:
        shop: computes the columns. lists: candidates and what came of them. users: the packed users they name.
        towers: the two-tower. snapshots: item inputs, by ``lists.week``. tell: told lists done and in all.

    Raises:
        StepFailed: if there is no list.
    """
    if not len(lists.context):
        raise StepFailed("nothing came of any retrieved candidate: there is no example to train a CTR model on")
    codes = shop.inputs.codes(users.user_string)
    user_vectors, vectors = towers.user_vectors(users), torch.from_numpy(towers.item_vectors()[1])
    parts: list[CandidateColumns] = []
    order: list[_Array] = []
    done = 0
    with torch.inference_mode():
        for week in np.unique(lists.week):
            snapshot = snapshots[int(week)]
            tables = shop.item_tables(vectors, snapshot)
            mine = np.flatnonzero(lists.week == week)
            for start in range(0, len(mine), block):
                chosen = mine[start : start + block]
                who = lists.context[chosen]
                made = shop.columns(
                    torch.from_numpy(users.user_float[who]),
                    torch.from_numpy(users.user_int[who]),
                    torch.from_numpy(codes[who]),
                    torch.from_numpy(user_vectors[who]),
                    tables.take(torch.from_numpy(lists.rows[chosen])),
                    tables,
                )
                kept = torch.from_numpy(lists.weights[chosen].reshape(-1) > 0)
                parts.append(
                    CandidateColumns(*(getattr(made, name)[kept] for name in CandidateColumns.__dataclass_fields__))
                )
                order.append(chosen)
                done += len(chosen)
                tell(done, len(lists.context))
    whole = CandidateColumns(
        *(torch.cat([getattr(part, name) for part in parts]) for name in CandidateColumns.__dataclass_fields__)
    )
    place = np.concatenate(order)
    weights = lists.weights[place]
    kept_lines = weights.reshape(-1) > 0
    width = weights.shape[1]
    return _frame(
        shop,
        whole,
        lists.labels[place].reshape(-1, len(HEADS))[kept_lines],
        weights.reshape(-1)[kept_lines],
        np.repeat(lists.context[place], width)[kept_lines],
        np.repeat(place, width)[kept_lines],
    )
