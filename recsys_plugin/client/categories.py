"""Items of categories that are new to a user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from recsys_plugin.client.arguments import checked_candidates, checked_k, checked_per_category
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.flows import (
    Flow,
    beside,
    candidate_count,
    infer,
    known_rows,
    read_features,
    retrieval_inputs,
    score_new_items,
    user_inputs,
    wanted_outputs,
)
from recsys_plugin.client.pages import SCORES, line_of, page, page_items
from recsys_plugin.client.release import Release
from recsys_plugin.client.results import RankedItems
from recsys_plugin.client.shelf_rules import fetch_vectors, shelf_policy
from recsys_plugin.features.contract import Encoding, FeatureContract
from recsys_plugin.features.plan import FeatureTensors
from recsys_plugin.identifiers import checked_id
from recsys_plugin.policy.page import best_first

__all__ = ["cross_category", "own_rows"]

_MODEL, _SHELF = "recommend", "cross_category"


def cross_category(
    context: RequestContext,
    user_id: object,
    k: object,
    *,
    per_category: object,
    exclude: Iterable[object],
    candidates: object,
) -> Flow:
    """Recommended items, best first, of categories of which the user's features hold no item.

    Those features are what he bought most and his latest acts. The others' behaviour and the items' texts are in the
    vectors by which candidates are found. Items without a category are left out: nobody can tell whether they are new.
    """
    release, model = context.release, context.release.models[_MODEL]
    user = checked_id(user_id, "user_id")
    wanted, most, excluded = checked_k(k), checked_per_category(per_category), known_rows(release, exclude)
    count = candidate_count(release, wanted, checked_candidates(candidates))
    if wanted == 0:
        return [page(context, _MODEL, user, RankedItems(), None, shelf=_SHELF)]
    tensors, (report,) = yield from read_features(context, model, [user])
    known = {release.shown(row)[1] for row in own_rows(model.plan.contract, tensors)}
    categories = release.catalogue.categories
    familiar = [code for name in ("", *known) if (code := categories.known(name)) is not None]
    told = np.union1d(np.flatnonzero(np.isin(categories.codes, familiar)), np.fromiter(excluded, np.int64))
    answer = yield from infer(
        context,
        _MODEL,
        {
            **user_inputs(tensors),
            # Of all candidates, since the best may be of a few categories.
            **retrieval_inputs(release, told, count, count, [user], shelf_policy(context, _SHELF)),
        },
        wanted_outputs(model, 1, "rows", "retrieval_scores", *SCORES),
    )
    if release.new_items:
        answer = beside(answer, (yield from score_new_items(context, tensors)))
    outputs = line_of(_MODEL, answer, 0)
    rows, scores = outputs["rows"], outputs["scores"]
    order = best_first(_MODEL, rows, scores, catalogue_size=release.size, excluded=excluded, k=len(rows))
    # All of them where rules of the shelf may still leave some out.
    chosen = _spread(release, rows[order].tolist(), known, most)
    if shelf_policy(context, _SHELF) is None:
        chosen = chosen[:wanted]
    kept = {name: values[order[chosen]] for name, values in outputs.items()}
    yield from fetch_vectors(context, _SHELF, kept["rows"][np.newaxis], kept["scores"][np.newaxis])
    items = page_items(
        context, _MODEL, kept, kept["scores"], "retrieval_scores", excluded, wanted, user_id=user, shelf=_SHELF
    )
    return [page(context, _MODEL, user, items, report, shelf=_SHELF)]


def own_rows(contract: FeatureContract, tensors: FeatureTensors) -> list[int]:
    """The catalogue rows of the items that the first user's features name."""
    own: set[int] = set()
    for spec in contract.features:
        if spec.encoding is Encoding.ROW:
            slot = contract.slots[spec.reference]
            own.update(tensors.user_int[0, slot.offset : slot.offset + slot.width].tolist())
    own.discard(-1)
    return sorted(own)


def _spread(release: Release, rows: Sequence[int], known: set[str], most: int) -> list[int]:
    """The positions of rows of categories that are neither known nor empty, at most so many of each, in order."""
    seen: Counter[str] = Counter()
    positions: list[int] = []
    for position, row in enumerate(rows):
        category = release.shown(row)[1]
        if category and category not in known and seen[category] < most:
            seen[category] += 1
            positions.append(position)
    return positions
