"""Items newer than the snapshot, with every member of the zoo on a tiny shop: the graph answers as the model."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from test_zoo_export import USERS, candidate_lists
from tiny_zoo import ITEMS, QUICK, SIZES, VOCABULARIES, quiet, tiny_users, wide_towers

from recsys_plugin.export.new_item_graphs import PACKED_WIDTH, item_encoder_graph, new_item_ranker_graph, unpack
from recsys_plugin.export.parity import user_inputs
from recsys_plugin.export.tree_graphs import at_a_split
from recsys_plugin.training.artefacts import TrainedModels, new_ranker
from recsys_plugin.training.inputs import ITEM_NUMBERS, ItemInputs, unsold_items
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.pair_features import PAIR_FEATURES
from recsys_plugin.training.ranker import HEADS, CandidateRanker
from recsys_plugin.training.two_tower import TwoTower
from recsys_plugin.training.zoo.registry import new_model
from recsys_plugin.training.zoo.shop import FrameRanker, ShopColumns, lists_frame
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

NEVER_TRAINED = "click"
HEADS_TRAINED = ("cart", "purchase")


@pytest.fixture(scope="module")
def shop() -> tuple[TwoTower, ItemInputs]:
    """The tiny shop with as many numbers of an item, and text dimensions, as a real one has."""
    return wide_towers()


def trained(name: str, shop: tuple[TwoTower, ItemInputs]) -> TrainedModels:
    towers, items = shop
    inputs = towers.user.inputs
    ranker: CandidateRanker
    if name == "split_mlp":
        torch.manual_seed(0)
        ranker = new_ranker(inputs, items, SIZES).eval()
    else:
        columns = ShopColumns(inputs, ITEM_NUMBERS, SIZES, ITEMS).eval()
        frame = lists_frame(columns, candidate_lists(), tiny_users(USERS), towers, [items, items])
        model = new_model(name)
        model.fit(frame, frame, QUICK, 0, quiet)
        ranker = FrameRanker(model, inputs, ITEM_NUMBERS, SIZES, ITEMS).eval()
    ids = pd.Index([f"item {row}" for row in range(ITEMS)], dtype=object)
    return TrainedModels(inputs.contract, ids, towers, ranker, items, HEADS_TRAINED, VOCABULARIES)


def packed_items(count: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Rows as ``new_item`` makes them: unit vectors, compact texts, numbers and codes."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, PACKED_WIDTH)).astype(np.float32)
    rows[:, :64] /= np.linalg.norm(rows[:, :64], axis=1, keepdims=True)
    rows[:, 72:96] = 0.0  # the tiny shop's texts have 8 dimensions
    rows[:, -3:] = np.stack([generator.integers(0, size, count) for size in SIZES], axis=1)
    return rows


def expected(models: TrainedModels, users: UserTensors, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [users, items, heads] of the model, and which no tree may send either way, [users, items]."""
    ranker = models.ranker
    with torch.inference_mode():
        tables = ranker.item_tables(torch.from_numpy(models.towers.item_vectors()[1]), models.items)
        candidates = ranker.new_candidates(unpack(torch.from_numpy(packed)), tables)
        asked = (
            torch.from_numpy(users.user_float),
            torch.from_numpy(users.user_int),
            torch.from_numpy(ranker.inputs.codes(users.user_string)),
            torch.from_numpy(models.towers.user_vectors(users)),
        )
        chances = torch.sigmoid(ranker.score(*asked, candidates, tables)).numpy()
        sure = np.ones(chances.shape[:2], bool)
        if isinstance(ranker, FrameRanker):
            columns = ranker.shop.columns(*asked, candidates, tables)  # type: ignore[arg-type]
            assert (columns.target == -1).all()
            own = columns.numbers[:, -len(PAIR_FEATURES) :]
            bought = [PAIR_FEATURES.index(name) for name in ("own_purchases", "bought_before", "neighbour_score")]
            assert (own[:, bought] == 0).all()
            # The last of the users has no history, the others are like something.
            assert (own[:, PAIR_FEATURES.index("likeness")] != 0).any() == (len(users) > 1)
            if isinstance(ranker.model, GradientBoostedTrees):
                for head in models.heads:
                    sure &= ~at_a_split(ranker.model, head, columns.numbers.numpy()).reshape(sure.shape)
                assert sure.mean() > 0.9
    return chances, sure


