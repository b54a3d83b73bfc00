"""Pages that users were really shown, with what came of each item: true examples for the rankers.

They come from the table that ``recsys events join`` writes, see :mod:`recsys_plugin.impressions.join`, and are learned
beside the constructed lists of :mod:`recsys_plugin.training.candidates`. A retrieved candidate that nothing came of may
never have been seen; an item on a page was at least shown.

Two things bias such a log, and both are taken into account as far as the log allows:

* What was shown was chosen. Where pages were explored, an item counts by the inverse of its propensity (inverse
  propensity scoring), normalised over its page as in SNIPS (Swaminathan and Joachims 2015), so that a page never counts
  for more than its items, and clipped, so that one unlikely item does not make the page.
* What stands low is seen less. Users read pages from the top (the cascade model; Craswell et al. 2008), so of the items
  below the last one that the user acted on nothing is known, and they have no label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.training.contexts import moments_of
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, TrainingLists

__all__ = ["MOST_WEIGHT", "ShownPages", "read_shown_pages", "shown_pages", "with_shown_pages", "write_shown_pages"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: What an item may count for, as against one that was certain to be shown.
MOST_WEIGHT = 20.0
#: Items of a page that are learned from: the constructed lists are about as wide, and nobody looks further.
_WIDTH = 100
#: Requests whose pages the rankers order. What is shown for a query or beside an item is another matter.
_REQUESTS = ("recommend", "rank")
_ACTED = {"click": "clicked", "cart": "carted", "purchase": "purchased"}
_COLUMNS = ["user_id", "item_id", "position", "propensity", "served_at"]


@dataclass(frozen=True, slots=True)
class ShownPages:
    """n pages, in order of time.

    Attributes:
        entities: ``user_id`` and ``event_timestamp`` (UTC), index 0 … n-1: a microsecond before the page was made.
        week: int64 [n], positions in the item snapshots.
        rows: int64 [n, C], catalogue rows by position on the page, -1 pads.
        labels: float32 [n, C, heads], 1 or 0 for each head of :data:`~recsys_plugin.training.ranker.HEADS`; NaN where
            that is not known. weights: float32 [n, C]; 0 for padding.
    """

    entities: pd.DataFrame
    week: _Array
    rows: _Array
    labels: _Array
    weights: _Array

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def none(cls) -> ShownPages:
        """No page."""
        entities = pd.DataFrame({"user_id": pd.Series([], dtype=object), "event_timestamp": moments_of([])})
        return cls(
            entities,
            np.empty(0, np.int64),
            np.empty((0, 1), np.int64),
            np.empty((0, 1, len(HEADS)), np.float32),
            np.empty((0, 1), np.float32),
        )


def shown_pages(
    files: Sequence[Path],
    item_ids: pd.Index[str],
    *,
    window: pd.Timedelta,
    moments: Sequence[pd.Timestamp],
    end: pd.Timestamp,
    heads: Sequence[str],
    most: int,
    seed: int,
) -> tuple[ShownPages, int]:
    """Read pages that were shown before the validation.

    Args:
        files: Parquet by day, in order. item_ids: the catalogue in row order; other items are left out.
        window: within which outcomes were joined. moments: of the item snapshots of the training time, ascending.
        end: the validation begins; pages and acts from then on are not looked at.
        heads: what the data can tell. most: pages kept, each as likely as the others. seed: of the draw.

    Returns:
        the pages, and how many there were to draw from.
    """
    if not moments:
        return ShownPages.none(), 0
    sizes: list[int] = [int(_first_of_page(_table(path, end, moments[0])).sum()) for path in files]
    total = sum(sizes)
    chosen = np.arange(total)
    if total > most:
        chosen = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    bounds = np.searchsorted(chosen, np.array([0, *np.cumsum(sizes)], np.int64)).tolist()
    parts, first = [], 0
    for number, path in enumerate(files):
        wanted = chosen[bounds[number] : bounds[number + 1]] - first
        if len(wanted):
            table = _table(path, end, moments[0])
            page = np.cumsum(_first_of_page(table)) - 1
            parts.append(table.filter(pa.array(np.isin(page, wanted))))
        first += sizes[number]
    if not parts:
        return ShownPages.none(), 0
    return _pages(pa.concat_tables(parts), item_ids, window, moments, end, heads), total


def _table(path: Path, end: pd.Timestamp, start: pd.Timestamp) -> pa.Table:
    """The lines of known users' pages in the training time, page by page, the first position first."""
    columns = [*_COLUMNS, "model", *_ACTED.values(), *(f"{name}_at" for name in _ACTED.values())]
    table = parquet.ParquetFile(path).read(columns=columns)
    moment = table["served_at"]
    kept = pc.and_(pc.is_valid(table["user_id"]), pc.is_in(table["model"], pa.array(_REQUESTS)))
    inside = pc.and_(
        pc.greater_equal(moment, pa.scalar(start, moment.type)), pc.less(moment, pa.scalar(end, moment.type))
    )
    return table.filter(pc.and_(kept, inside))


def _first_of_page(table: pa.Table) -> _Array:
    first: _Array = table["position"].to_numpy() == 1
    return first


