"""What each group of features adds to a score: sums, and agreement with other ways to compute the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import test_new_item_graphs
import torch
from test_new_item_graphs import packed_items, trained
from tiny_zoo import ITEMS, SIZES, tiny_users, wide_towers

from recsys_plugin.export.explain_graphs import ExplainGraph, explainer_graph
from recsys_plugin.export.new_item_graphs import unpack
from recsys_plugin.export.parity import user_inputs
from recsys_plugin.inference.explanation import FEATURE_GROUPS, FIGURES
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.attribution import score_log_odds
from recsys_plugin.training.explaining import default_user
from recsys_plugin.training.feature_groups import (
    GROUPS,
    PAIR_GROUPS,
    dense_groups,
    frame_code_groups,
    frame_number_groups,
    group_mask,
)
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.pair_features import PAIR_FEATURES
from recsys_plugin.training.ranker import HEADS
from recsys_plugin.training.reasons import category_ranks
from recsys_plugin.training.zoo.model import CtrOptions
from recsys_plugin.training.zoo.shop import FrameCandidates, FrameRanker, ShopColumns
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

#: What is promised: contributions and base add up to the score's log-odds to this.
TOLERANCE = 1e-4
_WEIGHTS = {"click": 0.1, "cart": 0.3, "purchase": 1.0}


def models_of(name: str, heads: tuple[str, ...]) -> TrainedModels:
    models = replace(trained(name, wide_towers()), heads=heads)
    if name == "split_mlp":
        with torch.no_grad():
            for weights in models.ranker.parameters():
                weights.mul_(2.0)  # an untrained network is too shallow to bend anywhere
    return models


def feed_of(models: TrainedModels, packed: UserTensors, candidates: int) -> tuple[dict[str, Any], Any]:
    """What the graph takes, and the log-odds that it is to explain: of rows, some of them none, and two new items."""
    rows = np.random.default_rng(0).integers(-1, ITEMS, (len(packed), candidates))
    new = np.tile(packed_items(2), (len(packed), 1, 1))
    feed = {**user_inputs(packed), "user_vector": models.towers.user_vectors(packed)}
    feed |= {"candidate_rows": rows, "new_items": new}
    ranker = models.ranker
    with torch.inference_mode():
        tables = ranker.item_tables(torch.from_numpy(models.towers.item_vectors()[1]), models.items)
        user = user_of(models, feed)
        asked = (tables.take(torch.from_numpy(rows)), ranker.new_candidates(unpack(torch.from_numpy(new)), tables))
        logits = torch.cat([ranker.score(*user, each, tables) for each in asked], dim=1)
    told = logits[..., [HEADS.index(head) for head in models.heads]]
    return feed, score_log_odds(told, torch.tensor([_WEIGHTS[head] for head in models.heads])).numpy()


def user_of(
    models: TrainedModels, feed: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The user's part of what a module takes."""
    codes = models.ranker.inputs.codes(feed["user_string"])
    found = (feed["user_float"], feed["user_int"], codes, feed["user_vector"])
    first, second, third, fourth = (torch.from_numpy(tensor) for tensor in found)
    return first, second, third, fourth


def explained(models: TrainedModels, feed: dict[str, Any]) -> tuple[Any, Any]:
    """Values and rows of the module itself."""
    items = (torch.from_numpy(feed[name]) for name in ("candidate_rows", "new_items"))
    with torch.inference_mode():
        values, rows = ExplainGraph(models).eval()(*user_of(models, feed), *items)
    return values.numpy(), rows.numpy()


def check_sums(values: Any, wanted: Any) -> None:
    contributions = values[..., : len(GROUPS)]
    base, logit = values[..., len(GROUPS)], values[..., len(GROUPS) + 1]
    np.testing.assert_allclose(logit, wanted, atol=TOLERANCE)
    np.testing.assert_allclose(base + contributions.sum(-1), logit, atol=TOLERANCE)
    np.testing.assert_allclose(base, base[0, 0], atol=TOLERANCE)


# Each export takes seconds; PLE, MMoE and DCN go the way of DIN.
@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("split_mlp", ("purchase",)),
        ("logistic", ("cart", "purchase")),
        ("lightgbm", ("cart", "purchase")),
        ("din", ("purchase",)),
    ],
)
def test_the_graph_adds_up_and_answers_as_the_module(name: str, heads: tuple[str, ...]) -> None:
    models = models_of(name, heads)
    session = onnxruntime.InferenceSession(explainer_graph(models).SerializeToString())
    for users, candidates in ((1, 1), (3, 7)):
        feed, wanted = feed_of(models, tiny_users(users, seed=users), candidates)
        values, rows = session.run(
            ["values", "reason_rows"], {key.name: feed[key.name] for key in session.get_inputs()}
        )
        assert values.shape == (users, candidates + 2, len(FEATURE_GROUPS) + len(FIGURES))
        check_sums(values, wanted)
        same, same_rows = explained(models, feed)
        np.testing.assert_allclose(values, same, atol=TOLERANCE)
        np.testing.assert_array_equal(rows, same_rows)


