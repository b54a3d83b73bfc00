"""Where the curves of a training run go: TensorBoard, Weights & Biases or MLflow, and always a plain log on disk."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from recsys_plugin.errors import ConfigurationError, InvalidInput

__all__ = [
    "TRACKERS",
    "CurveLog",
    "MlflowTracker",
    "NoTracker",
    "TensorBoardTracker",
    "Tracker",
    "Trackers",
    "WandbTracker",
    "loss_curve",
    "open_tracker",
    "read_curves",
]

#: The choices of ``recsys train --tracker``.
TRACKERS = ("tensorboard", "wandb", "mlflow", "none")

#: The project (W&B) or experiment (MLflow) that runs are listed under.
PROJECT = "recsys"


class Tracker(Protocol):
    """Takes what is worth keeping of one run; a context manager that closes at the end of its block."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one point to the curve ``name``; a value that is not finite is kept as a gap where the form allows it."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Keep the run's settings; mappings inside mappings become names joined by dots."""

    def artefact(self, path: Path) -> None:
        """Keep a copy of a file."""

    def close(self, *, failed: bool = False) -> None:
        """Write out what is pending and end the run; ``failed`` says that it did not get to its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)


class NoTracker(Tracker):
    """Keeps nothing."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Ignore it."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Ignore them."""

    def artefact(self, path: Path) -> None:
        """Ignore it."""

    def close(self, *, failed: bool = False) -> None:
        """Nothing is pending."""


class CurveLog(Tracker):
    """One JSON object a line, ``{"name": …, "step": …, "value": …}``: what the report draws its curves from.

    A value that is not finite is written as null. The file is begun anew.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def scalar(self, name: str, value: float, step: int) -> None:
        """Append a line."""
        point = {"name": name, "step": step, "value": float(value) if math.isfinite(value) else None}
        self._file.write(json.dumps(point, ensure_ascii=False) + "\n")

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Not a curve: the step's record holds them."""

    def artefact(self, path: Path) -> None:
        """Not a curve."""

    def close(self, *, failed: bool = False) -> None:
        """Close the file."""
        self._file.close()


class Trackers(Tracker):
    """Several trackers as one.

    Args:
        trackers: each is told everything. ``close`` ends those of ``owned`` only.
        owned: the ones that end with this one; all of them if None.
    """

    def __init__(self, *trackers: Tracker, owned: tuple[Tracker, ...] | None = None) -> None:
        self._trackers, self._owned = trackers, trackers if owned is None else owned

    def scalar(self, name: str, value: float, step: int) -> None:
        """Tell all."""
        for tracker in self._trackers:
            tracker.scalar(name, value, step)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Tell all."""
        for tracker in self._trackers:
            tracker.parameters(values)

    def artefact(self, path: Path) -> None:
        """Tell all."""
        for tracker in self._trackers:
            tracker.artefact(path)

    def close(self, *, failed: bool = False) -> None:
        """Close the owned ones."""
        for tracker in self._owned:
            tracker.close(failed=failed)


class TensorBoardTracker(Tracker):
    """Event files in ``folder/run``: ``tensorboard --logdir folder`` compares the runs."""

    def __init__(self, folder: Path, run: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise _missing("tensorboard", "tensorboard") from error
        self._folder = folder / run
        self._writer: Any = SummaryWriter(log_dir=str(self._folder), flush_secs=10)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point; TensorBoard marks one that is not finite."""
        self._writer.add_scalar(_plain_name(name), value, step)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Show them as a table under "Text"."""
        rows = [f"| {name} | {value} |" for name, value in _flat(values)]
        self._writer.add_text("parameters", "\n".join(["| name | value |", "|---|---|", *rows]))

    def artefact(self, path: Path) -> None:
        """Copy it next to the event files: TensorBoard has no place for files."""
        (self._folder / path.name).write_bytes(path.read_bytes())

    def close(self, *, failed: bool = False) -> None:
        """Write the event file out."""
        self._writer.close()


class WandbTracker(Tracker):
    """A Weights & Biases run; ``WANDB_MODE=offline`` keeps it below ``folder`` until ``wandb sync``.

    Raises:
        ConfigurationError: if the package is missing, or the service is not to be had as configured.
    """

    def __init__(self, folder: Path, run: str) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise _missing("wandb", "wandb") from error
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run,
                dir=str(folder),
                settings=wandb.Settings(console="off"),
            )
        except wandb.errors.Error as error:
            raise ConfigurationError(
                f"Weights & Biases did not open a run: {error}. Run `wandb login`, set WANDB_MODE=offline, "
                "or choose another --tracker"
            ) from error
        # Curves of several parts have steps of their own, so W&B's one global step does not fit.
        self._run.define_metric("*", step_metric="step")

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point, drawn over its own ``step``."""
        self._run.log({_plain_name(name): value, "step": step})

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Keep them as the run's config."""
        self._run.config.update(dict(_flat(values)), allow_val_change=True)

    def artefact(self, path: Path) -> None:
        """Keep it as an artefact named after the file."""
        import wandb

        kept = wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"{self._run.id}-{path.name}"), type="report")
        kept.add_file(str(path))
        self._run.log_artifact(kept)

    def close(self, *, failed: bool = False) -> None:
        """Finish the run."""
        self._run.finish(exit_code=1 if failed else 0)


