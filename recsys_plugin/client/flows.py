"""Each request, written once from arguments to page.

A flow is a generator. Where it needs a server it yields a call (:class:`ReadFeatures`, :class:`Infer`) and is sent
the answer; what lies between is arithmetic. :class:`Recommender` and :class:`AsyncRecommender` drive the same
flows, one blocking and one awaiting.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.arguments import (
    MOST_CANDIDATES,
    MOST_USERS,
    checked_candidates,
    checked_k,
    checked_query,
)
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.pages import SCORES, line_of, page, page_items
from recsys_plugin.client.release import PersonalModel, Release
from recsys_plugin.client.results import Page, RankedItems
from recsys_plugin.client.shelf_rules import ShelfPolicy, fetch_vectors, shelf_policy
from recsys_plugin.errors import ReleaseChanged
from recsys_plugin.features.plan import FeatureReport, FeatureTensors, ReadFeatures
from recsys_plugin.identifiers import checked_id, checked_ids
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.new_items import item_text
from recsys_plugin.inference.tensors import Array
from recsys_plugin.policy.page import SearchBlend

__all__ = ["Flow", "rank", "recommend", "search", "similar_items"]

#: What the tokenizer makes of a query.
_TOKENS = {"input_ids": OutputSpec("INT64", (1, -1)), "attention_mask": OutputSpec("INT64", (1, -1))}

#: A request: yields calls, is sent their answers, returns pages.
Flow = Generator[ReadFeatures | Infer, Any, list[Page]]


def recommend(
    context: RequestContext, user_ids: Iterable[object], k: object, *, exclude: Iterable[object], candidates: object
) -> Flow:
    """A page for each user: candidates from the index, ranked by the click model."""
    users = checked_ids(user_ids, "user_ids", most=MOST_USERS)
    wanted, excluded = checked_k(k), _known_rows(context.release, exclude)
    exploration = context.exploration
    pool = max(wanted, exploration.pool) if exploration.explores else wanted
    count = _candidate_count(context.release, pool, checked_candidates(candidates))
    policy = shelf_policy(context, "recommend")
    if policy is not None:
        pool = policy.results(pool, count)
    model = context.release.models["recommend"]
    if wanted == 0:
        return [page(context, "recommend", user_id, RankedItems(), None) for user_id in users]
    pages: list[Page] = []
    for start in range(0, len(users), model.max_batch_size):
        batch = users[start : start + model.max_batch_size]
        tensors, reports = yield from _read_features(context, model, batch)
        answer = yield from _infer(
            context,
            "recommend",
            {
                **_user_inputs(tensors),
                **_retrieval_inputs(context.release, excluded, count, pool, len(batch), policy, batch),
            },
            _outputs(model, len(batch), "rows", "retrieval_scores", *SCORES),
        )
        if context.release.new_items:
            answer = _beside(answer, (yield from _new_items(context, tensors)))
        yield from fetch_vectors(context, "recommend", answer["rows"], answer["scores"])
        for number, user_id in enumerate(batch):
            outputs = line_of("recommend", answer, number)
            scores = outputs["scores"]
            items = page_items(
                context, "recommend", outputs, scores, "retrieval_scores", excluded, wanted, explore=user_id
            )
            pages.append(page(context, "recommend", user_id, items, reports[number]))
    return pages


def rank(context: RequestContext, user_id: object, item_ids: Iterable[object]) -> Flow:
    """The given items, ranked for a user by the click model."""
    user = checked_id(user_id, "user_id")
    rows, unknown = _asked_rows(context.release, item_ids)
    if not rows.size:
        return [page(context, "rank", user, RankedItems(), None, unknown)]
    model = context.release.models["rank"]
    tensors, (report,) = yield from _read_features(context, model, [user])
    size = len(context.release.catalogue)
    old, new = rows[rows < size], rows[rows >= size]
    answer: dict[str, Array] = {}
    if old.size:
        inputs = {**_user_inputs(tensors), "candidate_rows": old[np.newaxis]}
        answer = yield from _infer(context, "rank", inputs, _outputs(model, 1, *SCORES, length=old.size))
        answer["rows"] = old[np.newaxis]
    if new.size:
        scored = yield from _new_items(context, tensors, new - size)
        answer = _beside(answer, scored) if answer else scored
    yield from fetch_vectors(context, "rank", answer["rows"], answer["scores"])
    outputs = line_of("rank", answer, 0)
    items = page_items(context, "rank", outputs, outputs["scores"], None, (), rows.size, user_id=user)
    return [page(context, "rank", user, items, report, unknown)]


def search(
    context: RequestContext,
    user_id: object,
    query: object,
    k: object,
    *,
    exclude: Iterable[object],
    candidates: object,
    blend: SearchBlend,
) -> Flow:
    """Items whose text fits the query, ordered by relevance with a touch of the user's taste."""
    user = None if user_id is None else checked_id(user_id, "user_id")
    text, wanted, excluded = checked_query(query), checked_k(k), _known_rows(context.release, exclude)
    count = _candidate_count(context.release, wanted, checked_candidates(candidates))
    if wanted == 0:
        return [page(context, "search", user, RankedItems(), None)]
    model = context.release.models["search"]
    report: FeatureReport | None = None
    if user is None:
        tensors, blend = _nobody(context, model), SearchBlend(personal_weight=0.0)
    else:
        tensors, (report,) = yield from _read_features(context, model, [user])
    words = _text(text)
    if model.takes_tokens:
        words = yield from _infer(context, "tokenizer", words, _TOKENS)
    policy = shelf_policy(context, "search")
    retrieval = _retrieval_inputs(context.release, excluded, count, wanted, 1, policy, [user])
    answer = yield from _infer(
        context,
        "search",
        {**_user_inputs(tensors), **words, **retrieval},
        _outputs(model, 1, "rows", "relevance", *SCORES),
    )
    if context.release.new_items:
        tokens = words if model.takes_tokens else (yield from _infer(context, "tokenizer", words, _TOKENS))
        encoded = yield from _infer(context, "text_encoder", tokens, {"text_embedding": OutputSpec("FP32", (1, -1))})
        scored = yield from _new_items(context, tensors)
        scored["relevance"] = encoded["text_embedding"] @ context.release.new_items.texts.T
        answer = _beside(answer, scored)
    outputs = line_of("search", answer, 0)
    scores = blend.scores(outputs["rows"], outputs["relevance"], outputs["scores"])
    yield from fetch_vectors(context, "search", outputs["rows"][np.newaxis], scores[np.newaxis])
    items = page_items(context, "search", outputs, scores, "relevance", excluded, wanted, user_id=user)
    return [page(context, "search", user, items, report)]


