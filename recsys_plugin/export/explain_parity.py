"""The exported model ``explain`` against the trained models: its sums, its scores, and the same module in torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.explain_graphs import ExplainGraph
from recsys_plugin.export.local import LocalRepository
from recsys_plugin.export.new_item_parity import item_request
from recsys_plugin.export.parity import TOLERANCE, largest_difference, user_inputs
from recsys_plugin.export.torch_graphs import SCORE_WEIGHTS
from recsys_plugin.inference.explanation import FEATURE_GROUPS
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.packing import UserTensors, first_users
from recsys_plugin.training.zoo.shop import FrameRanker
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = ["VALUES_TOLERANCE", "check_explanations"]

#: Log-odds by which a contribution may differ: integrated gradients in so many steps come no nearer to their limit, and
#: where a group moves a hidden unit hardly at all the slope of its chord is what rounding makes it. Sums are exact.
VALUES_TOLERANCE = 1e-3
_USERS, _CANDIDATES, _NEW = 4, 10, 3


def check_explanations(
    local: LocalRepository, models: TrainedModels, users: UserTensors, catalogue: pd.DataFrame
) -> dict[str, float]:
    """Explain real users' candidates, and items of the catalogue as if they were new, and compare.

    Args:
        local: the exported graphs. models: the trained ones. users: real packed users. catalogue: in row order.

    Returns:
        The largest absolute difference, in log-odds, of ``explain.sum`` from the log-odds that it explains; in
        probability, of ``explain.score`` from the score that ``rank`` or ``rank_new`` gives, as a share of the highest;
        and, for models without trees, of ``explain.values`` from the module in torch.

    Raises:
        CheckFailed: if a sum or a score differs by more than :data:`~recsys_plugin.export.parity.TOLERANCE`, or a
            contribution by more than :data:`VALUES_TOLERANCE`.
    """
    few = first_users(users, _USERS)
    rows, _ = candidate_rows(models.towers, few, _CANDIDATES)
    packed = local.run("new_item", item_request(local, catalogue.head(_NEW)))["item"]
    new_items = np.repeat(packed[np.newaxis], len(few), axis=0)
    asked = {**user_inputs(few), "candidate_rows": rows, "new_items": new_items}
    answer = local.named("explain", asked)
    scores = [local.named(name, asked)["scores"] for name in ("rank", "rank_new")]
    added = np.sum([answer[group].astype(np.float64) for group in FEATURE_GROUPS], axis=0)
    chance = 1.0 / (1.0 + np.exp(-answer["logit"].astype(np.float64)))
    highest = sum(SCORE_WEIGHTS[head] for head in models.heads)
    differences = {
        "explain.sum": largest_difference(answer["base"] + added, answer["logit"]),
        "explain.score": largest_difference(chance, np.concatenate(scores, axis=1) / highest),
    }
    ranker = models.ranker
    if not (isinstance(ranker, FrameRanker) and isinstance(ranker.model, GradientBoostedTrees)):
        # Trees are compared by their sums: a coalition's columns may lie anywhere near a split.
        module = ExplainGraph(models).eval()
        tensors = (few.user_float, few.user_int, ranker.inputs.codes(few.user_string), models.towers.user_vectors(few))
        with torch.inference_mode():
            values, _ = module(*map(torch.from_numpy, (*tensors, rows, new_items)))
        got = np.stack([value for name, value in answer.items() if name != "reason_rows"], axis=-1)
        differences["explain.values"] = largest_difference(got, values.numpy())
    allowed = {name: VALUES_TOLERANCE if name == "explain.values" else TOLERANCE for name in differences}
    too_large = {name: value for name, value in differences.items() if not value <= allowed[name]}
    if too_large:
        found = ", ".join(f"{name} by {value:.2g} (allowed {allowed[name]:g})" for name, value in too_large.items())
        raise CheckFailed(f"the exported explanations differ from the trained models: {found}")
    return differences
