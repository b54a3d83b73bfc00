"""Every shelf with the ladder under it: a page is made on the best level that can be had, and says on which.

====================  ==============================================================================================
``full``              the models, with the features of now
``cached_features``   Redis fails or is slow, Triton answers: the models, with the features that this client read of
                      the user before (:class:`~recsys_plugin.client.fallback.FallbackCache`), or else the contract's
                      defaults
``retrieval``         the models cannot be asked in time: what they found for the same user, item or basket before, in
                      their order (``recommend``, ``cross_category``, ``similar_items``, ``cross_sell``)
``lexical``           the same, of ``search``: what has the words of the query, by the index that the client holds
``popularity``        the same, and nothing was kept: what is popular, by the snapshot that came with the release or was
                      read from a file (``recommend``, ``rank``, ``onboard``, ``cross_category``, ``similar_items``,
                      ``cross_sell``)
``empty``             the same, and nothing can be said: ``ads``
====================  ==============================================================================================

Exclusions, and those rules of the shop that need no server, hold on every level. A flow here takes the arguments of the
one that it stands on; once the request's context says that the servers failed, it yields no call any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from recsys_plugin.client import ads as ad_flows
from recsys_plugin.client import categories as category_flows
from recsys_plugin.client import complements as complement_flows
from recsys_plugin.client import flows, searching
from recsys_plugin.client import onboarding as onboarding_flows
from recsys_plugin.client.ad_pages import AdsPage
from recsys_plugin.client.arguments import (
    checked_candidates,
    checked_k,
    checked_per_category,
    checked_query,
    checked_slots,
)
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.flows import Flow, known_rows
from recsys_plugin.client.in_process import InProcess
from recsys_plugin.client.pages import page, remember_page
from recsys_plugin.client.release import Release, on_one_release
from recsys_plugin.client.results import RankedItems
from recsys_plugin.client.segments import checked_segment
from recsys_plugin.errors import FeatureContractError, InvalidInput, ServiceUnavailable
from recsys_plugin.identifiers import checked_id, checked_ids
from recsys_plugin.limits import MOST_CANDIDATES, MOST_USERS
from recsys_plugin.policy.page import SearchBlend

__all__ = [
    "ads",
    "cross_category",
    "cross_sell",
    "laddered",
    "onboard",
    "popular",
    "rank",
    "recommend",
    "search",
    "similar_items",
]


#: Popular items that are looked at beyond those wanted, since rules may leave some out.
_SPARE = 500


def laddered(
    project: str,
    release: Release,
    context_of: Callable[[Release], RequestContext],
    ask: Callable[[RequestContext], Flow],
    adopt: Callable[[Release], None],
) -> Flow:
    """Answer on a release, and if the servers fail, in process; unless the context is strict, only the caller's own
    mistakes are raised.

    Args:
        project: the Feast project.
        release: what to ask on first; a version that came up meanwhile is taken up.
        context_of: makes the context of the request.
        ask: the request, which is asked once more, with :attr:`RequestContext.failure` set, if the servers fail.
        adopt: told of the release that the answer came from, if it is another.

    Raises:
        InvalidInput, ConfigurationError: for what the caller got wrong.
        ServiceUnavailable, FeatureContractError: in a strict context, for what failed.
    """
    contexts: list[RequestContext] = []

    def answer(release: Release) -> Flow:
        contexts[:] = [context_of(release)]
        return ask(contexts[0])

    try:
        return (yield from on_one_release(project, release, answer, adopt))
    except (ServiceUnavailable, FeatureContractError) as error:
        context = contexts[0] if contexts else context_of(release)
        if context.strict:
            raise
        context.descend(error)
        return (yield from ask(context))


def recommend(
    context: RequestContext,
    user_ids: Iterable[object],
    k: object,
    *,
    exclude: Iterable[object],
    candidates: object,
    explain: bool = False,
    segment: object = None,
) -> Flow:
    """:func:`flows.recommend`; then what was found for the user before, then what is popular with his segment."""
    context.segment = checked_segment(segment)
    if context.failure is None:
        return (
            yield from flows.recommend(
                context, user_ids, k, exclude=exclude, candidates=candidates, explain=explain
            )
        )  # fmt: skip
    users = checked_ids(user_ids, "user_ids", most=MOST_USERS)
    wanted, excluded = checked_k(k), known_rows(context.release, exclude)
    made = InProcess(context, "recommend", "recommend", wanted, excluded, checked_candidates(candidates))
    return [made.of_user(user) for user in users]


def popular(
    context: RequestContext, k: object, *, segment: object, category: object, exclude: Iterable[object]
) -> Flow:
    """What is popular; no server is asked."""
    context.segment = checked_segment(segment)
    if category is not None and not isinstance(category, str):
        raise InvalidInput(f"category: {category!r:.60} is no text")
    wanted, excluded = checked_k(k), known_rows(context.release, exclude)
    yield from ()
    return [InProcess(context, "popular", "popular", wanted, excluded, _SPARE + wanted).popular(category)]


def rank(context: RequestContext, user_id: object, item_ids: Iterable[object], *, explain: bool = False) -> Flow:
    """:func:`flows.rank`; then the more popular first, and what is equally popular in the order given."""
    if context.failure is None:
        return (yield from flows.rank(context, user_id, item_ids, explain=explain))
    user, release = checked_id(user_id, "user_id"), context.release
    asked = dict.fromkeys(checked_ids(item_ids, "item_ids", most=MOST_CANDIDATES, known=release.catalogue.rows))
    found = release.rows(asked)
    rows = np.array([row for row in found if row is not None], np.int64)
    unknown = tuple(item_id for item_id, row in zip(asked, found, strict=True) if row is None)
    made = InProcess(context, "rank", "rank", len(rows), set(), len(rows))
    return [made.ranked(user, rows, unknown)]


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
    """:func:`searching.search`; then by the words alone."""
    if context.failure is None:
        return (
            yield from searching.search(
                context,
                user_id,
                query,
                k,
                exclude=exclude,
                candidates=candidates,
                blend=blend,
                understand=understand,
                explain=explain,
            )
        )
    user = None if user_id is None else checked_id(user_id, "user_id")
    text, wanted, excluded = checked_query(query), checked_k(k), known_rows(context.release, exclude)
    made = InProcess(context, "search", "search", wanted, excluded, checked_candidates(candidates))
    return [made.searched(user, text, blend, understand=understand)]


def similar_items(
    context: RequestContext, item_id: object, k: object, *, exclude: Iterable[object], candidates: object
) -> Flow:
    """:func:`flows.similar_items`; then what was found for the item before, then what is popular in its category."""
    item = checked_id(item_id, "item_id")
    if context.failure is None:
        pages = yield from flows.similar_items(context, item, k, exclude=exclude, candidates=candidates)
        remember_page(context, "similar", item)
        return pages
    wanted, excluded = checked_k(k), known_rows(context.release, exclude)
    row = context.release.row(item)
    if row is None or wanted == 0:
        return [page(context, "similar", None, RankedItems(), None, () if row is not None else (item,))]
    made = InProcess(context, "similar", "similar", wanted, excluded | {row}, checked_candidates(candidates))
    return [made.of_items(item, (row,), same_category=True)]


def cross_sell(
    context: RequestContext, basket: Iterable[object], k: object, *, exclude: Iterable[object], candidates: object
) -> Flow:
    """:func:`complements.cross_sell`; then what was found for the same basket before, then what is popular."""
    release = context.release
    asked = list(dict.fromkeys(checked_ids(basket, "basket", most=MOST_CANDIDATES, known=release.catalogue.rows)))
    subject = frozenset(asked)
    if context.failure is None:
        pages = yield from complement_flows.cross_sell(context, asked, k, exclude=exclude, candidates=candidates)
        remember_page(context, "cross_sell", subject)
        return pages
    wanted, excluded = checked_k(k), known_rows(release, exclude)
    found = release.rows(asked)
    rows = tuple(row for row in found if row is not None)
    unknown = tuple(item_id for item_id, row in zip(asked, found, strict=True) if row is None)
    made = InProcess(
        context, "complements", "cross_sell", wanted, excluded.union(rows), checked_candidates(candidates)
    )  # fmt: skip
    return [made.of_items(subject, rows, unknown=unknown)]


def onboard(
    context: RequestContext,
    user_id: object | None,
    chosen: Iterable[object],
    k: object,
    *,
    exclude: Iterable[object],
    candidates: object,
) -> Flow:
    """:func:`onboarding.onboard`; then what is popular, that of the categories of what was chosen first."""
    if context.failure is None:
        return (
            yield from onboarding_flows.onboard(context, user_id, chosen, k, exclude=exclude, candidates=candidates)
        )
    release, user = context.release, None if user_id is None else checked_id(user_id, "user_id")
    asked = list(dict.fromkeys(checked_ids(chosen, "chosen", most=MOST_CANDIDATES)))
    wanted, excluded = checked_k(k), known_rows(release, exclude)
    found = release.rows(asked)
    rows = tuple(row for row in found if row is not None)
    unknown = tuple(item_id for item_id, row in zip(asked, found, strict=True) if row is None)
    made = InProcess(context, "onboard", "onboard", wanted, excluded.union(rows), checked_candidates(candidates))
    return [made.of_items(None, rows, user=user, unknown=unknown, same_category=True, others_after=True)]


def cross_category(
    context: RequestContext,
    user_id: object,
    k: object,
    *,
    per_category: object,
    exclude: Iterable[object],
    candidates: object,
) -> Flow:
    """:func:`categories.cross_category`; then what was found for the user before, then what is popular in categories
    that the features kept of the user do not name."""
    if context.failure is None:
        return (
            yield from category_flows.cross_category(
                context, user_id, k, per_category=per_category, exclude=exclude, candidates=candidates
            )
        )
    user, most = checked_id(user_id, "user_id"), checked_per_category(per_category)
    wanted, excluded = checked_k(k), known_rows(context.release, exclude)
    made = InProcess(context, "cross_category", "cross_category", wanted, excluded, checked_candidates(candidates))
    return [made.of_new_categories(user, most)]


def ads(
    context: RequestContext,
    known: Any,
    user_id: object,
    slots: object,
    *,
    about: object,
    exclude: Iterable[object],
) -> Flow:
    """:func:`ads.ads`; then none: what is not counted must not be shown."""
    if context.failure is None:
        return (yield from ad_flows.ads(context, known, user_id, slots, about=about, exclude=exclude))
    user = checked_id(user_id, "user_id")
    checked_slots(slots)
    made = InProcess(context, "ads", "ads", 0, set(), 1).empty(user)
    return [
        AdsPage(made.request_id, user, made.items, made.served_by, None, made.timings, fallback=made.fallback)
    ]  # fmt: skip