def similar_items(
    context: RequestContext, item_id: object, k: object, *, exclude: Iterable[object], candidates: object
) -> Flow:
    """The items nearest to one item, which is not among them.

    Of an item that is newer than the catalogue only the text is known: nearest to it is what has the most similar text.
    """
    item, wanted = checked_id(item_id, "item_id"), checked_k(k)
    excluded = _known_rows(context.release, exclude)
    count = _candidate_count(context.release, wanted, checked_candidates(candidates))
    row = context.release.row(item)
    if row is None or wanted == 0:
        return [page(context, "similar", None, RankedItems(), None, () if row is not None else (item,))]
    excluded |= {row}
    retrieval = _retrieval_inputs(context.release, excluded, count, wanted, 1, shelf_policy(context, "similar"))
    if row < len(context.release.catalogue):
        answer = yield from _infer(
            context,
            "similar",
            {"item_row": np.array([[row]], dtype=np.int64), **retrieval},
            {"rows": OutputSpec("INT64", (1, -1)), "similarity": OutputSpec("FP32", (1, -1))},
        )
    else:
        answer = yield from _similar_texts(context, row - len(context.release.catalogue), retrieval)
    yield from fetch_vectors(context, "similar", answer["rows"], answer["similarity"])
    outputs = line_of("similar", answer, 0)
    items = page_items(context, "similar", outputs, outputs["similarity"], "similarity", excluded, wanted)
    return [page(context, "similar", None, items, None)]


