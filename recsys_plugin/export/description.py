"""The model repository as one typed description, from which configurations and documentation are derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.inference.explanation import EXPLAINED, ITEM_WIDTH, REASON_ROWS
from recsys_plugin.training.communities import MOST_CATEGORIES, MOST_ITEMS

__all__ = [
    "BEST_RESULTS",
    "COUNTS",
    "KNOWN_EMBEDDING",
    "PACK_VALUES",
    "QUERY_VECTOR",
    "VALUE_COLUMNS",
    "VERSION",
    "Model",
    "Step",
    "Tensor",
    "describe_repository",
    "own_row_count",
]

#: Users or queries in one request, at most.
MAX_BATCH = 64
#: The name of the tensor by which a request says how much it wants.
COUNTS = "counts"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor; ``dims`` leave the batch out, -1 is any size. ``datatype`` is Triton's: FP32, INT64 or STRING."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an ensemble: maps from the step model's tensor names to the ensemble's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the repository; an ensemble if it has steps. Its newest ``served_versions`` are served.

    ``merged_from`` are the steps whose graphs were joined into one; they need not be in the repository themselves.
    """

    name: str
    purpose: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...] = ()
    backend: str = "onnxruntime"
    max_batch: int = MAX_BATCH
    parameters: Mapping[str, str] = field(default_factory=dict)
    served_versions: int = 2
    merged_from: tuple[Step, ...] = ()

    @property
    def is_ensemble(self) -> bool:
        """Whether Triton only ties other models together under this name."""
        return bool(self.steps)


#: Steps that only merged graphs have: the best of all ranked candidates, their values in a single tensor, and the
#: vector of a text, which is made only where it is not known.
BEST_RESULTS, PACK_VALUES, QUERY_VECTOR = "best_results", "pack_values", "query_vector"
#: The tensor by which a request brings the vector of a text along, instead of tokens.
KNOWN_EMBEDDING = "known_embedding"
#: The parameter that names the columns of the tensor ``values``, separated by commas.
VALUE_COLUMNS = "value_columns"
#: The output by which a graph says which version of it answered.
VERSION = Tensor("version", "INT64", (1,), "the version that answered")


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def own_row_count(contract: FeatureContract) -> int:
    """How many of his own items a user brings as candidates: those of his list features."""
    return sum(spec.width for spec in contract.features if spec.encoding == "row" and spec.is_list)


