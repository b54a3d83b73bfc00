"""From a model's answer to a page."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.choosing import best, by_rules
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.fallback import FULL
from recsys_plugin.client.release import Release
from recsys_plugin.client.results import Page, RankedItems, ScoredItem, ServedBy
from recsys_plugin.client.shelf_rules import shelf_policy
from recsys_plugin.consent.consent import EVERYTHING
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.impressions.document import Candidates, ServedPage
from recsys_plugin.inference.tensors import Array

__all__ = ["SCORES", "known_values", "line_of", "page", "page_items", "remember_page", "shown_facts"]

#: Shelves of users whose pages are kept.
REMEMBERED = frozenset({"recommend", "cross_category"})

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
    user_id: str | None = None,
    shelf: str | None = None,
) -> RankedItems:
    """One user's candidates as the items of a page: the k best, by the rules of the shelf.

    Args:
        relevance: names the output of the first stage.
        excluded: rows that must not be on the page.
        explore: the user for whom the context's exploration chooses among the best; the best itself, if ``None``.
        user_id: whose page it is, for rules that ask what the user had already.
        shelf: whose rules hold; that of the model's name, if ``None``.
    """
    release = context.release
    explored = explore if explore is not None and context.exploration.explores else None
    policy = shelf_policy(context, shelf or model)
    if policy is not None:
        chosen = by_rules(context, policy, model, outputs, scores, excluded, k, explored, user_id or explore)
    else:
        barred = excluded
        if release.sold_out.size and (shelf or model) != "rank":
            barred = {*excluded, *release.sold_out_of(outputs["rows"]).tolist()}
        chosen = best(context, model, outputs, scores, barred, k, explored)
    known = {name: chosen.outputs[name][chosen.places] for name in SCORES[1:] if name in outputs}
    if relevance is not None:
        known["relevance"] = chosen.outputs[relevance][chosen.places]
    rows, ranked, propensities, moves = chosen.rows, chosen.scores, chosen.propensities, chosen.moves
    context.chosen = rows, ranked

    def item(place: int) -> ScoredItem:
        row = rows.item(place)
        return ScoredItem(
            score=ranked.item(place),
            position=place + 1,
            propensity=1.0 if propensities is None else propensities.item(place),
            original_position=None if moves is None else moves.original_position(place + 1),
            moved_by=() if moves is None else moves.moved_by(place + 1),
            sponsored=moves is not None and moves.is_sponsored(place + 1),
            **shown_facts(release, row),
            **known_values(known, place),
        )

    return RankedItems(len(rows), lambda: map(release.item_id, rows.tolist()), item)


def shown_facts(release: Release, row: int) -> dict[str, Any]:
    """What a :class:`ScoredItem` says of a row whatever the request was."""
    title, category, price = release.shown(row)
    return {"item_id": release.item_id(row), "title": title, "category": category, "price": _number(price)}


def known_values(outputs: Mapping[str, Array], place: int) -> dict[str, Any]:
    """What each output has at a place, a number or ``None``."""
    return {name: _number(values.item(place)) for name, values in outputs.items()}


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
    *,
    shelf: str | None = None,
) -> Page:
    """The page of these items; what is logged of it is added to the context.

    Args:
        shelf: what the page is known as where the model also serves another, whose log must stay its own.
    """
    context.end_of("policy")
    release = context.release
    personal = release.models.get(model)
    served_by = ServedBy(
        model=shelf or model,
        version=release.version,
        contract=None if personal is None else personal.plan.contract.fingerprint,
        catalogue_version=release.catalogue.version,
        catalogue_size=len(release.catalogue),
    )
    consent = context.consents.get(user_id, EVERYTHING)
    if context.candidates is not None:
        if consent.tracking:
            context.served.append(_served(context, user_id, served_by, context.candidates))
        context.candidates = None
    rules, context.applied = context.applied, None
    fallback = context.fallback_of(user_id)
    context.missed.clear()
    if fallback is FULL and user_id is not None and consent.personalised and served_by.model in REMEMBERED:
        remember_page(context, served_by.model, user_id)
    return Page(
        context.request_id,
        user_id,
        items,
        served_by,
        features,
        context.timings(),
        unknown_items,
        rules,
        candidates=context.considered,
        fallback=fallback,
        personalised=consent.personalised,
    )


def remember_page(context: RequestContext, shelf: str, subject: Hashable) -> None:
    """Keep the page made last for when the models cannot be asked.

    Args:
        subject: whose page it is: a user, an item, or items.
    """
    if context.chosen is None:
        return
    rows, scores = context.chosen
    found = context.release.version, rows, scores
    context.memory.put((shelf, subject), found, rows.nbytes + scores.nbytes, context.started)


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
        context.fallback_of(user_id).level,
        None if context.trace is None else f"{context.trace.trace_id:032x}",
    )
