from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from recsys_plugin.errors import ServiceUnavailable, StepFailed
from recsys_plugin.runtime import ports as ports_module
from recsys_plugin.runtime.ports import PortBook, port_is_free
from recsys_plugin.runtime.processes import (
    MARK,
    ServerProcess,
    _mark_of,
    file_lock,
    marked_processes,
    signals_deferred,
)

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
# Starts a helper, as Triton starts its stubs, and ignores the request to stop.
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('up', flush=True); time.sleep(600)\n",
]


@pytest.fixture
def server(tmp_path: Path) -> object:
    process = ServerProcess("thing", tmp_path)
    yield process
    process.stop(grace_seconds=0.0)


def test_start_find_again_stop(server: ServerProcess, tmp_path: Path) -> None:
    record = server.start(SLEEP, ports={"web": 1234})
    again = ServerProcess("thing", tmp_path)
    assert again.record == record
    assert os.getsid(record.pid) == record.pid != os.getsid(0)
    wait_until(lambda: "up" in again.log_since_start())
    assert again.stop() is True
    assert server.record is None
    assert not marked_processes(server.mark)
    assert again.stop() is False


def test_a_recycled_pid_is_never_taken_for_the_server(server: ServerProcess, tmp_path: Path) -> None:
    record = server.start(SLEEP, ports={})
    server.stop()
    stranger = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL)
    try:
        state = tmp_path / "run" / "thing.json"
        document = {
            "pid": stranger.pid,
            "started_ticks": record.started_ticks,
            "started_at": record.started_at,
            "command": [],
            "ports": {},
            "temporary": False,
        }
        ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(") ")[2].split()[19])
        for started in (record.started_ticks, ticks):  # even with the very same start, the mark is missing
            state.write_text(json.dumps({**document, "started_ticks": started}))
            assert not server.running
            assert server.stop() is False
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_one_that_ignores_the_request_is_killed_with_its_helpers(server: ServerProcess) -> None:
    server.start(STUBBORN, ports={})
    wait_until(lambda: len(marked_processes(server.mark)) == 2 and "up" in server.log_since_start())
    server.stop(grace_seconds=0.1)
    assert not marked_processes(server.mark)


def test_helpers_of_a_killed_server_are_stopped(server: ServerProcess) -> None:
    record = server.start(STUBBORN, ports={})
    wait_until(lambda: len(marked_processes(server.mark)) == 2)
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: not server.running)
    assert len(marked_processes(server.mark)) == 1
    assert server.stop(grace_seconds=0.1) is True
    assert not marked_processes(server.mark)


def test_the_mark_of_a_program_that_is_still_being_loaded_is_waited_for() -> None:
    """For a moment the kernel shows no environment of it: at the first look nearly always."""
    for _ in range(20):
        with subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: "loaded"}) as started:
            try:
                assert _mark_of(started.pid) == "loaded"
            finally:
                started.kill()


def test_a_program_that_becomes_another_never_loses_its_mark() -> None:
    """As a server that a shell starts does: its environment has a place for a moment, but no bytes yet."""
    for _ in range(100):
        becoming = ["sh", "-c", 'exec "$@"', "sh", "sleep", "600"]
        with subprocess.Popen(becoming, env={**os.environ, MARK: "loaded"}) as started:
            try:
                name = Path(f"/proc/{started.pid}/comm")
                marks = {_mark_of(started.pid)}
                while name.read_text() != "sleep\n":
                    marks.add(_mark_of(started.pid))
                assert marks == {"loaded"}
            finally:
                started.kill()


def test_a_server_without_its_state_file_is_stopped_before_another_starts(
    server: ServerProcess, tmp_path: Path
) -> None:
    first = server.start(SLEEP, ports={})
    (tmp_path / "run" / "thing.json").write_text('{"pid": ')  # torn by a crash
    assert server.record is None
    second = server.start(SLEEP, ports={})
    assert marked_processes(server.mark) == [second.pid] != [first.pid]


def test_a_program_that_cannot_be_executed_is_named(server: ServerProcess) -> None:
    with pytest.raises(StepFailed, match=r"thing: cannot execute /nowhere/program"):
        server.start(["/nowhere/program"], ports={})


def test_an_interruption_waits_for_the_end_of_the_block() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), signals_deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        reached = True
    assert reached


def _hold(path: str, held: object, release: object) -> None:
    with file_lock(Path(path)):
        held.set()  # type: ignore[attr-defined]
        release.wait(300)  # type: ignore[attr-defined]


def test_the_lock_keeps_other_processes_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path / "lock"), held, release))
    holder.start()
    try:
        assert held.wait(120)
        with (
            pytest.raises(ServiceUnavailable, match="another recsys command"),
            file_lock(tmp_path / "lock", timeout=0),
        ):
            pass
    finally:
        holder.kill()
        holder.join()
    with file_lock(tmp_path / "lock", timeout=5):
        pass


def test_ports_are_remembered_and_change_only_when_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports_module, "_PATIENCE_SECONDS", 0.1)
    ports, notes = PortBook(tmp_path).free(["a", "b"])
    assert ports["a"] != ports["b"]
    assert notes == []
    assert PortBook(tmp_path).free(["a", "b"]) == (ports, [])
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", ports["a"]))
        somebody.listen()
        assert not port_is_free(ports["a"])
        changed, notes = PortBook(tmp_path).free(["a", "b"])
    assert changed["b"] == ports["b"]
    assert changed["a"] not in ports.values()
    assert len(notes) == 1
    assert str(ports["a"]) in notes[0]
    assert PortBook(tmp_path).known("a") == changed["a"]


def test_a_port_that_is_about_to_be_free_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed server's port is taken for some milliseconds yet."""
    monkeypatch.setattr(ports_module, "_PATIENCE_SECONDS", 20 * ports_module._PATIENCE_SECONDS)
    ports, _ = PortBook(tmp_path).free(["a"])
    looks: list[bool] = []
    with socket.socket() as ending:
        ending.bind(("127.0.0.1", ports["a"]))
        ending.listen()

        def is_free(port: int) -> bool:
            looks.append(port_is_free(port))
            ending.close()  # between this look and the next
            return looks[-1]

        monkeypatch.setattr(ports_module, "port_is_free", is_free)
        assert PortBook(tmp_path).free(["a"]) == (ports, [])
    assert looks == [False, True]


def test_a_broken_table_of_ports_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ports.json").write_text("[]")
    with pytest.raises(StepFailed, match=r"ports\.json"):
        PortBook(tmp_path).known("a")
