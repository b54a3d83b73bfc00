"""``recsys retrain``: new data, models that go on from the serving ones, a comparison, and a version if it is worth it.

What is trained here stands apart, in ``.recsys/retraining/``, until the policy takes it: a model that is refused leaves
what is trained, exported and served as it was. Each part is remembered, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from recsys_plugin.data.merge import Merged, merge_live_events
from recsys_plugin.data.store import Dataset, load_dataset
from recsys_plugin.errors import CheckFailed, ConfigurationError, InvalidInput
from recsys_plugin.impressions.join import MOST_WINDOW, join_outcomes, outcomes_folder
from recsys_plugin.pipeline import online, steps
from recsys_plugin.pipeline.training_run import shown_pages_digest, training_run
from recsys_plugin.pipeline.workspace import Step, StepResult, Workspace, atomic_folder, atomic_text
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.versions import ModelVersions
from recsys_plugin.settings import Settings
from recsys_plugin.training.options import TrainingOptions, WarmStart, training_options_of
from recsys_plugin.trials.operations import refuse_during_trial

if TYPE_CHECKING:
    from recsys_plugin.training.kept import KeptModels

__all__ = ["POLICIES", "Refused", "RetrainOptions", "Retrained", "retrain"]

Progress = Callable[[str, int, int], None]

#: never: export and stop. better: serve it if it is shown not to be worse. always: serve it.
POLICIES = ("never", "better", "always")

_FOLDER = "retraining"
_STEP = "retrain"


class Refused(CheckFailed):
    """The new models are worse than the serving ones, and the policy refused them; ``found`` is the report."""

    def __init__(self, message: str, found: Retrained) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True, slots=True)
class RetrainOptions:
    """What may be chosen about a retraining.

    Attributes:
        policy: one of :data:`POLICIES`. margin: a loss of NDCG@20 that counts as none.
        merge: bring archived live events into the tables first, and join archived pages with what came of them.
        shown_pages: archived pages that the rankers learn from, at most, drawn at random beyond that; 0 for none.
        window: hours after a page within which a click, cart or purchase is its outcome.
        cold: begin with random weights. force: even if nothing is new.

    Raises:
        InvalidInput: if there is no such policy, or a number is out of its range.
    """

    policy: str = "never"
    margin: float = 0.01
    merge: bool = True
    shown_pages: int = TrainingOptions().shown_pages
    window: int = TrainingOptions().shown_window
    cold: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InvalidInput(f"there is no policy {self.policy!r}; there are {', '.join(POLICIES)}")
        if not 0.0 <= self.margin < 1.0:
            raise InvalidInput(f"the margin is {self.margin}; it lies between 0 and 1")
        if self.shown_pages < 0:
            raise InvalidInput(f"shown pages: {self.shown_pages} is below 0")
        if not 0 < self.window <= MOST_WINDOW // timedelta(hours=1):
            raise InvalidInput(f"the window is {self.window} hours; it is above 0 and at most {MOST_WINDOW.days} days")


@dataclass(frozen=True, slots=True)
class Retrained:
    """What came of it; :meth:`document` is what ``report.json`` holds.

    Attributes:
        current: whether nothing was new. merged: what the tables gained; None if they were not touched.
        shown_pages: logged pages that were learned from: those served before the validation begins.
        serving: the version compared with, None if there is none. version: the one exported, None if none was.
        promoted: whether that one serves. verdict: see :func:`~recsys_plugin.training.comparison.verdict`;
            ``"not compared"`` without a serving model.
        started_from: for each model the version that it went on from, None if it began anew.
        cold: for each of these why.
        comparison: figures by view, see :func:`~recsys_plugin.training.comparison.compare_models`.
        tested: the first and the last moment of the days that were judged. policy, margin: as asked.
    """

    current: bool
    merged: Merged | None
    shown_pages: int
    serving: int | None
    version: int | None
    promoted: bool
    verdict: str
    started_from: Mapping[str, int | None]
    cold: Mapping[str, str]
    comparison: Mapping[str, Mapping[str, Mapping[str, float]]]
    tested: tuple[str, str]
    policy: str
    margin: float

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        merged = self.merged
        counts = ("added", "repeated", "unknown_items", "unknown_item_ids", "ahead", "new_users")
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "merged"}
        return {**plain, "merged": None if merged is None else {name: getattr(merged, name) for name in counts}}


def retrain(settings: Settings, options: RetrainOptions, progress: Progress, *, now: datetime) -> Retrained:
    """Retrain, compare, and export or promote, as the options say.

    What is trained, and how, is what ``recsys train`` and ``recsys select`` chose last.

    Args:
        settings: the home. options: what to do. progress: told what is under way. now: aware.

    Raises:
        Refused: if the new models are worse and the policy is ``"better"``.
        ConfigurationError: if nothing was ever trained, or a trial runs.
        StepFailed: if there is nothing to train or to judge on.
        InferenceUnavailable, StoreUnavailable: if a server does not answer when the version is to be promoted; the
            export is kept, and the next run goes on there.
    """
    refuse_during_trial(Services(settings).redis_url, steps.PROJECT)
    merged = merge_live_events(settings, now=now, progress=progress) if options.merge else None
    if options.merge:
        window = timedelta(hours=options.window)
        join_outcomes(
            settings.state, outcomes_folder(settings.state, window), window=window, now=now, progress=progress
        )
    steps.apply(settings, progress)
    dataset = load_dataset(settings)
    workspace = Workspace(settings.state)
    trained = workspace.finished(steps.TRAIN_STEP)
    if trained is None:
        raise ConfigurationError("nothing is trained; run `recsys train` and `recsys export` once first")
    serving = steps.serving_version(settings)
    learned = replace(
        training_options_of(trained.info["options"]),
        warm_start=None,
        shown_pages=options.shown_pages,
        shown_window=options.window,
    )
    asked = Step(
        _STEP,
        inputs={
            "data": dict(dataset.sha256),
            "shown_pages": shown_pages_digest(settings, dataset, learned),
            "asked": {**asdict(options), "force": False},
            "serving": serving,
        },
        outputs=[settings.state / _FOLDER / "report.json"],
        sources=("training", "training/zoo", "pipeline", "aggregation"),
    )
    if not options.force and (done := workspace.current(asked)):
        found = _remembered(done, merged)
        if found.version is None:
            raise Refused(_refusal(found, options.margin), found)
        return found
    kept = _kept(settings, serving)
    chosen, cold = _options(learned, kept, options.cold, serving)
    candidate = _Candidate(settings, dataset, chosen, kept, progress)
    with workspace.lock():
        found = candidate.judged(cold, merged, options)
    report = settings.state / _FOLDER / "report.json"
    atomic_text(report, _json(found))
    if options.policy == "better" and found.verdict == "worse":
        _remember(workspace, asked, found)
        raise Refused(_refusal(found, options.margin), found)
    serves = options.policy == "always" or (options.policy == "better" and found.verdict in ("better", "not worse"))
    found = _exported(settings, candidate, found, progress, serves=serves)
    atomic_text(report, _json(found))
    after = replace(asked, inputs={**asked.inputs, "serving": steps.serving_version(settings)})
    _remember(workspace, after, found)
    return found


class _Candidate:
    """The models in training, in a folder of their own."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        options: TrainingOptions,
        kept: KeptModels | None,
        progress: Progress,
    ) -> None:
        self.settings, self.dataset, self.options, self.kept = settings, dataset, options, kept
        self.state = settings.state / _FOLDER
        self._progress = progress
        self.ctr_model = kept.ctr_model if kept is not None and kept.ctr_model in options.ctr_models else None

    def judged(self, cold: str | None, merged: Merged | None, options: RetrainOptions) -> Retrained:
        """Train what is not current, and compare with the serving models."""
        from recsys_plugin.training.carry import WeightsMisfit
        from recsys_plugin.training.comparison import AS_SERVED, FIGURE, compare_models, verdict
        from recsys_plugin.training.train import Training

        applied = steps.require_applied(self.settings, self.dataset, Workspace(self.settings.state))
        run = training_run(self.settings, self.dataset, self.options, self._progress, kept=self.kept, state=self.state)
        _, members, towers = Training(run, self.state, applied=applied.fingerprint).fit()
        name = self.ctr_model or _best(members)
        self.ctr_model = name
        parts = {"two-tower": towers.info, name: members[name].info}
        reasons = {part: cold or info["cold"] for part, info in parts.items() if info["started_from"] is None}
        frames = run.frames()
        comparison: dict[str, dict[str, dict[str, float]]] = {}
        said = "not compared"
        if self.kept is not None and self.kept.contract == run.models_at(name, -2).contract:
            self._progress("comparison with the serving version", 0, 1)
            try:
                old = self.kept.models_on(frames.snapshots[-2], frames.neighbours[-2], run.item_ids, run.modalities())
            except WeightsMisfit as misfit:
                reasons["comparison"] = f"version {self.kept.version} cannot be run on the present catalogue: {misfit}"
            else:
                found = compare_models(old, run.models_at(name, -2), frames.test, candidates=self.options.candidates)
                said = verdict(found[AS_SERVED][FIGURE], options.margin)
                comparison = {
                    view: {figure: asdict(each) for figure, each in figures.items()} for view, figures in found.items()
                }
            self._progress("comparison with the serving version", 1, 1)
        return Retrained(
            current=False,
            merged=merged,
            shown_pages=len(run.shown_pages()[0]),
            serving=None if self.kept is None else self.kept.version,
            version=None,
            promoted=False,
            verdict=said,
            started_from={part: info["started_from"] for part, info in parts.items()},
            cold={part: reason for part, reason in reasons.items() if reason},
            comparison=comparison,
            tested=(frames.moments[-2].isoformat(), self.dataset.last_event.isoformat()),
            policy=options.policy,
            margin=options.margin,
        )

    def adopt(self) -> None:
        """Make the candidate what is trained: its parts and their records take the place of the earlier ones."""
        workspace = Workspace(self.settings.state)
        with workspace.lock():
            records = sorted((self.state / "steps").glob("train.*.json"))
            workspace.forget(*(path.stem for path in records), steps.TRAIN_STEP)
            for path in records:
                part = path.stem.removeprefix("train.")
                with atomic_folder(self.settings.state / "training" / part) as draft:
                    # A part is only ever replaced as a whole, so its files may be shared.
                    shutil.copytree(self.state / "training" / part, draft, copy_function=os.link, dirs_exist_ok=True)
            for path in records:
                atomic_text(self.settings.state / "steps" / path.name, path.read_text(encoding="utf-8"))


