"""Vectors of the present models for what has changed since: new events, other texts, another profile or price."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recsys_plugin.data.store import Dataset
from recsys_plugin.pipeline.feast_repository import (
    RANKING_SERVICE,
    SNAPSHOT_SERVICE,
    point_in_time,
    point_in_time_blocks,
)
from recsys_plugin.pipeline.workspace import atomic_folder, atomic_text
from recsys_plugin.security.digests import sha256_of
from recsys_plugin.training.artefacts import TrainedModels
from recsys_plugin.training.baselines import Purchases
from recsys_plugin.training.kept import KeptModels
from recsys_plugin.training.neighbours import neighbours_of
from recsys_plugin.training.packing import UserTensors, pack_frame
from recsys_plugin.training.parts import encode_catalogue
from recsys_plugin.training.run import Progress, TrainingRun
from recsys_plugin.training.text import encode_texts, load_encoder
from recsys_plugin.training.vectors import write_vector_table

__all__ = ["Refreshed", "first_users_now", "present_models", "refresh_vectors"]

_Array = np.ndarray[Any, np.dtype[Any]]
_EVENTS = ("user_id", "item_id", "event_type", "timestamp")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh made: vectors computed and in all, and texts that had to be encoded."""

    users: int
    all_users: int
    items: int
    all_items: int
    texts: int


class _EncodedTexts:
    """Texts that were encoded before, by their digest, so that only what is new needs the language model."""

    def __init__(self, folder: Path, encoder: str, progress: Progress) -> None:
        self._folder, self._encoder, self._progress = folder, encoder, progress
        self.encoded = 0

    def encode(self, texts: Sequence[str]) -> _Array:
        """Unit vectors float32 [texts, D]; what was not asked for is forgotten."""
        keys = [sha256(text.encode()).hexdigest() for text in texts]
        known: dict[str, _Array] = {}
        if (self._folder / "keys.json").exists():
            document = json.loads((self._folder / "keys.json").read_text(encoding="utf-8"))
            if document["encoder"] == self._encoder:
                known = dict(
                    zip(document["keys"], np.load(self._folder / "vectors.npy", allow_pickle=False), strict=True)
                )
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        self.encoded = len(new)
        if new:
            made = encode_texts(
                *load_encoder(self._encoder),
                list(new.values()),
                progress=lambda done, total: self._progress("texts", done, total),
            )
            known |= dict(zip(new, made, strict=True))
        kept = list(dict.fromkeys(keys))
        with atomic_folder(self._folder) as draft:
            np.save(draft / "vectors.npy", np.stack([known[key] for key in kept]), allow_pickle=False)
            (draft / "keys.json").write_text(json.dumps({"encoder": self._encoder, "keys": kept}), encoding="utf-8")
        return np.stack([known[key] for key in keys])


def present_models(run: TrainingRun, kept: KeptModels) -> tuple[TrainedModels, int]:
    """The kept models on the catalogue as of now, and how many texts had to be encoded.

    Args:
        run: in a folder of its own, where texts and their vectors are kept. kept: the models.

    Raises:
        WeightsMisfit: if they cannot be run on the present catalogue.
    """
    texts = _EncodedTexts(run.folder / "encoded", kept.encoder, run.progress)
    with atomic_folder(run.folder / "text") as draft:
        encode_catalogue(run, draft, encode=texts.encode)
    as_of = pd.Timestamp(run.dataset.as_of)
    asked = pd.DataFrame({"item_id": run.item_ids.to_numpy(object), "event_timestamp": as_of.as_unit("us")})
    run.progress("item features", 0, len(asked))
    snapshot = point_in_time(run.store, asked, SNAPSHOT_SERVICE)
    run.progress("item features", len(asked), len(asked))
    users: pd.Index[str] = pd.Index(run.dataset.frame("users", ["user_id"])["user_id"])
    bought = Purchases.of_pieces(run.dataset.event_frames(_EVENTS), users, run.item_ids, before=as_of)
    return kept.models_on(snapshot, neighbours_of(bought), run.item_ids, run.modalities()), texts.encoded


