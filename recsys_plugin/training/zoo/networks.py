"""The zoo's networks: from a frame's columns as tensors to one logit for each head.

All take ``numbers`` float32 [n, D], ``codes`` int64 [n, K], and of the history ``items`` and ``types`` int64 [n, L],
``ages`` float32 [n, L] and ``target`` int64 [n], and return logits float32 [n, H]. What a network has no use for it
leaves alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys_plugin.training.zoo.model import CtrOptions

__all__ = ["CrossNetwork", "CtrNetwork", "InterestNetwork", "LinearNetwork", "MultiTaskNetwork", "mlp"]


def _table(size: int, width: int) -> nn.Embedding:
    """An embedding that starts small; code 0 is what is unknown."""
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=0.05)
    return table


def mlp(width: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers)


class CtrNetwork(nn.Module, ABC):
    """What the networks share: numbers are scaled by the training part's mean and deviation."""

    mean: Tensor
    scale: Tensor

    def __init__(self, layout: Mapping[str, Any]) -> None:
        super().__init__()
        self.sizes: tuple[int, ...] = tuple(layout["code_sizes"])
        self.count = len(layout["number_names"])
        self.heads_count = len(layout["heads"])
        self.register_buffer("mean", torch.zeros(self.count))
        self.register_buffer("scale", torch.ones(self.count))

    def set_scales(self, numbers: Tensor) -> None:
        """Learn the scales from the training part."""
        self.mean.copy_(numbers.mean(0))
        deviation = numbers.std(0, unbiased=False)
        self.scale.copy_(torch.where(deviation < 1e-6, torch.ones_like(deviation), deviation))

    def scaled(self, numbers: Tensor) -> Tensor:
        """Numbers around 0, cut at five deviations."""
        return ((numbers - self.mean) / self.scale).clamp(-5.0, 5.0)

    @abstractmethod
    def forward(
        self, numbers: Tensor, codes: Tensor, items: Tensor, types: Tensor, ages: Tensor, target: Tensor
    ) -> Tensor:
        """Logits float32 [n, H]."""


class LinearNetwork(CtrNetwork):
    """Logistic regression: one weight for each number and for each code."""

    def __init__(self, layout: Mapping[str, Any], options: CtrOptions) -> None:
        super().__init__(layout)
        self.numbers = nn.Linear(self.count, self.heads_count)
        self.codes = nn.ModuleList(nn.Embedding(size, self.heads_count) for size in self.sizes)
        nn.init.zeros_(self.numbers.weight)
        for table in self.codes:
            assert isinstance(table, nn.Embedding)
            nn.init.zeros_(table.weight)

    def forward(
        self, numbers: Tensor, codes: Tensor, items: Tensor, types: Tensor, ages: Tensor, target: Tensor
    ) -> Tensor:
        """Logits float32 [n, H]."""
        logits: Tensor = self.numbers(self.scaled(numbers))
        for column, table in enumerate(self.codes):
            logits = logits + table(codes[:, column])
        return logits


class _Embedded(CtrNetwork):
    """Codes as embeddings beside the numbers, and a linear path past everything."""

    def __init__(self, layout: Mapping[str, Any], options: CtrOptions) -> None:
        super().__init__(layout)
        self.tables = nn.ModuleList(_table(size, options.width) for size in self.sizes)
        self.linear = LinearNetwork(layout, options)
        self.width = self.count + options.width * len(self.sizes)

    def set_scales(self, numbers: Tensor) -> None:
        """Learn the scales from the training part."""
        super().set_scales(numbers)
        self.linear.set_scales(numbers)

    def embedded(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """float32 [n, width]."""
        return torch.cat(
            [self.scaled(numbers), *(table(codes[:, column]) for column, table in enumerate(self.tables))], dim=1
        )


class CrossNetwork(_Embedded):
    """DCN-v2 (Wang et al. 2021): full-matrix cross layers beside a deep network, and a linear path."""

    def __init__(self, layout: Mapping[str, Any], options: CtrOptions, layers: int = 2) -> None:
        super().__init__(layout, options)
        self.cross = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(layers))
        self.drop = nn.Dropout(options.dropout)
        self.deep = mlp(self.width, options.hidden, options.dropout)
        self.output = nn.Linear(self.width + options.hidden[-1], self.heads_count)

    def forward(
        self, numbers: Tensor, codes: Tensor, items: Tensor, types: Tensor, ages: Tensor, target: Tensor
    ) -> Tensor:
        """Logits float32 [n, H]."""
        first = self.drop(self.embedded(numbers, codes))
        crossed = first
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        deep: Tensor = self.output(torch.cat([crossed, self.deep(first)], dim=1))
        straight: Tensor = self.linear(numbers, codes, items, types, ages, target)
        return deep + straight


