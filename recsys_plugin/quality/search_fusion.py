"""``recsys bench quality --suite search-fusion``: words and meaning fused, beside each alone, on graded queries.

The encoder stays as it is, so that the suite takes minutes; the fine-tuned ones are in the suite ``search``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys_plugin.policy.page import DEFAULT_SEARCH_BLEND, SearchBlend
from recsys_plugin.quality.report import Figure, QualityReport, Stopwatch, Target
from recsys_plugin.quality.search import (
    FOLDS,
    METRIC,
    Judgements,
    bm25_scores,
    cosines_of_pairs,
    mean_ndcg,
    query_folds,
    read_judgements,
)
from recsys_plugin.query.lexical import LexicalIndex
from recsys_plugin.query.words import stems
from recsys_plugin.training.text import load_encoder

__all__ = ["BM25", "FUSED", "RANKS", "SERVED", "WEIGHTS", "WORDS", "lexical_scores", "rank_fusion", "run"]

#: Told the name of what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]
_Array = np.ndarray[Any, np.dtype[Any]]

BM25, WORDS = "BM25 (bm25s), title", "the client's lexical index, title"
FUSED = "meaning + weight × words, weight chosen on the other folds"
SERVED = f"meaning + {DEFAULT_SEARCH_BLEND.lexical_weight:g} × words, as served by default"
RANKS = "reciprocal rank fusion"
#: What the weight of the words is chosen from.
WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
#: The constant of reciprocal rank fusion; 60 in its paper.
_RANK_CONSTANT = 60.0


def run(data: Path | None, *, seeds: Sequence[int], tell: Progress, encoder: str = "minilm") -> QualityReport:
    """Rank each query's own products by words, by meaning, and by both.

    Args:
        data: the folder RECSYS_DATA. seeds: each splits the queries anew. tell: progress.
        encoder: the text encoder.

    Raises:
        ConfigurationError: if the data is missing.
    """
    judgements = read_judgements(data)
    report = QualityReport(
        "search-fusion",
        "CrowdFlower search relevance (2015), dev file: each query's own products ranked, NDCG@10 with gain "
        f"2^grade − 1, {FOLDS} folds by query; titles alone; the encoder was trained on none of it",
    )
    splits = {seed: query_folds(len(judgements.queries), seed) for seed in seeds}
    clock = Stopwatch(report.seconds)

    def add(system: str, fold_scores: Callable[[_Array], _Array], note: str = "") -> None:
        values = tuple(mean_ndcg(judgements, fold_scores(fold), fold) for folds in splits.values() for fold in folds)
        report.figures.append(Figure(system, METRIC, values, note=note))

    with clock("BM25"):
        bm25 = bm25_scores(judgements, judgements.titles)
    with clock("lexical index"):
        matches = lexical_scores(judgements)
    with clock("encoding"):
        meaning = cosines_of_pairs(judgements, judgements.titles, *load_encoder(encoder), tell, "encoding titles")
    chosen: list[float] = []

    def fused(fold: _Array) -> _Array:
        others = np.setdiff1d(np.arange(len(judgements.queries)), fold)
        tried = {weight: mean_ndcg(judgements, _blend(meaning, matches, weight), others) for weight in WEIGHTS}
        chosen.append(max(tried, key=lambda weight: tried[weight]))
        return _blend(meaning, matches, chosen[-1])

    encoded = f"encoder alone ({encoder}, frozen)"
    ranks = rank_fusion(judgements, meaning, matches)
    served = _blend(meaning, matches, DEFAULT_SEARCH_BLEND.lexical_weight)
    add(BM25, lambda fold: bm25)
    add(WORDS, lambda fold: matches, "BM25 as a share of the query, with words in the singular")
    add(encoded, lambda fold: meaning)
    add(RANKS, lambda fold: ranks, f"1 / ({_RANK_CONSTANT:g} + rank), summed over both rankings")
    with clock("choosing weights"):
        add(FUSED, fused)
    add(SERVED, lambda fold: served)
    report.notes.append(
        f"weights chosen, one a fold and seed: {', '.join(f'{weight:g}' for weight in chosen)}, of {WEIGHTS}; the "
        "queries of a fold played no part in the choice of its weight"
    )
    found = report.figure(FUSED, METRIC).mean
    for other in (BM25, WORDS, encoded):
        difference = found - report.figure(other, METRIC).mean
        report.targets.append(Target(f"fused above {other}", f"{METRIC} difference", 0.001, difference))
    return report


def lexical_scores(judgements: Judgements) -> _Array:
    """How well each row's title fits its query, by the index that clients have; all titles are the collection."""
    index = LexicalIndex(judgements.titles)
    scores = np.zeros(len(judgements.titles), np.float32)
    for number, query in enumerate(judgements.queries):
        rows = judgements.query == number
        scores[rows] = index.scores(stems(query))[rows]
    return scores


def rank_fusion(judgements: Judgements, *rankings: _Array, constant: float = _RANK_CONSTANT) -> _Array:
    """Several scores of each query's rows as one, float64 [rows]: Cormack, Clarke and Büttcher (2009)."""
    fused = np.zeros(len(judgements.query))
    for number in range(len(judgements.queries)):
        rows = np.flatnonzero(judgements.query == number)
        for scores in rankings:
            ranks = np.empty(len(rows))
            ranks[np.argsort(-scores[rows], kind="stable")] = np.arange(1, len(rows) + 1)
            fused[rows] += 1 / (constant + ranks)
    return fused


def _blend(meaning: _Array, matches: _Array, weight: float) -> _Array:
    """The order of a page for nobody, as the client makes it."""
    rows = np.arange(len(meaning))
    blend = SearchBlend(personal_weight=0.0, lexical_weight=weight)
    return blend.scores(rows, meaning, np.zeros(len(meaning), np.float32), matches=matches)
