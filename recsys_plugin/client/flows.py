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

from recsys_plugin.client.arguments import checked_candidates, checked_k
from recsys_plugin.client.cached_features import read_or_recall
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.explaining import explained
from recsys_plugin.client.pages import SCORES, line_of, page, page_items
from recsys_plugin.client.release import PersonalModel, Release
from recsys_plugin.client.results import Page, RankedItems
from recsys_plugin.client.segments import segment_lifts
from recsys_plugin.client.shelf_rules import ShelfPolicy, fetch_vectors, shelf_policy
from recsys_plugin.consent.consent import CONSENT_FIELD
from recsys_plugin.errors import ReleaseChanged
from recsys_plugin.features.plan import FeatureReport, FeatureTensors, ReadFeatures
from recsys_plugin.identifiers import checked_id, checked_ids
from recsys_plugin.inference.calls import Infer, OutputSpec
from recsys_plugin.inference.new_items import item_text
from recsys_plugin.inference.tensors import Array
from recsys_plugin.limits import MOST_CANDIDATES, MOST_USERS

__all__ = [
    "Flow",
    "beside",
    "candidate_count",
    "encode_text",
    "infer",
    "known_rows",
    "known_vector",
    "new_item_texts",
    "nobody",
    "padded_rows",
    "rank",
    "read_features",
    "recommend",
    "retrieval_inputs",
    "score_new_items",
    "score_rows",
    "similar_items",
    "text_inputs",
    "tokenize",
    "user_inputs",
    "wanted_outputs",
]

#: What the tokenizer makes of a query.
_TOKENS = {"input_ids": OutputSpec("INT64", (1, -1)), "attention_mask": OutputSpec("INT64", (1, -1))}

#: A request: yields calls, is sent their answers, returns pages.
Flow = Generator[ReadFeatures | Infer, Any, list[Page]]


def recommend(
    context: RequestContext,
    user_ids: Iterable[object],
    k: object,
    *,
    exclude: Iterable[object],
    candidates: object,
    explain: bool = False,
) -> Flow:
    """A page for each user: candidates from the index, ranked by the click model."""
    users = checked_ids(user_ids, "user_ids", most=MOST_USERS)
    wanted, excluded = checked_k(k), known_rows(context.release, exclude)
    exploration = context.exploration
    pool = max(wanted, exploration.pool) if exploration.explores else wanted
    count = candidate_count(context.release, pool, context.to_consider(checked_candidates(candidates)))
    context.considered = count
    policy = shelf_policy(context, "recommend")
    if policy is not None:
        pool = policy.results(pool, count)
    lifts = segment_lifts(context)
    if lifts is not None:
        pool = count
    model = context.release.models["recommend"]
    if wanted == 0:
        return [page(context, "recommend", user_id, RankedItems(), None) for user_id in users]
    pages: list[Page] = []
    for start in range(0, len(users), model.max_batch_size):
        batch = users[start : start + model.max_batch_size]
        tensors, reports = yield from read_features(context, model, batch)
        answer = yield from infer(
            context,
            "recommend",
            {**user_inputs(tensors), **retrieval_inputs(context.release, excluded, count, pool, batch, policy)},
            wanted_outputs(model, len(batch), "rows", "retrieval_scores", *SCORES),
        )
        if context.release.new_items:
            answer = beside(answer, (yield from score_new_items(context, tensors)))
        yield from fetch_vectors(context, "recommend", answer["rows"], answer["scores"])
        for number, user_id in enumerate(batch):
            outputs = line_of("recommend", answer, number)
            if lifts is not None and not reports[number].known:
                outputs["scores"] = outputs["scores"] * lifts[outputs["rows"]]
            scores = outputs["scores"]
            items = page_items(
                context, "recommend", outputs, scores, "retrieval_scores", excluded, wanted, explore=user_id
            )
            if explain:
                items = yield from explained(context, tensors, number, items)
            pages.append(page(context, "recommend", user_id, items, reports[number]))
    return pages


def rank(context: RequestContext, user_id: object, item_ids: Iterable[object], *, explain: bool = False) -> Flow:
    """The given items, ranked for a user by the click model."""
    user = checked_id(user_id, "user_id")
    rows, unknown = _asked_rows(context.release, item_ids)
    if not rows.size:
        return [page(context, "rank", user, RankedItems(), None, unknown)]
    model = context.release.models["rank"]
    tensors, (report,) = yield from read_features(context, model, [user])
    outputs = yield from score_rows(context, tensors, rows)
    yield from fetch_vectors(context, "rank", outputs["rows"][np.newaxis], outputs["scores"][np.newaxis])
    items = page_items(context, "rank", outputs, outputs["scores"], None, (), rows.size, user_id=user)
    if explain:
        items = yield from explained(context, tensors, 0, items)
    return [page(context, "rank", user, items, report, unknown)]