def _pages(
    table: pa.Table,
    item_ids: pd.Index[str],
    window: pd.Timedelta,
    moments: Sequence[pd.Timestamp],
    end: pd.Timestamp,
    heads: Sequence[str],
) -> ShownPages:
    first = _first_of_page(table)
    page, place = np.cumsum(first) - 1, table["position"].to_numpy() - 1
    rows = item_ids.get_indexer(pd.Index(table["item_id"].to_pandas().astype(object))).astype(np.int64)
    width = min(_WIDTH, int(place.max()) + 1)
    kept = place < width
    where = page[kept], place[kept]
    count = int(first.sum())
    entities = table.filter(pa.array(first)).select(["user_id", "served_at"]).to_pandas()
    served = microseconds(entities["served_at"])

    lists = np.full((count, width), -1, np.int64)
    lists[where] = rows[kept]
    weights = np.zeros((count, width), np.float32)
    propensity = np.maximum(table["propensity"].to_numpy()[kept], 1.0 / MOST_WEIGHT)
    weights[where] = np.where(rows[kept] >= 0, 1.0 / propensity, 0.0)
    weights *= (lists >= 0).sum(1, keepdims=True) / np.maximum(weights.sum(1, keepdims=True), 1e-9)

    labels = np.full((count, width, len(HEADS)), np.nan, np.float32)
    last = np.full(count, -1, np.int64)
    for name in _ACTED.values():
        acted = table[name].to_numpy(zero_copy_only=False)[kept]
        np.maximum.at(last, where[0][acted], where[1][acted])
    # Nothing is known of what may not have been looked at, nor of what may still come.
    seen = (np.arange(width) <= last[:, None]) | (last < 0)[:, None]
    over = served + window.value // 1000 <= end.value // 1000
    for head in heads:
        came = table[_ACTED[head]].to_numpy(zero_copy_only=False)[kept]
        at = table[f"{_ACTED[head]}_at"].filter(pa.array(kept)).cast(pa.int64()).fill_null(0).to_numpy()
        known = seen & over[:, None]
        told = np.where(known, 0.0, np.nan).astype(np.float32)
        told[where[0][came], where[1][came]] = np.where(at[came] < end.value // 1000, 1.0, np.nan)
        labels[..., HEADS.index(head)] = np.where(lists >= 0, told, np.nan)
    starts = np.array([moment.value // 1000 for moment in moments], np.int64)
    return ShownPages(
        pd.DataFrame({"user_id": entities["user_id"].astype(object), "event_timestamp": moments_of(served - 1)}),
        np.searchsorted(starts, served, side="right") - 1,
        lists,
        labels,
        weights,
    )


def with_shown_pages(
    lists: TrainingLists, users: UserTensors, shown: ShownPages, shown_users: UserTensors
) -> tuple[TrainingLists, UserTensors]:
    """Constructed lists and shown pages together, and the packed users that both name."""
    told = np.flatnonzero((~np.isnan(shown.labels) & (shown.weights > 0)[..., None]).any((1, 2)))
    if not len(told):
        return lists, users
    width = max(lists.rows.shape[1], shown.rows.shape[1])
    own = TrainingLists(len(users) + told, shown.week[told], shown.rows[told], shown.labels[told], shown.weights[told])
    parts = [_padded(part, width) for part in (lists, own)]
    every = TrainingLists(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in TrainingLists.__dataclass_fields__)
    )
    return every, users.joined(shown_users)


def _padded(lists: TrainingLists, width: int) -> TrainingLists:
    more = width - lists.rows.shape[1]
    return TrainingLists(
        lists.context,
        lists.week,
        np.pad(lists.rows, ((0, 0), (0, more)), constant_values=-1),
        np.pad(lists.labels, ((0, 0), (0, more), (0, 0)), constant_values=np.nan),
        np.pad(lists.weights, ((0, 0), (0, more))),
    )


def write_shown_pages(
    folder: Path,
    pages: ShownPages,
    join: Callable[[pd.DataFrame], UserTensors],
    contract: FeatureContract,
) -> None:
    """Write pages and their users' features; :func:`read_shown_pages` reads them.

    Args:
        folder: an empty folder. join: gives the packed users of entities. contract: what is packed.
    """
    users = join(pages.entities) if len(pages) else UserTensors.empty(contract, 0)
    tensors = {**asdict(users), "user_string": users.user_string.astype(str)}
    np.savez(
        folder / "pages.npz",
        allow_pickle=False,
        # Fixed-width text, since an object array could only be kept as a pickle.
        user_id=pages.entities["user_id"].to_numpy(str),
        moment=microseconds(pages.entities["event_timestamp"]),
        week=pages.week,
        rows=pages.rows,
        labels=pages.labels,
        weights=pages.weights,
        **tensors,
    )


def read_shown_pages(folder: Path) -> tuple[ShownPages, UserTensors]:
    """The pages, and the packed features of their users, line by line."""
    with np.load(folder / "pages.npz", allow_pickle=False) as arrays:
        entities = pd.DataFrame(
            {"user_id": arrays["user_id"].astype(object), "event_timestamp": moments_of(arrays["moment"])}
        )
        pages = ShownPages(entities, arrays["week"], arrays["rows"], arrays["labels"], arrays["weights"])
        users = UserTensors(arrays["user_float"], arrays["user_int"], arrays["user_string"].astype(object))
    return pages, users
