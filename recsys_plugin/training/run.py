"""What every part of a training run shares: where things are, what was chosen, and what is on disk already."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import StepFailed
from recsys_plugin.impressions.join import outcome_files
from recsys_plugin.pipeline.feast_repository import contract_of
from recsys_plugin.training.artefacts import (
    TrainedModels,
    read_models,
    read_two_tower,
)
from recsys_plugin.training.ctr import (
    Offered,
    offered_candidates,
    outcomes_until,
    ranker_folder,
)
from recsys_plugin.training.frames import Frames, Split, catalogue_index, read_frames
from recsys_plugin.training.impressions import ShownPages, read_shown_pages
from recsys_plugin.training.kept import KeptModels
from recsys_plugin.training.modalities import (
    ItemModalities,
    TextAxes,
    read_modalities,
)
from recsys_plugin.training.options import RankerOptions, TrainingOptions, TwoTowerOptions
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.segments import Segments
from recsys_plugin.training.tracking import CurveLog, NoTracker, Tracker, Trackers, loss_curve
from recsys_plugin.training.two_tower import TwoTower

__all__ = ["Progress", "TrainingRun", "use_threads"]

#: Told the name of what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]


def use_threads() -> None:
    """Half of the cores, at most four: small matrices gain nothing from more, and a busy machine loses much."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(4, (os.cpu_count() or 1) // 2)))


