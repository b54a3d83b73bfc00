"""``recsys bench quality --suite search``: a text encoder as it is and fine-tuned, beside BM25, on graded queries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.quality.report import Figure, QualityReport, Stopwatch, Target
from recsys_plugin.training.fine_tuning import FineTuningReport, fine_tune
from recsys_plugin.training.fine_tuning_tasks import GradedPairs
from recsys_plugin.training.options import FineTuningOptions
from recsys_plugin.training.text import TextEncoder, encode_texts, load_encoder

__all__ = [
    "Judgements",
    "bm25_scores",
    "cosines_of_pairs",
    "mean_ndcg",
    "query_folds",
    "read_judgements",
    "run",
]

#: Told the name of what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]
_Array = np.ndarray[Any, np.dtype[Any]]

FILE = Path("search_relevance") / "search_relevance_dev.parquet"
METRIC = "NDCG@10"
FOLDS = 5
#: How much of the description's vector is added to the title's, and how many of its characters are read.
DESCRIPTION_WEIGHT, DESCRIPTION_LENGTH = 0.3, 250
#: Training texts are cut to so many tokens; nine titles of ten have no more.
MOST_TOKENS = 24
ZERO_SHOT, E5 = "zero-shot MiniLM", "zero-shot multilingual E5"
TUNED = {"lora": "LoRA fine-tuned MiniLM", "full": "fully fine-tuned MiniLM"}


@dataclass(frozen=True, slots=True)
class Judgements:
    """Graded query–product pairs.

    Attributes:
        queries: the distinct queries. query: the number of each row's query, int64 [rows].
        titles, descriptions: of each row's product; a description may be empty.
        relevance: float64 [rows], from 1 (irrelevant) to 4.
    """

    queries: tuple[str, ...]
    query: _Array
    titles: tuple[str, ...]
    descriptions: tuple[str, ...]
    relevance: _Array


def run(
    data: Path | None,
    *,
    seeds: Sequence[int],
    tell: Progress,
    epochs: int = 1,
    batch: int = 128,
    encoder: str = "minilm",
    multilingual: bool = True,
) -> QualityReport:
    """Rank each query's own products; every query is ranked by models that have not seen it.

    Args:
        data: the folder RECSYS_DATA. seeds: each splits the queries and trains anew. tell: progress.
        epochs, batch: of fine-tuning. encoder: what is fine-tuned. multilingual: rank with the multilingual E5 as well.

    Raises:
        ConfigurationError: if the data is missing.
    """
    judgements = read_judgements(data)
    report = QualityReport(
        "search",
        "CrowdFlower search relevance (2015), dev file: each query's own products ranked, NDCG@10 with gain "
        f"2^grade − 1, {FOLDS} folds by query; every query is tested once, by models that did not see it",
    )
    splits = {seed: query_folds(len(judgements.queries), seed) for seed in seeds}
    clock = Stopwatch(report.seconds)

    def add(system: str, scores: _Array | dict[int, _Array], note: str = "") -> None:
        """One value a fold and seed; ``scores`` are the same for every seed, or by seed."""
        values = tuple(
            mean_ndcg(judgements, scores[seed] if isinstance(scores, dict) else scores, fold)
            for seed, folds in splits.items()
            for fold in folds
        )
        report.figures.append(Figure(system, METRIC, values, note=note))

    add("random order", {seed: np.random.default_rng(seed).random(len(judgements.query)) for seed in seeds})
    with clock("BM25"):
        for name, texts in (("title", judgements.titles), ("title + description", _whole(judgements))):
            add(f"BM25, {name}", bm25_scores(judgements, texts))
    with clock("zero-shot"):
        loaded = load_encoder(encoder)
        titles = cosines_of_pairs(judgements, judgements.titles, *loaded, tell, ZERO_SHOT)
        add(ZERO_SHOT, titles, note="cosine of query and title, as of all encoders here unless said otherwise")
        add(f"{ZERO_SHOT}, title and description", _with_descriptions(judgements, *loaded, tell))
    if multilingual:
        with clock("zero-shot E5"):
            add(E5, cosines_of_pairs(judgements, judgements.titles, *load_encoder("e5"), tell, E5))
    costs: dict[str, FineTuningReport] = {}
    for mode, system in TUNED.items():
        scores = {seed: np.full(len(judgements.query), np.nan) for seed in seeds}
        for seed, folds in splits.items():
            options = FineTuningOptions(mode=mode, epochs=epochs, batch=batch, max_tokens=MOST_TOKENS, seed=seed)
            for number, fold in enumerate(folds):
                what = f"{mode}, seed {seed}, fold {number + 1} of {len(folds)}"
                loaded = load_encoder(encoder)
                with clock(f"{mode} fine-tuning"):
                    costs[mode] = _fine_tune_without(judgements, fold, loaded, options, tell, what)
                held_out = np.flatnonzero(np.isin(judgements.query, fold))
                with clock(f"{mode} ranking"):
                    found = cosines_of_pairs(judgements, judgements.titles, *loaded, tell, what, held_out)
                scores[seed][held_out] = found
        add(system, scores, note=_describe_cost(costs[mode]))
    _judge(report, costs)
    return report


def read_judgements(data: Path | None) -> Judgements:
    """The dev file.

    Raises:
        ConfigurationError: if the folder or the file is missing.
    """
    if data is None or not (data / FILE).is_file():
        raise ConfigurationError(
            f"the search suite needs {FILE} (CrowdFlower search relevance, 2015) in the folder RECSYS_DATA or --data; "
            f"it is not in {data or 'any, as neither is set'}"
        )
    columns = ["query", "product_title", "product_description", "median_relevance"]
    table = pd.read_parquet(data / FILE, columns=columns)
    numbers, queries = pd.factorize(table["query"], sort=True)
    return Judgements(
        queries=tuple(queries),
        query=numbers.astype(np.int64),
        titles=tuple(table["product_title"]),
        descriptions=tuple(table["product_description"].fillna("").str.slice(0, DESCRIPTION_LENGTH)),
        relevance=table["median_relevance"].to_numpy(np.float64),
    )


def query_folds(queries: int, seed: int, folds: int = FOLDS) -> list[_Array]:
    """The numbers 0 to ``queries`` − 1 in parts of about the same size, at random.

    Raises:
        InvalidInput: if there are fewer queries than folds.
    """
    if queries < folds:
        raise InvalidInput(f"{queries} queries cannot be split into {folds} folds")
    return list(np.array_split(np.random.default_rng(seed).permutation(queries), folds))


def mean_ndcg(judgements: Judgements, scores: _Array, queries: _Array, *, depth: int = 10) -> float:
    """Mean NDCG of some queries (Järvelin & Kekäläinen 2002), with gain 2^grade − 1; of equal scores the first wins.

    Args:
        scores: float [rows], more is better. queries: numbers of the queries. depth: places that count.

    Raises:
        InvalidInput: if a score of these queries is not finite.
    """
    values = []
    for query in queries.tolist():
        rows = np.flatnonzero(judgements.query == query)
        if not np.isfinite(scores[rows]).all():
            raise InvalidInput(f"query {judgements.queries[query]!r} has products without a finite score")
        gains = np.exp2(judgements.relevance[rows]) - 1
        order = np.argsort(-scores[rows], kind="stable")[:depth]
        discounts = 1 / np.log2(np.arange(2, len(order) + 2))
        values.append(float(gains[order] @ discounts / (np.sort(gains)[::-1][:depth] @ discounts)))
    return float(np.mean(values))


def _describe_cost(cost: FineTuningReport) -> str:
    """What one fold of fine-tuning cost, in words."""
    return (
        f"trains {cost.trainable_parameters:,} of {cost.parameters:,} parameters ({cost.trainable_share:.2%}); a fold "
        f"took {cost.seconds:.0f} s for {cost.steps} steps, at most {cost.peak_memory_bytes / 2**20:,.0f} MiB "
        f"({cost.memory})"
    )


def _judge(report: QualityReport, costs: dict[str, FineTuningReport]) -> None:
    """The targets: gain over zero-shot with the same texts, LoRA beside full, LoRA's share of the parameters."""
    mean = {figure.system: figure.mean for figure in report.figures}
    report.targets += [
        Target(
            f"{TUNED['full']} above {ZERO_SHOT}, on held-out queries",
            f"{METRIC} difference",
            0.02,
            mean[TUNED["full"]] - mean[ZERO_SHOT],
        ),
        Target(
            "LoRA within 0.005 of full fine-tuning",
            f"{METRIC} difference",
            -0.005,
            mean[TUNED["lora"]] - mean[TUNED["full"]],
        ),
        Target("LoRA trains under 2 % of the parameters", "share", 0.02, costs["lora"].trainable_share, "at most"),
    ]
    report.notes.append(
        "Learning rates, epochs and loss were chosen on the training queries of the first fold of seed 0, a third of "
        "them held out for it. That fold's test queries played no part in the choice; those of the other folds did"
    )


