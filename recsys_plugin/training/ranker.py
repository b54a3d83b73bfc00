"""The CTR ranker: for a user and each candidate, the probabilities of a click and of a purchase.

The first layer is split: the user's part is computed once per request, the items' part once per catalogue version,
and only a few pair features (was it bought before, how lately, how alike to what was) are computed per candidate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.training.inputs import ItemInputs, UserInputs
from recsys_plugin.training.options import RankerOptions
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.pair_features import PAIR_FEATURES, Candidates, ItemTables, NewItems, pair_features
from recsys_plugin.training.two_tower import DIMENSIONS, TwoTower, small_embedding

__all__ = [
    "HEADS",
    "CandidateRanker",
    "Ranker",
    "SplitCandidates",
    "SplitTables",
    "TrainingLists",
    "padded_tables",
    "train_ranker",
]

_Array = np.ndarray[Any, np.dtype[Any]]

#: The order of the output heads.
HEADS = ("click", "cart", "purchase")
_HIDDEN = 64


class CandidateRanker(nn.Module, ABC):
    """What ranks candidates, whichever CTR model is behind it: from the contract's tensors to calibrated logits.

    Attributes:
        name: what the command line calls the model.
        inputs: reads the contract's tensors.
        scale: float32 [heads], offset: float32 [heads]; Platt scaling of the logits, learned on the validation weeks.
    """

    name: str
    scale: Tensor
    offset: Tensor

    def __init__(self, inputs: UserInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.register_buffer("scale", torch.ones(len(HEADS)))
        self.register_buffer("offset", torch.zeros(len(HEADS)))

    def set_calibration(self, scale: _Array, offset: _Array) -> None:
        """Set Platt's scale and offset, float32 [heads] each."""
        self.scale.copy_(torch.from_numpy(scale))
        self.offset.copy_(torch.from_numpy(offset))

    @abstractmethod
    def item_tables(self, vectors: Tensor, items: ItemInputs) -> ItemTables:
        """Prepare the catalogue from unit vectors float32 [N, 64] and an item snapshot."""

    @abstractmethod
    def new_candidates(self, new: NewItems, tables: ItemTables) -> Candidates:
        """What it sees of items that are not in the catalogue."""

    @abstractmethod
    def score(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: Candidates,
        tables: ItemTables,
    ) -> Tensor:
        """Logits float32 [B, C, heads], calibrated; the tables are of the catalogue that the users' lists name."""

    def forward(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidate_rows: Tensor,
        tables: ItemTables,
    ) -> Tensor:
        """Logits float32 [B, C, heads], calibrated, for candidates int64 [B, C]; a row of -1 is the empty item."""
        return self.score(user_float, user_int, user_codes, user_vector, tables.take(candidate_rows), tables)


def padded_tables(items: ItemInputs) -> dict[str, Tensor]:
    """The fields of :class:`ItemTables`, with the empty item as their last row."""
    neighbours = F.pad(torch.from_numpy(items.neighbours.rows), (0, 0, 0, 1), value=-1)
    return {
        "texts": F.pad(torch.from_numpy(items.modalities.compact), (0, 0, 0, 1)),
        "categories": F.pad(torch.from_numpy(items.codes[:, 0]), (0, 1)),
        "neighbour_rows": torch.where(neighbours < 0, len(items.codes), neighbours),
        "neighbour_weights": F.pad(torch.from_numpy(items.neighbours.weights), (0, 0, 0, 1)),
    }


@dataclass(frozen=True, slots=True)
class SplitCandidates(Candidates):
    """Candidates with their part of the first layer, float32 [B, C, 64]."""

    first_layer: Tensor


@dataclass(frozen=True, slots=True)
class SplitTables(ItemTables):
    """The resident catalogue with the items' part of the first layer, float32 [N+1, 64]."""

    first_layer: Tensor

    def take(self, candidate_rows: Tensor) -> SplitCandidates:
        """See :meth:`ItemTables.take`."""
        rows = self.known(candidate_rows)
        return SplitCandidates(rows, self.texts[rows], self.categories[rows], self.first_layer[rows])


class Ranker(CandidateRanker):
    """A small deep CTR model over a split first layer, with one head per event type."""

    name = "split_mlp"

    def __init__(self, inputs: UserInputs, item_numbers: int, code_sizes: tuple[int, ...]) -> None:
        super().__init__(inputs)
        self.user_part = nn.Linear(inputs.width + DIMENSIONS, _HIDDEN)
        self.item_part = nn.Linear(item_numbers + DIMENSIONS, _HIDDEN, bias=False)
        self.code_part = nn.ModuleList(small_embedding(size, _HIDDEN) for size in code_sizes)
        self.pair_part = nn.Linear(len(PAIR_FEATURES), _HIDDEN, bias=False)
        self.network = nn.Sequential(nn.ReLU(), nn.Linear(_HIDDEN, 32), nn.ReLU())
        self.heads = nn.Linear(32, len(HEADS))
        # What repeats needs no depth: a straight path from the pair features keeps it from being learned twice.
        self.pair_heads = nn.Linear(len(PAIR_FEATURES), len(HEADS), bias=False)

    def first_layer(self, vectors: Tensor, numbers: Tensor, codes: Tensor) -> Tensor:
        """Items' part of the first layer, float32 [..., 64], of vectors and numbers float32 and codes int64."""
        first: Tensor = self.item_part(torch.cat([numbers, vectors], dim=-1))
        for index, table in enumerate(self.code_part):
            first = first + table(codes[..., index])
        return first

    def item_tables(self, vectors: Tensor, items: ItemInputs) -> SplitTables:
        """Precompute the items' side from unit vectors float32 [N, 64] and an item snapshot."""
        first = self.first_layer(vectors, torch.from_numpy(items.numbers), torch.from_numpy(items.codes))
        return SplitTables(**padded_tables(items), first_layer=F.pad(first, (0, 0, 0, 1)))

    def new_candidates(self, new: NewItems, tables: ItemTables) -> SplitCandidates:
        """See :meth:`CandidateRanker.new_candidates`."""
        rows = torch.full_like(new.codes[..., 0], tables.empty)
        return SplitCandidates(
            rows, new.texts, new.codes[..., 0], self.first_layer(new.vectors, new.numbers, new.codes)
        )

    def score(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: Candidates,
        tables: ItemTables,
    ) -> Tensor:
        """See :meth:`CandidateRanker.score`."""
        assert isinstance(candidates, SplitCandidates)
        dense, lists = self.inputs(user_float, user_int, user_codes)
        pair = pair_features(lists, candidates, tables)
        hidden = self.user_part(torch.cat([dense, user_vector], dim=1)).unsqueeze(1)
        hidden = hidden + candidates.first_layer + self.pair_part(pair)
        logits: Tensor = self.heads(self.network(hidden)) + self.pair_heads(pair)
        return logits * self.scale + self.offset


