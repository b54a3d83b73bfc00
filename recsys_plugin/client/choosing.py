"""Which of a model's candidates make a page, in which order: the one place where scores, rules and chance meet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.item_columns import pool_of, vectors_of
from recsys_plugin.client.release import Release
from recsys_plugin.client.results import RulesReport
from recsys_plugin.client.shelf_rules import ShelfPolicy
from recsys_plugin.impressions.document import Candidates
from recsys_plugin.inference.tensors import Array
from recsys_plugin.policy.diversity import diversified
from recsys_plugin.policy.exploration import APPROXIMATE, Choice, calibrated_logits
from recsys_plugin.policy.last_layer import served_features
from recsys_plugin.policy.page import best_first
from recsys_plugin.policy.rules import Arrangement, Pool, ShelfRules, arranged, filtered, rescored
from recsys_plugin.policy.rules.moves import Moves

__all__ = ["Chosen", "best", "by_rules"]

_HEADS = ("click", "cart", "purchase")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A page as numbers; all columns but the outputs are in page order, ``[k]``."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    outputs: Mapping[str, Array]
    """What the model said of candidates; NaN where it said nothing."""
    places: NDArray[np.intp]
    """Where the page's items are in the outputs."""
    propensities: NDArray[np.float64] | None = None
    """``None`` for 1 each."""
    moves: Moves | None = None


def best(
    context: RequestContext,
    model: str,
    outputs: Mapping[str, Array],
    scores: NDArray[np.float32],
    excluded: Collection[int],
    k: int,
    explore: str | None,
) -> Chosen:
    """A page without rules: the k best, or what the context's exploration chooses among the best for a user."""
    rows, exploration = outputs["rows"], context.exploration
    size = max(k, exploration.pool) if explore is not None else k
    order = best_first(model, rows, scores, catalogue_size=context.release.size, excluded=excluded, k=size)
    choice: Choice | None = None
    if explore is not None:
        pool = order
        choice = _explored(context, explore, rows[pool], scores[pool], outputs, pool, k)
        order = pool[choice.positions]
        if context.logs_pages:
            context.candidates = Candidates(
                rows[pool], scores[pool], choice.positions, policy=exploration.policy.name,
                propensities=choice.propensities, propensity_kind=choice.kind,
            )  # fmt: skip
    elif context.logs_pages:
        context.candidates = Candidates(rows, scores, order, excluded)
    return Chosen(rows[order], scores[order], outputs, order, None if choice is None else choice.propensities)


def by_rules(
    context: RequestContext,
    policy: ShelfPolicy,
    model: str,
    outputs: Mapping[str, Array],
    scores: NDArray[np.float32],
    excluded: Collection[int],
    k: int,
    explore: str | None,
    user_id: str | None,
) -> Chosen:
    """A page by the rules of its shelf, see :mod:`recsys_plugin.policy.rules.apply` for the steps."""
    release, rules = context.release, policy.rules
    unmet = policy.unmet(user_id)
    are_rates = scores is outputs.get("scores")
    order = best_first(
        model, outputs["rows"], scores, catalogue_size=release.size, excluded=excluded, k=len(outputs["rows"])
    )
    outputs, scores = {name: array[order] for name, array in outputs.items()}, scores[order]
    ranked = len(order)
    named = _named(release, policy, excluded, unmet)
    if policy.shelf == "rank":  # of which the caller named the items: rules bring no others
        asked = set(outputs["rows"].tolist())
        named = {item_id: row for item_id, row in named.items() if row in asked}
    outputs, scores = _with_rows(outputs, scores, list(named.values()))
    heads = {head: outputs[f"{head}_probability"] for head in _HEADS if f"{head}_probability" in outputs}
    pool = pool_of(release, outputs["rows"], scores, heads)
    changed = rescored(rules, pool, now=policy.moment, are_rates=are_rates)
    changed[ranked:] = changed[:ranked].min(initial=np.inf) if ranked else 0.0
    allowed, removing = filtered(rules, pool, policy.barred(user_id), now=policy.moment)
    places = np.arange(ranked)
    stages: list[tuple[tuple[str, ...], NDArray[np.intp]]] = []
    if changed is not pool.scores:
        places = np.argsort(-changed[:ranked], kind="stable")
        stages.append((_rescoring(rules), places))
    places = places[allowed[places]]
    stages.append((removing, places))
    scores = changed.astype(np.float32)
    propensities, kind, candidates = np.ones(len(pool)), "exact", places
    if explore is not None:
        candidates = places = places[: max(k, context.exploration.pool)]
        wanted = len(places) if policy.rearranges else k
        choice = _explored(context, explore, pool.rows[places], scores[places], outputs, places, wanted)
        propensities[places[choice.positions]] = choice.propensities
        kind = APPROXIMATE if policy.rearranges else choice.kind
        places = places[choice.positions]
        stages.append((("exploration",), places))
    places = _unlike(release, rules, pool, scores, places, k, stages, unmet)
    page = _placed(rules, policy, pool, places, allowed, named, k, unmet)
    stages.append((("caps", "pins", "sponsored"), page.places))
    if context.logs_pages:
        _log(context, pool, scores, candidates, page, propensities if explore is not None else None, kind)
    context.applied = RulesReport(context.rules.digest, tuple(unmet))
    return Chosen(
        pool.rows[page.places],
        scores[page.places],
        outputs,
        page.places,
        propensities[page.places] if explore is not None else None,
        Moves(ranked, _active(rules, page, stages), page.places, page.placed),
    )


