"""The exported graphs against the trained models, on real rows: an export that differs is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.description import COUNTS, KNOWN_EMBEDDING
from recsys_plugin.export.local import LocalRepository
from recsys_plugin.export.tree_graphs import at_a_split
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.candidates import candidate_rows
from recsys_plugin.training.evaluation import score_candidates
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, TrainingLists
from recsys_plugin.training.text import TextEncoder, encode_texts
from recsys_plugin.training.zoo.shop import FrameRanker, lists_frame
from recsys_plugin.training.zoo.trees import GradientBoostedTrees

__all__ = [
    "TOLERANCE",
    "check_merged",
    "check_parity",
    "example_requests",
    "largest_difference",
    "left_out",
    "too_near_to_judge",
    "user_inputs",
]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Largest absolute difference allowed in a vector's component, a cosine or a probability.
TOLERANCE = 1e-4
#: Share of the candidates that may lie within rounding of a tree's split, and are then left out of the comparison.
MOST_AT_SPLITS = 0.1
#: Share of the places at which ties of scores may put another row.
_MOST_TIES = 0.02


def user_inputs(users: UserTensors) -> dict[str, _Array]:
    """The packed tensors under their input names."""
    return {"user_float": users.user_float, "user_int": users.user_int, "user_string": users.user_string}


def check_parity(
    local: LocalRepository,
    models: TrainedModels,
    users: UserTensors,
    encoder: TextEncoder,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    candidates: int,
) -> dict[str, float]:
    """Compare every exported graph with its torch model.

    Args:
        local: the exported graphs. models: the trained ones.
        users: real packed users. texts: real texts. encoder, tokenizer: the text models.
        candidates: how many to retrieve for each user.

    Returns:
        The largest absolute difference of each output, by ``model.output``.

    Raises:
        CheckFailed: if one is above :data:`TOLERANCE`, or the index returned other candidates. Candidates with a
            column within rounding of a split of some tree are not compared; see :func:`left_out`.
    """
    differences: dict[str, float] = {}
    packed = user_inputs(users)
    tower = local.run("user_tower", packed)
    differences["user_tower.user_vector"] = largest_difference(tower["user_vector"], models.towers.user_vectors(users))
    none = np.full((len(users), 1), -1, np.int64)
    found = local.run(
        "item_index",
        {
            "query_vector": tower["user_vector"],
            "own_rows": tower["own_rows"],
            "excluded_rows": none,
            "counts": np.full((len(users), 2), candidates, np.int64),
        },
    )
    rows, cosines = candidate_rows(models.towers, users, candidates)
    # Neighbours whose cosines differ by less than rounding may change places; the cosines by position may not.
    differences["item_index.similarities"] = largest_difference(found["similarities"], cosines)
    vectors = models.towers.item_vectors()[1]
    of_rows = np.take_along_axis(models.towers.user_vectors(users) @ vectors.T, found["rows"], axis=1)
    differences["item_index.rows"] = largest_difference(found["similarities"], of_rows)
    item_rows = np.arange(len(vectors), dtype=np.int64)[:, None]
    differences["item_embedding.item_vector"] = largest_difference(
        local.run("item_embedding", {"item_row": item_rows})["item_vector"], vectors
    )
    ranked = local.run("ctr_ranker", {**packed, "user_vector": tower["user_vector"], "candidate_rows": rows})
    logits = score_candidates(models.ranker, models.towers, models.items, users, rows)
    for head in models.heads:
        wanted = torch.sigmoid(torch.from_numpy(logits[..., HEADS.index(head)])).numpy()
        name = f"{head}_probability"
        compared = ~_at_splits(models, users, rows, head)
        differences[f"ctr_ranker.{name}"] = largest_difference(ranked[name][compared], wanted[compared])
    encoded = local.run("text_encoder", local.run("tokenizer", {"query": np.array(texts, object)[:, None]}))
    differences["text_encoder.text_embedding"] = largest_difference(
        encoded["text_embedding"], encode_texts(encoder, tokenizer, texts, kind="query")
    )
    too_large = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if too_large:
        found_text = ", ".join(f"{name} by {value:.2g}" for name, value in too_large.items())
        raise CheckFailed(f"the exported graphs differ from the trained models: {found_text} (allowed {TOLERANCE:g})")
    return differences


def example_requests(users: UserTensors, query: str, count: int) -> dict[str, dict[str, _Array]]:
    """Every request for some users: all with the same query, the catalogue's first rows, and as many results."""
    packed, lines = user_inputs(users), len(users)
    retrieval = {"excluded_rows": np.full((lines, 1), -1, np.int64), COUNTS: np.full((lines, 2), count, np.int64)}
    return {
        "recommend": {**packed, **retrieval},
        "rank": {**packed, "candidate_rows": np.tile(np.arange(3, dtype=np.int64), (lines, 1))},
        "search": {
            **packed,
            **retrieval,
            "query": np.array([[query]] * lines, object),
            "lexical_rows": np.tile(np.array([[2, -1]], np.int64), (lines, 1)),
        },
        "similar": {"item_row": np.zeros((lines, 1), np.int64), **retrieval},
    }


