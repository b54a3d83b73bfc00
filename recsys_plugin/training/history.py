"""A user's history in order: self-attention over the latest events, with time gaps and event types.

SASRec (Kang & McAuley 2018, "Self-attentive sequential recommendation") with what TiSASRec adds (Li, Wang & McAuley
2020, "Time interval aware self-attention for sequential recommendation"): how far two events lie apart, in steps and
in time, is a bias on their attention, so that a history gives the same result wherever it stands in its tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.errors import InvalidInput

__all__ = ["HistoryEncoder"]

_HOURS_PER_DAY = 24.0
#: Ages are told apart by factors of two, from one hour to 2^18 hours, which is 30 years.
_AGE_BUCKETS = 20
#: Attention to an absent event: finite, so that a line without any event gives numbers and not NaN.
_ABSENT = -1e9


class HistoryEncoder(nn.Module):
    """The latest events of a user → one vector.

    Args:
        width: of the item embeddings and of the result, a multiple of ``heads``.
        layers: self-attention blocks. heads: of each.
        dropout: share of activations dropped in training.
        length: the most events of a line.
        ages: whether events come with their age. event_types: how many types they come with; 0 if none.
        causal: whether events see only older ones, which training at every event needs.

    Raises:
        InvalidInput: if ``width`` is no multiple of ``heads``, or there is no layer.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int = 1,
        heads: int = 2,
        dropout: float = 0.2,
        length: int = 50,
        ages: bool = True,
        event_types: int = 6,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if width % heads or layers < 1:
            raise InvalidInput(f"width {width} must be a multiple of {heads} heads, and layers {layers} at least 1")
        self.length, self.causal = length, causal
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        #: Bias per head for each distance, from ``length - 1`` steps newer to as many steps older.
        self.distance = nn.Embedding(2 * length - 1, heads)
        nn.init.zeros_(self.distance.weight)
        self.age = _small_embedding(_AGE_BUCKETS + 1, width) if ages else None
        self.gap_slope = nn.Parameter(torch.zeros(heads)) if ages else None
        self.event_type = _small_embedding(event_types, width) if event_types else None
        self.nobody = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.nobody, std=0.02)

    def forward(
        self, table: Tensor, rows: Tensor, ages_days: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """What the newest event has gathered from all; a learned vector for a user without history.

        Args:
            table: float32 [N, width], item embeddings.
            rows: int64 [B, L], rows of ``table``, newest first, L at most ``length``; -1 where there is no event, at
                either end or between.
            ages_days: float32 [B, L], age of each event in days; NaN or infinite means unknown, and a negative age
                counts as zero. Wanted exactly if the encoder was built with ages.
            types: int64 [B, L], wanted exactly if the encoder was built with event types; what is out of range takes
                the nearest type.

        Returns:
            float32 [B, width].

        Raises:
            InvalidInput: if ages or types are missing or not expected, or L is more than ``length``.
        """
        states, present, ages = self._embed(table, rows, ages_days, types)
        columns = torch.arange(rows.shape[1], device=rows.device).unsqueeze(0)
        if len(self.blocks) > 1:
            bias = self._bias(columns, present, ages)
            for block in self.blocks[:-1]:
                states = block(states, states, bias)
        # Only the newest event asks in the last block: that is all of the work if there is one block.
        newest = present.to(torch.int64).argmax(dim=1, keepdim=True)
        asking = states.gather(1, newest.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        found = self.blocks[-1](asking, states, self._bias(newest, present, ages)).squeeze(1)
        return torch.where(present.any(dim=1, keepdim=True), found, self.nobody)

    def states(
        self, table: Tensor, rows: Tensor, ages_days: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """The state of every event, float32 [B, L, width], for training at each; arguments as of :meth:`forward`.

        Absent events have states without meaning. Ages are those at one moment, so an event's state knows how long
        ago it was then: train at every event only without ages, or where that is no hint at what followed.
        """
        states, present, ages = self._embed(table, rows, ages_days, types)
        bias = self._bias(torch.arange(rows.shape[1], device=rows.device).unsqueeze(0), present, ages)
        for block in self.blocks:
            states = block(states, states, bias)
        return states

    def _embed(
        self, table: Tensor, rows: Tensor, ages_days: Tensor | None, types: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Embedded events [B, L, width], which are present [B, L], and their ages."""
        for name, given, wanted in (("ages_days", ages_days, self.age), ("types", types, self.event_type)):
            if (given is None) != (wanted is None):
                state = "with" if wanted is not None else "without"
                raise InvalidInput(f"this HistoryEncoder was built {state} {name}; give exactly what it was built for")
        if rows.shape[1] > self.length:
            raise InvalidInput(f"{rows.shape[1]} events a line, but this HistoryEncoder takes {self.length}; cut them")
        present = rows >= 0
        embedded = table[rows.clamp(min=0)]
        if self.age is not None and ages_days is not None:
            known = torch.isfinite(ages_days)
            hours = torch.where(known, ages_days, 0.0).clamp(min=0.0) * _HOURS_PER_DAY
            bucket = torch.log2(1.0 + hours).to(torch.int64).clamp(max=_AGE_BUCKETS - 1) + 1
            embedded = embedded + self.age(torch.where(known, bucket, 0))
        if self.event_type is not None and types is not None:
            embedded = embedded + self.event_type(types.clamp(0, self.event_type.num_embeddings - 1))
        return self.dropout(self.norm(embedded)), present, ages_days

    def _bias(self, columns: Tensor, present: Tensor, ages_days: Tensor | None) -> Tensor:
        """What is added to the attention of the events in ``columns`` [1 or B, Q]: float32 [1 or B, heads, Q, L]."""
        steps = torch.arange(present.shape[1], device=present.device) - columns.unsqueeze(-1)
        bias = self.distance(steps + (self.length - 1)).permute(0, 3, 1, 2)
        if self.gap_slope is not None and ages_days is not None:
            # ``len(present)`` would be a constant of the exported graph.
            asking = ages_days.gather(1, columns.expand(present.shape[0], -1))
            gap = (ages_days.unsqueeze(1) - asking.unsqueeze(2)).abs()
            gap = torch.log1p(torch.where(torch.isfinite(gap), gap, 0.0))
            bias = bias - self.gap_slope.view(1, -1, 1, 1) * gap.unsqueeze(1)
        seen = present.unsqueeze(1)
        if self.causal:
            seen = seen & (steps >= 0)
        return torch.where(seen.unsqueeze(1), bias, _ABSENT)


class _Block(nn.Module):
    """Attention and a feed-forward network, each added to its input and normalised."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.network_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, asking: Tensor, events: Tensor, bias: Tensor) -> Tensor:
        """``asking`` [B, Q, width] attends to ``events`` [B, L, width] under ``bias`` [1 or B, heads, Q, L]."""
        query = self._split(self.query(asking))
        key, value = (self._split(part) for part in self.key_value(events).chunk(2, dim=-1))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
        mixed = (self.dropout(F.softmax(scores, dim=-1)) @ value).transpose(1, 2).flatten(2)
        asking = self.attention_norm(asking + self.dropout(self.output(mixed)))
        found: Tensor = self.network_norm(asking + self.dropout(self.network(asking)))
        return found

    def _split(self, tensor: Tensor) -> Tensor:
        """[B, n, width] → [B, heads, n, width / heads]."""
        return tensor.view(*tensor.shape[:2], self.heads, -1).transpose(1, 2)


def _small_embedding(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=0.02)
    return table
