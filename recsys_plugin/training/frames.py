"""Everything training learns from, joined point in time through Feast and kept on disk as plain arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import StepFailed
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, SNAPSHOT_SERVICE, point_in_time
from recsys_plugin.training.contexts import Contexts, act_contexts, future_contexts, outcomes
from recsys_plugin.training.packing import UserTensors, pack_frame
from recsys_plugin.training.ranker import HEADS

__all__ = ["Frames", "Split", "build_frames", "catalogue_index", "read_frames"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: What a user does of his own accord; being shown something is not an act.
_ACTS = ("click", "cart", "purchase")


@dataclass(frozen=True, slots=True)
class Split:
    """A part of the time line: its contexts and their packed features, line by line."""

    contexts: Contexts
    users: UserTensors


@dataclass(frozen=True, slots=True)
class Frames:
    """The training material of one data set.

    Attributes:
        train: contexts before the validation weeks; positives are the items of each act.
        validation: one context per user at the start of the validation weeks. test: the same at the start of the test.
        outcomes: for each head that the data can tell, what came of each training context within a day.
        moments: the moments of the item snapshots: training weeks, then validation, test, and now.
        snapshots: item features by moment, one row per catalogue item in row order.
        weeks: int64 [train], position in ``moments`` of the snapshot before each training context; -1 before the first.
    """

    train: Split
    validation: Split
    test: Split
    outcomes: Mapping[str, Contexts]
    moments: tuple[pd.Timestamp, ...]
    snapshots: tuple[pd.DataFrame, ...]
    weeks: _Array


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
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Join all splits through Feast and write them to ``folder``; return counts for the report.

    Args:
        folder: an empty folder.
        dataset: canonical tables and the split moments.
        store: Feast's store. contract: what to pack.
        most_contexts: training contexts kept, drawn at random beyond that.
        weeks: weeks of item snapshots before the validation; the ranker learns from these.
        seed: of the draw.
        progress: told what is being joined, rows done, rows in all.

    Raises:
        StepFailed: if the data holds no act before the validation weeks or none to test on.
    """
    events = dataset.frame("events", ["user_id", "item_id", "event_type", "timestamp"])
    item_ids = catalogue_index(dataset.frame("items", ["item_id"]))
    validation, test = pd.Timestamp(dataset.validation_start), pd.Timestamp(dataset.test_start)
    present = [kind for kind in _ACTS if (events["event_type"] == kind).any()]
    train = act_contexts(events, item_ids, types=present, start=None, end=validation)
    if not len(train):
        raise StepFailed(f"no click, cart or purchase before {validation}: there is nothing to learn from")
    if len(train) > most_contexts:
        drawn = np.random.default_rng(seed).choice(len(train), most_contexts, replace=False)
        train = train.take(np.sort(drawn))
    splits = {
        "train": train,
        "validation": future_contexts(events, item_ids, start=validation, end=test),
        "test": future_contexts(events, item_ids, start=test),
    }
    if not len(splits["test"]):
        raise StepFailed(
            f"no user and item of the training time has a purchase from {test} on: there is nothing to test on"
        )
    for name, contexts in splits.items():
        frame = point_in_time(
            store,
            contexts.entities,
            RANKING_SERVICE,
            progress=lambda done, total, name=name: progress(f"user features, {name}", done, total),  # type: ignore[misc]
        )
        _write_split(folder / f"{name}.npz", contexts, pack_frame(contract, frame, item_ids))
    for head in HEADS:
        if (events["event_type"] == head).any():
            _write_contexts(folder / f"outcome_{head}.npz", outcomes(train, events, item_ids, head, before=validation))

    first = events["timestamp"].min()
    mondays = pd.date_range(max(first, validation - pd.Timedelta(weeks=weeks)).ceil("D"), validation, freq="W-MON")
    moments = [*(moment for moment in mondays if moment < validation), validation, test, pd.Timestamp(dataset.as_of)]
    asked = pd.DataFrame(
        {
            "item_id": np.tile(item_ids.to_numpy(object), len(moments)),
            "event_timestamp": pd.DatetimeIndex(moments).repeat(len(item_ids)).as_unit("us"),
        }
    )
    frame = point_in_time(
        store,
        asked,
        SNAPSHOT_SERVICE,
        block=100_000,
        progress=lambda done, total: progress("item features", done, total),
    )
    frame.to_parquet(folder / "snapshots.parquet", index=False)
    counts = {name: len(contexts) for name, contexts in splits.items()}
    described = {"moments": [moment.isoformat() for moment in moments], "items": len(item_ids), "contexts": counts}
    (folder / "frames.json").write_text(json.dumps(described), encoding="utf-8")
    return {"contexts": counts, "item_snapshots": len(moments), "items": len(item_ids)}


def read_frames(folder: Path) -> Frames:
    """Read what :func:`build_frames` wrote."""
    described = json.loads((folder / "frames.json").read_text(encoding="utf-8"))
    moments = tuple(pd.Timestamp(text) for text in described["moments"])
    frame = pd.read_parquet(folder / "snapshots.parquet")
    size = described["items"]
    snapshots = tuple(frame.iloc[start : start + size].reset_index(drop=True) for start in range(0, len(frame), size))
    train = _read_split(folder / "train.npz")
    before = np.array([moment.value // 1000 for moment in moments[:-3]])
    asked = train.contexts.entities["event_timestamp"].dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64)
    told = {head: folder / f"outcome_{head}.npz" for head in HEADS}
    return Frames(
        train=train,
        validation=_read_split(folder / "validation.npz"),
        test=_read_split(folder / "test.npz"),
        outcomes={head: _read_contexts(path) for head, path in told.items() if path.exists()},
        moments=moments,
        snapshots=snapshots,
        weeks=np.searchsorted(before, asked, side="right") - 1,
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