class InterestNetwork(_Embedded):
    """DIN (Zhou et al. 2018): the history is pooled with weights that depend on the item asked about.

    As in the paper the attention weights are not normalised by a softmax, so that the strength of an interest shows.
    """

    def __init__(self, layout: Mapping[str, Any], options: CtrOptions) -> None:
        super().__init__(layout, options)
        size, type_size = layout["history"]
        width = options.width
        self.items = _table(size + 1, width)
        self.types = _table(type_size, width)
        self.attention = nn.Sequential(nn.Linear(4 * width + 1, 32), nn.ReLU(), nn.Linear(32, 1))
        self.deep = mlp(self.width + 3 * width, options.hidden, options.dropout)
        self.drop = nn.Dropout(options.dropout)
        self.output = nn.Linear(options.hidden[-1], self.heads_count)
        self.match = nn.Linear(width, self.heads_count, bias=False)

    def forward(
        self, numbers: Tensor, codes: Tensor, items: Tensor, types: Tensor, ages: Tensor, target: Tensor
    ) -> Tensor:
        """Logits float32 [n, H]."""
        asked = self.items(target + 1)
        past, kind = self.items(items + 1), self.types(types)
        there = (items >= 0).to(past.dtype).unsqueeze(-1)
        age = torch.log1p(ages.clamp(min=0.0)).unsqueeze(-1)
        wide = asked.unsqueeze(1).expand_as(past)
        weight = self.attention(torch.cat([past, wide, past * wide, kind, age], dim=-1)) * there
        count = there.sum(1).clamp(min=1.0)
        interest = (weight * (past + kind)).sum(1) / torch.sqrt(count)
        first = torch.cat([self.embedded(numbers, codes), asked, interest, asked * interest], dim=1)
        deep: Tensor = self.output(self.deep(self.drop(first))) + self.match(asked * interest)
        straight: Tensor = self.linear(numbers, codes, items, types, ages, target)
        return deep + straight


class MultiTaskNetwork(_Embedded):
    """Experts that the heads share, mixed by a gate for each head.

    MMoE (Ma et al. 2018): all experts are shared. PLE (Tang et al. 2020), one extraction layer: each head has experts
    of its own besides. Each head then has a small tower. Where a head has few positives it learns through what the
    others teach the shared experts.
    """

    def __init__(self, layout: Mapping[str, Any], options: CtrOptions, shared: int = 4, own: int = 0) -> None:
        super().__init__(layout, options)
        experts = shared + own * self.heads_count
        self.shared, self.own = shared, own
        width = options.hidden[0]
        self.experts = nn.ModuleList(mlp(self.width, (width,), options.dropout) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(self.width, shared + own) for _ in range(self.heads_count))
        self.towers = nn.ModuleList(
            nn.Sequential(mlp(width, options.hidden[1:], options.dropout), nn.Linear(options.hidden[-1], 1))
            for _ in range(self.heads_count)
        )
        self.drop = nn.Dropout(options.dropout)

    def forward(
        self, numbers: Tensor, codes: Tensor, items: Tensor, types: Tensor, ages: Tensor, target: Tensor
    ) -> Tensor:
        """Logits float32 [n, H]."""
        first = self.drop(self.embedded(numbers, codes))
        made = [expert(first) for expert in self.experts]
        logits = []
        for head, (gate, tower) in enumerate(zip(self.gates, self.towers, strict=True)):
            mine = self.shared + head * self.own
            seen = torch.stack([*made[: self.shared], *made[mine : mine + self.own]], dim=1)
            share = torch.softmax(gate(first), dim=1).unsqueeze(-1)
            logits.append(tower((share * seen).sum(1)))
        together: Tensor = torch.cat(logits, dim=1) + self.linear(numbers, codes, items, types, ages, target)
        return together
