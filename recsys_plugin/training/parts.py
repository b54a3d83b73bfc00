"""The parts of a training run: each makes one folder from what earlier parts left, and tells what it made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.pipeline.feast_repository import contract_of
from recsys_plugin.pipeline.feature_tables import write_table
from recsys_plugin.training.artefacts import (
    TrainedModels,
    code_sizes,
    new_ranker,
    new_two_tower,
    started_from,
    write_ranker,
    write_two_tower,
)
from recsys_plugin.training.carry import WeightsMisfit, extended
from recsys_plugin.training.ctr import (
    calibrate,
    judge_ranker,
    ranker_material,
    train_frame_ranker,
)
from recsys_plugin.training.evaluation import ranker_metrics
from recsys_plugin.training.frames import Frames, joined_users
from recsys_plugin.training.impressions import shown_pages, write_shown_pages
from recsys_plugin.training.inputs import ItemInputs, UserInputs, Vocabulary, item_inputs
from recsys_plugin.training.kept import KeptModels
from recsys_plugin.training.modalities import (
    ItemModalities,
    compact_along,
    compact_texts,
    image_vectors,
    pool_sources,
    source_texts,
    write_modalities,
)
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, CandidateRanker, train_ranker
from recsys_plugin.training.run import TrainingRun
from recsys_plugin.training.shop_encoder import name_in_use
from recsys_plugin.training.text import encode_texts, item_texts, load_encoder
from recsys_plugin.training.two_tower import TwoTower, train_two_tower
from recsys_plugin.training.user_texts import narrow, own_texts, user_text_table
from recsys_plugin.training.zoo.shop import ShopColumns

__all__ = ["collect_shown_pages", "encode_catalogue", "fit_ctr_model", "fit_ranker", "fit_two_tower"]

_Array = np.ndarray[Any, np.dtype[Any]]


def encode_catalogue(
    run: TrainingRun, folder: Path, encode: Callable[[Sequence[str]], _Array] | None = None
) -> Mapping[str, Any]:
    """Encode all texts: the catalogue's for search, by source for the towers, the users' own as a feature table.

    Args:
        run: the run. folder: takes the vectors.
        encode: texts to unit vectors float32 [texts, D]; the run's encoder if None.
    """
    texts = item_texts(run.items)
    written = run.dataset.frame("texts")
    lists = source_texts(run.items, written, before=pd.Timestamp(run.dataset.validation_start))
    by_source = [text for source in lists.values() for each in source for text in each]
    own = own_texts(written, pd.Timestamp(run.dataset.first_event))
    vectors = (encode or partial(_encoded, run))([*texts, *by_source, *own["text"]])
    np.save(folder / "items.npy", vectors[: len(texts)], allow_pickle=False)
    pooled, present = pool_sources(lists, vectors[len(texts) : len(texts) + len(by_source)], len(run.items))
    axes = run.text_axes()
    # Weights that were learned along other axes would mean nothing.
    directions = narrow(vectors[: len(texts)]) if axes is None else axes.directions
    spoken = user_text_table(own, vectors[len(texts) + len(by_source) :], directions)
    write_table(spoken, run.feature_data / "user_text.parquet")
    images, has_image = image_vectors(run.items["image_vector"], len(run.items))
    if axes is None:
        compact, axes = compact_texts(pooled, present, directions)
    else:
        compact = compact_along(pooled, present, axes)
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


def _encoded(run: TrainingRun, texts: Sequence[str]) -> _Array:
    mode = run.options.fine_tuning.mode
    encoder, tokenizer = load_encoder(name_in_use(run.folder, run.options.encoder, mode))
    return encode_texts(encoder, tokenizer, texts, progress=lambda done, total: run.progress("texts", done, total))


def collect_shown_pages(run: TrainingRun, folder: Path, contract: FeatureContract) -> Mapping[str, Any]:
    """Read logged pages of the training time with what came of them, and join their users' features.

    Args:
        run: the run, its frames done. folder: takes the pages. contract: what to pack of the users.
    """
    frames, options = run.frames(), run.options
    pages, found = shown_pages(
        run.outcome_files(),
        run.item_ids,
        window=pd.Timedelta(hours=options.shown_window),
        moments=frames.moments[:-3],
        end=frames.moments[-3],
        heads=tuple(frames.outcomes),
        most=options.shown_pages,
        seed=options.seed,
    )

    def join(entities: pd.DataFrame) -> UserTensors:
        return joined_users(
            run.store,
            contract,
            entities,
            run.item_ids,
            progress=lambda done, total: run.progress("user features, shown pages", done, total),
        )

    write_shown_pages(folder, pages, join, contract)
    acted = np.nansum(pages.labels, axis=(0, 1))
    return {"pages": len(pages), "drawn_from": found, **dict(zip(HEADS, acted.astype(int).tolist(), strict=True))}


def fit_two_tower(run: TrainingRun, folder: Path) -> Mapping[str, Any]:
    """Train the two-tower on the acts of the training time."""
    frames, contract = run.frames(), contract_of(run.store)
    items, vocabularies = item_inputs(frames.snapshots[-3], run.modalities(), neighbours=frames.neighbours[-3])
    torch.manual_seed(run.options.two_tower.seed)
    inputs = UserInputs.fit(contract, frames.train.users)
    options, start, reason = run.options.two_tower, None, None
    towers = new_two_tower(inputs, items, code_sizes(vocabularies))
    if run.warm is not None:
        try:
            towers, items, vocabularies = _warm_towers(run, frames, inputs, vocabularies)
            options, start = run.two_tower_options(), run.warm.version
        except WeightsMisfit as misfit:
            reason = f"the two-tower of version {run.warm.version} does not fit: {misfit}"
    with run.curves(folder) as curves:
        loss = train_two_tower(
            towers,
            frames.train.contexts,
            frames.train.users,
            options,
            progress=run.told("two-tower", curves),
        )
    write_two_tower(folder, towers, contract, vocabularies, started_from=start)
    parameters = sum(parameter.numel() for parameter in towers.parameters())
    return {
        "loss": loss,
        "parameters": parameters,
        "examples": len(frames.train.contexts.rows),
        "steps": options.steps,
        **_begun(start, reason),
    }


def _begun(start: int | None, reason: str | None) -> dict[str, Any]:
    """What a part tells of the weights that it began with: a version or None, and why a warm start was not possible."""
    return {"started_from": start, "cold": reason}


def _warm_towers(
    run: TrainingRun, frames: Frames, inputs: UserInputs, vocabularies: Mapping[str, Vocabulary]
) -> tuple[TwoTower, ItemInputs, dict[str, Vocabulary]]:
    """The two-tower with the kept weights, its vocabularies widened by what is new in the data.

    Raises:
        WeightsMisfit: if the weights do not fit.
    """
    kept = run.warm
    assert kept is not None
    if kept.contract != inputs.contract:
        raise WeightsMisfit("it takes other features")
    if kept.sources != run.modalities().sources:
        raise WeightsMisfit(f"it knows the texts {', '.join(kept.sources)}; now there are others")
    users = {name: extended(old, inputs.vocabularies[name]) for name, old in kept.user_vocabularies().items()}
    wider = {name: extended(old, vocabularies[name]) for name, old in kept.item_vocabularies().items()}
    items, _ = item_inputs(frames.snapshots[-3], run.modalities(), wider, neighbours=frames.neighbours[-3])
    towers = new_two_tower(UserInputs(inputs.contract, users), items, code_sizes(wider))
    kept.load_towers(towers, run.item_ids, wider)
    return towers, items, wider


def _warm_from(run: TrainingRun) -> KeptModels:
    """What a CTR model may go on from: weights over the vectors of the two-tower that went on from the same version.

    Raises:
        WeightsMisfit: if the two-tower began anew.
    """
    kept = run.warm
    if kept is None or started_from(run.folder / "two_tower") != kept.version:
        raise WeightsMisfit("the two-tower began anew, and so its vectors mean something else")
    return kept


def fit_ranker(run: TrainingRun, folder: Path) -> Mapping[str, Any]:
    """Train the split ranker on candidate lists, calibrate and judge it."""
    frames, options = run.frames(), run.options
    material = ranker_material(frames, run.folder / "two_tower", run.modalities(), options, run.shown_pages())
    towers, items, lists = material.towers, material.items, material.lists
    torch.manual_seed(options.ranker.seed)
    ranker = new_ranker(material.inputs, items, material.sizes)
    heads = tuple(frames.outcomes)
    models = TrainedModels(material.contract, run.item_ids, towers, ranker, items, heads, material.vocabularies)

    chosen, start, reason = options.ranker, None, None
    if run.warm is not None:
        try:
            _warm_from(run).load_ranker(ranker, material.vocabularies)
            chosen, start = run.ranker_options(), run.warm.version
        except WeightsMisfit as misfit:
            reason = f"the ranker of version {run.warm.version} does not fit: {misfit}"
    ranker.scale.fill_(1.0)  # the loss is about logits that are not calibrated
    ranker.offset.fill_(0.0)
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
            chosen,
            progress=run.told("ranker", curves),
            validate=validate if len(frames.validation.contexts) else None,
        )
    seconds = run.clock() - started
    calibrate(ranker, *run.offered("validation"))
    write_ranker(folder, ranker, heads)
    labels = np.nan_to_num(lists.labels)
    return {
        **outcome,
        **_begun(start, reason),
        "lists": len(lists.context),
        "positives": int(labels.sum()),
        **_judged(run, ranker, heads),
        "parameters": sum(parameter.numel() for parameter in ranker.parameters()),
        "training_seconds": round(seconds, 1),
    }


def fit_ctr_model(run: TrainingRun, name: str, folder: Path) -> Mapping[str, Any]:
    """Train one further member of the zoo, by its name on the command line, on the same lists."""
    material = ranker_material(run.frames(), run.folder / "two_tower", run.modalities(), run.options, run.shown_pages())
    started = run.clock()
    earlier, reason = None, None
    if run.warm is not None:
        try:
            shop = ShopColumns(material.inputs, material.items.numbers.shape[1], material.sizes, len(run.item_ids))
            earlier = _warm_from(run).ctr_model_on(name, shop, run.item_ids)
        except WeightsMisfit as misfit:
            reason = f"{name} of version {run.warm.version} does not fit: {misfit}"
    ranker, fitted = train_frame_ranker(
        name, material, run.offered("validation")[1], run.options.ranker.seed, run.progress, start=earlier
    )
    seconds = run.clock() - started
    write_ranker(folder, ranker, fitted.heads)
    return {
        "epochs": list(fitted.epochs),
        **_begun(run.warm.version if run.warm and earlier else None, reason),
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
