"""``recsys refresh``: user and item vectors of the serving models for what has changed, without any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from recsys_plugin.data.merge import merge_live_events
from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import ConfigurationError, StepFailed
from recsys_plugin.export.options import ExportOptions
from recsys_plugin.pipeline import online, steps
from recsys_plugin.pipeline.people import exported_people
from recsys_plugin.pipeline.training_run import training_run
from recsys_plugin.pipeline.workspace import Workspace
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.versions import ModelVersions
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import training_options_of
from recsys_plugin.trials.operations import refuse_during_trial

__all__ = ["refresh"]

_FOLDER = "refresh"
_USERS_OF_PARITY = 128


def refresh(
    settings: Settings,
    progress: Callable[[str, int, int], None],
    *,
    now: datetime,
    merge: bool = True,
    catalogue: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Bring features and vectors up to date in the Parquet tables and in Redis.

    Args:
        settings: the home. progress: told what is under way. now: aware.
        merge: bring archived live events into the tables first.
        catalogue: also export the same weights over the present catalogue, as a new version that does not serve yet.
        force: compute all vectors.

    Returns:
        The fields of :class:`~recsys_plugin.training.refreshing.Refreshed`; ``added``: live events; ``serving``: the
        version whose models these are; ``views``: what became of each view; ``version``: what was exported, or None.

    Raises:
        ConfigurationError: if nothing was exported, or models of a kind that cannot be refreshed; if a trial runs and
            a version is to be exported.
        StepFailed: if the models cannot be run on the present catalogue.
    """
    if catalogue:
        refuse_during_trial(Services(settings).redis_url, steps.PROJECT)
    merged = merge_live_events(settings, now=now, progress=progress) if merge else None
    steps.apply(settings, progress)
    dataset = load_dataset(settings)
    workspace = Workspace(settings.state)
    trained, serving = workspace.finished(steps.TRAIN_STEP), steps.serving_version(settings)
    if trained is None or serving is None:
        raise ConfigurationError("no version was exported; run `recsys train` and `recsys export` once first")
    from recsys_plugin.training.carry import WeightsMisfit
    from recsys_plugin.training.kept import KeptModels, kept_folder
    from recsys_plugin.training.refreshing import first_users_now, present_models, refresh_vectors

    kept = KeptModels.read(kept_folder(settings.state), serving)
    if kept is None:
        raise ConfigurationError(f"no weights of version {serving} were kept; run `recsys export --force`")
    if kept.fine_tuning != "frozen" or kept.leave_out:
        raise ConfigurationError(
            f"version {serving} has a fine-tuned text encoder or was trained without some inputs; run `recsys retrain`"
        )
    options = replace(training_options_of(trained.info["options"]), encoder=kept.encoder, leave_out=(), warm_start=None)
    exported: int | None = None
    with workspace.lock():
        steps.require_applied(settings, dataset, workspace)
        run = training_run(settings, dataset, options, progress, kept=kept, state=settings.state / _FOLDER)
        try:
            models, texts = present_models(run, kept)
        except WeightsMisfit as misfit:
            raise StepFailed(
                f"version {serving} cannot be run on the present catalogue ({misfit}); run `recsys retrain`"
            ) from misfit
        made = refresh_vectors(run, models, kept.digest(), texts=texts, force=force)
        if catalogue:
            from recsys_plugin.export.catalogue import catalogue_frame
            from recsys_plugin.export.export import ExportMaterial, export_repository
            from recsys_plugin.export.install import exported_versions
            from recsys_plugin.training.complements import complements_now
            from recsys_plugin.training.kept import keep_models
            from recsys_plugin.training.popularity import popularity_now

            with Services(settings).ensure_redis():
                ModelVersions(Services(settings), steps.PROJECT).pin(serving)
            material = ExportMaterial(
                models=models,
                catalogue=catalogue_frame(dataset, settings.feature_repo / "data", models.item_ids),
                text_vectors=run.text_vectors(),
                users=first_users_now(run, models, _USERS_OF_PARITY),
                encoder=kept.encoder,
                candidates=options.candidates,
                options=ExportOptions(),
                complements=complements_now(run),
                popularity=popularity_now(run, least=ExportOptions().least_group),
                people=exported_people(settings, run, least=ExportOptions().least_group),
            )
            exported = int(
                export_repository(
                    settings.model_repository, settings.state, material, progress=progress, key=settings.model_key
                )["version"]
            )
            keep_models(
                kept_folder(settings.state),
                exported,
                models,
                run.modalities(),
                encoder=kept.encoder,
                fine_tuning=kept.fine_tuning,
                leave_out=kept.leave_out,
                others=exported_versions(settings.model_repository),
            )
    return {
        **asdict(made),
        "added": merged.added if merged is not None else 0,
        "serving": serving,
        "views": online.materialize(settings, progress),
        "version": exported,
    }
