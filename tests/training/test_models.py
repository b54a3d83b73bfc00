"""Training on the small shop's real frames: candidate lists, the same weights from the same seed, and never a NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from shops import Shop

from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import InvalidInput
from recsys_plugin.pipeline.feast_repository import contract_of, open_store
from recsys_plugin.training.artefacts import code_sizes, new_ranker, new_two_tower
from recsys_plugin.training.candidates import candidate_rows, history_rows, training_lists
from recsys_plugin.training.contexts import Contexts
from recsys_plugin.training.evaluation import score_candidates
from recsys_plugin.training.frames import Frames, read_frames
from recsys_plugin.training.impressions import ShownPages, with_shown_pages
from recsys_plugin.training.inputs import ItemInputs, UserInputs, item_inputs
from recsys_plugin.training.modalities import read_modalities
from recsys_plugin.training.options import RankerOptions, TwoTowerOptions
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, Ranker, TrainingLists, train_ranker
from recsys_plugin.training.two_tower import TwoTower, train_two_tower


@dataclass(frozen=True)
class Material:
    frames: Frames
    contract: Any
    items: ItemInputs
    sizes: tuple[int, ...]

    def inputs(self) -> UserInputs:
        return UserInputs.fit(self.contract, self.frames.train.users)

    def two_tower(self, seed: int = 0) -> TwoTower:
        torch.manual_seed(seed)
        return new_two_tower(self.inputs(), self.items, self.sizes)

    def ranker(self, seed: int = 0) -> Ranker:
        torch.manual_seed(seed)
        return new_ranker(self.inputs(), self.items, self.sizes)


@pytest.fixture(scope="module")
def material(small_shop: Shop) -> Material:
    state = small_shop.settings.state / "training"
    frames = read_frames(state / "frames")
    modalities = read_modalities(state / "text" / "modalities.safetensors")
    items, vocabularies = item_inputs(frames.snapshots[-3], modalities, neighbours=frames.neighbours[-3])
    contract = contract_of(open_store(small_shop.settings, small_shop.redis_url))
    return Material(frames, contract, items, code_sizes(vocabularies))


@pytest.fixture(scope="module")
def towers(material: Material) -> TwoTower:
    model = material.two_tower()
    train_two_tower(
        model, material.frames.train.contexts, material.frames.train.users, TwoTowerOptions(steps=20, batch=64)
    )
    return model


@pytest.fixture(scope="module")
def few(material: Material) -> np.ndarray:
    pages = len(material.frames.weeks)
    return np.sort(np.random.default_rng(0).choice(pages, 150, replace=False))


def lists_of(material: Material, towers: TwoTower, few: np.ndarray, **options: int) -> TrainingLists:
    frames = material.frames
    outcomes = {head: truth.take(few) for head, truth in frames.outcomes.items()}
    return training_lists(towers, outcomes, frames.pages.users.take(few), frames.weeks[few], **options)


def finite(model: torch.nn.Module) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_own_items_come_first_in_the_candidates(material: Material, towers: TwoTower, few: np.ndarray) -> None:
    users = material.frames.pages.users.take(few)
    rows, scores = candidate_rows(towers, users, 60, block=64)
    cosines = towers.user_vectors(users) @ towers.item_vectors()[1].T
    own = history_rows(towers, users)
    for line in range(len(few)):
        mine = set(own[line][own[line] >= 0])
        order = sorted(range(cosines.shape[1]), key=lambda row: (row not in mine, -cosines[line, row]))
        near_ties = np.abs(scores[line] - cosines[line, order[:60]]) < 1e-6
        assert near_ties.all()
        assert len(set(rows[line])) == 60
        np.testing.assert_allclose(scores[line], cosines[line, rows[line]], atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"negatives": 10, "most_positives": 2, "retrieved": 50}])
def test_training_lists(options: dict[str, int], material: Material, towers: TwoTower, few: np.ndarray) -> None:
    lists = lists_of(material, towers, few, **options)
    frames = material.frames
    retrieved = min(options.get("retrieved", 500), len(material.items.codes))
    most = options.get("most_positives", 24)
    offered, _ = candidate_rows(towers, frames.pages.users.take(few), retrieved)
    kept = []
    for index, context in enumerate(few):
        truth = {head: set(frames.outcomes[head].positives(int(context))) for head in HEADS}
        positives = set.union(*truth.values()) & set(offered[index])
        if not positives:
            continue
        kept.append(index)
        line = len(kept) - 1
        rows, weights = lists.rows[line], lists.weights[line]
        assert (rows >= 0).tolist() == (weights > 0).tolist()
        there = rows[rows >= 0]
        assert len(set(there)) == len(there)
        assert set(there) <= set(offered[index])
        # The list stands for all that was retrieved, and keeps what something came of.
        assert weights.sum() == pytest.approx(retrieved, rel=1e-5)
        assert len(positives & set(there)) == min(len(positives), most)
        for position, row in enumerate(rows):
            wanted = [float(row in truth[head]) for head in HEADS] if row >= 0 else [np.nan] * len(HEADS)
            np.testing.assert_array_equal(lists.labels[line, position], wanted)
    assert lists.context.tolist() == kept
    assert lists.week.tolist() == frames.weeks[few][kept].tolist()


def test_one_seed_gives_one_model(material: Material, towers: TwoTower, few: np.ndarray) -> None:
    frames = material.frames
    options = TwoTowerOptions(steps=5, batch=32)
    one, other, third = material.two_tower(), material.two_tower(), material.two_tower(seed=1)
    for model, seed in ((one, 0), (other, 0), (third, 1)):
        train_two_tower(model, frames.train.contexts, frames.train.users, replace(options, seed=seed))
    assert same(one, other)
    assert not same(one, third)
    lists, again = (lists_of(material, towers, few) for _ in range(2))
    assert lists.rows.tolist() == again.rows.tolist()
    assert (
        lists_of(material, towers, few, seed=1, negatives=10).rows.tolist()
        != lists_of(material, towers, few, seed=2, negatives=10).rows.tolist()
    )
    rankers = [train(material, towers, few, lists)[0] for _ in range(2)]
    assert same(*rankers)


def test_the_full_softmax_learns_and_spares_what_else_was_bought(material: Material) -> None:
    model, frames = material.two_tower(), material.frames
    losses: list[float] = []
    options = TwoTowerOptions(steps=12, batch=64, softmax="full")
    train_two_tower(
        model,
        frames.train.contexts,
        frames.train.users,
        options,
        progress=lambda step, steps, loss: losses.append(loss),
    )
    assert finite(model)
    assert losses[-1] < losses[0]
    with pytest.raises(InvalidInput, match="no softmax 'half'; there are sampled, full"):
        TwoTowerOptions(softmax="half")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def train(
    material: Material, towers: TwoTower, few: np.ndarray, lists: TrainingLists, **options: Any
) -> tuple[Ranker, dict[str, Any]]:
    ranker = material.ranker()
    users = material.frames.pages.users.take(few)
    snapshots = [material.items] * len(material.frames.moments)
    outcome = train_ranker(ranker, lists, users, towers, snapshots, RankerOptions(epochs=2, batch=16), **options)
    return ranker, outcome


def test_batches_without_a_positive_of_a_head_do_no_harm(material: Material, towers: TwoTower, few: np.ndarray) -> None:
    lists = lists_of(material, towers, few)
    # Clicks alone, as in a batch of lists that led to no purchase: the mean over no list was NaN.
    labels = lists.labels.copy()
    labels[..., HEADS.index("purchase")] *= 0.0
    ranker, outcome = train(material, towers, few, replace(lists, labels=labels))
    assert math.isfinite(outcome["loss"])
    assert finite(ranker)


def test_heads_that_the_data_cannot_tell_are_left_alone(material: Material, towers: TwoTower, few: np.ndarray) -> None:
    lists = lists_of(material, towers, few)
    labels = lists.labels.copy()
    labels[..., HEADS.index("click")] = np.nan
    ranker, _ = train(material, towers, few, replace(lists, labels=labels))
    assert finite(ranker)
    before = material.ranker()
    column = HEADS.index("click")
    assert torch.equal(ranker.heads.weight[column], before.heads.weight[column])
    assert not torch.equal(ranker.heads.weight[1 - column], before.heads.weight[1 - column])


def test_no_lists_at_all(material: Material, towers: TwoTower, few: np.ndarray) -> None:
    entities = material.frames.pages.contexts.entities.iloc[few].reset_index(drop=True)
    nothing = dict.fromkeys(HEADS, Contexts(entities, np.zeros(len(few) + 1, np.int64), np.empty(0, np.int64)))
    users = material.frames.pages.users.take(few)
    lists = training_lists(towers, nothing, users, material.frames.weeks[few])
    assert len(lists.context) == 0
    ranker, outcome = train(material, towers, few, lists)
    assert finite(ranker)
    assert math.isnan(outcome["loss"])


def test_the_best_epoch_is_kept(material: Material, towers: TwoTower, few: np.ndarray) -> None:
    lists = lists_of(material, towers, few)
    told: list[int] = []

    def worse_and_worse(epoch: int) -> float:
        told.append(epoch)
        return -float(epoch)

    kept, outcome = train(material, towers, few, lists, validate=worse_and_worse)
    last, _ = train(material, towers, few, lists)
    assert told == [0, 1]
    assert outcome["epoch"] == 0
    assert not same(kept, last)


def test_padding_and_extreme_values_give_finite_scores(material: Material, towers: TwoTower) -> None:
    users = material.frames.train.users.take(np.arange(4))
    floats = users.user_float.copy()
    floats[0], floats[1], floats[2] = np.finfo(np.float32).max / 4, -1e30, 0.0
    integers = np.where(users.user_int >= 0, users.user_int, -1)
    integers[3] = -1
    extreme = replace(users, user_float=floats, user_int=integers)
    vectors = towers.user_vectors(extreme)
    assert np.isfinite(vectors).all()
    rows = np.tile(np.array([0, 5, -1, 5]), (4, 1))
    logits = score_candidates(material.ranker(), towers, material.items, extreme, rows)
    assert np.isfinite(logits).all()


def test_report_of_the_real_shop(shop: Shop) -> None:
    report: Any = shop.report
    baselines = report["test"]["baselines"]
    assert baselines.keys() == {
        "popularity (30 days)", "item-kNN", "item-kNN (100 neighbours)", "EASE^R", "own frequency",
        "own frequency + EASE^R",
    }  # fmt: skip
    models = report["test"]["models"]
    ranked = models["two-tower + split_mlp"]
    # The blend of the two strongest is about as good on all items; new items tell a model from a counter.
    alone = [figures["recall@20"] for name, figures in baselines.items() if name != "own frequency + EASE^R"]
    assert ranked["recall@20"] > max(alone)
    assert ranked["new_items"]["recall@20"] > max(figures["new_items"]["recall@20"] for figures in baselines.values())
    assert ranked["ndcg@20"] > models["two-tower"]["ndcg@20"]
    assert models["candidate recall@500"] > ranked["recall@20"]
    assert ranked["segments"].keys() >= {"head items", "tail items", "repeat purchases", "new purchases"}
    if shop.source == "online_retail":
        assert report["test"]["from"].startswith("2011-11-01")
        # The reference figures of the protocol: popularity 0.1257, own frequency 0.3290.
        assert baselines["popularity (30 days)"]["recall@20"] == pytest.approx(0.1257, abs=0.0005)
        assert baselines["popularity (30 days)"]["new_items"]["recall@20"] == pytest.approx(0.0886, abs=0.001)
        assert baselines["own frequency"]["recall@20"] == pytest.approx(0.3290, abs=0.003)
        assert ranked["recall@20"] > 0.343
        assert ranked["new_items"]["recall@20"] > 0.1305


def test_reports_say_what_they_were_made_from(small_shop: Shop) -> None:
    report: Any = small_shop.report
    assert report["options"]["two_tower"]["steps"] == 60
    assert report["options"]["encoder"] == "minilm"
    assert load_dataset(small_shop.settings).name == report["dataset"]
    assert "constructed" in report["labels"]


def test_rankers_learn_from_pages_that_were_shown(material: Material, towers: TwoTower, few: np.ndarray) -> None:
    frames = material.frames
    users, week = frames.pages.users.take(few), frames.weeks[few]
    categories = material.items.codes[:, 0]
    wanted = int(np.flatnonzero(categories == 1)[0])
    unwanted = int(np.flatnonzero(categories == 2)[0])
    rows = np.tile(np.array([[unwanted, wanted]]), (len(few), 1))
    labels = np.full((len(few), 2, len(HEADS)), np.nan, np.float32)
    labels[..., HEADS.index("click")] = [0.0, 1.0]
    entities = frames.pages.contexts.entities.iloc[few].reset_index(drop=True)
    shown = ShownPages(entities, week, rows, labels, np.ones(rows.shape, np.float32))
    constructed = lists_of(material, towers, few)
    snapshots = [material.items] * len(frames.moments)

    def preference(lists: TrainingLists, both: UserTensors) -> float:
        """How much more likely, in logits, everybody is to click what was wanted."""
        ranker = material.ranker()
        train_ranker(ranker, lists, both, towers, snapshots, RankerOptions(epochs=12, batch=16, learning_rate=1e-2))
        logits = score_candidates(ranker, towers, material.items, users, rows)[..., HEADS.index("click")]
        return float(np.mean(logits[:, 1] - logits[:, 0]))

    without = preference(constructed, users)
    assert preference(*with_shown_pages(constructed, users, shown, users)) > without + 0.5
