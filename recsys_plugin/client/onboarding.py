"""Recommendations for somebody of whom a few chosen items are known: a new visitor who said what he likes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.arguments import checked_candidates, checked_k
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.flows import (
    Flow,
    beside,
    candidate_count,
    infer,
    known_rows,
    nobody,
    read_features,
    retrieval_inputs,
    score_new_items,
    user_inputs,
    wanted_outputs,
)
from recsys_plugin.client.own_acts import RECENT_MOMENTS, RECENT_ROWS, RECENT_TYPES
from recsys_plugin.client.pages import SCORES, line_of, page, page_items
from recsys_plugin.client.results import RankedItems
from recsys_plugin.client.shelf_rules import fetch_vectors, shelf_policy
from recsys_plugin.events.event import EVENT_TYPE_CODES
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.features.plan import FeatureReport, FeatureTensors
from recsys_plugin.identifiers import checked_id, checked_ids
from recsys_plugin.limits import MOST_CANDIDATES

__all__ = ["onboard", "with_chosen"]

_MODEL, _SHELF = "recommend", "onboard"
#: What choosing an item counts for: it says more than a look at it, and nothing was bought.
_CHOSEN = EVENT_TYPE_CODES["cart"]


def onboard(
    context: RequestContext,
    user_id: object | None,
    chosen: Iterable[object],
    k: object,
    *,
    exclude: Iterable[object],
    candidates: object,
) -> Flow:
    """A page as if the user had just put the chosen items into the cart; they are not on it."""
    release, model = context.release, context.release.models[_MODEL]
    user = None if user_id is None else checked_id(user_id, "user_id")
    asked = list(dict.fromkeys(checked_ids(chosen, "chosen", most=MOST_CANDIDATES)))
    wanted, excluded = checked_k(k), known_rows(release, exclude)
    count = candidate_count(release, wanted, checked_candidates(candidates))
    found = release.rows(asked)
    unknown = tuple(item_id for item_id, row in zip(asked, found, strict=True) if row is None)
    if wanted == 0:
        return [page(context, _MODEL, user, RankedItems(), None, unknown, shelf=_SHELF)]
    report: FeatureReport | None = None
    if user is None:
        tensors = nobody(context, model)
    else:
        tensors, (report,) = yield from read_features(context, model, [user])
    rows = np.array([row for row in found if row is not None], np.int64)
    excluded |= set(rows.tolist())
    # Of items newer than the catalogue the models' histories know nothing.
    old = rows[rows < len(release.catalogue)]
    tensors = with_chosen(model.plan.contract, tensors, old, now=context.now)
    policy = shelf_policy(context, _SHELF)
    pool = wanted if policy is None else policy.results(wanted, count)
    answer = yield from infer(
        context,
        _MODEL,
        {**user_inputs(tensors), **retrieval_inputs(release, excluded, count, pool, [user], policy)},
        wanted_outputs(model, 1, "rows", "retrieval_scores", *SCORES),
    )
    if release.new_items:
        answer = beside(answer, (yield from score_new_items(context, tensors)))
    yield from fetch_vectors(context, _SHELF, answer["rows"], answer["scores"])
    outputs = line_of(_MODEL, answer, 0)
    items = page_items(
        context, _MODEL, outputs, outputs["scores"], "retrieval_scores", excluded, wanted, user_id=user, shelf=_SHELF
    )
    return [page(context, _MODEL, user, items, report, unknown, shelf=_SHELF)]


def with_chosen(
    contract: FeatureContract, tensors: FeatureTensors, rows: NDArray[np.int64], *, now: float
) -> FeatureTensors:
    """One user's tensors as they would be had he just put some items into the cart, the first of them last.

    Args:
        contract: how the features are packed; one that does not tell of recent acts leaves them as they are.
        tensors: of one user. rows: ``[n]`` of the catalogue. now: unix seconds.
    """
    slots = [contract.slots.get(name) for name in (RECENT_ROWS, RECENT_TYPES, RECENT_MOMENTS)]
    packed = tensors.user_int.copy()
    told = (rows, np.full(len(rows), _CHOSEN), np.full(len(rows), int(now)))
    for slot, values in zip(slots, told, strict=True):
        if slot is None:
            return tensors
        line = packed[0, slot.offset : slot.offset + slot.width]
        line[:] = np.concatenate([values, line])[: slot.width]
    return FeatureTensors(tensors.user_float, packed, tensors.user_string)