def _similar_texts(
    context: RequestContext, place: int, retrieval: Mapping[str, Array]
) -> Generator[Infer, Any, dict[str, Array]]:
    """Rows of the catalogue and of new items, and the cosine of their texts to that of one new item."""
    new, model = context.release.new_items, context.release.models["search"]
    facts = new.facts[place]
    words = _text(item_text(facts.title, facts.category, facts.brand))
    if model.takes_tokens:
        words = yield from _infer(context, "item_tokenizer", words, _TOKENS)
    found = yield from _infer(
        context,
        "search",
        {**_user_inputs(_nobody(context, model)), **words, **retrieval},
        _outputs(model, 1, "rows", "relevance"),
    )
    answer = {"rows": found["rows"], "similarity": found["relevance"]}
    rows = np.arange(len(new), dtype=np.int64) + len(context.release.catalogue)
    return _beside(answer, {"rows": rows[np.newaxis], "similarity": new.texts[place : place + 1] @ new.texts.T})


def _nobody(context: RequestContext, model: PersonalModel) -> FeatureTensors:
    """Nobody's features: every one at its default."""
    nothing = [[None] * len(model.plan.fields)]
    return model.plan.decode([""], nothing, now=context.now, rows=context.release.catalogue.rows)[0]


def _text(text: str) -> dict[str, Array]:
    """What a tokenizer takes."""
    query = np.empty((1, 1), dtype=object)
    query[0, 0] = text.encode()
    return {"query": query}


def _read_features(
    context: RequestContext, model: PersonalModel, user_ids: Sequence[str]
) -> Generator[ReadFeatures, Any, tuple[FeatureTensors, tuple[FeatureReport, ...]]]:
    """One round trip to Redis for all users, decoded into the model's tensors."""
    plan = model.plan
    replies = yield ReadFeatures([plan.key(user_id) for user_id in user_ids], plan.fields)
    decoded = plan.decode(user_ids, replies, now=context.now, rows=context.release.catalogue.rows)
    context.features = {user_id: (decoded[0], line) for line, user_id in enumerate(user_ids)}
    context.end_of("features")
    return decoded


def _infer(
    context: RequestContext, model: str, inputs: Mapping[str, Array], outputs: Mapping[str, OutputSpec]
) -> Generator[Infer, Any, dict[str, Array]]:
    """Call a model of this release, and make sure that each of its steps was of this release too."""
    release = context.release
    users = len(next(iter(inputs.values())))
    told = {name: OutputSpec("INT64", (users, 1)) for name in release.step_versions.get(model, ())}
    answer: dict[str, Array] = yield Infer(model, release.version, inputs, {**outputs, **told})
    context.end_of("inference")
    personal = release.models.get(model)
    if personal is not None and personal.value_columns:
        values = answer.pop("values")
        answer.update((name, values[..., at]) for at, name in enumerate(personal.value_columns))
    for name in told:
        versions = answer.pop(name)
        if (versions != release.version).any():
            other = int(versions[versions != release.version][0])
            raise ReleaseChanged(
                f"model {model} version {release.version}: its {name} is {other}, so another version is being loaded "
                "and row numbers may mean other items; call again"
            )
    return answer


def _new_items(
    context: RequestContext, tensors: FeatureTensors, places: NDArray[np.int64] | None = None
) -> Generator[Infer, Any, dict[str, Array]]:
    """Scores of items that the catalogue lacks, of all or of those at some places, for each user."""
    release = context.release
    packed = release.new_items.packed if places is None else release.new_items.packed[places]
    rows = (np.arange(len(packed)) if places is None else places) + len(release.catalogue)
    users, columns = len(tensors.user_float), len(release.models["rank_new"].value_columns)
    answer = yield from _infer(
        context,
        "rank_new",
        {**_user_inputs(tensors), "new_items": np.repeat(packed[np.newaxis], users, axis=0)},
        {"values": OutputSpec("FP32", (users, len(packed), columns))},
    )
    answer["rows"] = np.repeat(rows[np.newaxis], users, axis=0)
    return answer