class MlflowTracker(Tracker):
    """An MLflow run, where ``MLFLOW_TRACKING_URI`` says; without it in the SQLite file ``folder/mlflow.db``.

    MLflow refuses its old file store by now, so the local default is its database; artefacts lie beside it.

    Raises:
        ConfigurationError: if the package is missing or the store refuses.
    """

    def __init__(self, folder: Path, run: str) -> None:
        configured = os.environ.get("MLFLOW_TRACKING_URI")
        uri = configured or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            client = MlflowClient(tracking_uri=uri)
        except ModuleNotFoundError as error:  # the small package comes without what a database needs
            raise _missing("mlflow", "mlflow") from error
        try:
            found = client.get_experiment_by_name(PROJECT)
            if found is None:
                files = None if configured else (folder / "mlflow_artefacts").resolve().as_uri()
                experiment = client.create_experiment(PROJECT, artifact_location=files)
            else:
                experiment = found.experiment_id
            self._run = client.create_run(experiment, run_name=run).info.run_id
        except MlflowException as error:
            raise ConfigurationError(
                f"MLflow at {uri} did not open a run: {error}. Check MLFLOW_TRACKING_URI, or choose another --tracker"
            ) from error
        self._client = client

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to a metric."""
        self._client.log_metric(self._run, _plain_name(name), value, step=step)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Keep them as parameters, which MLflow lets nobody change."""
        for name, value in _flat(values):
            self._client.log_param(self._run, _plain_name(name), value)

    def artefact(self, path: Path) -> None:
        """Keep it as an artefact."""
        self._client.log_artifact(self._run, str(path))

    def close(self, *, failed: bool = False) -> None:
        """End the run."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def open_tracker(kind: str, folder: Path, run: str) -> Tracker:
    """Open the tracker ``kind`` of :data:`TRACKERS` for one run.

    Args:
        kind: which one. folder: where it may keep files; each kind takes a folder of its own below it.
        run: the run's name.

    Raises:
        InvalidInput: if there is no such kind.
        ConfigurationError: if its package is not installed, or its service not to be had; the message says what to do.
    """
    if kind == "tensorboard":
        return TensorBoardTracker(folder, run)
    if kind == "wandb":
        return WandbTracker(folder, run)
    if kind == "mlflow":
        return MlflowTracker(folder, run)
    if kind == "none":
        return NoTracker()
    raise InvalidInput(f"there is no tracker {kind!r}; choose one of {', '.join(TRACKERS)}")


def loss_curve(tracker: Tracker, name: str, *, every: int = 10) -> Callable[[int, int, float], None]:
    """What a training loop tells ``step`` (from 1), ``steps`` and the loss: each ``every``-th step goes on the curve.

    The first and the last are always kept.
    """

    def told(step: int, steps: int, loss: float) -> None:
        if step == 1 or step == steps or step % every == 0:
            tracker.scalar(name, loss, step)

    return told


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of a :class:`CurveLog`, in the order of their first points; NaN where a value was not finite.

    Raises:
        InvalidInput: if a line is not such a point; the message names file and line.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                point = json.loads(line)
                name, step, value = str(point["name"]), int(point["step"]), point["value"]
                kept = (step, math.nan if value is None else float(value))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(f"{path}, line {number}: no point of a curve ({error}); train again") from error
            curves.setdefault(name, []).append(kept)
    return curves


def _missing(tracker: str, package: str) -> ConfigurationError:
    return ConfigurationError(
        f"the tracker {tracker!r} needs a package that is not installed: pip install {package}, "
        "or choose another --tracker"
    )


def _plain_name(name: str) -> str:
    """A curve's name in the letters that every tracker takes: ``recall@20`` becomes ``recall_20``."""
    return re.sub(r"[^-\w./]+", "_", name, flags=re.ASCII).strip("_")


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