@dataclass(frozen=True, slots=True)
class TrainingLists:
    """Candidate lists of n contexts, made by :mod:`recsys_plugin.training.candidates`.

    Attributes:
        context: int64 [n], positions in the packed users.
        week: int64 [n], positions in the weekly item snapshots.
        rows: int64 [n, C], candidates, -1 pads.
        labels: float32 [n, C, heads], 1 or 0 for each head of :data:`HEADS`; NaN where the data cannot tell.
        weights: float32 [n, C], how many candidates of the full list each one stands for; 0 for padding.
    """

    context: _Array
    week: _Array
    rows: _Array
    labels: _Array
    weights: _Array


def train_ranker(
    model: Ranker,
    lists: TrainingLists,
    users: UserTensors,
    towers: TwoTower,
    snapshots: list[ItemInputs],
    options: RankerOptions,
    *,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    validate: Callable[[int], float] | None = None,
) -> dict[str, Any]:
    """Train in place on candidate lists, weighted log loss (for probabilities) plus list-wise softmax (for order).

    Args:
        model: the ranker. lists: its examples. users: packed features of the contexts.
        towers: the trained two-tower, whose vectors are features here. snapshots: item inputs by week.
        options: epochs, batch, rate, seed. progress: told step, steps, running loss.
        validate: called after each epoch with its number; the weights of the highest value are kept.

    Returns:
        ``loss`` of the last 50 steps, ``epoch`` kept, and ``validation`` values by epoch.
    """
    generator = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    codes = model.inputs.codes(users.user_string)
    user_vectors = towers.user_vectors(users)
    item_vectors = torch.from_numpy(towers.item_vectors()[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    batches = -(-len(lists.context) // options.batch)
    steps = options.epochs * batches
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    values: list[float] = []
    losses: list[float] = []
    for epoch in range(options.epochs):
        model.train()
        # Lists of one week share a catalogue snapshot, so batches are drawn within weeks.
        order = generator.permutation(len(lists.context))
        order = order[np.argsort(lists.week[order], kind="stable")]
        chunks = [chunk for week in np.unique(lists.week) for chunk in _chunks(order, lists.week, week, options.batch)]
        for position in generator.permutation(len(chunks)):
            chunk = chunks[position]
            snapshot = snapshots[int(lists.week[chunk[0]])]
            tables = model.item_tables(item_vectors, snapshot)
            who = lists.context[chunk]
            logits = model(
                torch.from_numpy(users.user_float[who]),
                torch.from_numpy(users.user_int[who]),
                torch.from_numpy(codes[who]),
                torch.from_numpy(user_vectors[who]),
                torch.from_numpy(lists.rows[chunk]),
                tables,
            )
            loss = _loss(logits, torch.from_numpy(lists.labels[chunk]), torch.from_numpy(lists.weights[chunk]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if len(losses) < steps - 1:
                schedule.step()
            losses.append(float(loss.detach()))
            progress(len(losses), steps, float(np.mean(losses[-50:])))
        model.eval()
        if validate is not None:
            values.append(validate(epoch))
            if best is None or values[-1] > best[0]:
                best = (
                    values[-1],
                    epoch,
                    {name: value.clone() for name, value in model.state_dict().items()},
                )
    if best is not None:
        model.load_state_dict(best[2])
    return {
        "loss": float(np.mean(losses[-50:])) if losses else float("nan"),
        "epoch": best[1] if best else options.epochs - 1,
        "validation": values,
    }


def _chunks(order: _Array, weeks: _Array, week: int, size: int) -> list[_Array]:
    mine = order[weeks[order] == week]
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def _loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    known = ~torch.isnan(labels)
    filled = torch.where(known, labels, torch.zeros_like(labels))
    each = F.binary_cross_entropy_with_logits(logits, filled, reduction="none")
    scale = (weights.unsqueeze(-1) * known).detach()
    pointwise = (each * scale).sum() / scale.sum().clamp(min=1.0)
    listwise = logits.new_zeros(())
    for head in range(logits.shape[-1]):
        positive = filled[..., head] * (weights > 0)
        count = positive.sum(1)
        if not bool((count > 0).any()):
            continue  # nothing to order; the mean of none is NaN
        here = logits[..., head].masked_fill(weights <= 0, -1e9)
        # A sampled negative stands for several: its weight enters the softmax as that many copies.
        log_share = F.log_softmax(here + torch.log(weights.clamp(min=1e-6)), dim=1) - torch.log(weights.clamp(min=1e-6))
        listwise = listwise - ((log_share * positive).sum(1) / count.clamp(min=1.0))[count > 0].mean()
    return 10.0 * pointwise + listwise
