"""Everything training learns from, joined point in time through Feast and kept on disk as plain arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import StepFailed
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline.feast_repository import (
    RANKING_SERVICE,
    SNAPSHOT_SERVICE,
    point_in_time,
    point_in_time_blocks,
)
from recsys_plugin.training.baselines import Purchases
from recsys_plugin.training.contexts import (
    Contexts,
    drawn_contexts,
    future_contexts_of,
    outcomes,
    relevant_events,
)
from recsys_plugin.training.neighbours import (
    Neighbours,
    neighbours_of,
    no_neighbours,
    read_neighbours,
    write_neighbours,
)
from recsys_plugin.training.packing import UserTensors, pack_frame
from recsys_plugin.training.pages import page_contexts
from recsys_plugin.training.ranker import HEADS

__all__ = ["Frames", "Snapshots", "Split", "build_frames", "catalogue_index", "joined_users", "read_frames"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Item features that are joined at a time.
_SNAPSHOT_ROWS = 100_000
#: Labels look no further ahead than this, however long the validation is.
LONGEST_HORIZON = pd.Timedelta(days=31)
#: Weeks that share a table of neighbours.
NEIGHBOUR_WEEKS = 8
#: What a user does of his own accord; being shown something is not an act.
_ACTS = ("click", "cart", "purchase")


@dataclass(frozen=True, slots=True)
class Split:
    """A part of the time line: its contexts and their packed features, line by line."""

    contexts: Contexts
    users: UserTensors


class Snapshots(Sequence[pd.DataFrame]):
    """Item features by moment, read from disk one moment at a time.

    Args:
        path: a Parquet file with one row group for each moment.
        moments: positions of the moments that this sequence has.
    """

    def __init__(self, path: Path, moments: range) -> None:
        self._path, self._moments = path, moments

    def __len__(self) -> int:
        return len(self._moments)

    @overload
    def __getitem__(self, index: int) -> pd.DataFrame: ...

    @overload
    def __getitem__(self, index: slice) -> Snapshots: ...

    def __getitem__(self, index: int | slice) -> pd.DataFrame | Snapshots:
        if isinstance(index, slice):
            return Snapshots(self._path, self._moments[index])
        with pq.ParquetFile(self._path) as file:
            frame: pd.DataFrame = file.read_row_group(self._moments[index]).to_pandas()
        return frame


@dataclass(frozen=True, slots=True)
class Frames:
    """The training material of one data set.

    Attributes:
        train: contexts before the validation weeks; positives are the items of each act.
        validation: one context per user at the start of the validation weeks. test: the same at the start of the test.
        pages: moments for the rankers to learn from, without positives of their own.
        outcomes: for each head that the data can tell, what came of each page within ``horizon``.
        moments: the moments of the item snapshots: training weeks, then validation, test, and now.
        snapshots: item features by moment, one row per catalogue item in row order; each read when it is asked for.
        neighbours: what is bought together, by moment. weeks: int64 [pages], position in ``moments`` of each page.
    """

    train: Split
    validation: Split
    test: Split
    outcomes: Mapping[str, Contexts]
    moments: tuple[pd.Timestamp, ...]
    snapshots: Snapshots
    pages: Split
    weeks: _Array
    horizon: pd.Timedelta
    neighbours: Sequence[Neighbours]

    def without_behaviour(self, contract: FeatureContract) -> Frames:
        """The same with empty histories and nothing bought together, to measure what behaviour is worth."""
        empty = no_neighbours(len(self.neighbours[0].rows))

        def blank(split: Split) -> Split:
            return replace(split, users=_without_history(split.users, contract))

        return replace(
            self,
            train=blank(self.train),
            validation=blank(self.validation),
            test=blank(self.test),
            pages=blank(self.pages),
            neighbours=[empty] * len(self.neighbours),
        )


def _without_history(users: UserTensors, contract: FeatureContract) -> UserTensors:
    known = users.user_int.copy()
    for spec in contract.features:
        if spec.is_list and spec.encoding == "row":
            slot = contract.slots[spec.reference]
            known[:, slot.offset : slot.offset + slot.width] = -1
    return UserTensors(users.user_float, known, users.user_string)


def catalogue_index(items: pd.DataFrame) -> pd.Index[str]:
    """The catalogue in row order: all item ids, sorted."""
    index: pd.Index[str] = pd.Index(np.sort(items["item_id"].to_numpy(object)), dtype=object)
    return index


def build_frames(
    folder: Path,
    dataset: Dataset,
    store: Any,
    contract: FeatureContract,
    *,
    most_contexts: int,
    weeks: int,
    seed: int,
    most_evaluated: int,
    most_pages: int,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Join all splits through Feast and write them to ``folder``; return counts for the report.

    Args:
        folder: an empty folder.
        dataset: canonical tables and the split moments.
        store: Feast's store. contract: what to pack.
        most_contexts: training contexts kept, drawn at random beyond that.
        weeks: weeks of item snapshots before the validation; the ranker learns from these.
        seed: of the draws.
        most_pages: moments kept for the rankers to learn from.
        most_evaluated: users kept of validation and of test, drawn at random beyond that.
        progress: told what is being joined, rows done, rows in all.

    Raises:
        StepFailed: if the data holds no act before the validation weeks or none to test on.
    """
    item_ids = catalogue_index(dataset.frame("items", ["item_id"]))
    validation, test = pd.Timestamp(dataset.validation_start), pd.Timestamp(dataset.test_start)

    def events() -> Iterator[pd.DataFrame]:
        return dataset.event_frames(["user_id", "item_id", "event_type", "timestamp"])

    present = [kind for kind in _ACTS if kind in dataset.event_types]
    progress("contexts", 0, 0)
    train, acts = drawn_contexts(events, item_ids, types=present, end=validation, most=most_contexts, seed=seed)
    if not len(train):
        raise StepFailed(f"no click, cart or purchase before {validation}: there is nothing to learn from")
    splits = {"train": train}
    candidates = {"train": acts}
    for name, start, end in (("validation", validation, test), ("test", test, None)):
        bought = (piece[piece["event_type"] == "purchase"] for piece in events())
        future = future_contexts_of(bought, item_ids, start=start, end=end)
        candidates[name] = len(future)
        splits[name] = _drawn(future, most_evaluated, seed)
    if not len(splits["test"]):
        raise StepFailed(
            f"no user and item of the training time has a purchase from {test} on: there is nothing to test on"
        )
    first = pd.Timestamp(dataset.first_event)
    mondays = pd.date_range(max(first, validation - pd.Timedelta(weeks=weeks)).ceil("D"), validation, freq="W-MON")
    past = [moment for moment in mondays if moment < validation]
    moments = [*past, validation, test, pd.Timestamp(dataset.as_of)]
    horizon = min(max(test - validation, pd.Timedelta(days=1)), LONGEST_HORIZON)
    pages, weeks_of_pages = page_contexts(
        events(), past, types=present, horizon=horizon, end=validation, most=most_pages, seed=seed
    )
    splits["pages"], candidates["pages"] = pages, len(pages)
    for name, contexts in splits.items():
        users = joined_users(
            store,
            contract,
            contexts.entities,
            item_ids,
            progress=lambda done, total, name=name: progress(f"user features, {name}", done, total),  # type: ignore[misc]
        )
        _write_split(folder / f"{name}.npz", contexts, users)
    for head in HEADS:
        if head in dataset.event_types:
            acted = relevant_events(events(), pages.entities["user_id"], head, before=validation)
            told = outcomes(pages, acted, item_ids, head, hours=int(horizon.total_seconds()) // 3600, before=validation)
            _write_contexts(folder / f"outcome_{head}.npz", told)
    progress("neighbours", 0, 0)
    _write_neighbours(folder / "neighbours.npz", dataset, item_ids, moments, progress)
    _write_snapshots(folder / "snapshots.parquet", store, item_ids, moments, progress)
    counts = {name: len(contexts) for name, contexts in splits.items()}
    described = {
        "moments": [moment.isoformat() for moment in moments],
        "items": len(item_ids),
        "contexts": counts,
        "horizon_hours": int(horizon.total_seconds()) // 3600,
        "weeks": weeks_of_pages.tolist(),
    }
    (folder / "frames.json").write_text(json.dumps(described), encoding="utf-8")
    return {"contexts": counts, "drawn_from": candidates, "item_snapshots": len(moments), "items": len(item_ids)}


def joined_users(
    store: Any,
    contract: FeatureContract,
    entities: pd.DataFrame,
    item_ids: pd.Index[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UserTensors:
    """The packed user features of each moment, joined and packed block by block.

    Args:
        store: Feast's store. contract: what to pack.
        entities: ``user_id`` and ``event_timestamp`` (UTC), index 0 … n-1.
        item_ids: the catalogue in row order. progress: told moments done and moments in all.
    """
    users = UserTensors.empty(contract, len(entities))
    for rows, frame in point_in_time_blocks(store, entities, RANKING_SERVICE, progress=progress):
        users.put(rows, pack_frame(contract, frame, item_ids))
    return users


def _drawn(contexts: Contexts, most: int, seed: int) -> Contexts:
    if len(contexts) <= most:
        return contexts
    return contexts.take(np.sort(np.random.default_rng(seed).choice(len(contexts), most, replace=False)))


def _write_snapshots(
    path: Path,
    store: Any,
    item_ids: pd.Index[str],
    moments: Sequence[pd.Timestamp],
    progress: Callable[[str, int, int], None],
) -> None:
    """One row group for each moment, one row for each item; joined for as many moments at a time as fit."""
    together = max(1, _SNAPSHOT_ROWS // len(item_ids))
    total, done = len(item_ids) * len(moments), 0
    progress("item features", done, total)
    writer: pq.ParquetWriter | None = None
    with ExitStack() as stack:
        for start in range(0, len(moments), together):
            chosen = moments[start : start + together]
            asked = pd.DataFrame(
                {
                    "item_id": np.tile(item_ids.to_numpy(object), len(chosen)),
                    "event_timestamp": pd.DatetimeIndex(list(chosen)).repeat(len(item_ids)).as_unit("us"),
                }
            )
            joined = pa.Table.from_pandas(
                point_in_time(store, asked, SNAPSHOT_SERVICE, block=_SNAPSHOT_ROWS), preserve_index=False
            )
            if writer is None:
                schema = pa.schema([(field.name, _steady_type(field.type)) for field in joined.schema])
                writer = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
            for position in range(len(chosen)):
                part = joined.slice(position * len(item_ids), len(item_ids)).select(writer.schema.names)
                writer.write_table(part.cast(writer.schema), row_group_size=len(item_ids))
            done += len(asked)
            progress("item features", done, total)


def _write_neighbours(
    path: Path,
    dataset: Dataset,
    item_ids: pd.Index[str],
    moments: Sequence[pd.Timestamp],
    progress: Callable[[str, int, int], None],
) -> None:
    """One table for every eight weeks of training, and one each for validation, test and now.

    A week's rankers must not know what was bought together later, so it uses the table before it.
    """
    past = len(moments) - 3
    fitted = [*range(0, past, NEIGHBOUR_WEEKS), *range(past, len(moments))]
    user_ids: pd.Index[str] = pd.Index(dataset.frame("users", ["user_id"])["user_id"])
    bought = Purchases.of_pieces(
        dataset.event_frames(["user_id", "item_id", "event_type", "timestamp"]), user_ids, item_ids, before=moments[-1]
    )
    tables = []
    for done, position in enumerate(fitted):
        progress("neighbours", done, len(fitted))
        tables.append(neighbours_of(bought.until(moments[position])))
    progress("neighbours", len(fitted), len(fitted))
    write_neighbours(path, tables, np.searchsorted(fitted, np.arange(len(moments)), side="right") - 1)


def _steady_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column that pandas may hold otherwise at other moments, with or without nulls."""
    if pa.types.is_null(kind):
        return pa.string()
    return pa.float64() if pa.types.is_integer(kind) else kind


def read_frames(folder: Path) -> Frames:
    """Read what :func:`build_frames` wrote."""
    described = json.loads((folder / "frames.json").read_text(encoding="utf-8"))
    moments = tuple(pd.Timestamp(text) for text in described["moments"])
    train = _read_split(folder / "train.npz")
    told = {head: folder / f"outcome_{head}.npz" for head in HEADS}
    return Frames(
        train=train,
        validation=_read_split(folder / "validation.npz"),
        test=_read_split(folder / "test.npz"),
        outcomes={head: _read_contexts(path) for head, path in told.items() if path.exists()},
        moments=moments,
        snapshots=Snapshots(folder / "snapshots.parquet", range(len(moments))),
        pages=_read_split(folder / "pages.npz"),
        weeks=np.asarray(described["weeks"], np.int64),
        horizon=pd.Timedelta(hours=described["horizon_hours"]),
        neighbours=read_neighbours(folder / "neighbours.npz"),
    )


def _arrays(contexts: Contexts) -> dict[str, _Array]:
    moments = contexts.entities["event_timestamp"].dt.tz_convert("UTC").dt.tz_localize(None)
    return {
        # Fixed-width text, since an object array could only be kept as a pickle.
        "user_id": contexts.entities["user_id"].to_numpy(str),
        "moment": moments.to_numpy("datetime64[us]").astype(np.int64),
        "offsets": contexts.offsets,
        "rows": contexts.rows,
    }


def _write_contexts(path: Path, contexts: Contexts) -> None:
    np.savez(path, allow_pickle=False, **_arrays(contexts))


def _write_split(path: Path, contexts: Contexts, users: UserTensors) -> None:
    tensors = {**asdict(users), "user_string": users.user_string.astype(str)}
    np.savez(path, allow_pickle=False, **_arrays(contexts), **tensors)


def _read_contexts(path: Path) -> Contexts:
    with np.load(path, allow_pickle=False) as arrays:
        moments = pd.to_datetime(arrays["moment"], unit="us", utc=True)
        entities = pd.DataFrame({"user_id": arrays["user_id"].astype(object), "event_timestamp": moments})
        return Contexts(entities, arrays["offsets"], arrays["rows"])


def _read_split(path: Path) -> Split:
    with np.load(path, allow_pickle=False) as arrays:
        users = UserTensors(arrays["user_float"], arrays["user_int"], arrays["user_string"].astype(object))
    return Split(_read_contexts(path), users)
