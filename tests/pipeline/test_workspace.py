"""Steps run again exactly when something they depend on has changed, and leave nothing half done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recsys_plugin.errors import StepFailed
from recsys_plugin.pipeline import workspace as module
from recsys_plugin.pipeline.workspace import Step, Workspace, atomic_folder, atomic_text, source_digest


class Counted:
    """An action that writes its outputs and counts its runs."""

    def __init__(self, *outputs: Path) -> None:
        self.outputs, self.runs = outputs, 0

    def __call__(self) -> Mapping[str, Any]:
        self.runs += 1
        for path in self.outputs:
            path.write_text(str(self.runs))
        return {"run": self.runs}


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step("train", inputs={"seed": 1}, outputs=[tmp_path / "one", tmp_path / "two"], sources=("errors",))


def test_a_current_step_is_not_repeated(tmp_path: Path, step: Step) -> None:
    action = Counted(*step.outputs)
    first = Workspace(tmp_path).run(step, action)
    again = Workspace(tmp_path).run(step, action)
    assert (first.current, again.current, action.runs) == (False, True, 1)
    assert again.info == first.info == {"run": 1}
    assert again.fingerprint == first.fingerprint == step.fingerprint()
    assert Workspace(tmp_path).current(step) == again
    assert Workspace(tmp_path).finished("train") == again


def test_what_makes_a_step_run_again(tmp_path: Path, step: Step) -> None:
    workspace, action = Workspace(tmp_path), Counted(*step.outputs)
    workspace.run(step, action)
    assert workspace.run(replace(step, inputs={"seed": 2}), action).current is False
    assert workspace.run(step, action).current is False, "the record is of the last run"
    step.outputs[1].unlink()
    assert workspace.current(step) is None
    assert workspace.finished("train") is not None
    assert workspace.run(step, action).current is False
    assert workspace.run(step, action, force=True).current is False
    workspace.forget("train", "never run")
    assert workspace.run(step, action).current is False
    assert action.runs == 6


def test_a_changed_source_makes_a_step_run_again(tmp_path: Path, step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training").mkdir()
    for name in ("training/one.py", "training/two.py", "alone.py"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    step = replace(step, sources=("training", "alone"))
    workspace, action = Workspace(tmp_path), Counted(*step.outputs)
    workspace.run(step, action)
    assert workspace.run(step, action).current
    for name in ("training/two.py", "alone.py"):
        (tmp_path / name).write_text("changed")
        assert workspace.run(step, action).current is False
    (tmp_path / "training/one.py").rename(tmp_path / "training/renamed.py")
    assert workspace.run(step, action).current is False
    assert source_digest("training") != source_digest("alone")


def test_a_failed_action_leaves_no_record(tmp_path: Path, step: Step) -> None:
    workspace = Workspace(tmp_path)

    def fail() -> Mapping[str, Any]:
        step.outputs[0].write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        workspace.run(step, fail)
    assert workspace.finished("train") is None
    with pytest.raises(StepFailed, match=r"step 'train' ended without making .*two"):
        workspace.run(step, Counted(step.outputs[0]))
    assert workspace.finished("train") is None


def test_a_source_that_changes_while_a_step_runs_makes_it_run_again(
    tmp_path: Path, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    (tmp_path / "errors.py").write_text("before")
    counted = Counted(*step.outputs)

    def edit() -> Mapping[str, Any]:
        (tmp_path / "errors.py").write_text("after")
        return counted()

    Workspace(tmp_path).run(step, edit)
    assert Workspace(tmp_path).current(step) is None


def test_atomic_text_keeps_the_old_text_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "text"
    atomic_text(path, "old ü")
    with pytest.raises(UnicodeEncodeError):
        atomic_text(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old ü"
    assert [entry.name for entry in path.parent.iterdir()] == ["text"]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "content").touch()
    with pytest.raises(OSError):
        atomic_text(tmp_path / "taken", "new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "taken"]


def test_atomic_folder_replaces_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    with atomic_folder(path) as draft:
        (draft / "old").touch()
        assert not path.exists()

    def interrupted() -> None:
        with atomic_folder(path) as draft:
            (draft / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [entry.name for entry in path.iterdir()] == ["old"]
    with atomic_folder(path) as draft:
        (draft / "new").touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]


def test_drafts_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in (".frames.0123", ".frames_of_others.0123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    with atomic_folder(tmp_path / "frames"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".frames_of_others.0123", "frames"]


def test_the_lock_refuses_a_second_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from recsys_plugin.pipeline.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StepFailed, match=r"another recsys command is at work in .*; wait for it"):
            Workspace(tmp_path).lock().__enter__()
        holder.kill()
        holder.wait()
    # However the other ends, its lock ends with it.
    with Workspace(tmp_path).lock():
        pass


def test_records_are_readable(tmp_path: Path, step: Step) -> None:
    Workspace(tmp_path).run(step, Counted(*step.outputs))
    record = json.loads((tmp_path / "steps" / "train.json").read_text())
    assert record == {"fingerprint": step.fingerprint(), "info": {"run": 1}}
