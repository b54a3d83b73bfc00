"""``recsys train``: text vectors, point-in-time frames, two-tower, ranker, report and vectors, each kept on its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from recsys_plugin.aggregation.arrays import moment_column
from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import StepFailed
from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, contract_of, point_in_time
from recsys_plugin.pipeline.feature_tables import write_table
from recsys_plugin.pipeline.workspace import Step, StepResult, Workspace, atomic_folder, atomic_text
from recsys_plugin.training.artefacts import (
    TrainedModels,
    code_sizes,
    new_ranker,
    new_two_tower,
    read_models,
    read_two_tower,
    write_ranker,
    write_two_tower,
)
from recsys_plugin.training.candidates import training_lists
from recsys_plugin.training.evaluation import baseline_metrics, pipeline_metrics
from recsys_plugin.training.frames import Frames, build_frames, catalogue_index, read_frames
from recsys_plugin.training.inputs import UserInputs, item_inputs
from recsys_plugin.training.options import TrainingOptions
from recsys_plugin.training.packing import pack_frame
from recsys_plugin.training.ranker import train_ranker
from recsys_plugin.training.text import encode_texts, item_texts, load_encoder
from recsys_plugin.training.two_tower import train_two_tower

__all__ = ["Training", "use_threads"]

#: Told the name of what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]


def use_threads() -> None:
    """Half of the cores, at most four: small matrices gain nothing from more, and a busy machine loses much."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(4, (os.cpu_count() or 1) // 2)))


