"""The next-item model for sequences without features: a history encoder over learned item embeddings.

Trained with the softmax over all items at every event, which lifts SASRec far above its published figures (Klenitskiy
& Vasilev 2023, "Turning dross into gold loss: is BERT4Rec really better than SASRec?"; Petrov & Macdonald 2023,
"gSASRec", name the sampled loss as the reason).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.history import HistoryEncoder
from recsys_plugin.training.sequences import Sequences, target_ranks, top_metrics

__all__ = [
    "NextItemModel",
    "NextItemOptions",
    "TrainingRecord",
    "co_occurrence",
    "co_occurrence_embeddings",
    "cosines",
    "full_softmax_loss",
    "train_next_item",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Positions whose logits are held at once: small enough for the processor's cache.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class NextItemOptions:
    """How the next-item model is built and trained.

    Attributes:
        width: of the item embeddings and of the encoder; layers, heads, dropout: of the encoder.
        length: the most items of a history.
        temperature: logits are cosines divided by it; 0 means plain inner products.
        epochs: at most so many passes; the learning rate falls to zero over them.
        patience: epochs without a better validation NDCG@10 before training stops.
        batch: sequences of a step. learning_rate, weight_decay: of AdamW. label_smoothing: of the softmax.
        bfloat16: whether the softmax's matrix products are bfloat16, for processors that have such products.
        seed: of dropout and order.

    Raises:
        InvalidInput: if a size or count is below 1, or a rate out of range.
    """

    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    length: int = 50
    temperature: float = 0.07
    epochs: int = 14
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    patience: int = 5
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "length", "epochs", "patience", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"next-item option {name} is {getattr(self, name)}; it must be at least 1")
        if not (0.0 <= self.dropout < 1.0 and 0.0 <= self.label_smoothing < 1.0):
            raise InvalidInput(f"dropout {self.dropout} and label_smoothing {self.label_smoothing} must be in [0, 1)")
        if self.temperature < 0.0 or self.learning_rate <= 0.0:
            raise InvalidInput(f"temperature {self.temperature} or learning_rate {self.learning_rate} is out of range")


@dataclass(slots=True)
class TrainingRecord:
    """How a training run went: one entry per epoch.

    Attributes:
        losses: mean training loss. validation: NDCG@10. seconds: of training alone.
        best_epoch: from 1 on; its weights are kept.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = 0


class NextItemModel(nn.Module):
    """Item embeddings, and a history encoder whose result meets the same embeddings again."""

    def __init__(self, items: int, options: NextItemOptions) -> None:
        super().__init__()
        self.temperature, self.length = options.temperature, options.length
        self.items = nn.Embedding(items, options.width)
        nn.init.normal_(self.items.weight, std=0.02)
        self.history = HistoryEncoder(
            options.width,
            layers=options.layers,
            heads=options.heads,
            dropout=options.dropout,
            length=options.length,
            ages=False,
            event_types=0,
        )

    def start_from(self, embeddings: Tensor) -> None:
        """Take item embeddings float32 [items, width], such as :func:`co_occurrence_embeddings`."""
        self.items.load_state_dict({"weight": embeddings})

    @property
    def targets(self) -> Tensor:
        """What histories are compared with, float32 [items, width]: embeddings, or with a temperature unit vectors."""
        return F.normalize(self.items.weight, dim=-1) if self.temperature else self.items.weight

    def directed(self, states: Tensor) -> Tensor:
        """States [n, width] scaled so that their inner products with :attr:`targets` are logits."""
        return F.normalize(states, dim=-1) / self.temperature if self.temperature else states

    @torch.inference_mode()
    def scores(self, rows: _Array) -> Tensor:
        """Logits float32 [B, items] after histories int64 [B, L], newest first."""
        return self.directed(self.history(self.items.weight, torch.from_numpy(rows))) @ self.targets.T


def co_occurrence(sequences: Sequences, items: int) -> sp.csr_matrix:
    """How many users had both of two items, float32 [items, items]; on the diagonal, how many had the item."""
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    shape = (len(sequences), items)
    matrix = sp.csr_matrix((np.ones(len(users), np.float32), (users, sequences.rows)), shape=shape)
    matrix.data[:] = 1.0
    return (matrix.T @ matrix).tocsr()


def cosines(together: sp.csr_matrix, shrinkage: float) -> sp.csr_matrix:
    """Shrunk cosines of a co-occurrence matrix: ``|i ∩ j| / (sqrt(|i| |j|) + shrinkage)`` (Koren 2008)."""
    sizes = together.diagonal()
    rows = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
    similar = together.copy()
    similar.data = (together.data / (np.sqrt(sizes[rows] * sizes[together.indices]) + shrinkage)).astype(np.float32)
    return similar


def co_occurrence_embeddings(
    together: sp.csr_matrix, width: int, *, shrinkage: float = 20.0, seed: int = 0, scale: float = 0.02
) -> Tensor:
    """Item embeddings to start from: the leading eigenvectors of the items' shrunk cosines.

    The factors of such a matrix are what embeddings trained on co-occurrence converge to (Levy & Goldberg 2014, "Neural
    word embedding as implicit matrix factorization"), so training starts where a closed form ends.

    Args:
        together: of :func:`co_occurrence`. width: of the embeddings, less than the number of items.
        shrinkage: damps what few users support.
        seed: of a little noise, so that items without company differ.
        scale: standard deviation of the result.

    Returns:
        float32 [items, width].

    Raises:
        InvalidInput: if there are not more items than ``width``.
    """
    count = together.shape[0]
    if count <= width:
        raise InvalidInput(f"{count} items have no {width} eigenvectors; choose a width below the number of items")
    # A fixed start makes the eigenvectors the same in every run.
    values, vectors = eigsh(cosines(together, shrinkage), k=width, v0=np.ones(count))
    factors = vectors * np.sqrt(np.maximum(values, 0.0))
    noise = np.random.default_rng(seed).standard_normal(factors.shape)
    return torch.from_numpy((scale * (factors / factors.std() + 0.1 * noise)).astype(np.float32))