# What a new item is to a network is the same for all that know no history; each export takes seconds.
@pytest.mark.parametrize("name", ["split_mlp", "logistic", "din", "lightgbm"])
def test_new_items_are_ranked_as_the_model_says(name: str, shop: tuple[TwoTower, ItemInputs]) -> None:
    models = trained(name, shop)
    session = onnxruntime.InferenceSession(new_item_ranker_graph(models).SerializeToString())
    names = [output.name for output in session.get_outputs()]
    assert sorted(names) == sorted(["retrieval_scores", "scores", *(f"{head}_probability" for head in HEADS)])
    for users, count in ((1, 1), (3, 9)):
        people = tiny_users(users, seed=users)
        packed = np.stack([packed_items(count, seed) for seed in range(users)])
        vectors = models.towers.user_vectors(people)
        feed = {**user_inputs(people), "user_vector": vectors, "new_items": packed}
        answer = dict(zip(names, session.run(None, {i.name: feed[i.name] for i in session.get_inputs()}), strict=True))
        chances, sure = expected(models, people, packed)
        wanted = (packed[..., :64] @ vectors[:, :, None])[..., 0]
        np.testing.assert_allclose(answer["retrieval_scores"], wanted, atol=1e-5)
        assert np.isnan(answer[f"{NEVER_TRAINED}_probability"]).all()
        for head in HEADS_TRAINED:
            told = answer[f"{head}_probability"]
            np.testing.assert_allclose(told[sure], chances[sure][:, HEADS.index(head)], atol=2e-5)
        # A row of zeros pads: it changes nothing about the others, and is finite itself.
        feed["new_items"] = np.concatenate([packed, np.zeros_like(packed[:, :2])], axis=1)
        longer = dict(zip(names, session.run(None, {i.name: feed[i.name] for i in session.get_inputs()}), strict=True))
        np.testing.assert_allclose(longer["scores"][:, :count], answer["scores"], atol=1e-6)
        assert np.isfinite(longer["scores"]).all()


def test_an_item_is_packed_as_training_knows_it(shop: tuple[TwoTower, ItemInputs]) -> None:
    models = trained("split_mlp", shop)
    tower, modalities = models.towers.item, models.items.modalities
    empty = torch.tensor([2, 3])
    session = onnxruntime.InferenceSession(item_encoder_graph(models, empty).SerializeToString())
    encoded = modalities.texts[:4, 0]
    strings = np.array(
        [["category 2", "", "brand 1"], ["", "", ""], ["never heard of", "subcategory 2", "BRAND 1"], ["", "", ""]],
        object,
    )
    prices = np.array([3.5, np.nan, 0.0, 1e6], np.float32)
    # The last two say nothing: a text of no word, however it is padded. The second is as short and says something.
    ids = np.array([[2, 9, 3, 0], [2, 9, 0, 0], [2, 3, 0, 0], [2, 3, 7, 7]], np.int64)
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]], np.int64)
    feed = {
        "input_ids": ids, "attention_mask": mask, "encoded_text": encoded, "item_string": strings,
        "price": prices[:, None],
    }  # fmt: skip
    packed, text = session.run(["item", "text_embedding"], feed)
    said = np.array([True, True, False, False])
    np.testing.assert_array_equal(text, encoded * said[:, None])
    new = unsold_items(encoded, said, strings, prices, modalities, models.vocabularies)
    assert new.codes.tolist() == [[2, 0, 1], [0, 0, 0], [0, 2, 0], [0, 0, 0]]
    np.testing.assert_array_equal(new.numbers[:, -1], [0, 1, 0, 0])
    with torch.no_grad():
        fused = tower.fusion.fuse(
            *(
                torch.from_numpy(part.astype(np.float32))
                for part in (
                    new.modalities.texts, new.modalities.has_text, new.modalities.images, new.modalities.has_image
                )
            )
        )  # fmt: skip
        _, vectors = tower.without_id(fused, torch.from_numpy(new.numbers), torch.from_numpy(new.codes))
    parts = [vectors.numpy(), new.modalities.compact, new.numbers, new.codes.astype(np.float32)]
    np.testing.assert_allclose(packed, np.concatenate(parts, axis=1), atol=1e-5)
    assert not new.modalities.compact[2:].any()
    # One token more than the text of no word has, and all alone in its batch.
    alone = {name: value[:1] for name, value in feed.items()}
    np.testing.assert_allclose(session.run(["item"], alone)[0], packed[:1], atol=1e-6)


def test_a_tower_without_texts_takes_none_of_a_new_item(shop: tuple[TwoTower, ItemInputs]) -> None:
    _, items = shop
    blind = items.modalities.without_text()
    assert items.modalities.title == 0
    assert blind.title is None
    new = unsold_items(
        items.modalities.texts[:1, 0], np.ones(1, bool), np.full((1, 3), "", object), np.ones(1), blind, VOCABULARIES
    )
    assert not new.modalities.has_text.any()
    assert not new.modalities.compact.any()
