"""What goes with a basket: items that are bought together with its items, not items that are like them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np

from recsys_plugin.client.arguments import checked_candidates, checked_k
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.flows import (
    Flow,
    candidate_count,
    infer,
    known_rows,
    new_item_texts,
    nobody,
    padded_rows,
    retrieval_inputs,
    user_inputs,
    wanted_outputs,
)
from recsys_plugin.client.pages import line_of, page, page_items
from recsys_plugin.client.results import RankedItems
from recsys_plugin.client.shelf_rules import fetch_vectors, shelf_policy
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.identifiers import checked_ids
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.limits import MOST_CANDIDATES

__all__ = ["cross_sell"]

_MODEL, _SHELF = "complements", "cross_sell"


def cross_sell(
    context: RequestContext, basket: Iterable[object], k: object, *, exclude: Iterable[object], candidates: object
) -> Flow:
    """The items that the basket's items speak for most; those of the basket are not among them.

    For an item that is newer than the catalogue speaks the one of the catalogue whose text is nearest. An empty
    basket, and one without a known item, is answered by what is in many baskets of late.
    """
    release = context.release
    asked = list(dict.fromkeys(checked_ids(basket, "basket", most=MOST_CANDIDATES, known=release.catalogue.rows)))
    wanted, excluded = checked_k(k), known_rows(release, exclude)
    count = candidate_count(release, wanted, checked_candidates(candidates))
    found = release.rows(asked)
    unknown = tuple(item_id for item_id, row in zip(asked, found, strict=True) if row is None)
    if wanted == 0:
        return [page(context, _MODEL, None, RankedItems(), None, unknown)]
    if _MODEL not in release.shelves:
        raise InferenceUnavailable(
            f"version {release.version} was exported without the model {_MODEL}; run `recsys export`"
        )
    size = len(release.catalogue)
    rows = {row for row in found if row is not None}
    speaking = [row for row in rows if row < size]
    speaking += yield from _stand_ins(context, [row - size for row in sorted(rows) if row >= size])
    excluded |= rows
    policy = shelf_policy(context, _SHELF)
    answer = yield from infer(
        context,
        _MODEL,
        {
            "basket_rows": padded_rows([np.array(sorted(speaking), np.int64)]),
            **retrieval_inputs(release, excluded, count, wanted, [None], policy),
        },
        {"rows": OutputSpec("INT64", (1, -1)), "scores": OutputSpec("FP32", (1, -1))},
    )
    outputs = line_of(_MODEL, answer, 0)
    yield from fetch_vectors(context, _SHELF, answer["rows"], answer["scores"])
    items = page_items(context, _MODEL, outputs, outputs["scores"], None, excluded, wanted, shelf=_SHELF)
    return [page(context, _MODEL, None, items, None, unknown)]


def _stand_ins(context: RequestContext, places: Sequence[int]) -> Generator[Infer, Any, list[int]]:
    """For each of some new items the row of the catalogue whose text is nearest to its own."""
    release, model = context.release, context.release.models["search"]
    found: list[int] = []
    for start in range(0, len(places), model.max_batch_size):
        batch = places[start : start + model.max_batch_size]
        user = user_inputs(nobody(context, model)).items()
        users = {name: np.repeat(tensor, len(batch), axis=0) for name, tensor in user}
        nothing = [np.empty(0, np.int64)] * len(batch)
        answer = yield from infer(
            context,
            "search",
            {
                **users,
                **new_item_texts(release, batch, model),
                "lexical_rows": padded_rows(nothing),
                **retrieval_inputs(release, (), 1, 1, [None] * len(batch)),
            },
            wanted_outputs(model, len(batch), "rows"),
        )
        found += [row for row in answer["rows"][:, 0].tolist() if row >= 0]
    return found
