"""Permutation importance: what the ranker reads matters, shuffles move one group only, and a seed gives one answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from shops import Shop

from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import InvalidInput
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.frames import Split
from recsys_plugin.training.importance import permutation_importance, shuffled_users, user_groups
from recsys_plugin.training.options import TrainingOptions
from recsys_plugin.training.run import TrainingRun


@pytest.fixture(scope="module")
def trained(small_shop: Shop) -> tuple[TrainedModels, Split]:
    settings = small_shop.settings
    store = open_store(settings, small_shop.redis_url)
    run = TrainingRun(
        settings.state, settings.feature_repo / "data", load_dataset(settings), store, TrainingOptions(),
        lambda what, done, total: None,
    )  # fmt: skip
    return run.models(), run.frames().test


def test_every_feature_is_in_one_view_and_the_request_in_none(trained: tuple[TrainedModels, Split]) -> None:
    contract = trained[0].contract
    groups = user_groups(contract)
    wanted = {spec.reference for spec in contract.features if not spec.from_request}
    assert set(groups["user features"]) == wanted
    assert sorted(reference for view in groups["user views"].values() for reference in view) == sorted(wanted)


def test_shuffling_moves_one_group_and_nothing_else(trained: tuple[TrainedModels, Split]) -> None:
    models, split = trained
    order = np.random.default_rng(0).permutation(len(split.users))
    for references in user_groups(models.contract)["user views"].values():
        found = shuffled_users(models.contract, split.users, references, order)
        for spec in models.contract.features:
            slot = models.contract.slots[spec.reference]
            part = slice(slot.offset, slot.offset + slot.width)
            old = getattr(split.users, str(slot.tensor.value))[:, part]
            new = getattr(found, str(slot.tensor.value))[:, part]
            np.testing.assert_array_equal(new, old[order] if spec.reference in references else old)


def test_what_the_ranker_reads_matters(trained: tuple[TrainedModels, Split]) -> None:
    models, split = trained
    told: list[tuple[int, int]] = []

    def measure() -> dict[str, object]:
        return permutation_importance(
            models, split, models.items, candidates=60, most_users=40, repeats=2, seed=3,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip

    before = {name: value.clone() for name, value in models.towers.state_dict().items()}
    found = measure()
    assert found == measure()
    assert told[-1][0] == told[-1][1] == len(told) // 2
    assert all(torch.equal(value, before[name]) for name, value in models.towers.state_dict().items())
    groups = found["groups"]
    assert isinstance(groups, dict)
    assert set(groups["item features"]) >= {"texts", "category", "brand", "statistics and price", "demand forecast"}
    assert "images" not in groups["item features"]
    drops = {name: group["ndcg@20"]["mean"] for kind in groups.values() for name, group in kind.items()}
    assert all(math.isfinite(value) for value in drops.values())
    # Every visit of this shop repeats what was bought before, so what a user bought tells most of all his features.
    assert drops["user_statistics"] + drops["user_recent_items"] > 0.02
    assert found["users"] == 40


def test_nobody_to_rank_for_and_too_few_repeats(trained: tuple[TrainedModels, Split]) -> None:
    models, split = trained
    nobody = Split(split.contexts.take(np.empty(0, np.int64)), split.users.take(np.empty(0, np.int64)))
    assert permutation_importance(models, nobody, models.items, candidates=20) == {}
    with pytest.raises(InvalidInput, match="at least 2"):
        permutation_importance(models, split, models.items, candidates=20, repeats=1)