def check_merged(
    steps: LocalRepository,
    merged: LocalRepository,
    users: UserTensors,
    texts: Sequence[str],
    *,
    candidates: int,
) -> dict[str, float]:
    """Compare each merged graph with the ensemble that it was made from, on real users.

    A search is asked both ways: with the tokens of a text, and with its vector as the encoder by itself makes it.

    Returns:
        The largest absolute difference of each merged output, by ``model.output``. Where scores tie, rows may change
        places; what belongs to them is compared at the others.

    Raises:
        CheckFailed: if one is above :data:`TOLERANCE`.
    """
    differences: dict[str, float] = {}
    asked = example_requests(users, texts[0], candidates)
    answers = {name: (steps.run(name, inputs), merged.named(name, inputs)) for name, inputs in asked.items()}
    answers["search_of_known_text"] = (answers["search"][0], _search_by_vector(steps, merged, asked["search"]))
    answers["search"][1].pop("text_embedding")
    for name, (wanted, got) in answers.items():
        if name == "recommend":
            order = np.argsort(-np.where(wanted["rows"] < 0, -np.inf, wanted["scores"]), axis=1, kind="stable")
            wanted = {output: np.take_along_axis(wanted[output], order, axis=1) for output in got}
        same = got["rows"] == wanted["rows"] if "rows" in got else np.ones(got["scores"].shape, bool)
        if (unequal := 1.0 - float(same.mean())) > _MOST_TIES:
            raise CheckFailed(f"the merged graph {name} returns other rows than its steps at {unequal:.1%} of places")
        for output, values in got.items():
            if output != "rows":
                # NaN stands for a head that was never trained, and must stay NaN.
                compared = same & ~(np.isnan(values) & np.isnan(wanted[output]))
                differences[f"{name}.{output}"] = largest_difference(values[compared], wanted[output][compared])
    too_large = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if too_large:
        found = ", ".join(f"{name} by {value:.2g}" for name, value in too_large.items())
        raise CheckFailed(f"the merged graphs differ from their steps: {found} (allowed {TOLERANCE:g})")
    return differences


def _search_by_vector(
    steps: LocalRepository, merged: LocalRepository, search: Mapping[str, _Array]
) -> dict[str, _Array]:
    """What a merged search answers when it is given the vector of the query."""
    inputs = dict(search)
    query = inputs.pop("query")
    no_token = np.zeros((len(query), 1), np.int64)
    known = steps.run("text_encoder", steps.run("tokenizer", {"query": query}))["text_embedding"]
    answer = merged.named(
        "search", {**inputs, "input_ids": no_token, "attention_mask": no_token, KNOWN_EMBEDDING: known}
    )
    answer.pop("text_embedding")
    return answer


def left_out(models: TrainedModels, users: UserTensors, *, candidates: int) -> dict[str, float]:
    """The share of the candidates that :func:`check_parity` leaves out, by head; empty unless trees rank."""
    ranker = models.ranker
    if not (isinstance(ranker, FrameRanker) and isinstance(ranker.model, GradientBoostedTrees)):
        return {}
    rows, _ = candidate_rows(models.towers, users, candidates)
    return {head: float(_at_splits(models, users, rows, head).mean()) for head in models.heads}


def _at_splits(models: TrainedModels, users: UserTensors, rows: _Array, head: str) -> _Array:
    """bool [n, C]: candidates that a tree may send either way, since a column is within rounding of its split."""
    ranker = models.ranker
    if not (isinstance(ranker, FrameRanker) and isinstance(ranker.model, GradientBoostedTrees)):
        return np.zeros(rows.shape, bool)
    model = ranker.model
    # One list of all candidates for each user, at their moment and with the export's snapshot.
    lines = np.arange(len(users))
    lists = TrainingLists(
        lines,
        np.zeros(len(users), np.int64),
        rows,
        np.full((*rows.shape, len(HEADS)), np.nan, np.float32),
        np.ones(rows.shape, np.float32),
    )
    frame = lists_frame(ranker.shop, lists, users, models.towers, [models.items])
    return too_near_to_judge(at_a_split(model, head, frame.numbers).reshape(rows.shape), head)


def too_near_to_judge(near: _Array, head: str) -> _Array:
    """Candidates within rounding of a split of the trees for a head, bool [n, C], as they are.

    Raises:
        CheckFailed: if they are more than :data:`MOST_AT_SPLITS` of all.
    """
    if near.size and near.mean() > MOST_AT_SPLITS:
        raise CheckFailed(
            f"{near.mean():.1%} of the candidates lie within rounding of a split of the trees for {head}, more than "
            f"{MOST_AT_SPLITS:.0%}: parity cannot be judged; train with fewer leaves or rounds"
        )
    return near


def largest_difference(got: _Array, wanted: _Array) -> float:
    """The largest absolute difference; NaN if anything that was got is not finite.

    Raises:
        CheckFailed: if the shapes differ.
    """
    if got.shape != wanted.shape:
        raise CheckFailed(
            f"an exported graph answers with shape {got.shape} where the trained model has {wanted.shape}"
        )
    return float(np.abs(got - wanted).max(initial=0.0)) if np.isfinite(got).all() else float("nan")
