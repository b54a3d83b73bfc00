"""From a page to a page that says why: one more call to Triton, made only for a request that asks for it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.explanation import Contribution, Explanation, Reason, english_date, reason_text
from recsys_plugin.client.own_acts import OwnActs, own_acts
from recsys_plugin.client.release import PersonalModel, Release
from recsys_plugin.client.results import RankedItems, ScoredItem
from recsys_plugin.errors import InferenceUnavailable, ServiceUnavailable
from recsys_plugin.features.plan import FeatureTensors
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.explanation import FEATURE_GROUPS, FIGURES, MOST_EXPLAINED, REASON_ROWS
from recsys_plugin.inference.tensors import Array

__all__ = ["explained"]

#: Texts less alike than this are not called alike.
_ALIKE = 0.5
#: An item is popular in its category up to this rank.
_POPULAR = 10
#: What is said of an item about which nothing was computed.
_NOTHING = Explanation(None, (), None, None)


def explained(
    context: RequestContext, tensors: FeatureTensors, line: int, items: RankedItems
) -> Generator[Infer, Any, RankedItems]:
    """The same items with explanations.

    Of items that are newer than the catalogue the figures tell as well, if the model takes them; what the user did
    with one before is not known.

    Args:
        tensors: the features that the items were ranked with. line: the user's.

    If they cannot be had, the items come without them, and the page says why.

    Raises:
        InferenceUnavailable: in a strict context, if the served version has no model that explains, or Triton fails.
    """
    try:
        return (yield from _explained(context, tensors, line, items))
    except ServiceUnavailable as error:
        context.miss("explanations", error)
        return items


def _explained(
    context: RequestContext, tensors: FeatureTensors, line: int, items: RankedItems
) -> Generator[Infer, Any, RankedItems]:
    release = context.release
    model = release.models.get("explain")
    if model is None:
        raise InferenceUnavailable(
            f"version {release.version} has no model `explain`: it was exported before there was one. "
            "Run `recsys export`, then `recsys models load`."
        )
    size = len(release.catalogue)
    rows = [release.row(item_id) for item_id in items.item_ids]
    # Those of the catalogue first, as the model answers.
    asked = [row for row in rows if row is not None and row < size]
    if model.item_width:
        asked += [row for row in rows if row is not None and row >= size]
    told: dict[int, tuple[Array, Array]] = {}
    for start in range(0, len(asked), MOST_EXPLAINED):
        part = asked[start : start + MOST_EXPLAINED]
        call, places = _call(release, model, tensors, line, part)
        answer: dict[str, Array] = yield call
        told.update(
            (row, (answer["values"][0, at], answer["reason_rows"][0, at])) for row, at in zip(part, places, strict=True)
        )
    context.end_of("inference")
    acts = own_acts(model.plan.contract, tensors, line)

    def item(place: int) -> ScoredItem:
        made, row = items[place], rows[place]
        if row is None or row not in told:
            return replace(made, explanation=_NOTHING)
        values, near = told[row]
        figures = dict(zip(model.value_columns, values.tolist(), strict=True))
        nearest = dict(zip(REASON_ROWS, near.tolist(), strict=True))
        return replace(made, explanation=_explanation(context, made, row, figures, nearest, acts))

    return RankedItems(len(items), lambda: items.item_ids, item)


def _call(
    release: Release, model: PersonalModel, tensors: FeatureTensors, line: int, rows: Sequence[int]
) -> tuple[Infer, list[int]]:
    """The call that explains some rows, those of the catalogue first, and where each is in its answer."""
    size = len(release.catalogue)
    old, new = [row for row in rows if row < size], [row - size for row in rows if row >= size]
    # No tensor may be empty: a row of -1 and an item of zeros stand for nothing, and what comes of them is ignored.
    inputs: dict[str, Array] = {
        "user_float": tensors.user_float[line : line + 1],
        "user_int": tensors.user_int[line : line + 1],
        "user_string": tensors.user_string[line : line + 1],
        "candidate_rows": np.array([old or [-1]], dtype=np.int64),
    }
    first_new = lines = max(1, len(old))
    if model.item_width:
        nothing = np.zeros((1, model.item_width), np.float32)
        inputs["new_items"] = (release.new_items.packed[new] if new else nothing)[np.newaxis]
        lines += max(1, len(new))
    outputs = {
        "values": OutputSpec("FP32", (1, lines, len(model.value_columns))),
        "reason_rows": OutputSpec("INT64", (1, lines, len(REASON_ROWS))),
    }
    return Infer("explain", release.version, inputs, outputs), [
        *range(len(old)),
        *range(first_new, first_new + len(new)),
    ]


def _explanation(
    context: RequestContext,
    item: ScoredItem,
    row: int,
    figures: Mapping[str, float],
    nearest: Mapping[str, int],
    acts: Mapping[int, OwnActs],
) -> Explanation:
    added = {name: value for name, value in figures.items() if name not in FIGURES}
    contributions = [Contribution(name, FEATURE_GROUPS.get(name, name), value) for name, value in added.items()]
    contributions.sort(key=lambda each: -abs(each.value))
    possible = _reasons(context, item, row, figures, nearest, acts)
    # Of what can be said, that which counted most.
    _, reason = max(possible, key=lambda each: added.get(each[0], 0.0), default=("", None))
    if reason is not None:
        date = "" if reason.moment is None else english_date(reason.moment, context.now)
        reason = replace(reason, text=reason_text(reason, date))
    return Explanation(reason, tuple(contributions), figures["base"], figures["logit"])


def _reasons(
    context: RequestContext,
    item: ScoredItem,
    row: int,
    figures: Mapping[str, float],
    nearest: Mapping[str, int],
    acts: Mapping[int, OwnActs],
) -> list[tuple[str, Reason]]:
    """What can truly be said, each with the group of features that it belongs to, the nearest first."""
    found: list[tuple[str, Reason]] = []
    own = acts.get(row)
    if own is not None:
        often = own.kind == "bought" and (own.times or 0) > 1
        found.append(
            ("own_history", Reason("bought_often" if often else own.kind, "", None, None, own.moment, own.times))
        )
    for group, kind, name, figure, least in (
        ("bought_together", "goes_with", "companion", "companion_weight", 0.0),
        ("likeness", "like", "nearest", "nearest_cosine", _ALIKE),
    ):
        other = nearest[name]
        did = acts.get(other)
        if did is not None and figures[figure] > least:
            title, _, _ = context.release.shown(other)
            about = Reason(f"{kind}_{did.kind}", "", context.release.item_id(other), title, did.moment, did.times)
            found.append((group, about))
    rank = int(figures["category_rank"])
    if 0 < rank <= _POPULAR and item.category:
        found.append(("popularity", Reason("popular", "", category=item.category, rank=rank)))
    return found
