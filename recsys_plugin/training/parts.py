"""The parts of a training run: each makes one folder from what earlier parts left, and tells what it made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from recsys_plugin.aggregation.arrays import moment_column
from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, contract_of, point_in_time_blocks
from recsys_plugin.pipeline.feature_tables import write_table
from recsys_plugin.training.artefacts import (
    TrainedModels,
    code_sizes,
    new_ranker,
    new_two_tower,
    read_two_tower,
    write_ranker,
    write_two_tower,
)
from recsys_plugin.training.ctr import (
    calibrate,
    judge_ranker,
    ranker_material,
    train_frame_ranker,
)
from recsys_plugin.training.evaluation import ranker_metrics
from recsys_plugin.training.inputs import UserInputs, item_inputs
from recsys_plugin.training.modalities import (
    ItemModalities,
    compact_texts,
    image_vectors,
    pool_sources,
    source_texts,
    write_modalities,
)
from recsys_plugin.training.packing import pack_frame
from recsys_plugin.training.ranker import CandidateRanker, train_ranker
from recsys_plugin.training.run import TrainingRun
from recsys_plugin.training.shop_encoder import name_in_use
from recsys_plugin.training.text import encode_texts, item_texts, load_encoder
from recsys_plugin.training.two_tower import train_two_tower
from recsys_plugin.training.user_texts import narrow, own_texts, user_text_table

__all__ = ["encode_catalogue", "fit_ctr_model", "fit_ranker", "fit_two_tower", "write_vectors"]


def encode_catalogue(run: TrainingRun, folder: Path) -> Mapping[str, Any]:
    """Encode all texts: the catalogue's for search, by source for the towers, the users' own as a feature table."""
    mode = run.options.fine_tuning.mode
    encoder, tokenizer = load_encoder(name_in_use(run.folder, run.options.encoder, mode))
    texts = item_texts(run.items)
    written = run.dataset.frame("texts")
    lists = source_texts(run.items, written, before=pd.Timestamp(run.dataset.validation_start))
    by_source = [text for source in lists.values() for each in source for text in each]
    own = own_texts(written, pd.Timestamp(run.dataset.first_event))
    vectors = encode_texts(
        encoder,
        tokenizer,
        [*texts, *by_source, *own["text"]],
        progress=lambda done, total: run.progress("texts", done, total),
    )
    np.save(folder / "items.npy", vectors[: len(texts)], allow_pickle=False)
    pooled, present = pool_sources(lists, vectors[len(texts) : len(texts) + len(by_source)], len(run.items))
    directions = narrow(vectors[: len(texts)])
    spoken = user_text_table(own, vectors[len(texts) + len(by_source) :], directions)
    write_table(spoken, run.feature_data / "user_text.parquet")
    images, has_image = image_vectors(run.items["image_vector"], len(run.items))
    compact, axes = compact_texts(pooled, present, directions)
    modalities = ItemModalities(tuple(lists), pooled, present, images, has_image, compact, axes)
    write_modalities(folder / "modalities.safetensors", modalities)
    return {
        "texts": len(texts),
        "distinct": len(set(texts)),
        "dimensions": vectors.shape[1],
        "items_with_text": dict(zip(lists, present.sum(0).tolist(), strict=True)),
        "items_with_image": int(has_image.sum()),
        "texts_of_users": len(own),
    }


def fit_two_tower(run: TrainingRun, folder: Path) -> Mapping[str, Any]:
    """Train the two-tower on the acts of the training time."""
    frames, contract = run.frames(), contract_of(run.store)
    items, vocabularies = item_inputs(frames.snapshots[-3], run.modalities(), neighbours=frames.neighbours[-3])
    torch.manual_seed(run.options.two_tower.seed)
    inputs = UserInputs.fit(contract, frames.train.users)
    towers = new_two_tower(inputs, items, code_sizes(vocabularies))
    with run.curves(folder) as curves:
        loss = train_two_tower(
            towers,
            frames.train.contexts,
            frames.train.users,
            run.options.two_tower,
            progress=run.told("two-tower", curves),
        )
    write_two_tower(folder, towers, contract, vocabularies)
    parameters = sum(parameter.numel() for parameter in towers.parameters())
    return {"loss": loss, "parameters": parameters, "examples": len(frames.train.contexts.rows)}


def fit_ranker(run: TrainingRun, folder: Path) -> Mapping[str, Any]:
    """Train the split ranker on candidate lists, calibrate and judge it."""
    frames, options = run.frames(), run.options
    material = ranker_material(frames, run.folder / "two_tower", run.modalities(), options)
    towers, items, lists = material.towers, material.items, material.lists
    torch.manual_seed(options.ranker.seed)
    ranker = new_ranker(material.inputs, items, material.sizes)
    heads = tuple(frames.outcomes)
    models = TrainedModels(material.contract, run.item_ids, towers, ranker, items, heads, material.vocabularies)

    segments = run.segments(frames.validation, frames.moments[-3])

    def validate(epoch: int) -> float:
        metrics = ranker_metrics(models, frames.validation, items, options.candidates, segments)
        value = float(metrics["recall@20"]) if metrics else 0.0
        curves.scalar("ranker/validation recall@20", value, epoch + 1)
        return value

    started = run.clock()
    with run.curves(folder) as curves:
        outcome = train_ranker(
            ranker,
            lists,
            material.users,
            towers,
            material.snapshots,
            options.ranker,
            progress=run.told("ranker", curves),
            validate=validate if len(frames.validation.contexts) else None,
        )
    seconds = run.clock() - started
    calibrate(ranker, *run.offered("validation"))
    write_ranker(folder, ranker, heads)
    labels = np.nan_to_num(lists.labels)
    return {
        **outcome,
        "lists": len(lists.context),
        "positives": int(labels.sum()),
        **_judged(run, ranker, heads),
        "parameters": sum(parameter.numel() for parameter in ranker.parameters()),
        "training_seconds": round(seconds, 1),
    }


def fit_ctr_model(run: TrainingRun, name: str, folder: Path) -> Mapping[str, Any]:
    """Train one further member of the zoo, by its name on the command line, on the same lists."""
    material = ranker_material(run.frames(), run.folder / "two_tower", run.modalities(), run.options)
    started = run.clock()
    ranker, fitted = train_frame_ranker(
        name, material, run.offered("validation")[1], run.options.ranker.seed, run.progress
    )
    seconds = run.clock() - started
    write_ranker(folder, ranker, fitted.heads)
    return {
        "epochs": list(fitted.epochs),
        "validation_loss": list(fitted.validation),
        **_judged(run, ranker, fitted.heads),
        "parameters": ranker.model.parameters,
        "training_seconds": round(seconds, 1),
    }


def _judged(run: TrainingRun, ranker: CandidateRanker, heads: tuple[str, ...]) -> dict[str, Any]:
    """A CTR model's figures on the validation, for choosing, and on the test, for the report."""
    found: dict[str, Any] = {"heads": list(heads)}
    for split in ("validation", "test"):
        run.progress(f"{ranker.name}, {split}", 0, 1)
        found[split] = judge_ranker(ranker, *run.offered(split), heads)
        run.progress(f"{ranker.name}, {split}", 1, 1)
    return found