def score_rows(
    context: RequestContext, tensors: FeatureTensors, rows: NDArray[np.int64]
) -> Generator[Infer, Any, dict[str, Array]]:
    """What the click model says of some items for one user.

    Args:
        tensors: the user's features, as the model ``rank`` takes them.
        rows: ``[n]`` of the catalogue and of new items, ascending, one at least.

    Returns:
        ``rows`` again and those of :data:`SCORES` that the model has, each ``[n]``.
    """
    model, size = context.release.models["rank"], len(context.release.catalogue)
    old, new = rows[rows < size], rows[rows >= size]
    answer: dict[str, Array] = {}
    if old.size:
        inputs = {**user_inputs(tensors), "candidate_rows": old[np.newaxis]}
        answer = yield from infer(context, "rank", inputs, wanted_outputs(model, 1, *SCORES, length=old.size))
        answer["rows"] = old[np.newaxis]
    if new.size:
        scored = yield from score_new_items(context, tensors, new - size)
        answer = beside(answer, scored) if answer else scored
    return line_of("rank", answer, 0)


def similar_items(
    context: RequestContext, item_id: object, k: object, *, exclude: Iterable[object], candidates: object
) -> Flow:
    """The items nearest to one item, which is not among them.

    Of an item that is newer than the catalogue only the text is known: nearest to it is what has the most similar text.
    """
    item, wanted = checked_id(item_id, "item_id"), checked_k(k)
    excluded = known_rows(context.release, exclude)
    count = candidate_count(context.release, wanted, checked_candidates(candidates))
    row = context.release.row(item)
    if row is None or wanted == 0:
        return [page(context, "similar", None, RankedItems(), None, () if row is not None else (item,))]
    excluded |= {row}
    retrieval = retrieval_inputs(context.release, excluded, count, wanted, [None], shelf_policy(context, "similar"))
    if row < len(context.release.catalogue):
        answer = yield from infer(
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
    words = new_item_texts(context.release, [place], model)
    nothing: dict[str, Array] = {"lexical_rows": padded_rows([np.empty(0, np.int64)])}
    found = yield from infer(
        context,
        "search",
        {**user_inputs(nobody(context, model)), **words, **nothing, **retrieval},
        wanted_outputs(model, 1, "rows", "relevance"),
    )
    answer = {"rows": found["rows"], "similarity": found["relevance"]}
    rows = np.arange(len(new), dtype=np.int64) + len(context.release.catalogue)
    return beside(answer, {"rows": rows[np.newaxis], "similarity": new.texts[place : place + 1] @ new.texts.T})


def nobody(context: RequestContext, model: PersonalModel) -> FeatureTensors:
    """Nobody's features: every one at its default."""
    nothing = [[None] * len(model.plan.fields)]
    return model.plan.decode([""], nothing, now=context.now, rows=context.release.catalogue.rows)[0]


def text_inputs(text: str) -> dict[str, Array]:
    """What a tokenizer takes."""
    query = np.empty((1, 1), dtype=object)
    query[0, 0] = text.encode()
    return {"query": query}


def new_item_texts(release: Release, places: Sequence[int], model: PersonalModel) -> dict[str, Array]:
    """What the search model is to look for to find what is like some new items: their vectors, which are known, or
    their texts where it takes nothing else."""
    if model.vector_width:
        return known_vector(release.new_items.texts[list(places)])
    words = np.empty((len(places), 1), dtype=object)
    for line, place in enumerate(places):
        facts = release.new_items.facts[place]
        words[line, 0] = item_text(facts.title, facts.category, facts.brand).encode()
    return {"query": words}


def known_vector(vectors: Array) -> dict[str, Array]:
    """What a search model that encodes queries takes instead of their tokens: their unit vectors ``[B, D]``."""
    none = np.zeros((len(vectors), 1), np.int64)
    return {"input_ids": none, "attention_mask": none, "known_embedding": vectors}


def tokenize(context: RequestContext, text: str) -> Generator[Infer, Any, dict[str, Array]]:
    """``input_ids`` and ``attention_mask`` of a query, int64 ``[1, T]``."""
    return (yield from infer(context, "tokenizer", text_inputs(text), _TOKENS))


def encode_text(context: RequestContext, text: str) -> Generator[Infer, Any, Array]:
    """The unit vector of a query, float32 ``[1, D]``."""
    tokens = yield from tokenize(context, text)
    encoded = yield from infer(context, "text_encoder", tokens, {"text_embedding": OutputSpec("FP32", (1, -1))})
    return encoded["text_embedding"]


def read_features(
    context: RequestContext, model: PersonalModel, user_ids: Sequence[str]
) -> Generator[ReadFeatures, Any, tuple[FeatureTensors, tuple[FeatureReport, ...]]]:
    """One round trip to Redis for all users, decoded into the model's tensors."""
    plan = model.plan
    call = ReadFeatures([plan.key(user_id) for user_id in user_ids], (*plan.fields, CONSENT_FIELD))
    try:
        decoded = yield from read_or_recall(context, plan, user_ids, call)
        context.features = {user_id: (decoded[0], line) for line, user_id in enumerate(user_ids)}
    finally:  # a call that failed took its time, too
        context.end_of("features")
    return decoded


def infer(
    context: RequestContext, model: str, inputs: Mapping[str, Array], outputs: Mapping[str, OutputSpec]
) -> Generator[Infer, Any, dict[str, Array]]:
    """Call a model of this release, and make sure that each of its steps was of this release too."""
    release = context.release
    users = len(next(iter(inputs.values())))
    told = {name: OutputSpec("INT64", (users, 1)) for name in release.step_versions.get(model, ())}
    traceparent = None if context.trace is None else context.trace.call(model)
    try:
        answer: dict[str, Array] = yield Infer(model, release.version, inputs, {**outputs, **told}, traceparent)
    finally:  # a call that failed took its time, too
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


def score_new_items(
    context: RequestContext, tensors: FeatureTensors, places: NDArray[np.int64] | None = None
) -> Generator[Infer, Any, dict[str, Array]]:
    """Scores of items that the catalogue lacks, of all or of those at some places, for each user."""
    release = context.release
    packed = release.new_items.packed if places is None else release.new_items.packed[places]
    rows = (np.arange(len(packed)) if places is None else places) + len(release.catalogue)
    users, columns = len(tensors.user_float), len(release.models["rank_new"].value_columns)
    answer = yield from infer(
        context,
        "rank_new",
        {**user_inputs(tensors), "new_items": np.repeat(packed[np.newaxis], users, axis=0)},
        {"values": OutputSpec("FP32", (users, len(packed), columns))},
    )
    answer["rows"] = np.repeat(rows[np.newaxis], users, axis=0)
    return answer


def beside(answer: Mapping[str, Array], others: Mapping[str, Array]) -> dict[str, Array]:
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


def known_rows(release: Release, item_ids: Iterable[object]) -> set[int]:
    """Rows of the items to leave out; an id that is not known cannot come up anyway."""
    rows = (release.row(item_id) for item_id in checked_ids(item_ids, "exclude", most=MOST_CANDIDATES))
    return {row for row in rows if row is not None}


def candidate_count(release: Release, wanted: int, candidates: int) -> int:
    """How many candidates to consider: no fewer than are wanted, no more than there are."""
    return max(1, min(max(wanted, candidates), len(release.catalogue)))


def user_inputs(tensors: FeatureTensors) -> dict[str, Array]:
    """The packed features under their input names."""
    return {
        "user_float": tensors.user_float,
        "user_int": tensors.user_int,
        "user_string": tensors.user_string,
    }


def retrieval_inputs(
    release: Release,
    excluded: Collection[int] | NDArray[np.int64],
    count: int,
    wanted: int,
    users: Sequence[str | None],
    policy: ShelfPolicy | None = None,
) -> dict[str, Array]:
    """Exclusions of each user, and the same counts: what is sold out, or against the rules, need not be found."""
    size = len(release.catalogue)
    told = excluded if isinstance(excluded, np.ndarray) else np.fromiter(excluded, np.int64, len(excluded))
    if release.sold_out.size and (policy is None or policy.rules.least_stock > 0):
        told = np.concatenate([told, release.sold_out])
    if policy is None:
        lines = [np.unique(told[told < size])] * len(users)
    else:
        every = (np.concatenate([told, policy.excluded_rows(user)]) for user in users)
        lines = [np.unique(line[line < size]) for line in every]
    return {
        "excluded_rows": padded_rows(lines),
        "counts": np.repeat(np.array([[count, wanted]], np.int64), len(users), axis=0),
    }


def padded_rows(lines: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Rows of each user, ``[users, n]``.

    -1 pads them to a power of two: no tensor may be empty, and Triton batches requests of equal shape only.
    """
    longest = max(1, *map(len, lines))
    padded = np.full((len(lines), 1 << (longest - 1).bit_length()), -1, dtype=np.int64)
    for number, line in enumerate(lines):
        padded[number, : len(line)] = line
    return padded


def wanted_outputs(model: PersonalModel, users: int, *names: str, length: int = -1) -> dict[str, OutputSpec]:
    """What to ask a model for: those of the names that it has, packed into one tensor if it packs them."""
    wanted = {name: OutputSpec("INT64" if name == "rows" else "FP32", (users, length)) for name in names}
    if model.value_columns:
        wanted["values"] = OutputSpec("FP32", (users, length, len(model.value_columns)))
    return {name: wanted[name] for name in wanted if name in model.outputs}
