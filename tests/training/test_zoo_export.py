"""Every member of the zoo on a tiny shop: one module makes the columns, and the exported graph answers as the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from tiny_zoo import ITEMS, QUICK, SIZES, VOCABULARIES, quiet, tiny_towers, tiny_users

from recsys_plugin.errors import StepFailed
from recsys_plugin.export.torch_graphs import ranker_graph
from recsys_plugin.export.tree_graphs import at_a_split
from recsys_plugin.training.artefacts import TrainedModels, new_ranker, read_ranker, write_ranker
from recsys_plugin.training.evaluation import score_candidates
from recsys_plugin.training.pair_features import PAIR_FEATURES
from recsys_plugin.training.ranker import HEADS, CandidateRanker, TrainingLists
from recsys_plugin.training.zoo.frame import CtrFrame
from recsys_plugin.training.zoo.registry import FRAME_MODELS, new_model
from recsys_plugin.training.zoo.shop import FrameRanker, ShopColumns, lists_frame
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

USERS = 60


def candidate_lists(seed: int = 0) -> TrainingLists:
    """What was likely to be bought: the user's favourites and even rows; nobody clicked."""
    generator = np.random.default_rng(seed)
    rows = np.stack([generator.permutation(ITEMS)[:12] for _ in range(USERS)])
    weights = np.ones(rows.shape, np.float32)
    rows[:, -1], weights[:, -1] = -1, 0.0
    chance = np.where(rows % 2 == 0, 0.7, 0.2)
    labels = (generator.random((*rows.shape, len(HEADS))) < chance[..., None]).astype(np.float32)
    labels[..., HEADS.index("click")] = np.nan
    return TrainingLists(np.arange(USERS), np.arange(USERS) % 2, rows, labels, weights)


@pytest.fixture(scope="module")
def shop() -> ShopColumns:
    towers, items = tiny_towers()
    return ShopColumns(towers.user.inputs, items.numbers.shape[1], SIZES, ITEMS).eval()


@pytest.fixture(scope="module")
def train(shop: ShopColumns) -> CtrFrame:
    towers, items = tiny_towers()
    return lists_frame(shop, candidate_lists(), tiny_users(USERS), towers, [items, items])


def ranker_of(name: str, train: CtrFrame) -> CandidateRanker:
    towers, items = tiny_towers()
    if name == "split_mlp":
        torch.manual_seed(0)
        return new_ranker(towers.user.inputs, items, SIZES).eval()
    model = new_model(name)
    model.fit(train, train, QUICK, 0, quiet)
    return FrameRanker(model, towers.user.inputs, items.numbers.shape[1], SIZES, ITEMS).eval()


def test_columns_of_a_list(shop: ShopColumns, train: CtrFrame) -> None:
    lists = candidate_lists()
    assert len(train) == int((lists.weights > 0).sum())
    assert train.number_names[-len(PAIR_FEATURES) :] == PAIR_FEATURES
    assert train.code_names == (
        "user_profile:country",
        "user_profile:segment",
        "category",
        "subcategory",
        "brand",
        "item",
    )
    history = train.history
    assert history is not None
    assert set(history.target) <= set(range(ITEMS))
    np.testing.assert_array_equal(train.codes[:, -1] - 1, history.target)
    # Lists of one week come together; each line keeps its own list's rows and labels.
    for number in (0, 1, 7):
        mine = train.lists == number
        np.testing.assert_array_equal(history.target[mine], lists.rows[number, :-1])
        np.testing.assert_array_equal(train.labels[mine], lists.labels[number, :-1])
        assert set(train.group[mine]) == {number}
    bought = train.numbers[:, train.number_names.index("bought_before")]
    assert set(bought) == {0.0, 1.0}


def test_no_list_at_all_is_refused(shop: ShopColumns) -> None:
    towers, items = tiny_towers()
    lists = candidate_lists()
    none = TrainingLists(*(getattr(lists, name)[:0] for name in ("context", "week", "rows", "labels", "weights")))
    with pytest.raises(StepFailed, match="no example to train a CTR model on"):
        lists_frame(shop, none, tiny_users(USERS), towers, [items, items])


