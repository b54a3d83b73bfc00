"""What each group of features adds to a candidate's score, whichever CTR model ranks.

======================== ===================================================================================
``split_mlp``            integrated gradients along chords, :class:`~recsys_plugin.training.attribution.ChordGradients`
``logistic``             weight times what differs from the baseline: exact
trees, the other networks exact Shapley values of the groups, each of the 2^G coalitions scored
======================== ===================================================================================

All start from one baseline: a visitor of whom the feature store knows nothing, and the mean of the catalogue's items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.attribution import ChordGradients, coalitions, score_log_odds, shapley_matrix
from recsys_plugin.training.feature_groups import (
    GROUPS,
    PAIR_GROUPS,
    dense_groups,
    frame_code_groups,
    frame_number_groups,
    group_mask,
    item_number_groups,
)
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.pair_features import PAIR_FEATURES, Candidates, ItemTables, pair_features
from recsys_plugin.training.ranker import HEADS, CandidateRanker, Ranker, SplitCandidates
from recsys_plugin.training.two_tower import DIMENSIONS
from recsys_plugin.training.zoo.networks import LinearNetwork
from recsys_plugin.training.zoo.neural import LogisticRegression
from recsys_plugin.training.zoo.shop import CandidateColumns, FrameCandidates, FrameRanker
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = [
    "METHODS",
    "STEPS",
    "CoalitionColumns",
    "Explained",
    "Explainer",
    "GradientExplainer",
    "ProductExplainer",
    "default_user",
    "explainer_of",
    "method_of",
]

#: Steps of the path from the baseline to the input.
STEPS = 32
#: How contributions are computed, in words.
METHODS = {
    "gradients": f"integrated gradients, {STEPS} steps with the slopes of chords",
    "products": "weight times difference from the baseline, exact",
    "shapley": f"exact Shapley values of {len(GROUPS)} groups, {2 ** len(GROUPS)} coalitions",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """What became of B users' C candidates each: log-odds float32 [B, C], and what each group adds, [B, C, G]."""

    contributions: Tensor
    base: Tensor
    logit: Tensor


def default_user(contract: FeatureContract) -> UserTensors:
    """One packed user of whom nothing is known: every feature at its default."""
    user = UserTensors.empty(contract, 1)
    tensors = {"user_float": user.user_float, "user_int": user.user_int, "user_string": user.user_string}
    for spec in contract.features:
        slot = contract.slots[spec.reference]
        tensors[str(slot.tensor)][:, slot.offset : slot.offset + slot.width] = spec.default
    return user


