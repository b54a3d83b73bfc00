"""Bringing both servers up and down, through the library and through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_broken, write_double, write_known_answers
from tritonclient.grpc import InferenceServerClient, InferInput
from waiting import wait_until

from recsys_plugin.errors import CheckFailed, InferenceUnavailable, StepFailed
from recsys_plugin.runtime.doctor import CheckResult, diagnose
from recsys_plugin.runtime.environment import environment_variables
from recsys_plugin.runtime.processes import marked_processes
from recsys_plugin.runtime.services import Services

MakeServices = Callable[..., Services]


#: Within so many seconds a command ends, however busy the machine is.
PATIENCE = 300
#: What keeps a start from ending before it is interrupted: a server that never answers. By the name of its record.
NEVER_READY = {
    "redis.json": "import time; from recsys_plugin.runtime.redis_server import EmbeddedRedis as Server; "
    "Server.wait_ready = lambda self, timeout: time.sleep(600); ",
    "triton.json": "from recsys_plugin.runtime.triton_server import EmbeddedTriton as Server; "
    "Server._is_live = lambda self: False; ",
}


def recsys(home: Path, triton_python: Path, *arguments: str, first: str = "") -> subprocess.Popen[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("RECSYS_")}
    variables |= {"RECSYS_HOME": str(home), "RECSYS_TRITON_PYTHON": str(triton_python)}
    command = [sys.executable, "-c", f"{first}from recsys_plugin.cli import main; main()", *arguments]
    return subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=home)


def ask_double(url: str, version: str = "") -> float:
    with InferenceServerClient(url.removeprefix("grpc://")) as client:
        tensor = InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 2), dtype=np.float32))
        reply = client.infer("double", [tensor], model_version=version)
        return float(reply.as_numpy("y")[0, 0])


def left_of(services: Services) -> list[int]:
    return marked_processes(services.redis.process.mark) + marked_processes(services.triton.process.mark)


def test_up_again_kill_up_new_version_down(
    make_services: MakeServices, tmp_path: Path, processes_naming: Callable[[Path], list[str]]
) -> None:
    services = make_services()
    endpoints = services.up()
    assert endpoints.started == ("redis", "triton")
    assert endpoints.known_answers == 1
    assert ask_double(endpoints.triton_url) == 2

    seconds = []
    for _ in range(5):  # the fewest seconds of several tries, as this process may be held up
        began = time.monotonic()
        again = make_services().up()
        seconds.append(time.monotonic() - began)
        assert again.started == ()
    assert min(seconds) < 1.5
    assert (again.redis_url, again.triton_url) == (endpoints.redis_url, endpoints.triton_url)

    # The shell that ran `eval "$(recsys env)"` names the embedded servers by URL; they stay the embedded ones.
    from_shell = make_services(redis_url=again.redis_url, triton_url=again.triton_url)
    assert from_shell.redis_is_embedded
    assert from_shell.triton_is_embedded

    # A new version is loaded into the running server; the old one stays.
    write_double(tmp_path / "model_repository", version=2, factor=5.0)
    write_known_answers(tmp_path / ".recsys", version=2, factor=5.0)
    assert make_services().up().version == 2
    assert ask_double(endpoints.triton_url) == 5
    assert ask_double(endpoints.triton_url, "1") == 2
    assert [state.state for state in services.status()] == ["running", "running"]
    assert "double:1, double:2" in services.status()[1].detail

    # A killed Triton: its stubs do not stay, and the next `up` has the same address.
    record = services.triton.process.record
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: not services.triton.process.running)
    assert services.status()[1].state == "stopped"
    revived = make_services().up()
    assert revived.started == ("triton",)
    assert revived.triton_url == endpoints.triton_url
    stubs = [line for line in processes_naming(tmp_path) if "python_backend_stub" in line]
    assert len(stubs) == 2, "one for each version of the model"

    segments = list(Path("/dev/shm").glob(f"{services.triton._segments}*"))
    assert segments
    assert services.down() == ["triton", "redis"]
    assert processes_naming(tmp_path) == []
    assert left_of(services) == []
    assert not any(segment.exists() for segment in segments)
    assert services.down() == []


def test_wrong_answers_stop_what_was_started(make_services: MakeServices, tmp_path: Path) -> None:
    write_known_answers(tmp_path / ".recsys", factor=3.0)
    services = make_services()
    services.redis.start()
    with pytest.raises(CheckFailed, match="double version 1"):
        services.up()
    assert services.redis.process.running, "it ran before"
    assert not services.triton.process.running
    assert marked_processes(services.triton.process.mark) == []


def test_a_broken_model_stops_what_was_started(make_services: MakeServices, tmp_path: Path) -> None:
    services = make_services()
    write_broken(tmp_path / "model_repository")
    with pytest.raises(InferenceUnavailable, match="broken version 1"):
        services.up()
    assert left_of(services) == []


def test_a_broken_new_version_leaves_the_old_one_serving(make_services: MakeServices, tmp_path: Path) -> None:
    services = make_services()
    endpoints = services.up()
    write_double(tmp_path / "model_repository", version=2)
    (tmp_path / "model_repository" / "double" / "2" / "model.onnx").write_bytes(b"torn")
    with pytest.raises(InferenceUnavailable, match=r"(?s)double.*INVALID_PROTOBUF"):
        services.up()
    assert services.triton.process.running
    assert ask_double(endpoints.triton_url) == 2


def test_nothing_exported_starts_nothing(make_services: MakeServices, tmp_path: Path) -> None:
    (tmp_path / ".recsys" / "export" / "known_answers.json").unlink()
    services = make_services()
    with pytest.raises(StepFailed, match="recsys export"):
        services.up()
    assert left_of(services) == []


def test_an_external_triton_is_checked(make_services: MakeServices) -> None:
    services = make_services(triton_url="grpc://127.0.0.1:1")
    with pytest.raises(InferenceUnavailable, match="unset RECSYS_TRITON_URL"):
        services.up()
    assert left_of(services) == []
    assert services.status()[1].state == "not answering"


@pytest.mark.parametrize(
    ("state_file", "number"),
    [("redis.json", signal.SIGINT), ("triton.json", signal.SIGINT), ("triton.json", signal.SIGTERM)],
)
def test_an_interrupted_start_leaves_nothing(
    make_services: MakeServices,
    tmp_path: Path,
    triton_python: Path,
    processes_naming: Callable[[Path], list[str]],
    state_file: str,
    number: signal.Signals,
) -> None:
    services = make_services()
    with recsys(tmp_path, triton_python, "up", first=NEVER_READY[state_file]) as starter:
        wait_until((tmp_path / ".recsys" / "run" / state_file).exists, seconds=PATIENCE, process=starter)
        starter.send_signal(number)
        _, errors = starter.communicate(timeout=PATIENCE)
    assert starter.returncode == 1, errors
    assert "known answers of version" not in errors
    assert left_of(services) == []
    assert processes_naming(tmp_path) == []


def test_two_starts_at_once_make_one_server_each(
    make_services: MakeServices, tmp_path: Path, triton_python: Path
) -> None:
    services = make_services()
    starters = [recsys(tmp_path, triton_python, "up", "--json") for _ in range(2)]
    answers = []
    for starter in starters:
        output, errors = starter.communicate(timeout=PATIENCE)
        assert starter.returncode == 0, errors
        answers.append(json.loads(output))
    assert sorted(len(answer["started"]) for answer in answers) == [0, 2]
    assert answers[0]["triton_url"] == answers[1]["triton_url"]
    assert len(marked_processes(services.redis.process.mark)) == 1
    assert len(marked_processes(services.triton.process.mark)) == 2, "the server and one stub"

    with recsys(tmp_path, triton_python, "status", "--json") as status:
        document = json.loads(status.communicate(timeout=PATIENCE)[0])
    assert [row["state"] for row in document["services"]] == ["running", "running"]
    with recsys(tmp_path, triton_python, "down", "--json") as down:
        assert json.loads(down.communicate(timeout=PATIENCE)[0]) == {"stopped": ["triton", "redis"]}
    assert left_of(services) == []


def by_name(results: list[CheckResult]) -> dict[str, CheckResult]:
    return {result.name: result for result in results}


def test_the_doctor_sees_what_is_missing(make_services: MakeServices, tmp_path: Path) -> None:
    found = by_name(diagnose(make_services()))
    assert found["Triton environment"].status == "ok"
    assert found["Triton libraries"].status == "ok"
    assert found["export"].status == "ok"
    assert (found["tables"].status, found["tables"].mend) == ("fail", "recsys data")
    assert found["Feast registry"].status == "fail"
    assert (found["Redis"].status, found["Redis"].mend) == ("warn", "recsys up")
    assert found["Triton"].status == "warn"
    assert all(result.mend for result in found.values() if result.status != "ok")

    write_known_answers(tmp_path / ".recsys", version=4)
    assert "version 4 is not served by double" in by_name(diagnose(make_services()))["export"].found


def test_the_doctor_checks_running_servers(make_services: MakeServices, tmp_path: Path) -> None:
    services = make_services()
    services.up()
    found = by_name(diagnose(services))
    for name in ("Redis", "Redis persistence", "Redis memory", "Triton", "models", "processes", "ports"):
        assert found[name].status == "ok", found[name]
    write_known_answers(tmp_path / ".recsys", factor=3.0)
    assert by_name(diagnose(services))["models"].status == "fail"


def test_the_doctor_finds_processes_left_behind(make_services: MakeServices) -> None:
    services = make_services()
    program = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\ntime.sleep(600)"
    )
    record = services.triton.process.start([sys.executable, "-c", program], ports={})
    wait_until(lambda: len(left_of(services)) == 2)
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: not services.triton.process.running)
    (helper,) = left_of(services)
    result = by_name(diagnose(services))["processes"]
    assert (result.status, result.mend) == ("fail", "recsys down")
    assert str(helper) in result.found
    assert str(helper) in services.status()[1].detail
    assert services.down() == ["triton"]
    assert by_name(diagnose(services))["processes"].status == "ok"


def test_the_doctor_ends_with_exit_code_3(make_services: MakeServices, tmp_path: Path, triton_python: Path) -> None:
    make_services()
    with recsys(tmp_path, triton_python, "doctor", "--json") as doctor:
        output, errors = doctor.communicate(timeout=PATIENCE)
    assert doctor.returncode == 3
    document = json.loads(output)
    assert document["healthy"] is False
    assert "checks failed" in errors


def test_env_can_be_evaluated_by_a_shell(make_services: MakeServices, tmp_path: Path, triton_python: Path) -> None:
    dataset: dict[str, Any] = {"historical": True, "as_of": "2011-12-09T12:50:00+00:00"}
    (tmp_path / ".recsys" / "tables").mkdir(parents=True)
    (tmp_path / ".recsys" / "tables" / "dataset.json").write_text(json.dumps(dataset))
    wanted = environment_variables(make_services())
    assert wanted["RECSYS_AS_OF"] == dataset["as_of"]
    assert wanted["RECSYS_FEAST_REDIS_TYPE"] == "redis"
    with recsys(tmp_path, triton_python, "env") as env:
        script = env.communicate(timeout=PATIENCE)[0]
    shown = subprocess.run(
        ["sh", "-c", f"{script}\nenv -0"], capture_output=True, text=True, check=True, env={}
    ).stdout.split("\0")
    assert {name: value for name, value in (line.split("=", 1) for line in shown if line) if name in wanted} == wanted


def test_env_needs_a_readable_description(make_services: MakeServices, tmp_path: Path) -> None:
    (tmp_path / ".recsys" / "tables").mkdir(parents=True)
    (tmp_path / ".recsys" / "tables" / "dataset.json").write_text("{}")
    with pytest.raises(StepFailed, match=r"dataset\.json"):
        environment_variables(make_services())
