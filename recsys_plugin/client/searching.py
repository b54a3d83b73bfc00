"""Search, written once from query to page: what it says, what fits its words and its meaning, and the user's taste."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.arguments import checked_candidates, checked_k, checked_query
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.explaining import explained
from recsys_plugin.client.flows import (
    Flow,
    beside,
    candidate_count,
    encode_text,
    infer,
    known_rows,
    known_vector,
    nobody,
    padded_rows,
    read_features,
    retrieval_inputs,
    score_new_items,
    text_inputs,
    tokenize,
    user_inputs,
    wanted_outputs,
)
from recsys_plugin.client.pages import SCORES, line_of, page, page_items
from recsys_plugin.client.results import Page, RankedItems
from recsys_plugin.client.shelf_rules import fetch_vectors, shelf_policy
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.identifiers import checked_id
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.tensors import Array
from recsys_plugin.policy.page import SearchBlend

if TYPE_CHECKING:
    from recsys_plugin.query.search_index import SearchPlan

__all__ = ["plan_of", "search", "told"]


def search(
    context: RequestContext,
    user_id: object,
    query: object,
    k: object,
    *,
    exclude: Iterable[object],
    candidates: object,
    blend: SearchBlend,
    understand: bool,
    explain: bool = False,
) -> Flow:
    """Items that fit the query by words and meaning, within its filters, with a touch of the user's taste."""
    user = None if user_id is None else checked_id(user_id, "user_id")
    text, wanted, excluded = checked_query(query), checked_k(k), known_rows(context.release, exclude)
    count = candidate_count(context.release, wanted, context.to_consider(checked_candidates(candidates)))
    context.considered = count
    if wanted == 0:
        nothing = page(context, "search", user, RankedItems(), None)
        return [told(nothing, plan_of(context, text, excluded, None) if understand else None)]
    model = context.release.models["search"]
    report: FeatureReport | None = None
    if user is None:
        tensors, blend = nobody(context, model), replace(blend, personal_weight=0.0)
    else:
        tensors, (report,) = yield from read_features(context, model, [user])
    # Only now, since what the user had already may be against the shop's rules.
    plan = plan_of(context, text, excluded, user) if understand else None
    context.end_of("policy")
    looked_for = text if plan is None else plan.intent.text
    key = (context.release.version, looked_for)
    known = context.query_vectors.get(key)
    words, vector_output = yield from _words(context, looked_for, known)
    answer = yield from infer(
        context,
        "search",
        {**user_inputs(tensors), **words, **_candidates(context, plan, excluded, count, wanted, user)},
        {**wanted_outputs(model, 1, "rows", "relevance", *SCORES), **vector_output},
    )
    vector = answer.pop("text_embedding", known)
    if context.release.new_items:
        if vector is None:
            vector = yield from encode_text(context, looked_for)
        scored = yield from score_new_items(context, tensors)
        scored["relevance"] = vector @ context.release.new_items.texts.T
        answer = beside(answer, scored)
    if vector is not None and vector is not known:
        # A copy, since what was decoded holds on to the whole answer.
        context.query_vectors.put(key, vector.copy())
    found = line_of("search", answer, 0)
    rows = found["rows"]
    if plan is None:
        scores = blend.scores(rows, found["relevance"], found["scores"])
    else:
        if plan.allowed is not None:
            # The index fills up with others where the filters let through fewer than it was asked for.
            rows = found["rows"] = np.where((rows >= 0) & plan.allowed[rows], rows, -1)
        scores = blend.scores(
            rows, found["relevance"], found["scores"], matches=plan.matches[rows], boosts=plan.boosts(rows)
        )
    yield from fetch_vectors(context, "search", rows[np.newaxis], scores[np.newaxis])
    items = page_items(context, "search", found, scores, "relevance", excluded, wanted, user_id=user)
    if explain:
        items = yield from explained(context, tensors, 0, items)
    return [told(page(context, "search", user, items, report), plan)]


def plan_of(context: RequestContext, query: str, excluded: Collection[int], user: str | None) -> SearchPlan:
    """What the query asks for; a filter that leaves only what cannot be on the page leaves nothing."""
    release, policy = context.release, shelf_policy(context, "search")
    assert release.search_index is not None, "a release that serves has an index"
    unwanted = [np.fromiter(excluded, np.int64, len(excluded))]
    if policy is None or policy.rules.least_stock > 0:
        unwanted.append(release.sold_out)
    if policy is not None:
        unwanted.append(policy.excluded_rows(user))
    return release.search_index.plan(query, release.new_items, np.concatenate(unwanted))


def told(found: Page, plan: SearchPlan | None) -> Page:
    """The page with what was understood."""
    return found if plan is None else replace(found, intent=plan.intent, relaxed=plan.relaxed)


def _words(
    context: RequestContext, text: str, vector: Array | None
) -> Generator[Infer, Any, tuple[dict[str, Array], dict[str, OutputSpec]]]:
    """What the search model takes of a query whose vector may be known, and what it is to tell of that in addition."""
    width = context.release.models["search"].vector_width
    if not width:
        return text_inputs(text), {}
    if vector is not None:
        return known_vector(vector), {}
    tokens = yield from tokenize(context, text)
    return {**tokens, "known_embedding": np.zeros((1, width), np.float32)}, {
        "text_embedding": OutputSpec("FP32", (1, width))
    }


def _candidates(
    context: RequestContext,
    plan: SearchPlan | None,
    excluded: Collection[int],
    count: int,
    wanted: int,
    user: str | None,
) -> dict[str, Array]:
    """Which rows are to be considered.

    Of few that the filters let through every one; of many those that fit best, the others being excluded.
    """
    release = context.release
    banned: Collection[int] | NDArray[np.int64] = excluded
    lexical = np.empty(0, np.int64)
    if plan is not None:
        lexical = plan.lexical_rows
        # They come in addition: as many as were asked for are still found by their meaning.
        count = min(count + len(lexical), len(release.catalogue))
        if plan.allowed is not None:
            allowed = plan.allowed[: len(release.catalogue)]
            if np.count_nonzero(allowed) <= count:
                lexical = np.flatnonzero(allowed)
                count = max(1, len(lexical))
            else:
                banned = np.concatenate([np.flatnonzero(~allowed), np.fromiter(excluded, np.int64, len(excluded))])
    return {
        "lexical_rows": padded_rows([lexical]),
        **retrieval_inputs(release, banned, count, wanted, [user], shelf_policy(context, "search")),
    }