@pytest.mark.parametrize("name", ["split_mlp", "logistic", "lightgbm", "dcn"])
def test_of_nobody_only_the_item_counts(name: str) -> None:
    models = models_of(name, ("cart", "purchase"))
    feed, wanted = feed_of(models, default_user(models.contract), 9)
    values, rows = explained(models, feed)
    check_sums(values, wanted)
    for group in ("own_history", "likeness", "bought_together", "visit", "customer"):
        np.testing.assert_allclose(values[..., GROUPS.index(group)], 0.0, atol=1e-5)
    assert np.abs(values[..., GROUPS.index("kind")]).max() > 1e-3
    np.testing.assert_array_equal(rows, -1)


def test_every_column_belongs_to_one_group() -> None:
    towers, items = wide_towers()
    inputs = towers.user.inputs
    shop = ShopColumns(inputs, items.numbers.shape[1], SIZES, ITEMS)
    for groups, width in (
        (dense_groups(inputs), inputs.width),
        (frame_number_groups(shop), len(shop.number_names)),
        (frame_code_groups(shop), len(shop.code_names)),
        (PAIR_GROUPS, len(PAIR_FEATURES)),
    ):
        assert len(groups) == width
        mask = group_mask(groups)
        assert mask.shape == (len(GROUPS), width)
        np.testing.assert_array_equal(mask.sum(0), 1.0)


def test_the_nearest_own_items_are_found() -> None:
    models = models_of("split_mlp", ("purchase",))
    packed = tiny_users(4)
    feed, _ = feed_of(models, packed, 12)
    values, rows = explained(models, feed)
    slots = models.contract.slots
    favourite, recent = (slots[name] for name in ("user_statistics:favourite_items", "user_recent_items:item_ids"))
    types = slots["user_recent_items:event_type_codes"]
    texts = models.items.modalities.compact
    for line in range(4):
        own = packed.user_int[line, favourite.offset : favourite.offset + favourite.width].tolist()
        acts = packed.user_int[line, types.offset : types.offset + types.width]
        seen = packed.user_int[line, recent.offset : recent.offset + recent.width]
        # A recent purchase speaks for others only through the favourites, which know all purchases.
        speaking = {*own, *seen[np.isin(acts, (2, 3))].tolist()} - {-1}
        own += seen[np.isin(acts, (2, 3, 4))].tolist()
        own = sorted({row for row in own if row >= 0})
        for place, row in enumerate(feed["candidate_rows"][line]):
            others = [other for other in own if other != row]
            if row < 0 or not others or (best := max(float(texts[row] @ texts[other]) for other in others)) <= 0:
                assert rows[line, place, 0] == -1
                continue
            assert rows[line, place, 0] in others
            nearest = texts[row] @ texts[rows[line, place, 0]]
            np.testing.assert_allclose([nearest, values[line, place, len(GROUPS) + 2]], best, atol=1e-5)
            companion = rows[line, place, 1]
            speaks = models.items.neighbours.rows
            found = [other for other in speaking if other != row and row in speaks[other][speaks[other] >= 0]]
            assert (companion in found) if found else companion == -1


def test_ranks_in_a_category() -> None:
    _, items = wide_towers()
    ranks = category_ranks(items).numpy()
    assert len(ranks) == ITEMS + 1
    assert ranks[-1] == 0
    sold = items.numbers[:, 1]
    for category in range(1, SIZES[0]):
        mine = np.flatnonzero((items.codes[:, 0] == category) & (sold > 0))
        np.testing.assert_array_equal(ranks[mine[np.argsort(-sold[mine])]], np.arange(len(mine)) + 1)
    assert (ranks[:-1][(items.codes[:, 0] == 0) | (sold <= 0)] == 0).all()


def test_trees_are_explained_much_as_tree_shap_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tree SHAP (Lundberg et al. 2020) starts from what the trees' training examples have, not from one baseline, so
    # the two agree in what differs between items, and not in the mean.
    grown = CtrOptions(epochs=80, learning_rate=0.1, least=20, leaves=15)
    monkeypatch.setattr(test_new_item_graphs, "QUICK", grown)
    models = models_of("lightgbm", ("purchase",))
    ranker = models.ranker
    assert isinstance(ranker, FrameRanker)
    assert isinstance(ranker.model, GradientBoostedTrees)
    feed, _ = feed_of(models, tiny_users(40, seed=3), 20)
    feed["candidate_rows"] = np.abs(feed["candidate_rows"])
    values, _ = explained(models, feed)
    with torch.inference_mode():
        tables = ranker.item_tables(torch.from_numpy(models.towers.item_vectors()[1]), models.items)
        rows = tables.take(torch.from_numpy(feed["candidate_rows"]))
        assert isinstance(rows, FrameCandidates)
        frame = ranker.frame(ranker.shop.columns(*user_of(models, feed), rows, tables))
    position = HEADS.index("purchase")
    shap = ranker.model.boosters["purchase"].predict(ranker.model.matrix(frame, "purchase"), pred_contrib=True)
    shap = np.asarray(shap) * float(ranker.scale[position])
    mask = group_mask([*frame_number_groups(ranker.shop), *frame_code_groups(ranker.shop)]).numpy()
    mine = values[:, :20].reshape(800, -1)
    logit = shap.sum(1) + float(ranker.offset[position])
    np.testing.assert_allclose(logit, mine[:, len(GROUPS) + 1], atol=TOLERANCE)
    theirs, ours = shap[:, :-1] @ mask.T, mine[:, : len(GROUPS)]
    both = [(part - part.mean(0)).ravel() for part in (theirs, ours)]
    assert np.corrcoef(*both)[0, 1] > 0.8  # 0.91 when this was written
