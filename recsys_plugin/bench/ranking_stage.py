"""The ranking stage, from packed features to scores, as one PyTorch module that needs PyTorch and numpy alone.

It is the arithmetic of the served graph ``rank``: the user tower over the resident catalogue, then the split ranker.
Its parts have the names and shapes of the trained ones, so that a test can load those into it and compare what both
answer; a machine with a GPU then need not have what training needs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys_plugin.bench.stage_inputs import TEXTS
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, FeatureContract, TensorName
from recsys_plugin.training.history import HistoryEncoder

__all__ = ["RankingStage", "random_stage"]

_DIMENSIONS, _HIDDEN, _PAIR, _HEADS, _COMPACT = 64, 64, 11, 3, 32
_SCORE_WEIGHTS = (0.1, 0.3, 1.0)  # click, cart, purchase
_LOOKED_AT, _CLICK, _CART = 0.5, 2, 3
_DAY = 86_400.0
#: Categories of a generated catalogue, and an item's neighbours as trained.
_CATEGORIES, _NEIGHBOURS = 200, 100


class _Inputs(nn.Module):
    """Packed tensors → a dense vector and the lists, by the contract's slots."""

    mean: Tensor
    scale: Tensor

    def __init__(self, contract: FeatureContract, vocabulary: int, width: int = 8) -> None:
        super().__init__()
        self.contract = contract
        scalars = [spec for spec in contract.features if not spec.is_list and not spec.from_request]
        self.times = [spec for spec in scalars if spec.element == "UNIX_TIMESTAMP"]
        self.numbers = [spec for spec in scalars if spec.tensor != TensorName.STRING and spec not in self.times]
        texts = [spec for spec in scalars if spec.tensor == TensorName.STRING]
        self.embeddings = nn.ModuleList(nn.Embedding(vocabulary, width) for _ in texts)
        self.register_buffer("mean", torch.zeros(len(self.numbers) + len(self.times)))
        self.register_buffer("scale", torch.ones(len(self.numbers) + len(self.times)))
        own = next(spec.width for spec in contract.features if spec.reference == "user_text:vector")
        self.width = len(self.numbers) + 2 * len(self.times) + width * len(texts) + own

    def column(self, reference: str, user_float: Tensor, user_int: Tensor) -> Tensor:
        """The columns of one feature."""
        slot = self.contract.slots[reference]
        source = user_float if slot.tensor == TensorName.FLOAT else user_int
        return source[:, slot.offset : slot.offset + slot.width]

    def forward(self, user_float: Tensor, user_int: Tensor, user_codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        def of(reference: str) -> Tensor:
            return self.column(reference, user_float, user_int)

        now = of(REQUEST_TIMESTAMP)
        numbers = [of(spec.reference).float() for spec in self.numbers]
        values, never = [torch.sign(column) * torch.log1p(column.abs()) for column in numbers], []
        for spec in self.times:
            moment = of(spec.reference)
            absent = (moment <= 0).float()
            values.append(torch.log1p(((now - moment).float() / _DAY).clamp(min=0.0)) * (1.0 - absent))
            never.append(absent)
        raw = ((torch.cat(values, dim=1) - self.mean) / self.scale).clamp(-5.0, 5.0)
        texts = [embed(user_codes[:, position]) for position, embed in enumerate(self.embeddings)]
        dense = torch.cat([raw, *never, *texts, of("user_text:vector")], dim=1)
        return dense, {
            "recent_rows": of("user_recent_items:item_ids"),
            "recent_types": of("user_recent_items:event_type_codes").clamp(0, 5),
            "recent_ages": ((now - of("user_recent_items:timestamps")).float() / _DAY).clamp(min=0.0),
            "favourite_rows": of("user_statistics:favourite_items"),
            "favourite_weights": of("user_statistics:favourite_weights"),
        }


class _Tower(nn.Module):
    """A user's features and history → a unit vector float32 [B, 64]."""

    def __init__(self, contract: FeatureContract, vocabulary: int) -> None:
        super().__init__()
        self.inputs = _Inputs(contract, vocabulary)
        self.recency = nn.Parameter(torch.tensor(-0.5))
        self.type_weight = nn.Embedding(6, 1)
        self.history = HistoryEncoder(_DIMENSIONS, causal=False)
        self.network = nn.Sequential(
            nn.Linear(3 * _DIMENSIONS + self.inputs.width, 256), nn.ReLU(), nn.Linear(256, _DIMENSIONS)
        )

    def forward(self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, embedded: Tensor) -> Tensor:
        dense, lists = self.inputs(user_float, user_int, user_codes)
        rows, ages, types = lists["recent_rows"], lists["recent_ages"], lists["recent_types"]
        weight = self.recency * torch.log1p(ages) + self.type_weight(types).squeeze(-1)
        recent = _pool(embedded, rows, torch.exp(weight.clamp(-10.0, 10.0)))
        liked = torch.log1p(lists["favourite_weights"].clamp(min=0.0))
        favourite = _pool(embedded, lists["favourite_rows"], liked)
        ordered = self.history(embedded, rows, ages, types)
        return F.normalize(favourite + self.network(torch.cat([recent, favourite, ordered, dense], dim=1)), dim=-1)


def _pool(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    weights = weights * (rows >= 0).to(weights.dtype)
    total = (table[rows.clamp(min=0)] * weights.unsqueeze(-1)).sum(1)
    return total / weights.sum(1, keepdim=True).clamp(min=1e-6)


class _Ranker(nn.Module):
    """The split ranker; what belongs to the items alone is in the tables."""

    scale: Tensor
    offset: Tensor

    def __init__(self, contract: FeatureContract, vocabulary: int) -> None:
        super().__init__()
        self.inputs = _Inputs(contract, vocabulary)
        self.register_buffer("scale", torch.ones(_HEADS))
        self.register_buffer("offset", torch.zeros(_HEADS))
        self.user_part = nn.Linear(self.inputs.width + _DIMENSIONS, _HIDDEN)
        self.pair_part = nn.Linear(_PAIR, _HIDDEN, bias=False)
        self.network = nn.Sequential(nn.ReLU(), nn.Linear(_HIDDEN, 32), nn.ReLU())
        self.heads = nn.Linear(32, _HEADS)
        self.pair_heads = nn.Linear(_PAIR, _HEADS, bias=False)


class RankingStage(nn.Module):
    """``user_float``, ``user_int``, ``user_codes``, ``candidate_rows`` → ``values`` float32 [B, C, 4].

    Args:
        contract: of the features.
        tables: the resident catalogue: ``embedded`` float32 [N, 64], and with the empty item as row N ``texts``
            float32 [N+1, 32], ``first_layer`` float32 [N+1, 64], ``categories`` int64 [N+1], ``neighbour_rows`` int64
            [N+1, K] and ``neighbour_weights`` float32 [N+1, K].
        vocabulary: codes of each text feature.
    """

    embedded: Tensor
    texts: Tensor
    first_layer: Tensor
    categories: Tensor
    neighbour_rows: Tensor
    neighbour_weights: Tensor

    def __init__(self, contract: FeatureContract, tables: Mapping[str, Tensor], vocabulary: int = TEXTS + 1) -> None:
        super().__init__()
        self.tower = _Tower(contract, vocabulary)
        self.ranker = _Ranker(contract, vocabulary)
        for name, table in tables.items():
            self.register_buffer(name, table)

    def forward(self, user_float: Tensor, user_int: Tensor, user_codes: Tensor, candidate_rows: Tensor) -> Tensor:
        """The score, then the probabilities of a purchase, a cart and a click."""
        vector = self.tower(user_float, user_int, user_codes, self.embedded)
        ranker = self.ranker
        dense, lists = ranker.inputs(user_float, user_int, user_codes)
        rows = torch.where(candidate_rows < 0, self.texts.shape[0] - 1, candidate_rows)
        pair = self._pair_features(lists, rows)
        hidden = ranker.user_part(torch.cat([dense, vector], dim=1)).unsqueeze(1)
        hidden = hidden + self.first_layer[rows] + ranker.pair_part(pair)
        logits = (ranker.heads(ranker.network(hidden)) + ranker.pair_heads(pair)) * ranker.scale + ranker.offset
        click, cart, purchase = torch.sigmoid(logits).unbind(-1)
        score = _SCORE_WEIGHTS[0] * click + _SCORE_WEIGHTS[1] * cart + _SCORE_WEIGHTS[2] * purchase
        return torch.stack([score, purchase, cart, click], dim=-1)

    def _pair_features(self, lists: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        texts, empty = self.texts[rows], self.texts.shape[0] - 1
        favourite_rows, recent_rows = lists["favourite_rows"], lists["recent_rows"]
        weights = lists["favourite_weights"] * (favourite_rows >= 0)
        favourite = torch.where(favourite_rows < 0, empty, favourite_rows)
        recent = torch.where(recent_rows < 0, empty, recent_rows)
        taste = (self.texts[favourite] * weights.unsqueeze(-1)).sum(1)
        taste = taste / taste.norm(dim=1, keepdim=True).clamp(min=1e-6)
        cosine = (texts @ taste.unsqueeze(-1)).squeeze(-1)
        same = (rows.unsqueeze(-1) == favourite_rows.unsqueeze(1)).to(weights.dtype)
        frequency = (same @ weights.unsqueeze(-1)).squeeze(-1)
        whole = weights.sum(1, keepdim=True).clamp(min=1e-6)
        fresh = (recent_rows >= 0) / (1.0 + lists["recent_ages"])
        repeated = (rows.unsqueeze(-1) == recent_rows.unsqueeze(1)).to(weights.dtype)
        recency = (repeated @ fresh.unsqueeze(-1)).squeeze(-1)
        nearest = (texts @ self.texts[recent].transpose(1, 2) - 2.0 * repeated).amax(-1).clamp(min=0.0)
        category = self.categories[rows]
        kin = (category.unsqueeze(-1) == self.categories[favourite].unsqueeze(1)) & (category > 0).unsqueeze(-1)
        affinity = (kin.to(weights.dtype) @ weights.unsqueeze(-1)).squeeze(-1) / whole
        types = lists["recent_types"]
        looked_at = (((types == _CLICK) | (types == _CART)) & (recent_rows >= 0)).to(weights.dtype)
        own = torch.cat([favourite, recent], dim=1)
        said = torch.cat([weights.clamp(max=1.0), _LOOKED_AT * looked_at], dim=1).unsqueeze(-1)
        said = (said * self.neighbour_weights[own]).flatten(1)
        scores = torch.zeros_like(self.categories, dtype=said.dtype) + torch.zeros_like(said[:, :1])
        scores = scores.scatter_add(1, self.neighbour_rows[own].flatten(1), said)
        score, most = scores.gather(1, rows), scores.amax(1, keepdim=True)
        return torch.stack(
            [
                cosine,
                torch.log1p(frequency),
                torch.sqrt(frequency / whole),
                (frequency > 0).to(weights.dtype),
                torch.sqrt(recency),
                nearest,
                affinity,
                torch.sqrt(affinity),
                frequency / weights.amax(1, keepdim=True).clamp(min=1e-6),
                torch.sqrt(score),
                score / most.clamp(min=1e-6),
            ],
            dim=-1,
        )


def random_stage(contract: FeatureContract, *, items: int, seed: int) -> RankingStage:
    """A stage of the shapes of a trained one, over a catalogue of so many items."""
    draw = torch.Generator().manual_seed(seed)
    texts = F.normalize(torch.randn(items + 1, _COMPACT, generator=draw), dim=1)
    tables = {
        "embedded": torch.randn(items, _DIMENSIONS, generator=draw),
        "texts": texts,
        "first_layer": torch.randn(items + 1, _HIDDEN, generator=draw),
        "categories": torch.randint(1, _CATEGORIES, (items + 1,), generator=draw),
        "neighbour_rows": torch.randint(items, (items + 1, _NEIGHBOURS), generator=draw),
        "neighbour_weights": torch.rand(items + 1, _NEIGHBOURS, generator=draw),
    }
    for name in ("texts", "first_layer", "categories", "neighbour_weights"):
        tables[name][items] = 0  # the empty item
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RankingStage(contract, tables).eval()