def _whole(judgements: Judgements) -> list[str]:
    pairs = zip(judgements.titles, judgements.descriptions, strict=True)
    return [f"{title} {description}" for title, description in pairs]


def bm25_scores(judgements: Judgements, texts: Sequence[str]) -> _Array:
    """BM25 (Robertson et al. 1994) of each row's text for its query; all rows are the collection."""
    import bm25s

    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    index = bm25s.BM25()
    index.index([words(text) for text in texts], show_progress=False)
    scores = np.zeros(len(texts))
    for number, query in enumerate(judgements.queries):
        rows = judgements.query == number
        scores[rows] = index.get_scores(words(query))[rows]
    return scores


def cosines_of_pairs(
    judgements: Judgements,
    texts: Sequence[str],
    encoder: TextEncoder,
    tokenizer: Any,
    tell: Progress,
    what: str,
    rows: _Array | None = None,
) -> _Array:
    """Cosines of some rows' queries with their texts, of all rows if None; float32 [rows]."""
    rows = np.arange(len(texts)) if rows is None else rows
    queries = encode_texts(encoder, tokenizer, judgements.queries, kind="query")[judgements.query[rows]]
    wanted = [texts[row] for row in rows.tolist()]
    products = encode_texts(encoder, tokenizer, wanted, progress=lambda done, total: tell(what, done, total))
    cosines: _Array = (queries * products).sum(1)
    return cosines


