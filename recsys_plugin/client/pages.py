"""From a model's answer to a page."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.results import Page, RankedItems, ScoredItem, ServedBy
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.impressions.document import Candidates, ServedPage
from recsys_plugin.inference.tensors import Array
from recsys_plugin.policy.exploration import Choice, calibrated_logits
from recsys_plugin.policy.last_layer import served_features
from recsys_plugin.policy.page import best_first

__all__ = ["SCORES", "line_of", "page", "page_items"]

#: What says how good each candidate is; a model has the probabilities that it was trained for.
SCORES = ("scores", "purchase_probability", "cart_probability", "click_probability")


def line_of(model: str, answer: Mapping[str, Array], number: int) -> dict[str, Array]:
    """One user's part of an answer, whose outputs must be equally long to belong together."""
    line = {name: array[number] for name, array in answer.items()}
    if len({len(array) for array in line.values()}) != 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in line.items())
        raise InferenceUnavailable(f"model {model} answered outputs of different length: {lengths}")
    return line


def page_items(
    context: RequestContext,
    model: str,
    outputs: Mapping[str, Array],
    scores: NDArray[np.float32],
    relevance: str | None,
    excluded: Collection[int],
    k: int,
    *,
    explore: str | None = None,
) -> RankedItems:
    """The k best of one user's candidates as items.

    Args:
        relevance: names the output of the first stage.
        explore: the user for whom the context's exploration chooses among the best; the best itself, if ``None``.
    """
    release = context.release
    rows = outputs["rows"]
    explores = explore is not None and context.exploration.explores
    size = max(k, context.exploration.pool) if explores else k
    order = best_first(model, rows, scores, catalogue_size=release.size, excluded=excluded, k=size)
    choice: Choice | None = None
    if explore is not None and explores:
        pool = order
        choice = _chosen(context, explore, rows[pool], scores[pool], outputs, pool, k)
        order = pool[choice.positions]
        if context.logs_pages:
            context.candidates = Candidates(
                rows[pool], scores[pool], choice.positions, policy=context.exploration.policy.name,
                propensities=choice.propensities, propensity_kind=choice.kind,
            )  # fmt: skip
    elif context.logs_pages:
        context.candidates = Candidates(rows, scores, order, excluded)
    chosen = rows[order]
    known = {name: outputs[name][order] for name in SCORES[1:] if name in outputs}
    if relevance is not None:
        known["relevance"] = outputs[relevance][order]
    ranked = scores[order]

    def item(place: int) -> ScoredItem:
        row = chosen.item(place)
        title, category, price = release.shown(row)
        return ScoredItem(
            item_id=release.item_id(row),
            score=ranked.item(place),
            position=place + 1,
            title=title,
            category=category,
            price=_number(price),
            propensity=1.0 if choice is None else choice.propensities.item(place),
            explanation=None,
            **{name: _number(values.item(place)) for name, values in known.items()},
        )

    return RankedItems(len(chosen), lambda: map(release.item_id, chosen.tolist()), item)


def _chosen(
    context: RequestContext,
    user_id: str,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    outputs: Mapping[str, Array],
    pool: NDArray[np.intp],
    k: int,
) -> Choice:
    """What the context's exploration makes of a pool of candidates, best first."""
    exploration = context.exploration
    logits = calibrated_logits(scores)
    features = None
    if exploration.policy.needs_features:
        new = rows >= len(context.release.catalogue)
        features = served_features(logits, outputs["retrieval_scores"][pool], new)
    generator = exploration.generator(context.request_id, user_id)
    return exploration.policy.choose(logits, k, generator, features=features)


def _number(value: float) -> float | None:
    """``None`` for NaN: "not known" in every output where it is allowed."""
    return None if math.isnan(value) else value


def page(
    context: RequestContext,
    model: str,
    user_id: str | None,
    items: RankedItems,
    features: FeatureReport | None,
    unknown_items: tuple[str, ...] = (),
) -> Page:
    """The page of these items; what is logged of it is added to the context."""
    context.end_of("policy")
    release = context.release
    personal = release.models.get(model)
    served_by = ServedBy(
        model=model,
        version=release.version,
        contract=None if personal is None else personal.plan.contract.fingerprint,
        catalogue_version=release.catalogue.version,
        catalogue_size=len(release.catalogue),
    )
    if context.candidates is not None:
        context.served.append(_served(context, user_id, served_by, context.candidates))
        context.candidates = None
    return Page(context.request_id, user_id, items, served_by, features, context.timings(), unknown_items)


def _served(context: RequestContext, user_id: str | None, by: ServedBy, candidates: Candidates) -> ServedPage:
    features: dict[str, Sequence[Any]] | None = None
    if user_id is not None and user_id in context.features:
        tensors, line = context.features[user_id]
        features = {"user_float": tensors.user_float[line], "user_int": tensors.user_int[line]}
        features["user_string"] = tensors.user_string[line]
    return ServedPage(
        context.request_id,
        user_id,
        context.now,
        by.model,
        by.version,
        by.contract,
        candidates,
        lambda rows: [context.release.item_id(row) for row in rows],
        features,
    )
