"""Amazon Beauty, leave-one-out with full ranking: next-item models against published figures.

Data: 22,363 users, 12,101 items, 198,502 interactions in the preprocessing of S3-Rec (Zhou et al. 2020, "S3-Rec:
Self-supervised learning for sequential recommendation with mutual information maximization"); the interactions are
those of He & McAuley 2016 (Amazon product data).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_plugin.errors import ConfigurationError, DataError
from recsys_plugin.quality.report import Figure, QualityReport, Target
from recsys_plugin.training.next_item import (
    NextItemModel,
    NextItemOptions,
    TrainingRecord,
    co_occurrence,
    co_occurrence_embeddings,
    cosines,
    train_next_item,
)
from recsys_plugin.training.sequences import Sequences, target_ranks, top_metrics

__all__ = ["OPTIONS", "Neighbours", "load_beauty", "run"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: What is under way, how much is done, of how much.
Progress = Callable[[str, int, int], None]

_FILE = Path("beauty") / "beauty.txt"
_ORIGIN = "https://github.com/RUCAIBox/CIKM2020-S3Rec (data/Beauty.txt)"
_PROTOCOL = (
    "leave-one-out as in SASRec (Kang & McAuley 2018): each user's last item is the test, the one before it the "
    "validation, the rest the training; all 12,101 items are ranked, the user's earlier items masked (full ranking, "
    "Zhou et al. 2020, S3-Rec). Training and every choice use training and validation only; at the test the validation "
    "item is part of the history."
)
_SOURCE = "Zhou et al. 2020, full ranking, RUCAIBox/CIKM2020-S3Rec"
_PUBLISHED = {
    "PopRec": (0.0152, 0.0068),
    "GRU4Rec": (0.0283, 0.0137),
    "BERT4Rec": (0.0347, 0.0170),
    "SASRec": (0.0605, 0.0318),
    "S3-Rec": (0.0647, 0.0327),
}
_METRICS = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
_KNN, _OURS, _BLEND = "item-kNN, latest items first", "history encoder", "history encoder + item-kNN"
_POPULAR, _POPULAR_ALL = "PopRec", "PopRec, test items counted"
#: Shares of item-kNN in the mixture that the validation items choose from.
_SHARES = (0.2, 0.4, 0.6, 0.8)
#: So many users' validation items stop the training and choose the share.
_JUDGES = 6000
#: Chosen by NDCG@10 on the validation items.
OPTIONS = NextItemOptions()


def run(
    data: Path | None,
    *,
    seeds: Sequence[int],
    tell: Progress,
    epochs: int | None = None,
    width: int | None = None,
    bfloat16: bool = False,
) -> QualityReport:
    """Train the next-item model once per seed, and rank all items for every user.

    Args:
        data: folder with ``beauty/beauty.txt``. seeds: one run each. tell: progress.
        epochs: at most so many passes; width: of the embeddings; the defaults of :data:`OPTIONS` if None.
        bfloat16: whether the softmax's matrix products are bfloat16: quicker on processors that have such products.

    Raises:
        ConfigurationError: if the data is missing.
        DataError: if it is malformed.
        InvalidInput: if epochs or width make no model.
    """
    split = _Split(load_beauty(data))
    options = replace(
        OPTIONS,
        epochs=OPTIONS.epochs if epochs is None else epochs,
        width=OPTIONS.width if width is None else width,
        bfloat16=bfloat16,
    )
    report = QualityReport("beauty", _PROTOCOL)
    for system, values in _PUBLISHED.items():
        for metric, value in zip(("HR@10", "NDCG@10"), values, strict=True):
            report.figures.append(Figure(system, metric, (value,), source=_SOURCE))
    began = time.perf_counter()
    together = co_occurrence(split.train, split.items)
    neighbours = Neighbours(together)
    for system, scores in _baselines(split, neighbours).items():
        tell("baselines", 0, 0)
        _add(report, system, [top_metrics(target_ranks(scores, split.known, split.test))])
    report.seconds["baselines"] = time.perf_counter() - began
    found: dict[str, list[dict[str, float]]] = {_OURS: [], _BLEND: []}
    for seed in seeds:
        model = _train(split, together, replace(options, seed=seed), report, tell)
        for system, metrics in _test(model, neighbours, split, seed, report, tell).items():
            found[system].append(metrics)
    for system, each in found.items():
        _add(report, system, each)
    report.targets = _targets(report)
    report.notes.append(
        f"The published PopRec is reproduced by counting all interactions, the test items included; without them it is "
        f"{report.figure(_POPULAR, 'HR@10').text} / {report.figure(_POPULAR, 'NDCG@10').text}."
    )
    report.notes.append("An item with the same score as the target counts as ranked above it.")
    return report


class _Split:
    """Leave-one-out: what is trained on, and what each user did next, twice."""

    def __init__(self, full: Sequences) -> None:
        self.full, self.items = full, int(full.rows.max()) + 1
        self.train, self.known = full.without_last(2), full.without_last(1)
        self.validation, self.test = full.item_from_end(2), full.item_from_end(1)


def _baselines(split: _Split, neighbours: Neighbours) -> dict[str, Callable[[_Array], _Array]]:
    def popularity(counted: Sequences) -> Callable[[_Array], _Array]:
        counts = np.bincount(counted.rows, minlength=split.items).astype(np.float32)
        return lambda users: np.tile(counts, (len(users), 1))

    return {
        _POPULAR_ALL: popularity(split.full),
        _POPULAR: popularity(split.known),
        _KNN: neighbours.scores(split.known),
    }


def _judges(split: _Split, seed: int) -> _Array:
    """The users whose validation items decide, int64."""
    return np.random.default_rng(seed).permutation(len(split.train))[:_JUDGES]


def _train(
    split: _Split, together: sp.csr_matrix, options: NextItemOptions, report: QualityReport, tell: Progress
) -> NextItemModel:
    """One model of one seed; its times, and a note on its training, go to the report."""
    name = f"seed {options.seed}"
    judges = _judges(split, options.seed)
    validation = np.full(len(split.train), -1)
    validation[judges] = split.validation[judges]
    torch.manual_seed(options.seed)
    model = NextItemModel(split.items, options)
    model.start_from(co_occurrence_embeddings(together, options.width, seed=options.seed))

    def progress(record: TrainingRecord) -> None:
        tell(f"{name}: epochs", len(record.losses), options.epochs)

    tell(f"{name}: epochs", 0, options.epochs)
    began = time.perf_counter()
    record = train_next_item(model, split.train, validation, options, progress=progress)
    report.seconds[f"{name}: training and validation"] = time.perf_counter() - began
    report.seconds[f"{name}: training, an epoch"] = float(np.mean(record.seconds))
    report.notes.append(
        f"{name}: {sum(weight.numel() for weight in model.parameters()):,} parameters; epoch {record.best_epoch} of "
        f"{len(record.losses)} kept; validation NDCG@10 by epoch (of {len(judges):,} users): "
        + ", ".join(f"{value:.4f}" for value in record.validation)
    )
    return model


def _test(
    model: NextItemModel, neighbours: Neighbours, split: _Split, seed: int, report: QualityReport, tell: Progress
) -> dict[str, dict[str, float]]:
    """Choose the share of item-kNN on validation items; then rank the test items, with the model alone and mixed."""
    began = time.perf_counter()
    judges = _judges(split, seed)
    held, wanted = split.train.take(judges), split.validation[judges]
    gains: dict[float, float] = {}
    for share in _SHARES:
        tell(f"seed {seed}: choosing the share of item-kNN", len(gains), len(_SHARES))
        gains[share] = top_metrics(target_ranks(_mixture(model, neighbours, held, share), held, wanted))["NDCG@10"]
    best = max(gains, key=gains.__getitem__)
    report.notes.append(f"seed {seed}: mixed with {best:.0%} item-kNN, validation NDCG@10 {gains[best]:.4f}")
    systems: dict[str, Callable[[_Array], Tensor]] = {
        _OURS: lambda users: model.scores(split.known.newest_first(users, model.length)),
        _BLEND: _mixture(model, neighbours, split.known, best),
    }
    found: dict[str, dict[str, float]] = {}
    for system, scores in systems.items():
        tell(f"seed {seed}: test", len(found), len(systems))
        found[system] = top_metrics(target_ranks(scores, split.known, split.test))
    report.seconds[f"seed {seed}: choice and test"] = time.perf_counter() - began
    return found


def _mixture(
    model: NextItemModel, neighbours: Neighbours, known: Sequences, share: float
) -> Callable[[_Array], Tensor]:
    """The model's probabilities mixed with item-kNN's scores, each user's made to sum to one."""
    near = neighbours.scores(known)

    def scores(users: _Array) -> Tensor:
        closed = torch.from_numpy(near(users))
        closed = closed / closed.sum(dim=1, keepdim=True).clamp(min=1e-9)
        learned = torch.softmax(model.scores(known.newest_first(users, model.length)), dim=1)
        return (1.0 - share) * learned + share * closed

    return scores