class _FullSoftmax(torch.autograd.Function):
    """Cross entropy over the whole table; logits live for one chunk of positions only, forward and backward at once."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, table: Tensor, targets: Tensor, smoothing: float, matrices: torch.dtype
    ) -> Tensor:
        total = states.new_zeros(())
        state_gradient, table_gradient = torch.empty_like(states), torch.zeros_like(table)
        table = table.to(matrices)
        for start in range(0, len(states), _CHUNK):
            part, wanted = states[start : start + _CHUNK].to(matrices), targets[start : start + _CHUNK, None]
            logits = (part @ table.T).float()
            chosen = logits.gather(1, wanted).squeeze(1)
            mean = logits.mean(dim=1) if smoothing else chosen
            highest = logits.amax(dim=1, keepdim=True)
            logits.sub_(highest).exp_()
            size = logits.sum(dim=1, keepdim=True)
            total += (size.log() + highest).sum() - ((1.0 - smoothing) * chosen + smoothing * mean).sum()
            gradient = logits.div_(size)
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, smoothing - 1.0))
            if smoothing:
                gradient.sub_(smoothing / len(table))
            gradient = gradient.to(matrices)
            state_gradient[start : start + _CHUNK] = gradient @ table
            table_gradient += gradient.T @ part
        count = max(1, len(states))
        ctx.save_for_backward(state_gradient.div_(count), table_gradient.div_(count))
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        states, table = ctx.saved_tensors
        return states * gradients[0], table * gradients[0], None, None, None


def full_softmax_loss(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    matrices: torch.dtype = torch.float32,
) -> Tensor:
    """Mean cross entropy of the softmax over all rows of a table; the memory of one chunk of positions.

    Args:
        states: float32 [n, d]. table: float32 [N, d]. targets: int64 [n], rows of ``table``.
        label_smoothing: the share of each target's weight that is spread over all rows.
        matrices: element type of the matrix products; sums and exponentials are float32 always.
    """
    loss: Tensor = _FullSoftmax.apply(states, table, targets, label_smoothing, matrices)  # type: ignore[no-untyped-call]
    return loss


def train_next_item(
    model: NextItemModel,
    train: Sequences,
    validation: _Array,
    options: NextItemOptions,
    *,
    progress: Callable[[TrainingRecord], None] = lambda record: None,
) -> TrainingRecord:
    """Train in place on all events but the first of each sequence; the weights of the best epoch stay.

    Args:
        model: starts from its present weights.
        train: what is learned from.
        validation: int64 [n], the next item of each user of ``train``; -1 for users who take no part in stopping.
        options: epochs, batch, rates, patience and seed.
        progress: told the record after each epoch.

    Raises:
        InvalidInput: if no sequence has two items, or there is no validation item to stop by.
    """
    learned = np.flatnonzero(train.lengths >= 2)
    judged = np.flatnonzero(validation >= 0)
    if not len(learned) or not len(judged):
        raise InvalidInput("next-item training needs a sequence of two items, and one validation item per user")
    held = train.take(judged)
    generator = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.98)
    )
    # The rate falls to zero over all epochs: the last ones settle what the first ones found.
    steps = options.epochs * math.ceil(len(learned) / options.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    record = TrainingRecord()
    best: dict[str, Tensor] = {}
    for _ in range(options.epochs):
        began = time.perf_counter()
        model.train()
        losses = [
            _step(model, optimizer, schedule, train, users, options)
            for users in _batches(train, learned, options.batch, generator)
        ]
        record.seconds.append(time.perf_counter() - began)
        record.losses.append(float(np.mean(losses)))
        model.eval()
        ranks = target_ranks(
            lambda users: model.scores(held.newest_first(users, options.length)), held, validation[judged]
        )
        record.validation.append(top_metrics(ranks)["NDCG@10"])
        if record.validation[-1] == max(record.validation):
            record.best_epoch, best = len(record.losses), copy.deepcopy(model.state_dict())
        progress(record)
        if len(record.losses) - record.best_epoch >= options.patience:
            break
    model.load_state_dict(best)
    return record


def _batches(train: Sequences, learned: _Array, size: int, generator: np.random.Generator) -> Iterator[_Array]:
    """Users in random batches, of like lengths within each, so that little is padding."""
    order = generator.permutation(learned)
    # Sorted within pools of 16 batches, not over all: batches of one length only would be a biased sample.
    parts = []
    for start in range(0, len(order), 16 * size):
        pool = order[start : start + 16 * size]
        pool = pool[np.argsort(train.lengths[pool], kind="stable")]
        parts += [pool[begin : begin + size] for begin in range(0, len(pool), size)]
    for index in generator.permutation(len(parts)):
        yield parts[index]


def _step(
    model: NextItemModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    train: Sequences,
    users: _Array,
    options: NextItemOptions,
) -> float:
    """One step on the sequences of some users; the loss is the mean over their real positions."""
    rows = train.newest_first(users, options.length, skip=1)
    targets = train.newest_first(users, rows.shape[1])
    real = torch.from_numpy(rows >= 0)
    states = model.history.states(model.items.weight, torch.from_numpy(rows))[real]
    loss = full_softmax_loss(
        model.directed(states),
        model.targets,
        torch.from_numpy(targets)[real],
        label_smoothing=options.label_smoothing,
        matrices=torch.bfloat16 if options.bfloat16 else torch.float32,
    )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    schedule.step()
    return float(loss.detach())