class Explainer(nn.Module, ABC):
    """Explains the scores of one trained ranker.

    Args:
        models: what was trained. weights: what each of the trained heads counts for in the score, in their order.
    """

    places: Tensor
    weights: Tensor
    dense: Tensor
    user_vector: Tensor
    item_numbers: Tensor

    def __init__(self, models: TrainedModels, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.ranker: CandidateRanker = models.ranker
        nobody = default_user(models.contract)
        codes = torch.from_numpy(models.ranker.inputs.codes(nobody.user_string))
        with torch.no_grad():
            dense, _ = models.ranker.inputs(
                torch.from_numpy(nobody.user_float), torch.from_numpy(nobody.user_int), codes
            )
        self.register_buffer("places", torch.tensor([HEADS.index(head) for head in models.heads]))
        self.register_buffer("weights", torch.tensor(weights))
        self.register_buffer("dense", dense)
        self.register_buffer("user_vector", torch.from_numpy(models.towers.user_vectors(nobody).copy()))
        self.register_buffer("item_numbers", torch.from_numpy(models.items.numbers.mean(0).astype(np.float32)))

    @abstractmethod
    def forward(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: Candidates,
        numbers: Tensor,
        tables: ItemTables,
    ) -> Explained:
        """Explain the scores of candidates, of which ``numbers`` float32 [B, C, ·] are the items' numbers."""


class GradientExplainer(Explainer):
    """:class:`Ranker`: what each group adds to the first layer and to the straight path, and then chords."""

    first_item: Tensor
    first_base: Tensor
    straight: Tensor
    user_mask: Tensor
    number_mask: Tensor
    pair_mask: Tensor
    is_kind: Tensor

    def __init__(self, models: TrainedModels, weights: tuple[float, ...]) -> None:
        super().__init__(models, weights)
        ranker = models.ranker
        assert isinstance(ranker, Ranker)
        scale, offset = ranker.scale[self.places], ranker.offset[self.places]
        between, last = ranker.network[1], ranker.heads
        assert isinstance(between, nn.Linear)
        with torch.no_grad():
            tables = ranker.item_tables(torch.from_numpy(models.towers.item_vectors()[1].copy()), models.items)
            self.register_buffer("first_item", tables.first_layer[:-1].mean(0))
            first_user = ranker.user_part(torch.cat([self.dense, self.user_vector], dim=1)).squeeze(0)
            self.register_buffer("first_base", first_user + self.first_item)
            self.register_buffer("straight", scale.unsqueeze(1) * ranker.pair_heads.weight[self.places])
            output = (
                scale.unsqueeze(1) * last.weight[self.places],
                scale * last.bias[self.places] + offset,
            )
        self.gradients = ChordGradients((between.weight, between.bias), output, self.weights, steps=STEPS)
        user_groups = (*dense_groups(ranker.inputs), *["customer"] * DIMENSIONS)
        self.register_buffer("user_mask", group_mask(user_groups))
        self.register_buffer("number_mask", group_mask(item_number_groups(models.items.numbers.shape[1])))
        self.register_buffer("pair_mask", group_mask(PAIR_GROUPS))
        self.register_buffer("is_kind", torch.tensor([[float(group == "kind")] for group in GROUPS]))

    def forward(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: Candidates,
        numbers: Tensor,
        tables: ItemTables,
    ) -> Explained:
        """See :meth:`Explainer.forward`."""
        ranker = self.ranker
        assert isinstance(ranker, Ranker)
        assert isinstance(candidates, SplitCandidates)
        dense, lists = ranker.inputs(user_float, user_int, user_codes)
        pair = pair_features(lists, candidates, tables)
        user = torch.cat([dense - self.dense, user_vector - self.user_vector], dim=1)
        of_user = (user.unsqueeze(1) * self.user_mask) @ ranker.user_part.weight.T
        moved = (numbers - self.item_numbers).unsqueeze(-2) * self.number_mask
        of_numbers = moved @ ranker.item_part.weight[:, : numbers.shape[-1]].T
        # What an item's vector, codes and text add is what its numbers do not.
        rest = candidates.first_layer - self.first_item - of_numbers.sum(-2)
        pairs = pair.unsqueeze(-2) * self.pair_mask
        first = (
            of_user.unsqueeze(1) + of_numbers + rest.unsqueeze(-2) * self.is_kind + pairs @ ranker.pair_part.weight.T
        )
        direct = pairs @ self.straight.T
        nothing = torch.zeros_like(self.straight[:, 0])
        return Explained(*self.gradients(first, direct, self.first_base, nothing))


class _FrameExplainer(Explainer):
    """What the models of the zoo share: columns of a frame, and the baseline's."""

    numbers_base: Tensor
    number_mask: Tensor
    code_mask: Tensor

    def __init__(self, models: TrainedModels, weights: tuple[float, ...]) -> None:
        super().__init__(models, weights)
        ranker = models.ranker
        assert isinstance(ranker, FrameRanker)
        self.shop = ranker.shop
        base = torch.cat(
            [
                self.dense[:, : self.shop.user_numbers],
                self.item_numbers.unsqueeze(0),
                torch.zeros(1, len(PAIR_FEATURES)),
            ],
            dim=1,
        )
        self.register_buffer("numbers_base", base)
        self.register_buffer("number_mask", group_mask(frame_number_groups(self.shop)))
        self.register_buffer("code_mask", group_mask(frame_code_groups(self.shop)))


class ProductExplainer(_FrameExplainer):
    """Logistic regression: exact, since every column adds to the logits by itself."""

    def __init__(self, models: TrainedModels, weights: tuple[float, ...]) -> None:
        super().__init__(models, weights)
        self.gradients = ChordGradients(None, None, self.weights, steps=STEPS)

    def forward(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: Candidates,
        numbers: Tensor,
        tables: ItemTables,
    ) -> Explained:
        """See :meth:`Explainer.forward`."""
        ranker = self.ranker
        assert isinstance(ranker, FrameRanker)
        assert isinstance(candidates, FrameCandidates)
        columns = self.shop.columns(user_float, user_int, user_codes, user_vector, candidates, tables)
        added, base = torch.zeros(()), torch.zeros(())
        for network in ranker.networks:
            assert isinstance(network, LinearNetwork)
            moved = network.scaled(columns.numbers) - network.scaled(self.numbers_base)
            numbered = (moved.unsqueeze(1) * self.number_mask) @ network.numbers.weight.T
            unknown = [table(torch.zeros(1, dtype=torch.int64)) for table in network.codes]
            coded = [table(columns.codes[:, at]) - unknown[at] for at, table in enumerate(network.codes)]
            added = added + numbered + self.code_mask @ torch.stack(coded, dim=1)
            base = base + (network.numbers(network.scaled(self.numbers_base)) + sum(unknown)).squeeze(0)
        scale = ranker.scale[self.places]
        direct = added[..., self.places] / len(ranker.networks) * scale
        start = base[..., self.places] / len(ranker.networks) * scale + ranker.offset[self.places]
        shaped = direct.reshape(*candidates.rows.shape, *direct.shape[1:])
        return Explained(*self.gradients(shaped, shaped, start, start))


class CoalitionColumns(_FrameExplainer):
    """A frame's columns for every coalition of groups; what a coalition lacks is at the baseline."""

    with_numbers: Tensor
    with_codes: Tensor
    with_visit: Tensor
    with_kind: Tensor
    matrix: Tensor

    def __init__(self, models: TrainedModels, weights: tuple[float, ...]) -> None:
        super().__init__(models, weights)
        inside = coalitions(len(GROUPS)).to(torch.float32)
        self.register_buffer("with_numbers", (inside @ self.number_mask) > 0)
        self.register_buffer("with_codes", (inside @ self.code_mask) > 0)
        self.register_buffer("with_visit", inside[:, [GROUPS.index("visit")]] > 0)
        self.register_buffer("with_kind", inside[:, GROUPS.index("kind")] > 0)
        self.register_buffer("matrix", shapley_matrix(len(GROUPS)))

    def mixed(self, columns: CandidateColumns) -> CandidateColumns:
        """n lines → n * 2^G: each line once for every coalition. Unknown codes are 0, and a history has no items."""

        def each(column: Tensor) -> Tensor:
            spread = torch.zeros_like(self.with_visit, dtype=column.dtype)
            return (column.unsqueeze(1) + spread).flatten(0, 1)

        target = torch.where(self.with_kind, columns.target.unsqueeze(1), -1)
        return CandidateColumns(
            numbers=torch.where(self.with_numbers, columns.numbers.unsqueeze(1), self.numbers_base).flatten(0, 1),
            codes=torch.where(self.with_codes, columns.codes.unsqueeze(1), 0).flatten(0, 1),
            items=torch.where(self.with_visit, columns.items.unsqueeze(1), -1).flatten(0, 1),
            types=each(columns.types),
            ages=each(columns.ages),
            target=target.flatten(0, 1),
        )

    def columns(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: FrameCandidates,
        tables: ItemTables,
    ) -> CandidateColumns:
        """The columns of B * C * 2^G lines."""
        return self.mixed(self.shop.columns(user_float, user_int, user_codes, user_vector, candidates, tables))

    def forward(
        self,
        user_float: Tensor,
        user_int: Tensor,
        user_codes: Tensor,
        user_vector: Tensor,
        candidates: Candidates,
        numbers: Tensor,
        tables: ItemTables,
    ) -> Explained:
        """See :meth:`Explainer.forward`."""
        ranker = self.ranker
        assert isinstance(ranker, FrameRanker)
        assert isinstance(candidates, FrameCandidates)
        columns = self.columns(user_float, user_int, user_codes, user_vector, candidates, tables)
        if isinstance(ranker.model, GradientBoostedTrees):
            flat = torch.from_numpy(np.nan_to_num(ranker.model.logits(ranker.frame(columns))))
        else:
            inputs = (columns.numbers, columns.codes, columns.items, columns.types, columns.ages, columns.target)
            flat = torch.stack([network(*inputs) for network in ranker.networks]).mean(0)
        return self.shapley((flat * ranker.scale + ranker.offset)[:, self.places], candidates.rows)

    def shapley(self, logits: Tensor, rows: Tensor) -> Explained:
        """From calibrated logits float32 [B * C * 2^G, trained heads]; ``rows`` are [B, C]."""
        shaped = logits.reshape(*rows.shape, self.matrix.shape[0], logits.shape[1])
        values = score_log_odds(shaped, self.weights)
        return Explained(values @ self.matrix, values[..., 0], values[..., -1])


def method_of(ranker: CandidateRanker) -> str:
    """Which of :data:`METHODS` explains a ranker."""
    if isinstance(ranker, Ranker):
        return "gradients"
    return "products" if ranker.name == LogisticRegression.name else "shapley"


def explainer_of(models: TrainedModels, score_weights: dict[str, float]) -> Explainer:
    """What explains the trained ranker; ``score_weights`` says what each head counts for in the score."""
    weights = tuple(score_weights[head] for head in models.heads)
    kinds: dict[str, type[Any]] = {
        "gradients": GradientExplainer,
        "products": ProductExplainer,
        "shapley": CoalitionColumns,
    }
    explainer: Explainer = kinds[method_of(models.ranker)](models, weights)
    return explainer.eval()
