"""The two-tower retrieval model: users and items meet in one space, P(item | user) = softmax of scaled inner products.

Trained with in-batch sampled softmax and logQ correction (Yi et al. 2019, "Sampling-bias-corrected neural modeling
for large corpus item recommendations"), or with the full softmax over the catalogue where that is small. Item ids are
dropped in part of the training, so that an item never sold has a sensible vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.history import HistoryEncoder
from recsys_plugin.training.inputs import ItemInputs, Lists, UserInputs
from recsys_plugin.training.modalities import ModalityFusion
from recsys_plugin.training.options import TwoTowerOptions
from recsys_plugin.training.packing import UserTensors

__all__ = ["DIMENSIONS", "ItemTower", "TwoTower", "UserTower", "small_embedding", "train_two_tower"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Width of the common space.
DIMENSIONS = 64


def small_embedding(size: int, width: int) -> nn.Embedding:
    """An embedding that starts near zero, so that content speaks first."""
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=0.02)
    return table


class ItemTower(nn.Module):
    """All N items at once: content and id → a history embedding and a unit vector, both float32 [N, 64]."""

    codes: Tensor
    numbers: Tensor

    def __init__(self, items: ItemInputs, code_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("codes", torch.from_numpy(items.codes))
        self.register_buffer("numbers", torch.from_numpy(items.numbers))
        self.fusion = ModalityFusion(items.modalities, DIMENSIONS)
        self.from_numbers = nn.Linear(items.numbers.shape[1], DIMENSIONS)
        self.from_codes = nn.ModuleList(small_embedding(size, DIMENSIONS) for size in code_sizes)
        self.from_id = small_embedding(len(items.codes), DIMENSIONS)
        self.vector = nn.Sequential(nn.Linear(DIMENSIONS, 128), nn.ReLU(), nn.Linear(128, DIMENSIONS))

    def forward(self, id_kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """History embeddings and unit vectors of the catalogue; ``id_kept`` float32 [N, 1] blanks some items' ids."""
        ids = self.from_id.weight if id_kept is None else self.from_id.weight * id_kept
        return self.combine(self.fusion() + self.from_numbers(self.numbers) + ids, self.codes)

    def without_id(self, fused: Tensor, numbers: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The same of n items without an id.

        Args:
            fused: float32 [n, 64], what :attr:`fusion` makes of them. numbers: float32 [n, numbers].
            codes: int64 [n, 3].
        """
        return self.combine(fused + self.from_numbers(numbers), codes)

    def combine(self, content: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The tower above what is known of an item besides its codes, float32 [n, 64]."""
        embedded = content
        for index, table in enumerate(self.from_codes):
            embedded = embedded + table(codes[:, index])
        return embedded, F.normalize(embedded + self.vector(F.relu(embedded)), dim=-1)


class UserTower(nn.Module):
    """A user's raw features and history → a unit vector float32 [B, 64]."""

    def __init__(self, inputs: UserInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.recency = nn.Parameter(torch.tensor(-0.5))
        self.type_weight = nn.Embedding(6, 1)
        nn.init.zeros_(self.type_weight.weight)
        self.history = HistoryEncoder(DIMENSIONS, causal=False)
        self.network = nn.Sequential(
            nn.Linear(3 * DIMENSIONS + inputs.width, 256), nn.ReLU(), nn.Linear(256, DIMENSIONS)
        )

    def forward(self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, embedded: Tensor) -> Tensor:
        """``embedded`` float32 [N, 64] are the item tower's history embeddings."""
        dense, lists = self.inputs(user_float, user_int, user_codes)
        return self.combine(dense, lists, embedded)

    def combine(self, dense: Tensor, lists: Lists, embedded: Tensor) -> Tensor:
        """The tower above its input layer."""
        weight = self.recency * torch.log1p(lists.recent_ages) + self.type_weight(lists.recent_types).squeeze(-1)
        recent = _pool(embedded, lists.recent_rows, torch.exp(weight.clamp(-10.0, 10.0)))
        favourite = _pool(embedded, lists.favourite_rows, torch.log1p(lists.favourite_weights.clamp(min=0.0)))
        ordered = self.history(embedded, lists.recent_rows, lists.recent_ages, lists.recent_types)
        return F.normalize(favourite + self.network(torch.cat([recent, favourite, ordered, dense], dim=1)), dim=-1)


def _pool(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of table rows; rows of -1 count nothing, and an empty list gives zero."""
    weights = weights * (rows >= 0).to(weights.dtype)
    total = (table[rows.clamp(min=0)] * weights.unsqueeze(-1)).sum(1)
    return total / weights.sum(1, keepdim=True).clamp(min=1e-6)


class TwoTower(nn.Module):
    """Both towers and the temperature of the softmax."""

    def __init__(self, user: UserTower, item: ItemTower) -> None:
        super().__init__()
        self.user, self.item = user, item
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    @torch.inference_mode()
    def user_vectors(self, users: UserTensors, *, batch: int = 1024) -> _Array:
        """Unit vectors float32 [n, 64]."""
        embedded, _ = self.item()
        codes = self.user.inputs.codes(users.user_string)
        parts = [
            self.user(
                torch.from_numpy(users.user_float[start : start + batch]),
                torch.from_numpy(users.user_int[start : start + batch]),
                torch.from_numpy(codes[start : start + batch]),
                embedded,
            ).numpy()
            for start in range(0, len(users), batch)
        ]
        return np.concatenate(parts) if parts else np.empty((0, DIMENSIONS), np.float32)

    @torch.inference_mode()
    def item_vectors(self) -> tuple[_Array, _Array]:
        """History embeddings and unit vectors of the catalogue, float32 [N, 64] each."""
        embedded, vectors = self.item()
        return embedded.numpy(), vectors.numpy()


def train_two_tower(
    model: TwoTower,
    contexts: Contexts,
    users: UserTensors,
    options: TwoTowerOptions,
    *,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> float:
    """Train in place; each step draws contexts and one positive of each.

    Args:
        model: both towers.
        contexts: what was bought. users: the packed features of the same contexts.
        options: steps, batch, rates and seed.
        progress: told step, steps and the running loss.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    generator = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    size = len(model.item.codes)
    frequency = np.bincount(contexts.rows, minlength=size).astype(np.float64) + 1.0
    log_q = torch.from_numpy(np.log(frequency / frequency.sum()).astype(np.float32))
    # Every positive is equally likely: a context is drawn in proportion to the size of its basket, capped.
    sizes = np.minimum(np.diff(contexts.offsets), 50).astype(np.float64)
    shares = sizes / sizes.sum()
    codes = model.user.inputs.codes(users.user_string)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    model.train()
    losses: list[float] = []
    for step in range(options.steps):
        chosen = generator.choice(len(contexts), size=min(options.batch, len(contexts)), p=shares)
        picks = contexts.offsets[chosen] + (generator.random(len(chosen)) * np.diff(contexts.offsets)[chosen]).astype(
            np.int64
        )
        targets = contexts.rows[picks]
        user_int = users.user_int[chosen].copy()
        cold = generator.random(len(chosen)) < options.history_dropout
        _forget(model.user.inputs, user_int, cold)
        id_kept = torch.from_numpy((generator.random((size, 1)) >= options.id_dropout).astype(np.float32))
        embedded, vectors = model.item(id_kept)
        user = model.user(
            torch.from_numpy(users.user_float[chosen]),
            torch.from_numpy(user_int),
            torch.from_numpy(codes[chosen]),
            embedded,
        )
        target = torch.from_numpy(targets)
        if options.softmax == "full":
            # What else the context bought is no negative.
            others = torch.from_numpy(_other_positives(contexts, chosen, targets, size))
            logits = (user @ vectors.T * model.log_scale.exp()).masked_fill(others, -1e9)
            loss = F.cross_entropy(logits, target)
        else:
            logits = user @ vectors[target].T * model.log_scale.exp() - log_q[target]
            # Another line's positive that this context bought as well is no negative.
            logits = logits.masked_fill(torch.from_numpy(_accidental_hits(contexts, chosen, targets)), -1e9)
            loss = F.cross_entropy(logits, torch.arange(len(chosen)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        progress(step + 1, options.steps, float(np.mean(losses[-50:])))
    model.eval()
    return float(np.mean(losses[-max(1, options.steps // 10) :]))


def _forget(inputs: UserInputs, user_int: _Array, lines: _Array) -> None:
    """Blank the histories of some lines, as if their users were new."""
    for reference in ("user_recent_items:item_ids", "user_statistics:favourite_items"):
        slot = inputs.contract.slots[reference]
        user_int[lines, slot.offset : slot.offset + slot.width] = -1


def _other_positives(contexts: Contexts, chosen: _Array, targets: _Array, size: int) -> _Array:
    """bool [b, N]: what line i's context bought besides its target."""
    others = np.zeros((len(chosen), size), bool)
    for line, context in enumerate(chosen):
        others[line, contexts.positives(int(context))] = True
    others[np.arange(len(chosen)), targets] = False
    return others


def _accidental_hits(contexts: Contexts, chosen: _Array, targets: _Array) -> _Array:
    """bool [b, b]: column j's target was bought in line i's context, j ≠ i."""
    order = np.argsort(targets, kind="stable")
    ranked = targets[order]
    hits = np.zeros((len(chosen), len(chosen)), bool)
    for line, context in enumerate(chosen):
        bought = contexts.positives(int(context))
        low, high = np.searchsorted(ranked, bought, "left"), np.searchsorted(ranked, bought, "right")
        for start, stop in zip(low[high > low], high[high > low], strict=True):
            hits[line, order[start:stop]] = True
    np.fill_diagonal(hits, False)
    return hits