# MMoE is the same network as PLE with other experts; each export takes seconds.
@pytest.mark.parametrize("name", ["split_mlp", *(name for name in FRAME_MODELS if name != "mmoe")])
def test_the_graph_answers_as_the_model(name: str, train: CtrFrame, tmp_path: Path) -> None:
    towers, items = tiny_towers()
    ranker = ranker_of(name, train)
    ranker.set_calibration(np.array([1.0, 0.8, 1.2], np.float32), np.array([0.0, 0.1, -0.3], np.float32))
    if isinstance(ranker, FrameRanker):
        ranker.model.calibration.scale[:] = [1.0, 0.8, 1.2]
        ranker.model.calibration.offset[:] = [0.0, 0.1, -0.3]
    heads = ("cart", "purchase")
    write_ranker(tmp_path, ranker, heads)
    kept = read_ranker(tmp_path, towers, items, SIZES)
    assert kept.name == name
    ids = pd.Index([f"item {row}" for row in range(ITEMS)], dtype=object)
    models = TrainedModels(towers.user.inputs.contract, ids, towers, kept, items, heads, VOCABULARIES)
    session = onnxruntime.InferenceSession(ranker_graph(models).SerializeToString())
    for users, candidates in ((1, 1), (5, 9), (9, 40)):
        packed = tiny_users(users, seed=users)
        rows = np.random.default_rng(0).integers(-1, ITEMS, (users, candidates))
        logits = score_candidates(kept, towers, items, packed, rows)
        np.testing.assert_allclose(score_candidates(ranker, towers, items, packed, rows), logits, atol=1e-5)
        feed = {
            "user_float": packed.user_float,
            "user_int": packed.user_int,
            "user_string": packed.user_string,
            "user_vector": towers.user_vectors(packed),
            "candidate_rows": rows,
        }
        names = [output.name for output in session.get_outputs()]
        assert names == ["scores", "click_probability", "cart_probability", "purchase_probability"]
        answer = dict(
            zip(names, session.run(None, {key.name: feed[key.name] for key in session.get_inputs()}), strict=True)
        )
        assert all(value.shape == rows.shape for value in answer.values())
        assert np.isnan(answer["click_probability"]).all()
        chances = 1 / (1 + np.exp(-logits))
        for head in heads:
            np.testing.assert_allclose(answer[f"{head}_probability"], chances[..., HEADS.index(head)], atol=2e-5)
        wanted = 0.3 * answer["cart_probability"] + answer["purchase_probability"]
        np.testing.assert_allclose(answer["scores"], wanted, atol=1e-6)


def test_lines_at_a_split_are_found(train: CtrFrame) -> None:
    ranker = ranker_of("lightgbm", train)
    assert isinstance(ranker, FrameRanker)
    model = ranker.model
    assert isinstance(model, GradientBoostedTrees)
    assert at_a_split(model, "purchase", train.numbers).mean() < 0.02
    text = model.boosters["purchase"].model_to_string()
    columns = text.split("split_feature=")[1].split("\n")[0].split()
    thresholds = text.split("\nthreshold=")[1].split("\n")[0].split()
    column, threshold = next(
        (int(column), float(value))
        for column, value in zip(columns, thresholds, strict=True)
        if int(column) < train.numbers.shape[1]
    )
    numbers = train.numbers[:3].copy()
    numbers[:, column] = threshold + np.array([-0.01, 0.0, 0.01])
    # The rounded number that is the last on the near side of the threshold, half a step from the next.
    step = 1 / 4096
    numbers[1, column] = np.floor(threshold / step) * step + step / 2
    numbers[[0, 2], column] = np.rint(numbers[[0, 2], column] / step) * step
    assert at_a_split(model, "purchase", numbers)[1]
