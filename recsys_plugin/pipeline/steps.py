"""The steps behind ``recsys apply | train | materialize | export``: each repeats only what is not current."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_plugin.data.store import Dataset, load_dataset
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.export.options import ExportOptions
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.pipeline.feature_tables import (
    EMBEDDING_SCHEMAS,
    FEATURE_TABLES,
    FORECAST_TABLES,
    build_feature_tables,
)
from recsys_plugin.pipeline.forecasts import make_forecasts
from recsys_plugin.pipeline.people import exported_people, people_inputs
from recsys_plugin.pipeline.training_run import shown_pages_digest, training_run
from recsys_plugin.pipeline.workspace import Step, StepResult, Workspace, atomic_text
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import TrackingOptions, TrainingOptions
from recsys_plugin.trials.operations import refuse_during_trial

if TYPE_CHECKING:  # importing torch takes seconds, and a step that is current does not need it
    from recsys_plugin.training.kept import KeptModels

__all__ = [
    "PROJECT",
    "TRAIN_STEP",
    "apply",
    "export",
    "publish_schema",
    "repository_digest",
    "require_applied",
    "require_feature_tables",
    "select",
    "selected_model",
    "serving_version",
    "train",
]

#: Told what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]

#: Feast's project, and with it the tail of every key in Redis.
PROJECT = "recsys"

#: The record of a whole training run, and those that become false when the embedding tables are lost.
TRAIN_STEP = "train"
VECTOR_STEPS = ("train.text", "train.vectors", TRAIN_STEP)


def repository_digest(settings: Settings) -> str:
    """SHA-256 over the definitions in the Feast repository, and where it stands: sources hold absolute paths."""
    digest = hashlib.sha256(str(settings.require_feature_repo()).encode())
    for path in sorted([*settings.feature_repo.glob("*.py"), settings.feature_repo / "feature_store.yaml"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _data_inputs(dataset: Dataset) -> dict[str, Any]:
    splits = [dataset.validation_start, dataset.test_start, dataset.as_of]
    return {"data": dict(dataset.sha256), "splits": [moment.isoformat() for moment in splits]}


def _schema_path(settings: Settings) -> Path:
    return settings.state / "feature_schema.json"


def publish_schema(settings: Settings, redis_url: str) -> None:
    """Tell serving clients the type of every feature, for them to compare their contracts with."""
    client = RedisAddress.parse(redis_url).connect(timeout=5.0)
    try:
        client.set(f"recsys:schema:{PROJECT}", _schema_path(settings).read_text(encoding="utf-8"))
    finally:
        client.close()


def _tables_step(settings: Settings, dataset: Dataset) -> Step:
    folder = settings.feature_repo / "data"
    return Step(
        "feature_tables",
        inputs=_data_inputs(dataset),
        outputs=[folder / f"{name}.parquet" for name in FEATURE_TABLES if name not in FORECAST_TABLES],
        sources=("aggregation", "events/event", "pipeline/feature_tables"),
    )


def _apply_step(settings: Settings, tables: StepResult) -> Step:
    return Step(
        "apply",
        inputs={"repository": repository_digest(settings), "tables": tables.fingerprint},
        outputs=[settings.feature_repo / "data" / "registry.db", _schema_path(settings)],
        # How forecasts are made is part of what models learn from; which day the newest are of is not.
        sources=("pipeline/feast_repository", "forecasting"),
    )


def apply(settings: Settings, progress: Progress, *, force: bool = False) -> StepResult:
    """Compute the feature tables, run ``feast apply``, and tell Redis the types of all features."""
    dataset = load_dataset(settings)
    repository_digest(settings)  # refuses a folder without a repository before anything is written there
    workspace = Workspace(settings.state)
    folder = settings.feature_repo / "data"
    with workspace.lock():

        def tables() -> Mapping[str, Any]:
            if not all((folder / f"{name}.parquet").exists() for name in EMBEDDING_SCHEMAS):
                workspace.forget(*VECTOR_STEPS)  # empty tables take the vectors' place now
            return {"rows": build_feature_tables(folder, dataset, progress=progress)}

        made = workspace.run(_tables_step(settings, dataset), tables, force=force)
        forecasts = make_forecasts(settings, dataset, workspace, dataset.as_of, progress, force=force)
        with Services(settings).ensure_redis() as redis_url:

            def feast_apply() -> Mapping[str, Any]:
                from recsys_plugin.pipeline.feast_repository import apply_repository, feature_schema, open_store

                progress("feast apply", 0, 0)
                apply_repository(settings, redis_url)
                schema = feature_schema(open_store(settings, redis_url))
                atomic_text(_schema_path(settings), json.dumps(schema, sort_keys=True))
                return {"features": len(schema), "rows": {**made.info["rows"], **forecasts.info["rows"]}}

            done = workspace.run(_apply_step(settings, made), feast_apply, force=force)
            publish_schema(settings, redis_url)
    return done


def require_feature_tables(settings: Settings, dataset: Dataset) -> Path:
    """The folder of the feature tables, which must be of the present data and code.

    Raises:
        ConfigurationError: if they are not.
    """
    workspace = Workspace(settings.state)
    with workspace.lock():
        require_applied(settings, dataset, workspace)
    return settings.feature_repo / "data"


def require_applied(settings: Settings, dataset: Dataset, workspace: Workspace) -> StepResult:
    """The record of the ``apply`` that fits the present tables and definitions, without which features are stale."""
    repository_digest(settings)  # says so if there is no repository at all
    tables = workspace.current(_tables_step(settings, dataset))
    applied = workspace.current(_apply_step(settings, tables)) if tables else None
    if applied is None:
        raise ConfigurationError(
            f"{settings.feature_repo} is not applied to the present tables and definitions; run `recsys apply`"
        )
    return applied


def serving_version(settings: Settings) -> int | None:
    """The exported version that was promoted, else the newest on disk; None if there is none."""
    from recsys_plugin.export.install import exported_versions, promotion_path

    on_disk = exported_versions(settings.model_repository)
    path = promotion_path(settings.state)
    promoted = json.loads(path.read_text(encoding="utf-8"))["version"] if path.exists() else None
    return promoted if promoted in on_disk else max(on_disk, default=None)


def train(
    settings: Settings,
    options: TrainingOptions,
    progress: Progress,
    *,
    force: bool = False,
    tracking: TrackingOptions | None = None,
    kept: KeptModels | None = None,
) -> StepResult:
    """Train and evaluate; the parts that are current are reused.

    Args:
        tracking: where curves are shown; None keeps them on disk only.
        kept: what :mod:`recsys_plugin.pipeline.retrain` went on from, if this is about its models.
    """
    dataset = load_dataset(settings)
    workspace = Workspace(settings.state)
    with workspace.lock():
        applied = require_applied(settings, dataset, workspace)
        folder = settings.state / "training"
        step = Step(
            TRAIN_STEP,
            inputs={
                "applied": applied.fingerprint,
                "options": asdict(options),
                "shown_pages": shown_pages_digest(settings, dataset, options),
            },
            outputs=[
                *(
                    folder / name
                    for name in ("text", "frames", "shown_pages", "two_tower", "ranker", "report.json", "report.html")
                ),
                *(settings.feature_repo / "data" / f"{name}.parquet" for name in EMBEDDING_SCHEMAS),
            ],
            sources=("training", "training/zoo", "aggregation", "events/event", "pipeline", "forecasting"),
        )

        def action() -> Mapping[str, Any]:
            from recsys_plugin.training.tracking import open_tracker
            from recsys_plugin.training.train import Training

            chosen = tracking or TrackingOptions()
            with open_tracker(chosen.tracker, folder / "runs", chosen.run) as tracker:
                run = training_run(settings, dataset, options, progress, tracker=tracker, kept=kept)
                report = Training(run, settings.state, applied=applied.fingerprint).run(force=force).info
            return {**report, "applied": applied.fingerprint, "options": asdict(options)}

        return workspace.run(step, action, force=force)


def select(
    settings: Settings, *, rule: str = "ndcg", most_ece: float = 0.02, model: str | None = None
) -> Mapping[str, Any]:
    """Choose the CTR model that is exported; ``model`` overrules the rule.

    Returns:
        ``model``, ``rule`` in words, ``trained`` (the training run it holds for) and ``models`` (all figures).

    Raises:
        ConfigurationError: if nothing is trained, or ``model`` is not.
        CheckFailed: if the rule leaves no model.
    """
    from recsys_plugin.training.zoo.selection import choose

    workspace = Workspace(settings.state)
    with workspace.lock():
        trained = workspace.finished(TRAIN_STEP)
        if trained is None:
            raise ConfigurationError("nothing is trained; run `recsys train --model all`")
        models = trained.info["ctr_models"]["models"]
        if model is not None and model not in models:
            raise ConfigurationError(
                f"the CTR model {model!r} is not trained ({', '.join(models)} are); run `recsys train --model {model}`"
            )
        if model is not None:
            chosen = {"model": model, "rule": "named by the caller", "figures": {}, "excluded": {}}
        else:
            chosen = asdict(choose(models, rule=rule, most_ece=most_ece))
        chosen["trained"] = trained.fingerprint
        atomic_text(_selection_path(settings), json.dumps(chosen, indent=2))
    return {**chosen, "models": models}


def _selection_path(settings: Settings) -> Path:
    return settings.state / "training" / "selection.json"


def selected_model(settings: Settings, trained: StepResult) -> str:
    """The CTR model to export: what was chosen of this training run, or the only one that it trained."""
    path = _selection_path(settings)
    if path.exists():
        chosen = json.loads(path.read_text(encoding="utf-8"))
        if chosen["trained"] == trained.fingerprint:
            return str(chosen["model"])
    models = list(trained.info["ctr_models"]["models"])
    if len(models) > 1:
        raise ConfigurationError(
            f"{len(models)} CTR models were trained ({', '.join(models)}) and none was chosen since; "
            "run `recsys select`"
        )
    return str(models[0])


def export(
    settings: Settings,
    options: TrainingOptions,
    progress: Progress,
    *,
    force: bool = False,
    laid_out: ExportOptions | None = None,
) -> StepResult:
    """Export what was trained last as a new version of the model repository."""
    chosen = laid_out or ExportOptions()
    dataset = load_dataset(settings)
    workspace = Workspace(settings.state)
    with workspace.lock():
        applied = require_applied(settings, dataset, workspace)
        trained = workspace.finished(TRAIN_STEP)
        if trained is None:
            raise ConfigurationError("nothing is trained; run `recsys train`")
        if trained.info.get("applied") != applied.fingerprint:
            raise ConfigurationError("the models were trained on other tables or features; run `recsys train` again")
        encoder = trained.info["options"]["encoder"]
        if encoder != options.encoder:
            raise ConfigurationError(
                f"the models were trained with the text encoder {encoder!r}, not {options.encoder!r}; "
                f"run `recsys train --encoder {options.encoder}`, or export with --encoder {encoder}"
            )

        selected = selected_model(settings, trained)

        def action() -> Mapping[str, Any]:
            refuse_during_trial(Services(settings).redis_url, PROJECT)
            from recsys_plugin.checks.reference import training_reference
            from recsys_plugin.export.catalogue import catalogue_frame
            from recsys_plugin.export.export import ExportMaterial, export_repository
            from recsys_plugin.export.install import exported_versions
            from recsys_plugin.training.complements import complements_now
            from recsys_plugin.training.kept import keep_models, kept_folder
            from recsys_plugin.training.packing import first_users
            from recsys_plugin.training.popularity import popularity_now
            from recsys_plugin.training.shop_encoder import name_in_use

            fine_tuned = trained.info["options"]["fine_tuning"]["mode"]
            as_trained = replace(options, leave_out=tuple(trained.info["options"]["leave_out"]))
            run = training_run(settings, dataset, as_trained, progress)
            models = run.models(selected)
            material = ExportMaterial(
                models=models,
                catalogue=catalogue_frame(dataset, settings.feature_repo / "data", models.item_ids),
                text_vectors=run.text_vectors(),
                users=first_users(run.frames().test.users, 128),
                encoder=name_in_use(settings.state / "training", options.encoder, fine_tuned),
                candidates=options.candidates,
                options=chosen,
                measured=run.frames().test,
                reference=training_reference(run, selected, users=len(dataset.table("users", ["user_id"]))),
                complements=complements_now(run),
                popularity=popularity_now(run, least=chosen.least_group),
                people=exported_people(
                    settings,
                    run,
                    least=chosen.least_group,
                    epsilon=chosen.epsilon,
                    most=chosen.contributions,
                    budget=chosen.budget,
                ),
            )
            made = export_repository(
                settings.model_repository, settings.state, material, progress=progress, key=settings.model_key
            )
            keep_models(
                kept_folder(settings.state),
                made["version"],
                models,
                run.modalities(),
                encoder=encoder,
                fine_tuning=fine_tuned,
                leave_out=as_trained.leave_out,
                further=[run.models().ranker] if selected != "split_mlp" else [],
                others=exported_versions(settings.model_repository),
            )
            return made

        step = Step(
            "export",
            inputs={
                "train": trained.fingerprint,
                "encoder": options.encoder,
                "ctr_model": selected,
                "options": asdict(chosen),
                "people": people_inputs(settings),
            },
            outputs=[settings.state / "export" / name for name in ("known_answers.json", "manifest.json")],
            sources=(
                *("export", "checks/reference", "checks/distributions", "checks/features"),
                *("training/kept", "training/complements", "training/baskets", "training/communities"),
                "training/popularity",
                *("pipeline/people", "privacy/noise", "pseudonyms"),
            ),
        )
        return workspace.run(step, action, force=force or not _exported_files_exist(settings))


def _exported_files_exist(settings: Settings) -> bool:
    """Whether every file of the last export's manifest is where it was put; True if nothing was exported."""
    path = settings.state / "export" / "manifest.json"
    if not path.exists():
        return True
    files = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    return all((settings.model_repository / name).exists() for name in files)