def _beside(answer: Mapping[str, Array], others: Mapping[str, Array]) -> dict[str, Array]:
    """Two answers' candidates in one, of each what the first answer says of its own."""
    return {name: np.concatenate([array, others[name]], axis=1) for name, array in answer.items()}


def _asked_rows(release: Release, item_ids: Iterable[object]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The distinct rows of the items asked for, ascending, and the ids that are not known, in the order given."""
    unknown: tuple[str, ...] = ()
    if isinstance(item_ids, list | tuple) and len(item_ids) <= MOST_CANDIDATES:
        try:
            # Nearly always all ids are in the catalogue, and what is there needs no closer look.
            rows = np.fromiter(map(release.catalogue.rows.__getitem__, item_ids), np.int64, len(item_ids))
        except (KeyError, TypeError):
            rows, unknown = _looked_up(release, item_ids)
    else:
        rows, unknown = _looked_up(release, item_ids)
    rows.sort()
    return np.unique(rows) if (rows[1:] == rows[:-1]).any() else rows, unknown


def _looked_up(release: Release, item_ids: Iterable[object]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The rows of ids of any kind, each checked."""
    known = release.catalogue.rows
    asked = dict.fromkeys(checked_ids(item_ids, "item_ids", most=MOST_CANDIDATES, known=known))
    found = release.rows(asked)
    unknown = tuple(item_id for item_id, row in zip(asked, found, strict=True) if row is None)
    return np.array([row for row in found if row is not None], dtype=np.int64), unknown


def _known_rows(release: Release, item_ids: Iterable[object]) -> set[int]:
    """Rows of the items to leave out; an id that is not known cannot come up anyway."""
    rows = (release.row(item_id) for item_id in checked_ids(item_ids, "exclude", most=MOST_CANDIDATES))
    return {row for row in rows if row is not None}


def _candidate_count(release: Release, wanted: int, candidates: int) -> int:
    return max(1, min(max(wanted, candidates), len(release.catalogue)))


def _user_inputs(tensors: FeatureTensors) -> dict[str, Array]:
    return {
        "user_float": tensors.user_float,
        "user_int": tensors.user_int,
        "user_string": tensors.user_string,
    }


def _retrieval_inputs(
    release: Release,
    excluded: Collection[int],
    count: int,
    wanted: int,
    users: int,
    policy: ShelfPolicy | None = None,
    user_ids: Sequence[str | None] = (None,),
) -> dict[str, Array]:
    """Exclusions of each user, and the same counts: what is sold out, or against the rules, need not be found.

    With rules it must be known who the users are, since what one had already is excluded for him alone.

    -1 pads exclusions to a power of two: no tensor may be empty, and Triton batches requests of equal shape only.
    """
    size = len(release.catalogue)
    told = np.array(sorted(row for row in excluded if row < size), np.int64)
    if release.sold_out.size and (policy is None or policy.rules.least_stock > 0):
        told = np.concatenate([told, release.sold_out[release.sold_out < size]])
    # A row that comes twice is excluded once.
    lines = [told] if policy is None else [np.concatenate([told, policy.excluded_rows(user)]) for user in user_ids]
    longest = max(1, *map(len, lines))
    rows = np.full((users, 1 << (longest - 1).bit_length()), -1, dtype=np.int64)
    # Without rules all users have the same line.
    for number, line in enumerate(lines):
        rows[slice(None) if policy is None else number, : len(line)] = line
    return {"excluded_rows": rows, "counts": np.repeat(np.array([[count, wanted]], np.int64), users, axis=0)}


def _outputs(model: PersonalModel, users: int, *names: str, length: int = -1) -> dict[str, OutputSpec]:
    """What to ask a model for: those of the names that it has, packed into one tensor if it packs them."""
    wanted = {name: OutputSpec("INT64" if name == "rows" else "FP32", (users, length)) for name in names}
    if model.value_columns:
        wanted["values"] = OutputSpec("FP32", (users, length, len(model.value_columns)))
    return {name: wanted[name] for name in wanted if name in model.outputs}
