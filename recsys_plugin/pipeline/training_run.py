"""Opening what a training run needs, and what it may learn from besides the tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_plugin.data.store import Dataset
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import TrainingOptions

if TYPE_CHECKING:  # importing torch takes seconds, and a step that is current does not need it
    from recsys_plugin.training.kept import KeptModels
    from recsys_plugin.training.run import TrainingRun
    from recsys_plugin.training.tracking import Tracker

__all__ = ["shown_pages_digest", "training_run"]

#: Told what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]


def training_run(
    settings: Settings,
    dataset: Dataset,
    options: TrainingOptions,
    progress: Progress,
    *,
    tracker: Tracker | None = None,
    kept: KeptModels | None = None,
    state: Path | None = None,
) -> TrainingRun:
    """Open Feast and torch for a training run; neither needs a Redis that runs.

    Args:
        settings: the home. dataset: its tables. options: how to train. progress: told what is under way.
        tracker: told curves. kept: what to go on from. state: where it leaves things; the state folder if None.
    """
    from recsys_plugin.impressions.join import outcomes_folder
    from recsys_plugin.pipeline.feast_repository import open_store
    from recsys_plugin.training.run import TrainingRun, use_threads

    progress("opening Feast", 0, 0)
    use_threads()
    store = open_store(settings, Services(settings).redis_url)
    window = timedelta(hours=options.shown_window)
    return TrainingRun(
        state or settings.state,
        settings.feature_repo / "data",
        dataset,
        store,
        options,
        progress,
        tracker=tracker,
        kept=kept,
        outcomes=outcomes_folder(settings.state, window),
    )


def shown_pages_digest(settings: Settings, dataset: Dataset, options: TrainingOptions) -> str | None:
    """Of the logged pages that training learns from; None if it is to learn from none."""
    from recsys_plugin.impressions.join import outcome_files, outcomes_digest, outcomes_folder

    if options.shown_pages <= 0:
        return None
    folder = outcomes_folder(settings.state, timedelta(hours=options.shown_window))
    return outcomes_digest(outcome_files(folder, before=dataset.validation_start))
