"""``recsys train``: text vectors, point-in-time frames, two-tower, ranker, report and vectors, each kept on its own."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from recsys_plugin.aggregation.arrays import moment_column
from recsys_plugin.bench.machine import describe_machine, package_versions
from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import StepFailed
from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, contract_of, point_in_time_blocks
from recsys_plugin.pipeline.feature_tables import write_table
from recsys_plugin.pipeline.workspace import Step, StepResult, Workspace, atomic_folder, atomic_text
from recsys_plugin.report.html import write_report
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
from recsys_plugin.training.ctr import (
    Offered,
    calibrate,
    judge_ranker,
    offered_candidates,
    outcomes_until,
    ranker_folder,
    ranker_material,
    train_frame_ranker,
    without_nan,
)
from recsys_plugin.training.evaluation import baseline_metrics, ranker_metrics, retrieval_metrics
from recsys_plugin.training.frames import Frames, Split, build_frames, catalogue_index, read_frames
from recsys_plugin.training.importance import permutation_importance
from recsys_plugin.training.inputs import UserInputs, item_inputs
from recsys_plugin.training.modalities import (
    ItemModalities,
    compact_texts,
    image_vectors,
    pool_sources,
    read_modalities,
    source_texts,
    write_modalities,
)
from recsys_plugin.training.options import CTR_MODELS, TrainingOptions
from recsys_plugin.training.packing import pack_frame
from recsys_plugin.training.ranker import CandidateRanker, train_ranker
from recsys_plugin.training.segments import Segments
from recsys_plugin.training.shop_encoder import fine_tune_on_shop, name_in_use
from recsys_plugin.training.text import encode_texts, item_texts, load_encoder
from recsys_plugin.training.tracking import CurveLog, NoTracker, Tracker, Trackers, loss_curve
from recsys_plugin.training.two_tower import TwoTower, train_two_tower
from recsys_plugin.training.user_texts import narrow, own_texts, user_text_table

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
        tracker: told settings, curves and figures; it is not closed here. clock: seconds since 1970.
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
        tracker: Tracker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._applied = applied
        self._tracker, self._clock = tracker or NoTracker(), clock
        self._folder = state / "training"
        self._feature_data = feature_data
        self._workspace = Workspace(state)
        self._dataset, self._store, self._options, self._progress = dataset, store, options, progress
        items = dataset.frame("items", ["item_id", "title", "description", "category", "brand", "image_vector"])
        self._item_ids = catalogue_index(items)
        self._items = items.set_index("item_id").reindex(self._item_ids).rename_axis("item_id").reset_index()

    def run(self, *, force: bool = False) -> StepResult:
        """Run every part that is not current and return the report's result."""
        options = self._options
        self._tracker.parameters(asdict(options))
        torch.use_deterministic_algorithms(True)
        contract = contract_of(self._store)
        encoder = self._fine_tuned(force=force)
        text = self._part(
            "text",
            self._encode,
            {
                "items": self._dataset.sha256["items"],
                "texts": self._dataset.sha256.get("texts"),
                "before": self._dataset.validation_start.isoformat(),
                "encoder": options.encoder,
                "fine_tuned": encoder.fingerprint if encoder else None,
            },
            ("training/text", "training/modalities", "training/user_texts"),
            tables=("user_text",),
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
                most_evaluated=options.most_evaluated,
                most_pages=options.ranker_contexts,
                progress=self._progress,
            ),
            {
                "applied": self._applied,
                "text": text.fingerprint,
                "options": [
                    options.most_contexts,
                    options.weeks,
                    options.seed,
                    options.most_evaluated,
                    options.ranker_contexts,
                ],
            },
            (
                "training/frames",
                "training/contexts",
                "training/packing",
                "training/pages",
                "training/neighbours",
                "training/baselines",
                "pipeline/feast_repository",
            ),
            force=force,
        )
        towers = self._part(
            "two_tower",
            self._train_two_tower,
            {
                "text": text.fingerprint,
                "frames": frames.fingerprint,
                "options": asdict(options.two_tower),
                "leave_out": options.leave_out,
            },
            ("training/two_tower", "training/inputs", "training/artefacts", "training/train"),
            force=force,
        )
        ranker = self._part(
            "ranker",
            self._train_ranker,
            {
                "towers": towers.fingerprint,
                "options": [asdict(options.ranker), options.candidates, options.seed],
            },
            ("training/ranker", "training/pair_features", "training/candidates", "training/ctr", "training/train"),
            force=force,
        )
        members = {"split_mlp": ranker}
        for name in CTR_MODELS[1:]:
            if name in options.ctr_models:
                members[name] = self._part(
                    f"ctr_{name}",
                    functools.partial(self._train_ctr_model, name),
                    {"ranker": ranker.fingerprint},
                    ("training/zoo", "training/ctr"),
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
            inputs={"ctr_models": {name: member.fingerprint for name, member in members.items()}},
            outputs=[self._folder / "report.json"],
            sources=("training/evaluation", "training/metrics", "training/importance", "training/train"),
        )
        done = self._workspace.run(
            report, lambda: self._report({name: member.info for name, member in members.items()}), force=force
        )
        page = Step("train.html", {"report": done.fingerprint}, [self._folder / "report.html"], ("report",))
        self._workspace.run(page, self._write_page, force=force or not done.current)
        return done

    def models(self, name: str = "split_mlp") -> TrainedModels:
        """The trained models on the newest item snapshot, for export; ``name`` says which CTR model.

        Raises:
            StepFailed: if training has not finished.
        """
        for part in ("text", "frames", "two_tower", ranker_folder(name)):
            if not (self._folder / part).exists():
                raise StepFailed(f"training has not finished ({part} is missing); run `recsys train`")
        return self._models_at(name, -1)

    def _models_at(self, name: str, position: int) -> TrainedModels:
        """The trained models on the item snapshot of one of the moments."""
        frames = self.frames()
        return read_models(
            self._folder / "two_tower",
            self._folder / ranker_folder(name),
            frames.snapshots[position],
            self.modalities(),
            frames.neighbours[position],
        )

    def text_vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors of the catalogue's texts, float32 [N, dimensions], in row order."""
        path = self._folder / "text" / "items.npy"
        vectors: np.ndarray[Any, np.dtype[np.float32]] = np.load(path, allow_pickle=False)
        return vectors

    def modalities(self) -> ItemModalities:
        """Texts by source and images of the catalogue, in row order, as the models are to know them."""
        modalities = read_modalities(self._folder / "text" / "modalities.safetensors")
        return modalities.without_text() if "text" in self._options.leave_out else modalities

    def frames(self) -> Frames:
        """The point-in-time frames."""
        frames = read_frames(self._folder / "frames")
        return frames.without_behaviour(contract_of(self._store)) if "behaviour" in self._options.leave_out else frames

    def _part(
        self,
        name: str,
        make: Callable[[Path], Mapping[str, Any]],
        inputs: Mapping[str, Any],
        sources: tuple[str, ...],
        *,
        tables: Sequence[str] = (),
        force: bool = False,
    ) -> StepResult:
        """Run one part into a folder of its own, and into feature tables, unless it is current."""
        folder = self._folder / name

        outputs = [folder, *(self._feature_data / f"{table}.parquet" for table in tables)]

        def action() -> Mapping[str, Any]:
            started = self._clock()
            with atomic_folder(folder) as draft:
                made = make(draft)
            return {**made, "seconds": round(self._clock() - started, 1)}

        return self._workspace.run(Step(f"train.{name}", inputs, outputs, sources), action, force=force)

    def _curves(self, folder: Path) -> Trackers:
        """A log in the part's own folder, so that its curves stay with its weights, and the run's tracker."""
        log = CurveLog(folder / "curves.jsonl")
        return Trackers(log, self._tracker, owned=(log,))

    def _told(self, what: str, curves: Tracker) -> Callable[[int, int, float], None]:
        """For a training loop to tell of its steps: shown as progress, and its loss kept."""
        follow = loss_curve(curves, f"{what}/loss")

        def told(step: int, steps: int, loss: float) -> None:
            self._progress(what, step, steps)
            follow(step, steps, loss)

        return told

    def _fine_tuned(self, *, force: bool = False) -> StepResult | None:
        """The fine-tuned text encoder; None if it is to stay as it is."""
        options = self._options
        if options.fine_tuning.mode == "frozen":
            return None
        checkpoints = self._folder / "encoder_checkpoint"
        result = self._part(
            "encoder",
            lambda folder: fine_tune_on_shop(
                folder,
                self._dataset,
                self._items,
                options.encoder,
                options.fine_tuning,
                self._progress,
                checkpoints=checkpoints,
            ),
            {
                "tables": [self._dataset.sha256[name] for name in ("items", "events")],
                "before": self._dataset.validation_start.isoformat(),
                "encoder": options.encoder,
                "options": asdict(options.fine_tuning),
            },
            (
                *(f"training/fine_tuning{part}" for part in ("", "_tasks")),
                *(f"training/{name}" for name in ("checkpoint", "shop_encoder", "shop_pairs", "text")),
            ),
            force=force,
        )
        shutil.rmtree(checkpoints, ignore_errors=True)
        return result

    def _encode(self, folder: Path) -> Mapping[str, Any]:
        mode = self._options.fine_tuning.mode
        encoder, tokenizer = load_encoder(name_in_use(self._folder, self._options.encoder, mode))
        texts = item_texts(self._items)
        written = self._dataset.frame("texts")
        lists = source_texts(self._items, written, before=pd.Timestamp(self._dataset.validation_start))
        by_source = [text for source in lists.values() for each in source for text in each]
        own = own_texts(written, pd.Timestamp(self._dataset.first_event))
        vectors = encode_texts(
            encoder,
            tokenizer,
            [*texts, *by_source, *own["text"]],
            progress=lambda done, total: self._progress("texts", done, total),
        )
        np.save(folder / "items.npy", vectors[: len(texts)], allow_pickle=False)
        pooled, present = pool_sources(lists, vectors[len(texts) : len(texts) + len(by_source)], len(self._items))
        axes = narrow(vectors[: len(texts)])
        spoken = user_text_table(own, vectors[len(texts) + len(by_source) :], axes)
        write_table(spoken, self._feature_data / "user_text.parquet")
        images, has_image = image_vectors(self._items["image_vector"], len(self._items))
        compact = compact_texts(pooled, present, axes)
        modalities = ItemModalities(tuple(lists), pooled, present, images, has_image, compact)
        write_modalities(folder / "modalities.safetensors", modalities)
        return {
            "texts": len(texts),
            "distinct": len(set(texts)),
            "dimensions": vectors.shape[1],
            "items_with_text": dict(zip(lists, present.sum(0).tolist(), strict=True)),
            "items_with_image": int(has_image.sum()),
            "texts_of_users": len(own),
        }

    def _train_two_tower(self, folder: Path) -> Mapping[str, Any]:
        frames, contract = self.frames(), contract_of(self._store)
        items, vocabularies = item_inputs(frames.snapshots[-3], self.modalities(), neighbours=frames.neighbours[-3])
        torch.manual_seed(self._options.two_tower.seed)
        inputs = UserInputs.fit(contract, frames.train.users)
        towers = new_two_tower(inputs, items, code_sizes(vocabularies))
        with self._curves(folder) as curves:
            loss = train_two_tower(
                towers,
                frames.train.contexts,
                frames.train.users,
                self._options.two_tower,
                progress=self._told("two-tower", curves),
            )
        write_two_tower(folder, towers, contract, vocabularies)
        parameters = sum(parameter.numel() for parameter in towers.parameters())
        return {"loss": loss, "parameters": parameters, "examples": len(frames.train.contexts.rows)}

    def _train_ranker(self, folder: Path) -> Mapping[str, Any]:
        frames, options = self.frames(), self._options
        material = ranker_material(frames, self._folder / "two_tower", self.modalities(), options)
        towers, items, lists = material.towers, material.items, material.lists
        torch.manual_seed(options.ranker.seed)
        ranker = new_ranker(material.inputs, items, material.sizes)
        heads = tuple(frames.outcomes)
        models = TrainedModels(material.contract, self._item_ids, towers, ranker, items, heads)

        segments = self._segments(frames.validation, frames.moments[-3])

        def validate(epoch: int) -> float:
            metrics = ranker_metrics(models, frames.validation, items, options.candidates, segments)
            value = float(metrics["recall@20"]) if metrics else 0.0
            curves.scalar("ranker/validation recall@20", value, epoch + 1)
            return value

        started = self._clock()
        with self._curves(folder) as curves:
            outcome = train_ranker(
                ranker,
                lists,
                material.users,
                towers,
                material.snapshots,
                options.ranker,
                progress=self._told("ranker", curves),
                validate=validate if len(frames.validation.contexts) else None,
            )
        seconds = self._clock() - started
        calibrate(ranker, towers, self._offered(towers, "validation"))
        write_ranker(folder, ranker, heads)
        labels = np.nan_to_num(lists.labels)
        return {
            **outcome,
            "lists": len(lists.context),
            "positives": int(labels.sum()),
            **self._judged(ranker, towers, heads),
            "parameters": sum(parameter.numel() for parameter in ranker.parameters()),
            "training_seconds": round(seconds, 1),
        }

    def _train_ctr_model(self, name: str, folder: Path) -> Mapping[str, Any]:
        material = ranker_material(self.frames(), self._folder / "two_tower", self.modalities(), self._options)
        started = self._clock()
        ranker, fitted = train_frame_ranker(
            name, material, self._offered(material.towers, "validation"), self._options.ranker.seed, self._progress
        )
        seconds = self._clock() - started
        write_ranker(folder, ranker, fitted.heads)
        return {
            "epochs": list(fitted.epochs),
            "validation_loss": list(fitted.validation),
            **self._judged(ranker, material.towers, fitted.heads),
            "parameters": ranker.model.parameters,
            "training_seconds": round(seconds, 1),
        }

    def _offered(self, towers: TwoTower, split: str) -> Offered:
        """What retrieval offers at the start of the validation or of the test, and what came of it until its end."""
        frames = self.frames()
        position = {"validation": -3, "test": -2}[split]
        end = frames.moments[position + 1] if split == "validation" else pd.Timestamp.max.tz_localize("UTC")
        chosen = frames.validation if split == "validation" else frames.test
        snapshot, neighbours = frames.snapshots[position], frames.neighbours[position]
        _, _, items, _ = read_two_tower(self._folder / "two_tower", snapshot, self.modalities(), neighbours)
        came = {
            head: chosen.contexts
            if head == "purchase"
            else outcomes_until(
                chosen.contexts,
                self._dataset.event_frames(["user_id", "item_id", "event_type", "timestamp"]),
                self._item_ids,
                head,
                end=end,
            )
            for head in frames.outcomes
        }
        return offered_candidates(towers, chosen, came, items, self._options.candidates)

    def _judged(self, ranker: CandidateRanker, towers: TwoTower, heads: tuple[str, ...]) -> dict[str, Any]:
        """A CTR model's figures on the validation, for choosing, and on the test, for the report."""
        found: dict[str, Any] = {"heads": list(heads)}
        for split in ("validation", "test"):
            self._progress(f"{ranker.name}, {split}", 0, 1)
            found[split] = judge_ranker(ranker, towers, self._offered(towers, split), heads)
            self._progress(f"{ranker.name}, {split}", 1, 1)
        return found

    def _write_vectors(self) -> Mapping[str, Any]:
        frames = self.frames()
        towers, contract, _, _ = read_two_tower(
            self._folder / "two_tower", frames.snapshots[-1], self.modalities(), frames.neighbours[-1]
        )
        as_of = pd.Timestamp(self._dataset.as_of)
        users = self._dataset.frame("users", ["user_id"])
        asked = pd.DataFrame({"user_id": users["user_id"].to_numpy(object), "event_timestamp": as_of.as_unit("us")})
        blocks = point_in_time_blocks(
            self._store,
            asked,
            RANKING_SERVICE,
            progress=lambda done, total: self._progress("user vectors", done, total),
        )
        user_vectors = np.empty((len(asked), towers.item_vectors()[1].shape[1]), np.float32)
        for rows, frame in blocks:
            user_vectors[rows] = towers.user_vectors(pack_frame(contract, frame, self._item_ids))
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

    def _track_figures(self, name: str, figures: Mapping[str, Any]) -> None:
        """Tell the tracker every figure of every system; segments are the report's matter."""
        for key, value in figures.items():
            if isinstance(value, Mapping) and key != "segments":
                self._track_figures(f"{name}/{key}", value)
            elif isinstance(value, (int, float)):
                self._tracker.scalar(f"{name}/{key}", value, 0)

    def _segments(self, split: Split, before: pd.Timestamp) -> Segments:
        """What the users and items of a split are told apart by."""
        columns = ["user_id", "item_id", "event_type", "timestamp"]
        events = self._dataset.frame("events", columns, event_types=["purchase"], dictionary=True)
        return Segments.of(events, self._item_ids, split.contexts, before=before)

    def _write_page(self) -> Mapping[str, Any]:
        path = write_report(self._folder.parent)
        self._tracker.artefact(path)
        return {"bytes": path.stat().st_size}

    def _models_metrics(
        self, members: Sequence[str], position: int, split: Split, segments: Segments
    ) -> dict[str, Any]:
        """The two-tower, and it with each CTR model, on one split."""
        candidates = self._options.candidates
        found: dict[str, Any] = {}
        for name in members:
            models = self._models_at(name, position)
            found = found or retrieval_metrics(models.towers, split, candidates, segments)
            found[f"two-tower + {name}"] = ranker_metrics(models, split, models.items, candidates, segments)
        return found

    def _report(self, members: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        frames = self.frames()
        columns = ["user_id", "item_id", "event_type", "timestamp"]
        events = self._dataset.frame("events", columns, event_types=["purchase"], dictionary=True)
        report: dict[str, Any] = {
            "dataset": self._dataset.name,
            "protocol": "one ranking per user at the split, of items and users seen before it; "
            "recall@20 = hits / min(20, purchases); features joined as of the split",
            "labels": "constructed: a retrieved candidate that nothing came of within "
            f"{frames.horizon.days} days counts as a negative",
        }
        if self._options.fine_tuning.mode != "frozen" and (tuned := self._workspace.finished("train.encoder")):
            report["fine_tuning"] = dict(tuned.info)
        for name, position, moment, split in (
            ("validation", -3, frames.moments[-3], frames.validation),
            ("test", -2, frames.moments[-2], frames.test),
        ):
            self._progress(f"evaluation, {name}", 0, 1)
            segments = self._segments(split, moment)
            report[name] = {
                "from": moment.isoformat(),
                "baselines": baseline_metrics(events, self._item_ids, split.contexts, segments, before=moment),
                "models": self._models_metrics(list(members), position, split, segments),
            }
            if not len(split.contexts):
                report[name]["note"] = f"nobody known bought anything known in the {name} time: nothing is judged on it"
                if name == "validation":
                    report[name]["note"] += ", and training ran to its last epoch without early stopping"
            self._progress(f"evaluation, {name}", 1, 1)
            self._track_figures(name, report[name])
        models = self._models_at(_best(members), -2)
        report["importance"] = permutation_importance(
            models,
            frames.test,
            models.items,
            candidates=self._options.candidates,
            seed=self._options.seed,
            progress=lambda done, total: self._progress("feature importance", done, total),
        )
        report["run"] = {
            "made": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds"),
            "options": asdict(self._options),
            "versions": package_versions("torch", "transformers", "feast", "lightgbm", "onnxruntime"),
            "machine": describe_machine(),
        }
        report["ctr_models"] = {
            "labels": "constructed: a retrieved candidate that nothing came of counts as a negative; AUC, GAUC, "
            "log loss and ECE are over the retrieved candidates, recall and NDCG over all purchases",
            "calibration": "Platt scaling on the validation weeks: the probability of the event within as long a time",
            "models": dict(members),
        }
        report = without_nan(report)
        atomic_text(self._folder / "report.json", json.dumps(report, indent=2, allow_nan=False))
        return report


def _best(members: Mapping[str, Mapping[str, Any]]) -> str:
    """The CTR model with the best NDCG on the validation; the first if there is none."""
    return max(members, key=lambda name: float(members[name].get("validation", {}).get("ndcg@20") or 0.0))


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
