"""What each group of features adds to a score: sums, and agreement with other ways to compute the same."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from tiny_zoo import ITEMS, QUICK, SIZES, VOCABULARIES, quiet, tiny_towers, tiny_users

from recsys_plugin.export.explain_graphs import ExplainGraph, explainer_graph
from recsys_plugin.inference.explanation import FEATURE_GROUPS, FIGURES
from recsys_plugin.training.artefacts import TrainedModels, new_ranker
from recsys_plugin.training.attribution import score_log_odds
from recsys_plugin.training.evaluation import score_candidates
from recsys_plugin.training.ranker import HEADS, TrainingLists
from recsys_plugin.training.zoo.registry import new_model
from recsys_plugin.training.zoo.shop import FrameRanker, ShopColumns, lists_frame

USERS = 60
#: What is promised: contributions and base add up to the score's log-odds to this.
TOLERANCE = 1e-4


def models_of(name: str, heads: tuple[str, ...]) -> TrainedModels:
    towers, items = tiny_towers()
    ids = pd.Index([f"item {row}" for row in range(ITEMS)], dtype=object)
    if name == "split_mlp":
        torch.manual_seed(0)
        ranker = new_ranker(towers.user.inputs, items, SIZES)
        with torch.no_grad():
            for weights in ranker.parameters():
                weights.mul_(3.0)  # an untrained network is too shallow to bend anywhere
    else:
        shop = ShopColumns(towers.user.inputs, items.numbers.shape[1], SIZES, ITEMS).eval()
        generator = np.random.default_rng(0)
        rows = np.stack([generator.permutation(ITEMS)[:12] for _ in range(USERS)])
        labels = (generator.random((*rows.shape, len(HEADS))) < np.where(rows % 2 == 0, 0.7, 0.2)[..., None]).astype(
            np.float32
        )
        labels[..., [HEADS.index(head) for head in HEADS if head not in heads]] = np.nan
        lists = TrainingLists(np.arange(USERS), np.arange(USERS) % 2, rows, labels, np.ones(rows.shape, np.float32))
        train = lists_frame(shop, lists, tiny_users(USERS), towers, [items, items])
        model = new_model(name)
        model.fit(train, train, QUICK, 0, quiet)
        ranker = FrameRanker(model, towers.user.inputs, items.numbers.shape[1], SIZES, ITEMS)
    return TrainedModels(towers.user.inputs.contract, ids, towers, ranker.eval(), items, heads, VOCABULARIES)


def feed_of(models: TrainedModels, users: int, candidates: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    packed = tiny_users(users, seed=users)
    rows = np.random.default_rng(0).integers(-1, ITEMS, (users, candidates))
    feed = {
        "user_float": packed.user_float,
        "user_int": packed.user_int,
        "user_string": packed.user_string,
        "user_vector": models.towers.user_vectors(packed),
        "candidate_rows": rows,
    }
    logits = score_candidates(models.ranker, models.towers, models.items, packed, rows)
    told = torch.from_numpy(logits[..., [HEADS.index(head) for head in models.heads]])
    weights = torch.tensor([{"click": 0.1, "cart": 0.3, "purchase": 1.0}[head] for head in models.heads])
    return feed, score_log_odds(told, weights).numpy()


@pytest.mark.parametrize("heads", [("purchase",), ("cart", "purchase")], ids=["one head", "two heads"])
@pytest.mark.parametrize("name", ["split_mlp", "logistic", "lightgbm", "din"])
def test_the_graph_adds_up_and_answers_as_the_module(name: str, heads: tuple[str, ...]) -> None:
    models = models_of(name, heads)
    session = onnxruntime.InferenceSession(explainer_graph(models).SerializeToString())
    module = ExplainGraph(models).eval()
    for users, candidates in ((1, 1), (3, 7)):
        feed, wanted = feed_of(models, users, candidates)
        values, rows = session.run(
            ["values", "reason_rows"], {key.name: feed[key.name] for key in session.get_inputs()}
        )
        assert values.shape == (users, candidates, len(FEATURE_GROUPS) + len(FIGURES))
        contributions = values[..., : len(FEATURE_GROUPS)]
        base, logit = values[..., len(FEATURE_GROUPS)], values[..., len(FEATURE_GROUPS) + 1]
        np.testing.assert_allclose(logit, wanted, atol=TOLERANCE)
        np.testing.assert_allclose(base + contributions.sum(-1), logit, atol=TOLERANCE)
        np.testing.assert_allclose(base, base[0, 0], atol=TOLERANCE)
        codes = models.ranker.inputs.codes(feed["user_string"])
        given_tensors = [feed["user_float"], feed["user_int"], codes, feed["user_vector"], feed["candidate_rows"]]
        with torch.inference_mode():
            same, same_rows = module(*(torch.from_numpy(tensor) for tensor in given_tensors))
        np.testing.assert_allclose(values, same.numpy(), atol=TOLERANCE)
        np.testing.assert_array_equal(rows, same_rows.numpy())