def _add(report: QualityReport, system: str, each_seed: Sequence[dict[str, float]]) -> None:
    for metric in _METRICS:
        report.figures.append(Figure(system, metric, tuple(metrics[metric] for metrics in each_seed)))


def _targets(report: QualityReport) -> list[Target]:
    hits, gain = report.figure(_OURS, "HR@10").mean, report.figure(_OURS, "NDCG@10").mean
    popular = abs(report.figure(_POPULAR_ALL, "HR@10").mean - _PUBLISHED["PopRec"][0])
    return [
        Target("the published PopRec is reproduced", "difference in HR@10", 0.0001, popular, "at most"),
        Target(f"{_OURS}: the best published", "HR@10", _PUBLISHED["S3-Rec"][0], hits),
        Target(f"{_OURS}: the best published", "NDCG@10", _PUBLISHED["S3-Rec"][1], gain),
        Target(f"{_OURS}: the aim", "HR@10", 0.075, hits),
        Target(f"{_OURS}: above item-kNN", "NDCG@10", report.figure(_KNN, "NDCG@10").mean, gain),
        Target(f"{_BLEND}: above {_OURS}", "NDCG@10", gain, report.figure(_BLEND, "NDCG@10").mean),
    ]


def load_beauty(data: Path | None) -> Sequences:
    """The sequences of ``beauty/beauty.txt``: one user a line, the user's number first, then items in time order.

    Raises:
        ConfigurationError: if the data folder is not set or lacks the file.
        DataError: if a line holds anything but numbers, or fewer than three items.
    """
    if data is None or not (data / _FILE).is_file():
        where = "RECSYS_DATA is not set" if data is None else f"{data} holds no {_FILE}"
        raise ConfigurationError(f"{where}: give --data or RECSYS_DATA a folder that does, from {_ORIGIN}")
    parts: list[_Array] = []
    for number, line in enumerate((data / _FILE).read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not all(word.isdecimal() for word in words):
            raise DataError("wants whole numbers only: the user, then items", file=str(data / _FILE), row=number)
        if len(words) < 4:
            raise DataError("wants a user and at least three items", file=str(data / _FILE), row=number)
        parts.append(np.array(words[1:], np.int64))
    if not parts:
        raise DataError("holds no user", file=str(data / _FILE))
    sequences = Sequences.of(parts)
    return Sequences(sequences.offsets, np.unique(sequences.rows, return_inverse=True)[1].astype(np.int64))


class Neighbours:
    """Item-kNN that weighs the latest items most: a closed form to compare and to combine with.

    Shrunk cosines (Sarwar et al. 2001; Koren 2008), each item of the history counting ``decay`` times the next newer
    one (as sequence-aware kNN does: Ludewig & Jannach 2018).
    """

    def __init__(self, together: sp.csr_matrix, *, shrinkage: float = 50.0, decay: float = 0.7) -> None:
        self.similar = cosines(together, shrinkage)
        self.similar.setdiag(0.0)
        self.decay = decay

    def scores(self, known: Sequences) -> Callable[[_Array], _Array]:
        """For histories ``known``: user positions int64 [b] → scores float32 [b, items]."""
        ages = np.repeat(known.offsets[1:], known.lengths) - 1 - np.arange(len(known.rows))
        weights = (self.decay ** ages.astype(np.float64)).astype(np.float32)
        shape = (len(known), self.similar.shape[0])
        weighted = sp.csr_matrix((weights, known.rows, known.offsets), shape=shape)

        def scores(users: _Array) -> _Array:
            found: _Array = (weighted[users] @ self.similar).toarray()
            return found

        return scores