class TrainingRun:
    """One training run over a data set, in folders below ``.recsys/training/``.

    Args:
        state: the state folder. feature_data: the Feast repository's data folder, where vectors go.
        dataset: canonical tables. store: Feast's store, applied.
        options: what may be chosen. progress: told what is under way.
        tracker: told settings, curves and figures; it is not closed here. clock: seconds since 1970.
        kept: weights of the exported version whose text axes stay, and which a warm start goes on from.
        outcomes: folder of logged pages with what came of them; it need not be there. None for none.
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
        tracker: Tracker | None = None,
        clock: Callable[[], float] = time.time,
        kept: KeptModels | None = None,
        outcomes: Path | None = None,
    ) -> None:
        self.kept, self._outcomes = kept, outcomes
        self.tracker, self.clock = tracker or NoTracker(), clock
        self.folder = state / "training"
        self.feature_data = feature_data
        self.dataset, self.store, self.options, self.progress = dataset, store, options, progress
        items = dataset.frame("items", ["item_id", "title", "description", "category", "brand", "image_vector"])
        self.item_ids = catalogue_index(items)
        self.items = items.set_index("item_id").reindex(self.item_ids).rename_axis("item_id").reset_index()

    def models(self, name: str = "split_mlp") -> TrainedModels:
        """The trained models on the newest item snapshot, for export; ``name`` says which CTR model.

        Raises:
            StepFailed: if training has not finished.
        """
        for part in ("text", "frames", "two_tower", ranker_folder(name)):
            if not (self.folder / part).exists():
                raise StepFailed(f"training has not finished ({part} is missing); run `recsys train`")
        return self.models_at(name, -1)

    def models_at(self, name: str, position: int) -> TrainedModels:
        """The trained models on the item snapshot of one of the moments."""
        frames = self.frames()
        return read_models(
            self.folder / "two_tower",
            self.folder / ranker_folder(name),
            frames.snapshots[position],
            self.modalities(),
            frames.neighbours[position],
        )

    @property
    def warm(self) -> KeptModels | None:
        """What training goes on from; None if it begins with random weights."""
        return self.kept if self.options.warm_start is not None else None

    def text_axes(self) -> TextAxes | None:
        """The axes of compact text vectors that models know already; None if they are to be found anew."""
        kept = self.kept
        same = kept is not None and kept.encoder == self.options.encoder
        frozen = kept is not None and {kept.fine_tuning, self.options.fine_tuning.mode} == {"frozen"}
        return kept.axes if kept is not None and same and frozen else None

    def two_tower_options(self) -> TwoTowerOptions:
        """As chosen, or the fewer and smaller steps of a warm start."""
        chosen, warm = self.options.two_tower, self.options.warm_start
        if warm is None:
            return chosen
        steps = max(1, round(warm.share * chosen.steps))
        return replace(chosen, steps=steps, learning_rate=warm.rate * chosen.learning_rate)

    def ranker_options(self) -> RankerOptions:
        """As chosen, or the fewer passes and smaller steps of a warm start."""
        chosen, warm = self.options.ranker, self.options.warm_start
        if warm is None:
            return chosen
        epochs = max(1, round(warm.share * chosen.epochs))
        return replace(chosen, epochs=epochs, learning_rate=warm.rate * chosen.learning_rate)

    def text_vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors of the catalogue's texts, float32 [N, dimensions], in row order."""
        path = self.folder / "text" / "items.npy"
        vectors: np.ndarray[Any, np.dtype[np.float32]] = np.load(path, allow_pickle=False)
        return vectors

    def modalities(self) -> ItemModalities:
        """Texts by source and images of the catalogue, in row order, as the models are to know them."""
        modalities = read_modalities(self.folder / "text" / "modalities.safetensors")
        return modalities.without_text() if "text" in self.options.leave_out else modalities

    def outcome_files(self) -> list[Path]:
        """The days of logged pages, joined with what came of them, that may be learned from."""
        if self._outcomes is None or self.options.shown_pages <= 0:
            return []
        return outcome_files(self._outcomes, before=self.dataset.validation_start)

    def shown_pages(self) -> tuple[ShownPages, UserTensors]:
        """What is learned from of them, and the packed features of their users."""
        return read_shown_pages(self.folder / "shown_pages")

    def frames(self) -> Frames:
        """The point-in-time frames."""
        frames = read_frames(self.folder / "frames")
        return frames.without_behaviour(contract_of(self.store)) if "behaviour" in self.options.leave_out else frames

    def segments(self, split: Split, before: pd.Timestamp) -> Segments:
        """What the users and items of a split are told apart by."""
        columns = ["user_id", "item_id", "event_type", "timestamp"]
        events = self.dataset.frame("events", columns, event_types=["purchase"], dictionary=True)
        return Segments.of(events, self.item_ids, split.contexts, before=before)

    def offered(self, split: str) -> tuple[TwoTower, Offered]:
        """The two-tower at the start of the validation or of the test, what it offers, and what came of that."""
        frames = self.frames()
        position = {"validation": -3, "test": -2}[split]
        end = frames.moments[position + 1] if split == "validation" else pd.Timestamp.max.tz_localize("UTC")
        chosen = frames.validation if split == "validation" else frames.test
        snapshot, neighbours = frames.snapshots[position], frames.neighbours[position]
        towers, _, items, _ = read_two_tower(self.folder / "two_tower", snapshot, self.modalities(), neighbours)
        came = {
            head: chosen.contexts
            if head == "purchase"
            else outcomes_until(
                chosen.contexts,
                self.dataset.event_frames(["user_id", "item_id", "event_type", "timestamp"]),
                self.item_ids,
                head,
                end=end,
            )
            for head in frames.outcomes
        }
        return towers, offered_candidates(towers, chosen, came, items, self.options.candidates)

    def curves(self, folder: Path) -> Trackers:
        """A log in the part's own folder, so that its curves stay with its weights, and the run's tracker."""
        log = CurveLog(folder / "curves.jsonl")
        return Trackers(log, self.tracker, owned=(log,))

    def told(self, what: str, curves: Tracker) -> Callable[[int, int, float], None]:
        """For a training loop to tell of its steps: shown as progress, and its loss kept."""
        follow = loss_curve(curves, f"{what}/loss")

        def told(step: int, steps: int, loss: float) -> None:
            self.progress(what, step, steps)
            follow(step, steps, loss)

        return told