def _explored(
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


def _named(release: Release, policy: ShelfPolicy, excluded: Collection[int], unmet: list[str]) -> dict[str, int]:
    """The rows of pinned and sponsored items that may be looked at, by their ids."""
    named: dict[str, int] = {}
    asked = [("pins", pin.item) for pin in policy.rules.pins] + [("sponsored", item) for item in policy.sponsored]
    for rule, item_id in asked:
        row = release.row(item_id)
        if row is None:
            unmet.append(f"{rule}: {item_id} is not known")
        elif row not in excluded:
            named[item_id] = row
    return named


def _with_rows(
    outputs: Mapping[str, Array], scores: NDArray[np.float32], rows: list[int]
) -> tuple[Mapping[str, Array], NDArray[np.float32]]:
    """The candidates, and after them rows that are not among them: of these the model says nothing, and their score is
    the lowest."""
    added = np.array([row for row in dict.fromkeys(rows) if row not in set(outputs["rows"].tolist())], np.int64)
    if not added.size:
        return outputs, scores
    nothing = np.full(len(added), np.nan, np.float32)
    longer = {
        name: np.concatenate([array, added if name == "rows" else nothing.astype(array.dtype)])
        for name, array in outputs.items()
    }
    lowest = scores.min() if scores.size else np.float32(0)
    return longer, np.concatenate([scores, np.full(len(added), lowest, scores.dtype)])


def _rescoring(rules: ShelfRules) -> tuple[str, ...]:
    names = ("objectives",) if rules.objectives is not None else ()
    return (*names, "freshness") if rules.freshness is not None and rules.freshness.boost > 0 else names


def _unlike(
    release: Release,
    rules: ShelfRules,
    pool: Pool,
    scores: NDArray[np.float32],
    places: NDArray[np.intp],
    k: int,
    stages: list[tuple[tuple[str, ...], NDArray[np.intp]]],
    unmet: list[str],
) -> NDArray[np.intp]:
    """The places with unlike items first."""
    rule = rules.diversity
    if rule is None or rule.strength == 0 or len(places) < 2:
        return places
    first, rest = places[: rule.pool], places[rule.pool :]
    vectors = vectors_of(release, pool.rows[first])
    if not vectors.any():
        unmet.append("diversity: this shelf has no vectors of its items")
        return places
    # Where exploration chose the order, that is what is good: the best score goes to whoever it put first.
    relevance = np.sort(scores[first])[::-1]
    # Caps may pass over any number of them.
    count = len(first) if rules.caps is not None else min(len(first), k + len(rules.pins) + len(rules.sponsored))
    chosen = diversified(rule.method, relevance, vectors, count, strength=rule.strength)
    left = np.ones(len(first), np.bool_)
    left[chosen] = False
    places = np.concatenate([first[chosen], first[left], rest])
    stages.append((("diversity",), places))
    return places


def _placed(
    rules: ShelfRules,
    policy: ShelfPolicy,
    pool: Pool,
    places: NDArray[np.intp],
    allowed: NDArray[np.bool_],
    named: Mapping[str, int],
    k: int,
    unmet: list[str],
) -> Arrangement:
    """Pins, sponsored items and caps."""
    if not rules.pins and not policy.sponsored and rules.caps is None:
        return Arrangement(places[:k], {}, ())
    place_of = {row: place for place, row in enumerate(pool.rows.tolist())} if named else {}
    pins: dict[int, int] = {}
    for pin in rules.pins:
        if pin.item in named and pin.position <= k:
            place = place_of[named[pin.item]]
            if allowed[place]:
                pins[pin.position] = place
            else:
                unmet.append(f"pins: {pin.item} may not be shown here")
    sponsored: list[int] = []
    for item_id in policy.sponsored:
        if item_id in named:
            place = place_of[named[item_id]]
            if allowed[place]:
                sponsored.append(place)
            else:
                unmet.append(f"sponsored: {item_id} may not be shown here")
    if policy.sponsored and not rules.sponsored:
        unmet.append(f"sponsored: no position of {policy.shelf} is reserved")
    page = arranged(rules, pool, places.tolist(), k, pins=pins, sponsored=sponsored)
    by_place = {place_of[row]: item_id for item_id, row in named.items()}
    unmet += [f"pins: {by_place[place]} is one more than caps allow" for place in page.capped]
    return page


def _active(
    rules: ShelfRules, page: Arrangement, stages: list[tuple[tuple[str, ...], NDArray[np.intp]]]
) -> list[tuple[tuple[str, ...], NDArray[np.intp]]]:
    """The last step's rules, of which not all need have done something."""
    there = {*page.placed.values(), *(("caps",) if rules.caps is not None else ())}
    names, places = stages[-1]
    return [*stages[:-1], (tuple(name for name in names if name in there), places)]


def _log(
    context: RequestContext,
    pool: Pool,
    scores: NDArray[np.float32],
    candidates: NDArray[np.intp],
    page: Arrangement,
    propensities: NDArray[np.float64] | None,
    kind: str,
) -> None:
    """Keep what the page was chosen from: the candidates that might be shown, and what rules brought."""
    place_in = {place: number for number, place in enumerate(candidates.tolist())}
    brought = [place for place in page.places.tolist() if place not in place_in]
    place_in.update({place: len(candidates) + number for number, place in enumerate(brought)})
    every = np.concatenate([candidates, np.array(brought, np.intp)])
    order = np.array([place_in[place] for place in page.places.tolist()], np.intp)
    context.candidates = (
        Candidates(pool.rows[every], scores[every], order)
        if propensities is None
        else Candidates(
            pool.rows[every], scores[every], order, policy=context.exploration.policy.name,
            propensities=propensities[page.places], propensity_kind=kind,
        )
    )  # fmt: skip