def _exported(
    settings: Settings, candidate: _Candidate, found: Retrained, progress: Progress, *, serves: bool
) -> Retrained:
    """Take the candidate over, export it, and let it serve if it is to."""
    services = Services(settings)
    versions = ModelVersions(services, steps.PROJECT)
    candidate.adopt()
    steps.train(settings, candidate.options, progress, kept=candidate.kept)
    steps.select(settings, model=candidate.ctr_model)
    if found.serving is not None:
        with services.ensure_redis():
            versions.pin(found.serving)
    version = int(steps.export(settings, candidate.options, progress).info["version"])
    if serves:
        online.materialize(settings, progress)
        versions.load(lambda text: progress(text, 0, 0))
        versions.promote(version)
    return replace(found, version=version, promoted=serves)


def _kept(settings: Settings, serving: int | None) -> KeptModels | None:
    from recsys_plugin.training.kept import KeptModels, kept_folder

    return None if serving is None else KeptModels.read(kept_folder(settings.state), serving)


def _options(
    base: TrainingOptions, kept: KeptModels | None, cold: bool, serving: int | None
) -> tuple[TrainingOptions, str | None]:
    """How to train, and why not with a warm start if so."""
    reason = None
    if cold:
        reason = "asked for"
    elif serving is None:
        reason = "no version was exported"
    elif kept is None:
        reason = f"no weights of version {serving} were kept"
    elif kept.encoder != base.encoder:
        reason = f"version {serving} reads texts with the encoder {kept.encoder!r}, not {base.encoder!r}"
    elif {kept.fine_tuning, base.fine_tuning.mode} != {"frozen"}:
        reason = "a text encoder that is fine-tuned again gives vectors that mean something else"
    elif kept.leave_out != base.leave_out:
        reason = f"version {serving} was trained without other inputs"
    if reason is not None or kept is None:
        return base, reason
    return replace(base, warm_start=WarmStart(kept.version, kept.digest())), None


def _best(members: Mapping[str, StepResult]) -> str:
    """The CTR model with the best NDCG on the validation, where no serving model says which."""
    return max(members, key=lambda name: float(members[name].info["validation"].get("ndcg@20") or 0.0))


def _refusal(found: Retrained, margin: float) -> str:
    from recsys_plugin.training.comparison import AS_SERVED, FIGURE

    figures = found.comparison[AS_SERVED][FIGURE]
    return (
        f"the new models are worse than version {found.serving}: NDCG@20 {figures['new']:.4f} against "
        f"{figures['serving']:.4f}, difference {figures['difference']:+.4f} "
        f"(95 % {figures['low']:+.4f} to {figures['high']:+.4f}), allowed {-margin:+.4f}; nothing was exported. "
        "Look at the new data, or run `recsys retrain --policy always`"
    )


def _json(found: Retrained) -> str:
    return json.dumps(_finite(found.document()), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _remember(workspace: Workspace, step: Step, found: Retrained) -> None:
    workspace.run(step, lambda: _finite(found.document()), force=True)


def _remembered(done: StepResult, merged: Merged | None) -> Retrained:
    return Retrained(**{**done.info, "current": True, "merged": merged, "tested": tuple(done.info["tested"])})