class Training:
    """One training run over a data set, in folders below ``.recsys/training/``.

    Args:
        state: the state folder. feature_data: the Feast repository's data folder, where vectors go.
        dataset: canonical tables. store: Feast's store, applied.
        options: what may be chosen. progress: told what is under way.
        applied: fingerprint of the feature tables and definitions that the store holds.
    """

    def __init__(
        self,
        state: Path,
        feature_data: Path,
        dataset: Dataset,
        store: Any,
        options: TrainingOptions,
        progress: Progress,
        *,
        applied: str,
    ) -> None:
        self._applied = applied
        self._folder = state / "training"
        self._feature_data = feature_data
        self._workspace = Workspace(state)
        self._dataset, self._store, self._options, self._progress = dataset, store, options, progress
        items = dataset.frame("items", ["item_id", "title", "description", "category", "brand"])
        self._item_ids = catalogue_index(items)
        self._items = items.set_index("item_id").reindex(self._item_ids).reset_index()

    def run(self, *, force: bool = False) -> StepResult:
        """Run every part that is not current and return the report's result."""
        options = self._options
        torch.use_deterministic_algorithms(True)
        contract = contract_of(self._store)
        text = self._part(
            "text",
            self._encode,
            {"items": self._dataset.sha256["items"], "encoder": options.encoder},
            ("training/text",),
            force=force,
        )
        frames = self._part(
            "frames",
            lambda folder: build_frames(
                folder,
                self._dataset,
                self._store,
                contract,
                most_contexts=options.most_contexts,
                weeks=options.weeks,
                seed=options.seed,
                progress=self._progress,
            ),
            {"applied": self._applied, "options": [options.most_contexts, options.weeks, options.seed]},
            ("training/frames", "training/contexts", "training/packing", "pipeline/feast_repository"),
            force=force,
        )
        towers = self._part(
            "two_tower",
            self._train_two_tower,
            {"text": text.fingerprint, "frames": frames.fingerprint, "options": asdict(options.two_tower)},
            ("training/two_tower", "training/inputs", "training/artefacts", "training/train"),
            force=force,
        )
        ranker = self._part(
            "ranker",
            self._train_ranker,
            {
                "towers": towers.fingerprint,
                "options": [asdict(options.ranker), options.ranker_contexts, options.candidates, options.seed],
            },
            ("training/ranker", "training/candidates", "training/evaluation", "training/metrics", "training/train"),
            force=force,
        )
        vectors = Step(
            "train.vectors",
            inputs={"towers": towers.fingerprint},
            outputs=[self._feature_data / f"{name}.parquet" for name in ("user_embedding", "item_embedding")],
            sources=("training/train",),
        )
        self._workspace.run(vectors, self._write_vectors, force=force)
        report = Step(
            "train.report",
            inputs={"ranker": ranker.fingerprint},
            outputs=[self._folder / "report.json"],
            sources=("training/evaluation", "training/metrics", "training/train"),
        )
        return self._workspace.run(report, self._report, force=force)

    def models(self) -> TrainedModels:
        """The trained models on the newest item snapshot, for export.

        Raises:
            StepFailed: if training has not finished.
        """
        for name in ("text", "frames", "two_tower", "ranker"):
            if not (self._folder / name).exists():
                raise StepFailed(f"training has not finished ({name} is missing); run `recsys train`")
        return read_models(
            self._folder / "two_tower", self._folder / "ranker", self.frames().snapshots[-1], self.text_vectors()
        )

    def text_vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors of the catalogue's texts, float32 [N, dimensions], in row order."""
        path = self._folder / "text" / "items.npy"
        vectors: np.ndarray[Any, np.dtype[np.float32]] = np.load(path, allow_pickle=False)
        return vectors

    def frames(self) -> Frames:
        """The point-in-time frames."""
        return read_frames(self._folder / "frames")

    def _part(
        self,
        name: str,
        make: Callable[[Path], Mapping[str, Any]],
        inputs: Mapping[str, Any],
        sources: tuple[str, ...],
        *,
        force: bool = False,
    ) -> StepResult:
        """Run one part into a folder of its own, unless it is current."""
        folder = self._folder / name

        def action() -> Mapping[str, Any]:
            with atomic_folder(folder) as draft:
                return make(draft)

        return self._workspace.run(Step(f"train.{name}", inputs, [folder], sources), action, force=force)

    def _encode(self, folder: Path) -> Mapping[str, Any]:
        encoder, tokenizer = load_encoder(self._options.encoder)
        texts = item_texts(self._items)
        vectors = encode_texts(
            encoder, tokenizer, texts, progress=lambda done, total: self._progress("texts", done, total)
        )
        np.save(folder / "items.npy", vectors, allow_pickle=False)
        return {"texts": len(texts), "distinct": len(set(texts)), "dimensions": vectors.shape[1]}

    def _train_two_tower(self, folder: Path) -> Mapping[str, Any]:
        frames, contract = self.frames(), contract_of(self._store)
        items, vocabularies = item_inputs(frames.snapshots[-3], self.text_vectors())
        torch.manual_seed(self._options.two_tower.seed)
        inputs = UserInputs.fit(contract, frames.train.users)
        towers = new_two_tower(inputs, items, code_sizes(vocabularies))
        loss = train_two_tower(
            towers,
            frames.train.contexts,
            frames.train.users,
            self._options.two_tower,
            progress=lambda step, steps, _: self._progress("two-tower", step, steps),
        )
        write_two_tower(folder, towers, contract, vocabularies)
        parameters = sum(parameter.numel() for parameter in towers.parameters())
        return {"loss": loss, "parameters": parameters, "examples": len(frames.train.contexts.rows)}

    def _train_ranker(self, folder: Path) -> Mapping[str, Any]:
        frames, options = self.frames(), self._options
        towers, contract, items, vocabularies = read_two_tower(
            self._folder / "two_tower", frames.snapshots[-3], self.text_vectors()
        )
        snapshots = [item_inputs(frame, self.text_vectors(), vocabularies)[0] for frame in frames.snapshots[:-2]]
        recent = np.flatnonzero(frames.weeks >= 0)
        if not len(recent):
            raise StepFailed("no training context after the first item snapshot: the data spans too little time")
        generator = np.random.default_rng(options.seed)
        if len(recent) > options.ranker_contexts:
            recent = np.sort(generator.choice(recent, options.ranker_contexts, replace=False))
        users = frames.train.users.take(recent)
        lists = training_lists(
            towers,
            {head: truth.take(recent) for head, truth in frames.outcomes.items()},
            users,
            frames.weeks[recent],
            retrieved=options.candidates,
            seed=options.seed,
        )
        torch.manual_seed(options.ranker.seed)
        inputs = UserInputs(contract, towers.user.inputs.vocabularies)
        inputs.load_state_dict(towers.user.inputs.state_dict())
        ranker = new_ranker(inputs, items, code_sizes(vocabularies))
        heads = tuple(frames.outcomes)
        models = TrainedModels(contract, self._item_ids, towers, ranker, items, heads)

        def validate(_: int) -> float:
            metrics = pipeline_metrics(models, frames.validation, items, options.candidates)
            return float(metrics["two-tower + ranker"]["recall@20"]) if metrics else 0.0

        outcome = train_ranker(
            ranker,
            lists,
            users,
            towers,
            snapshots,
            options.ranker,
            progress=lambda step, steps, _: self._progress("ranker", step, steps),
            validate=validate if len(frames.validation.contexts) else None,
        )
        write_ranker(folder, ranker, heads)
        labels = np.nan_to_num(lists.labels)
        return {**outcome, "lists": len(lists.context), "positives": int(labels.sum()), "heads": list(heads)}

    def _write_vectors(self) -> Mapping[str, Any]:
        frames = self.frames()
        towers, contract, _, _ = read_two_tower(self._folder / "two_tower", frames.snapshots[-1], self.text_vectors())
        as_of = pd.Timestamp(self._dataset.as_of)
        users = self._dataset.frame("users", ["user_id"])
        asked = pd.DataFrame({"user_id": users["user_id"].to_numpy(object), "event_timestamp": as_of.as_unit("us")})
        frame = point_in_time(
            self._store,
            asked,
            RANKING_SERVICE,
            progress=lambda done, total: self._progress("user vectors", done, total),
        )
        user_vectors = towers.user_vectors(pack_frame(contract, frame, self._item_ids))
        _write_vector_table(
            self._feature_data / "user_embedding.parquet", "user_id", asked["user_id"], as_of, {"vector": user_vectors}
        )
        _write_vector_table(
            self._feature_data / "item_embedding.parquet",
            "item_id",
            pd.Series(self._item_ids),
            as_of,
            {"vector": towers.item_vectors()[1], "text_vector": self.text_vectors()},
        )
        return {"users": len(users), "items": len(self._item_ids)}

    def _report(self) -> Mapping[str, Any]:
        frames = self.frames()
        events = self._dataset.frame("events", ["user_id", "item_id", "event_type", "timestamp"])
        report: dict[str, Any] = {
            "dataset": self._dataset.name,
            "protocol": "one ranking per user at the split, of items and users seen before it; "
            "recall@20 = hits / min(20, purchases); features joined as of the split",
            "labels": "constructed: a retrieved candidate that was not bought within a day counts as a negative",
        }
        for name, position, moment, split in (
            ("validation", -3, frames.moments[-3], frames.validation),
            ("test", -2, frames.moments[-2], frames.test),
        ):
            models = read_models(
                self._folder / "two_tower", self._folder / "ranker", frames.snapshots[position], self.text_vectors()
            )
            self._progress(f"evaluation, {name}", 0, 1)
            report[name] = {
                "from": moment.isoformat(),
                "baselines": baseline_metrics(events, self._item_ids, split.contexts, before=moment),
                "models": pipeline_metrics(models, split, models.items, self._options.candidates),
            }
            self._progress(f"evaluation, {name}", 1, 1)
        atomic_text(self._folder / "report.json", json.dumps(report, indent=2))
        return report


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