def refresh_vectors(run: TrainingRun, models: TrainedModels, digest: str, *, texts: int, force: bool) -> Refreshed:
    """Compute the vectors of users and items that changed, and write both tables with all of them.

    A user's vector depends on what he did and on the time; one who did nothing new keeps the vector that he has, and so
    does an item with which nobody did anything.

    Args:
        run: as for :func:`present_models`. models: what it gave. digest: of the weights: with others all is computed.
        texts: how many were encoded, for the result. force: compute all.
    """
    as_of = pd.Timestamp(run.dataset.as_of)
    record = run.folder / "vectors.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() and not force else {}
    same = known.get("digest") == digest
    marks: dict[str, dict[str, int]] = {}
    changed: dict[str, int] = {}
    for entity, ids in (
        ("user", run.dataset.frame("users", ["user_id"])["user_id"]),
        ("item", pd.Series(run.item_ids)),
    ):
        path = run.feature_data / f"{entity}_embedding.parquet"
        marks[entity] = _marks(run.dataset, entity)
        whole = same and known["tables"][entity] == sha256_of(path)
        before: Mapping[str, int] = known["marks"][entity] if whole else {}
        stale = np.array([before.get(key) != marks[entity][key] for key in ids], bool)
        vectors = np.empty((len(ids), models.towers.item_vectors()[1].shape[1]), np.float32)
        if not stale.all():
            held = (
                pq.read_table(path, columns=[f"{entity}_id", "vector"]).to_pandas().set_index(f"{entity}_id")["vector"]
            )
            vectors[~stale] = np.stack(held.loc[ids[~stale]].to_list())
        if entity == "user":
            vectors[stale] = _user_vectors(run, models, ids[stale], as_of)
        else:
            vectors[stale] = models.towers.item_vectors()[1][stale]
        columns = {"vector": vectors} | ({"text_vector": run.text_vectors()} if entity == "item" else {})
        write_vector_table(path, f"{entity}_id", ids, as_of, columns)
        changed[entity] = int(stale.sum())
    tables = {entity: sha256_of(run.feature_data / f"{entity}_embedding.parquet") for entity in marks}
    atomic_text(record, json.dumps({"digest": digest, "tables": tables, "marks": marks}))
    return Refreshed(changed["user"], len(marks["user"]), changed["item"], len(marks["item"]), texts)


def first_users_now(run: TrainingRun, models: TrainedModels, most: int) -> UserTensors:
    """The packed features of some users as of now, for parity and known answers of an export."""
    users = run.dataset.frame("users", ["user_id"])["user_id"].head(most)
    return _joined(run, models, users, pd.Timestamp(run.dataset.as_of))


def _user_vectors(run: TrainingRun, models: TrainedModels, users: pd.Series[str], as_of: pd.Timestamp) -> _Array:
    return models.towers.user_vectors(_joined(run, models, users, as_of))


def _joined(run: TrainingRun, models: TrainedModels, users: pd.Series[str], as_of: pd.Timestamp) -> UserTensors:
    asked = pd.DataFrame({"user_id": users.to_numpy(object), "event_timestamp": as_of.as_unit("us")})
    packed = UserTensors.empty(models.contract, len(asked))
    for rows, frame in point_in_time_blocks(
        run.store, asked, RANKING_SERVICE, progress=lambda done, total: run.progress("user vectors", done, total)
    ):
        packed.put(rows, pack_frame(models.contract, frame, run.item_ids))
    return packed


def _marks(dataset: Dataset, entity: str) -> dict[str, int]:
    """A number for everything known of each user or item: his events, his row, and the texts about him."""
    key = f"{entity}_id"
    table = dataset.frame(f"{entity}s")
    ids: pd.Index[str] = pd.Index(table[key])
    total = pd.util.hash_pandas_object(table.map(str), index=False).to_numpy(np.uint64).copy()

    def count(names: pd.Series[str], told: pd.Series[str]) -> None:
        # A sum, so that the order in which things came does not matter; it wraps around.
        rows = ids.get_indexer(pd.Index(names.astype(object)))
        np.add.at(total, rows[rows >= 0], pd.util.hash_array(told.to_numpy(object))[rows >= 0])

    for piece in dataset.event_frames([key, "timestamp", "event_id"]):
        count(piece[key], piece["event_id"])
    texts = dataset.frame("texts")
    texts = texts[texts["entity"] == entity]
    count(texts["entity_id"], texts["source"] + "\0" + texts["text"])
    return dict(zip(ids, total.tolist(), strict=True))
