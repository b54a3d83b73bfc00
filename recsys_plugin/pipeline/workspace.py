"""Steps that are repeated only when something they depend on has changed.

A step is named, has inputs (anything JSON can hold) and outputs (files or folders). Its fingerprint covers the inputs
and the source code that it names, so a new data set, another option or a changed line each make it run again. The
record is written only after the outputs are in place: a step that was killed runs again, one that finished does not.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_plugin.errors import StepFailed

__all__ = ["Step", "StepResult", "Workspace", "atomic_folder", "atomic_text", "source_digest"]

_PACKAGE = Path(__file__).resolve().parent.parent


def source_digest(*modules: str) -> str:
    """SHA-256 over the Python sources of the named subpackages or modules of this package."""
    digest = hashlib.sha256()
    for module in modules:
        path = _PACKAGE / module
        files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def atomic_text(path: Path, text: str) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` once the block has ended without an error.

    Drafts that a killed process left behind are removed, so hold the pipeline's lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        shutil.rmtree(left)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    draft.mkdir()
    try:
        yield draft
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            path.replace(old)
            draft.replace(path)
            shutil.rmtree(old)
        else:
            draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Step:
    """What a step depends on and what it makes.

    Attributes:
        name: the step's name; also the name of its record.
        inputs: everything the outcome depends on besides code (JSON).
        outputs: what must exist for the step to count as done.
        sources: subpackages or modules of this package whose code the outcome depends on.
    """

    name: str
    inputs: Mapping[str, Any]
    outputs: Sequence[Path]
    sources: Sequence[str]

    def fingerprint(self) -> str:
        """SHA-256 over the inputs and the sources, in hexadecimal."""
        described = {"inputs": self.inputs, "sources": source_digest(*self.sources)}
        return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made: whether it was current already, its fingerprint, and what it wants remembered."""

    current: bool
    fingerprint: str
    info: Mapping[str, Any]


class Workspace:
    """The records of finished steps, in ``.recsys/steps/``."""

    def __init__(self, state: Path) -> None:
        self._records = state / "steps"
        self._lock = state / "pipeline.lock"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the pipeline for this process.

        Raises:
            StepFailed: if another process is at work in the same folder.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StepFailed(
                    f"another recsys command is at work in {self._lock.parent}; wait for it, or stop it, and try again"
                ) from error
            yield

    def finished(self, name: str) -> StepResult | None:
        """The record of a step that finished once, whether it is still current or not."""
        path = self._records / f"{name}.json"
        if not path.exists():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        return StepResult(True, record["fingerprint"], record["info"])

    def current(self, step: Step) -> StepResult | None:
        """The record of a finished run with the same fingerprint whose outputs all exist still."""
        done = self.finished(step.name)
        if done is None or done.fingerprint != step.fingerprint():
            return None
        return done if all(path.exists() for path in step.outputs) else None

    def run(self, step: Step, action: Callable[[], Mapping[str, Any]], *, force: bool = False) -> StepResult:
        """Run ``action`` unless the step is current.

        Args:
            step: what it is.
            action: makes the outputs, each atomically, and returns what is to be remembered (JSON).
            force: run even if current.

        Raises:
            StepFailed: if the action did not make an output.
        """
        if not force and (done := self.current(step)):
            return done
        # Before the action: code that changes while it runs makes the step run again.
        fingerprint = step.fingerprint()
        info = dict(action())
        if missing := [str(path) for path in step.outputs if not path.exists()]:
            raise StepFailed(f"step {step.name!r} ended without making {', '.join(missing)}")
        record = {"fingerprint": fingerprint, "info": info}
        atomic_text(self._records / f"{step.name}.json", json.dumps(record, indent=2, default=str))
        return StepResult(False, fingerprint, info)

    def forget(self, *names: str) -> None:
        """Remove the records of steps, so that they run again."""
        for name in names:
            (self._records / f"{name}.json").unlink(missing_ok=True)