def write_vectors(run: TrainingRun) -> Mapping[str, Any]:
    """Write the tables of user and item vectors as of now."""
    frames = run.frames()
    towers, contract, _, _ = read_two_tower(
        run.folder / "two_tower", frames.snapshots[-1], run.modalities(), frames.neighbours[-1]
    )
    as_of = pd.Timestamp(run.dataset.as_of)
    users = run.dataset.frame("users", ["user_id"])
    asked = pd.DataFrame({"user_id": users["user_id"].to_numpy(object), "event_timestamp": as_of.as_unit("us")})
    blocks = point_in_time_blocks(
        run.store,
        asked,
        RANKING_SERVICE,
        progress=lambda done, total: run.progress("user vectors", done, total),
    )
    user_vectors = np.empty((len(asked), towers.item_vectors()[1].shape[1]), np.float32)
    for rows, frame in blocks:
        user_vectors[rows] = towers.user_vectors(pack_frame(contract, frame, run.item_ids))
    _write_vector_table(
        run.feature_data / "user_embedding.parquet", "user_id", asked["user_id"], as_of, {"vector": user_vectors}
    )
    _write_vector_table(
        run.feature_data / "item_embedding.parquet",
        "item_id",
        pd.Series(run.item_ids),
        as_of,
        {"vector": towers.item_vectors()[1], "text_vector": run.text_vectors()},
    )
    return {"users": len(users), "items": len(run.item_ids)}


def _write_vector_table(
    path: Path,
    key: str,
    ids: pd.Series[str],
    as_of: datetime,
    vectors: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]],
) -> None:
    columns = {
        key: pa.array(ids, pa.string()),
        "event_timestamp": moment_column(np.full(len(ids), pd.Timestamp(as_of).value // 1000)),
    }
    for name, matrix in vectors.items():
        offsets = pa.array(np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1])
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel()))
    write_table(pa.table(columns), path)