def describe_repository(
    contract: FeatureContract, *, vector: int, text_vector: int, own_rows: int, item: int
) -> tuple[Model, ...]:
    """Describe every model.

    Args:
        contract: the feature contract of the ranking models; its JSON goes into the ensembles' parameters.
        vector: width of the common space of users and items.
        text_vector: width of the text encoder's vectors.
        own_rows: how many of his own items a user brings as candidates.
        item: width of the packed row of an item newer than the snapshot.
    """
    # It describes with the values of this module.
    from recsys_plugin.export.tables import table_models

    widths = {str(name): width for name, width in contract.widths.items()}
    user = (
        Tensor("user_float", "FP32", (widths["user_float"],), "packed float features, in contract order"),
        Tensor("user_int", "INT64", (widths["user_int"],), "packed integers, times (seconds) and catalogue rows"),
        Tensor("user_string", "STRING", (widths["user_string"],), "packed text features"),
    )
    user_names = tuple(tensor.name for tensor in user)
    user_vector = Tensor("user_vector", "FP32", (vector,), "unit vector of the user")
    own = Tensor("own_rows", "INT64", (own_rows,), "rows that are candidates whatever they score; -1 pads")
    excluded = Tensor("excluded_rows", "INT64", (-1,), "rows never to return; -1 pads")
    counts = Tensor(COUNTS, "INT64", (2,), "how many candidates to consider, and how many results to return")
    rows = Tensor("rows", "INT64", (-1,), "catalogue rows of the candidates, -1 where there are fewer")
    lexical = Tensor("lexical_rows", "INT64", (-1,), "rows that are candidates whatever their cosine; -1 pads")
    candidates = Tensor("candidate_rows", "INT64", (-1,), "catalogue rows to score; -1 pads")
    retrieval = Tensor("retrieval_scores", "FP32", (-1,), "cosines of user and candidate")
    relevance = Tensor("relevance", "FP32", (-1,), "cosines of query and candidate texts")
    similarity = Tensor("similarity", "FP32", (-1,), "cosines of the two items")
    query = Tensor("query", "STRING", (1,), "what the user typed")
    query_vector = Tensor("text_embedding", "FP32", (text_vector,), "unit vector of the text")
    tokens = (
        Tensor("input_ids", "INT64", (-1,), "token ids"),
        Tensor("attention_mask", "INT64", (-1,), "1 for a token, 0 for padding"),
    )
    basket = Tensor("basket_rows", "INT64", (-1,), "catalogue rows of the basket; -1 pads")
    item_row = Tensor("item_row", "INT64", (1,), "catalogue row")
    item_vector = Tensor("item_vector", "FP32", (vector,), "unit vector of the item")
    scores = (
        Tensor("scores", "FP32", (-1,), "what to rank by; higher is better"),
        Tensor("purchase_probability", "FP32", (-1,), "calibrated probability of a purchase; NaN if never trained"),
        Tensor("cart_probability", "FP32", (-1,), "calibrated probability of a cart; NaN if never trained"),
        Tensor("click_probability", "FP32", (-1,), "calibrated probability of a click; NaN if never trained"),
    )
    score_names = tuple(tensor.name for tensor in scores)
    neighbours = Tensor("pseudonyms", "INT64", (-1, 2), "users, nearest first, by the halves of their pseudonyms")
    user_cosines = Tensor("similarities", "FP32", (-1,), "cosines of the users")
    community = Tensor("community", "INT64", (1,), "number of a community, -1 for none")
    key_check = Tensor("key_check", "INT64", (2,), "tells whether two keys of pseudonyms are the same")
    item_texts = Tensor("item_string", "STRING", (3,), "category, subcategory and brand; empty where unknown")
    price = Tensor("price", "FP32", (1,), "price, NaN where unknown")
    packed = Tensor("item", "FP32", (item,), "all that `rank_new` needs of the item")
    new_items = Tensor("new_items", "FP32", (-1, item), "packed items, as `new_item` made them; zeros pad")
    new_columns = (retrieval.name, *score_names)
    meaning = ", ".join(f"{tensor.name} ({tensor.meaning})" for tensor in (retrieval, *scores))
    new_values = Tensor("values", "FP32", (-1, len(new_columns)), f"the columns {meaning}")

    # Triton refuses an ensemble that names a tensor which no later step takes, so each names what it uses.
    to_vector = Step("user_tower", _same(*user_names), _same("user_vector"))
    to_vector_and_own = Step("user_tower", _same(*user_names), _same("user_vector", "own_rows"))

    def ranking(candidate_name: str) -> Step:
        inputs = {**_same(*user_names, "user_vector"), "candidate_rows": candidate_name}
        return Step("ctr_ranker", inputs, _same(*score_names))

    carries = {"feature_contract": contract.to_json()}
    encode_text = Step("text_encoder", _same("input_ids", "attention_mask"), {"text_embedding": "encoded_text"})
    pack_item = Step(
        "item_encoder",
        _same("input_ids", "attention_mask", "encoded_text", "item_string", "price"),
        _same("item", "text_embedding"),
    )
    rank_packed = Step(
        "new_item_ranker", _same(*user_names, "user_vector", "new_items"), _same(retrieval.name, *score_names)
    )
    pack_values = Step(PACK_VALUES, _same(*new_columns), _same("values"))
    explained = (
        Tensor(
            "values",
            "FP32",
            (-1, len(EXPLAINED)),
            f"what each group adds to the score's log-odds, and figures: {', '.join(EXPLAINED)}",
        ),
        Tensor("reason_rows", "INT64", (-1, len(REASON_ROWS)), f"catalogue rows: {', '.join(REASON_ROWS)}; -1 is none"),
    )
    take_apart = Step(
        "explainer",
        _same(*user_names, "user_vector", candidates.name, new_items.name),
        _same(*(tensor.name for tensor in explained)),
    )
    return _answering_versions(
        Model(
            "recommend",
            "A user's features to ranked candidates: user tower, exact nearest items, CTR ranker.",
            (*user, excluded, counts),
            (rows, retrieval, *scores),
            (
                to_vector_and_own,
                Step(
                    "item_index",
                    {"query_vector": "user_vector", **_same("own_rows", "excluded_rows", COUNTS)},
                    {"rows": "rows", "similarities": "retrieval_scores"},
                ),
                ranking("rows"),
            ),
            parameters=carries,
        ),
        Model(
            "rank",
            "Scores for given candidates of a user.",
            (*user, candidates),
            scores,
            (to_vector, ranking("candidate_rows")),
            parameters=carries,
        ),
        Model(
            "search",
            "A user's words to candidates, scored for this user: tokenizer, text encoder, text index, CTR ranker.",
            (*user, query, lexical, excluded, counts),
            (rows, relevance, *scores),
            (
                Step("tokenizer", _same("query"), _same("input_ids", "attention_mask")),
                Step("text_encoder", _same("input_ids", "attention_mask"), _same("text_embedding")),
                Step(
                    "text_index",
                    {
                        "query_vector": "text_embedding",
                        "own_rows": "lexical_rows",
                        **_same("excluded_rows", COUNTS),
                    },
                    {"rows": "rows", "similarities": "relevance"},
                ),
                to_vector,
                ranking("rows"),
            ),
            parameters=carries,
        ),
        Model(
            "similar",
            "The items nearest to an item in the space of users and items.",
            (item_row, excluded, counts),
            (rows, similarity),
            (
                Step("item_embedding", _same("item_row"), _same("item_vector", "own_rows")),
                Step(
                    "item_index",
                    {"query_vector": "item_vector", **_same("own_rows", "excluded_rows", COUNTS)},
                    {"rows": "rows", "similarities": "similarity"},
                ),
            ),
        ),
        Model(
            "similar_users",
            "A user's features to the users nearest to him, as pseudonyms, and his community.",
            (*user, counts),
            (neighbours, user_cosines, community, key_check),
            (
                to_vector,
                Step(
                    "user_index",
                    _same("user_vector", COUNTS),
                    _same(neighbours.name, user_cosines.name, community.name, key_check.name),
                ),
            ),
            parameters=carries,
        ),
        Model(
            "communities",
            "What is told of a community of users.",
            (community,),
            (
                Tensor("members", "INT64", (1,), "how many users it had at the export; 0 for one that is not there"),
                Tensor(
                    "item_rows", "INT64", (MOST_ITEMS,), "catalogue rows of what they buy more than others; -1 pads"
                ),
                Tensor("categories", "STRING", (MOST_CATEGORIES,), "likewise; the empty text pads"),
            ),
        ),
        Model(
            "complements",
            "What goes with the items of a basket: weights of items bought together, added up; popular items if empty.",
            (basket, excluded, counts),
            (rows, Tensor("scores", "FP32", (-1,), "what to rank by; higher is better")),
        ),
        *table_models(),
        Model(
            "new_item",
            "An item newer than the snapshot to the row by which `rank_new` knows it, and its text's vector.",
            (*tokens, item_texts, price),
            (packed, query_vector),
            merged_from=(encode_text, pack_item),
        ),
        Model(
            "rank_new",
            "Scores of a user for items newer than the snapshot; each by itself, so that they may join any page.",
            (*user, new_items),
            (new_values,),
            parameters={**carries, VALUE_COLUMNS: ",".join(new_columns)},
            merged_from=(to_vector, rank_packed, pack_values),
        ),
        Model(
            "explain",
            "What the scores of a user's items are made of; asked only where a page is to be explained.",
            (*user, candidates, new_items),
            explained,
            max_batch=8,  # some models are scored hundreds of times for each item
            parameters={**carries, VALUE_COLUMNS: ",".join(EXPLAINED), ITEM_WIDTH: str(item)},
            merged_from=(to_vector, take_apart),
        ),
        Model("user_tower", "A user's raw features to his vector and his own items.", user, (user_vector, own)),
        Model(
            "item_index",
            "Exact top-k of the catalogue by cosine; the user's own items come first, excluded ones never.",
            (Tensor("query_vector", "FP32", (vector,), "unit vector"), _any_length(own), excluded, counts),
            (rows, Tensor("similarities", "FP32", (-1,), "cosines")),
        ),
        Model(
            "ctr_ranker",
            "Click, cart and purchase probabilities by the chosen CTR model, the catalogue being resident.",
            (*user, user_vector, candidates),
            scores,
        ),
        Model(
            "user_index",
            "Exact nearest users by cosine, as pseudonyms, and the community of a vector.",
            (user_vector, counts),
            (neighbours, user_cosines, community, key_check),
        ),
        Model("item_embedding", "The vector of a catalogue row.", (item_row,), (item_vector, _any_length(own))),
        Model(
            "text_index",
            "Exact top-k of the catalogue's texts by cosine; rows that match by their words come first.",
            (Tensor("query_vector", "FP32", (text_vector,), "unit vector"), _any_length(own), excluded, counts),
            (rows, Tensor("similarities", "FP32", (-1,), "cosines")),
        ),
        Model(
            "text_encoder",
            "Tokens to a unit vector: mean-pooled states of the language model.",
            tokens,
            (query_vector,),
        ),
        Model(
            "tokenizer",
            "A query to tokens; a Python model, since ONNX has no WordPiece.",
            (query,),
            tokens,
            backend="python",
        ),
        Model(
            "item_tokenizer",
            "An item's text to tokens: the same, with the prefix that the text encoder wants before a document.",
            (replace(query, meaning="the item's text"),),
            tokens,
            backend="python",
        ),
    )


def _answering_versions(*models: Model) -> tuple[Model, ...]:
    """Let every graph, and through the ensembles every step, say which version answered.

    Triton runs the newest version of each step, whichever version of the ensemble was asked for. While a version is
    being loaded that mixes two, and a row number of one catalogue read in another is a wrong item. So clients check.
    """
    stamped = {
        model.name
        for model in models
        if model.backend == "onnxruntime" and model.max_batch and not model.steps and not model.merged_from
    }
    result: list[Model] = []
    for model in models:
        if model.name in stamped:
            model = replace(model, outputs=(*model.outputs, VERSION))
        elif model.is_ensemble:
            steps = tuple(
                replace(step, outputs={**step.outputs, VERSION.name: f"{step.model}_version"})
                if step.model in stamped
                else step
                for step in model.steps
            )
            told = tuple(
                Tensor(f"{step.model}_version", "INT64", (1,), f"the version of {step.model} that answered")
                for step in steps
                if step.model in stamped
            )
            model = replace(model, steps=steps, outputs=(*model.outputs, *told))
        result.append(model)
    return tuple(result)


def _any_length(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, (-1,), tensor.meaning)
