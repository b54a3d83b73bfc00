"""``recsys bench quality --suite cross-sell``: the rest of an invoice from a random half of it, on real purchases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from recsys_plugin.data.adapters import Places
from recsys_plugin.data.adapters.online_retail import OnlineRetail
from recsys_plugin.data.files import RawTable
from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.quality.report import Figure, QualityReport, Stopwatch, Target
from recsys_plugin.training.baselines import ease_weights
from recsys_plugin.training.baskets import Baskets
from recsys_plugin.training.complements import ComplementOptions, complements_of
from recsys_plugin.training.metrics import item_knn_weights, top_rows
from recsys_plugin.training.text import encode_texts, load_encoder

__all__ = ["Halves", "halve", "recall", "run"]

#: Told the name of what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]
_Array = np.ndarray[Any, np.dtype[Any]]
#: Scores float32 [b, items] of baskets, binary [b, items].
Scores = Callable[[sp.csr_matrix], _Array]

_METRIC, _SELDOM = "recall@10", "recall@10, seldom bought"
_PLACES = 10
_LEAST_ITEMS = 4
#: Items in fewer training invoices are seldom bought.
_SELDOM_BELOW = 30
_USERS, _BASKETS = "EASE^R on users", "EASE^R on invoices"
_OURS = "ours"
_REFERENCE = 0.277
_SPLITS = {"test": ("2011-11-01", None), "validation": ("2011-10-01", "2011-11-01")}


@dataclass(frozen=True, slots=True)
class Halves:
    """What is known of each basket and what is asked for.

    Attributes:
        given: binary float32 [baskets, items]. hidden: likewise, the other half.
    """

    given: sp.csr_matrix
    hidden: sp.csr_matrix

    def seldom(self, counts: _Array) -> Halves:
        """Of each basket only the given items that are seldom bought; baskets without one are left out.

        Args:
            counts: float64 [items], the training baskets that hold each item.
        """
        given = (self.given @ sp.diags((counts < _SELDOM_BELOW).astype(np.float32))).tocsr()
        given.eliminate_zeros()
        kept = np.flatnonzero(np.diff(given.indptr))
        return Halves(given[kept], self.hidden[kept])


def run(
    data: Path | None, *, seeds: Sequence[int], tell: Progress, split: str = "test", text: bool = True
) -> QualityReport:
    """Learn from the invoices before the split and predict those after it.

    Args:
        data: folder with ``online_retail_ii/``. seeds: each halves the invoices anew; nothing else is random.
        tell: told what is under way.
        split: ``test``, or ``validation`` for the month on which options were chosen.
        text: whether ours reads titles as well.

    Raises:
        ConfigurationError: if the data is not there.
        InvalidInput: if there is no such split.
    """
    if split not in _SPLITS:
        raise InvalidInput(f"suite cross-sell has no split {split!r}; there are {', '.join(_SPLITS)}")
    first, end = _SPLITS[split]
    report = QualityReport(
        "cross-sell",
        f"UCI Online Retail II (Chen, Sain and Guo 2012): learnt from invoices before {first}, tested on those from "
        f"then on{f' to {end}' if end else ''} with at least {_LEAST_ITEMS} items known by then; a random half of an "
        "invoice is given and the rest to be found; recall@10 = hits / min(10, rest), mean over invoices, given items "
        f"masked. Seldom bought: only given items in fewer than {_SELDOM_BELOW} training invoices are shown. All that "
        "is ours was chosen on the invoices of October 2011",
    )
    clock = Stopwatch(report.seconds)
    with clock("reading"):
        tell("reading invoices", 0, 0)
        baskets, titles = _invoices(data, end)
    start = pd.Timestamp(first, tz="UTC")
    known, later = baskets.until(start), baskets.since(start)
    counts = np.asarray(known.items.sum(axis=0), np.float64).ravel()
    halves = {seed: halve(later, counts > 0, seed) for seed in seeds}
    report.notes.append(f"{halves[seeds[0]].given.shape[0]:,} invoices to predict, {len(known):,} to learn from")
    texts = None
    if text:
        with clock("titles"):
            encoder, tokenizer = load_encoder("minilm")
            texts = encode_texts(
                encoder, tokenizer, titles, progress=lambda done, total: tell("encoding titles", done, total)
            )
    systems = _systems(known, texts)
    for number, (name, make) in enumerate(systems.items()):
        tell(name, number, len(systems))
        with clock(name):
            scores = make()
            for metric, asked in (
                (_METRIC, halves.values()),
                (_SELDOM, [half.seldom(counts) for half in halves.values()]),
            ):
                report.figures.append(Figure(name, metric, tuple(recall(scores, half) for half in asked)))
    reached = report.figure(_OURS, _METRIC).mean
    report.targets += [
        Target("above EASE^R as measured before", _METRIC, _REFERENCE, reached),
        Target("aim", _METRIC, 0.30, reached),
    ]
    for baseline in (_USERS, _BASKETS):
        report.targets.append(
            Target(f"above {baseline} of this run", _METRIC, report.figure(baseline, _METRIC).mean, reached)
        )
    return report


def halve(baskets: Baskets, known: _Array, seed: int) -> Halves:
    """Split the known items of each basket at random; of an odd number the larger part is hidden.

    Args:
        baskets: those with fewer than four known items are left out. known: bool [items]. seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    parts: tuple[list[_Array], list[_Array]] = ([], [])
    for line in range(len(baskets)):
        items = baskets.items.indices[baskets.items.indptr[line] : baskets.items.indptr[line + 1]]
        items = generator.permutation(np.sort(items[known[items]]))
        if len(items) >= _LEAST_ITEMS:
            parts[0].append(items[: len(items) // 2])
            parts[1].append(items[len(items) // 2 :])
    given, hidden = (_binary(part, baskets.items.shape[1]) for part in parts)
    return Halves(given, hidden)


def recall(scores: Scores, halves: Halves, *, block: int = 512) -> float:
    """recall@10 of the hidden halves, mean over baskets; NaN if there is none."""
    found: list[_Array] = []
    for start in range(0, halves.given.shape[0], block):
        given, hidden = halves.given[start : start + block], halves.hidden[start : start + block]
        scored = np.array(scores(given))
        scored[given.nonzero()] = -np.inf
        hits = np.take_along_axis(hidden.toarray(), top_rows(scored, _PLACES), axis=1).sum(axis=1)
        found.append(hits / np.minimum(_PLACES, np.diff(hidden.indptr)))
    return float(np.concatenate(found).mean()) if found else float("nan")


def _systems(known: Baskets, texts: _Array | None) -> Mapping[str, Callable[[], Scores]]:
    """What is compared, by name, each made when it is asked for."""
    items, options = known.items, ComplementOptions()

    def popularity(days: float) -> Callable[[], Scores]:
        counts = known.popularity(days).astype(np.float32)
        return lambda: lambda given: np.repeat(counts[None], given.shape[0], axis=0)

    def counts() -> Scores:
        together = (items.T @ items).tolil()
        together.setdiag(0.0)
        return _by_weights(together.tocsr())

    def users() -> sp.csr_matrix:
        buyers = sp.csr_matrix((np.ones(len(known)), (known.users, np.arange(len(known)))))
        owned = (buyers @ items).tocsr()
        owned.data[:] = 1.0
        return owned

    def ease(matrix: Callable[[], sp.csr_matrix]) -> Callable[[], Scores]:
        return lambda: ease_weights(matrix()).scores

    def ours(chosen: ComplementOptions, read: _Array | None) -> Callable[[], Scores]:
        return lambda: complements_of(known, read, options=chosen).scores

    systems = {
        "popularity": popularity(np.inf),
        "popularity, 30 days": popularity(30.0),
        "co-purchase counts": counts,
        "item-kNN (cosine, shrinkage 50)": lambda: _by_weights(item_knn_weights(items).T.tocsr()),
        _USERS: ease(users),
        _BASKETS: ease(lambda: items),
        "ours without decay": ours(replace(options, half_life=1e9), texts),
        "ours without dropout": ours(replace(options, dropout=0.0), texts),
        "ours without text": ours(options, None),
    }
    return {**systems, _OURS: ours(options, texts)} if texts is not None else {**systems, _OURS: ours(options, None)}


def _by_weights(weights: sp.csr_matrix) -> Scores:
    def scores(given: sp.csr_matrix) -> _Array:
        scored: _Array = (given @ weights).toarray().astype(np.float32)
        return scored

    return scores


def _invoices(data: Path | None, end: str | None) -> tuple[Baskets, list[str]]:
    """The invoices before a moment, and the items' titles."""
    if data is None:
        raise ConfigurationError(
            "the suite cross-sell needs online_retail_ii/online_retail_ii.parquet in the folder of --data or "
            "RECSYS_DATA; it is data set 502 of the UCI Machine Learning Repository"
        )
    adapter = OnlineRetail()
    # Given the path, nothing is downloaded.
    files = adapter.locate(Places(data, None, data), lambda what, done, total: None)
    tables = adapter.read(files).tables
    raw = [tables[name] for name in ("events", "items")]
    events, items = (table.data.to_pandas() for table in raw if isinstance(table, RawTable))
    events["timestamp"] = events["timestamp"].dt.tz_localize("UTC")
    before = events["timestamp"].max() + pd.Timedelta(seconds=1) if end is None else pd.Timestamp(end, tz="UTC")
    return Baskets.of(events, pd.Index(items["item_id"]), before=before), list(items["title"])


def _binary(lines: Sequence[_Array], width: int) -> sp.csr_matrix:
    offsets = np.r_[0, np.cumsum([len(line) for line in lines])].astype(np.int64)
    columns = np.concatenate(lines) if lines else np.empty(0, np.int64)
    return sp.csr_matrix((np.ones(len(columns), np.float32), columns, offsets), (len(lines), width))