def _with_descriptions(judgements: Judgements, encoder: TextEncoder, tokenizer: Any, tell: Progress) -> _Array:
    """Cosines of queries with the weighted mean of the vectors of title and description; float32 [rows]."""
    queries = encode_texts(encoder, tokenizer, judgements.queries, kind="query")[judgements.query]
    titles, descriptions = (
        encode_texts(
            encoder, tokenizer, texts, progress=lambda done, total: tell(f"{ZERO_SHOT}, all text", done, total)
        )
        for texts in (judgements.titles, judgements.descriptions)
    )
    products = titles + DESCRIPTION_WEIGHT * descriptions
    cosines: _Array = (queries * products).sum(1) / np.linalg.norm(products, axis=1).clip(min=1e-9)
    return cosines


def _fine_tune_without(
    judgements: Judgements,
    fold: _Array,
    loaded: tuple[TextEncoder, Any],
    options: FineTuningOptions,
    tell: Progress,
    what: str,
) -> FineTuningReport:
    """Fine-tune on the graded titles of all queries but the fold's."""
    rows = np.flatnonzero(~np.isin(judgements.query, fold))
    task = GradedPairs(
        [judgements.queries[judgements.query[row]] for row in rows.tolist()],
        [judgements.titles[row] for row in rows.tolist()],
        judgements.relevance[rows].tolist(),
    )
    return fine_tune(*loaded, [task], options, progress=lambda step, steps, loss: tell(what, step, steps))
