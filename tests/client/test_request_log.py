"""Slow, degraded and failed requests are written down, and `recsys doctor` explains them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_shop import TinyShop

from recsys_plugin import InvalidInput, Recommender
from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import RecsysError, StoreUnavailable
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.observability import FinishedRequest
from recsys_plugin.observability.diagnosis import Diagnosis, explain_request
from recsys_plugin.observability.request import ANSWERED
from recsys_plugin.observability.request_log import (
    RequestFile,
    RequestLog,
    RequestRecord,
    find_request,
    read_requests,
)
from recsys_plugin.pseudonyms import Pseudonyms

KEY = "a key that is long enough"


def request(number: int, seconds: float = 0.002, **other: Any) -> FinishedRequest:
    """One of a shelf whose requests take two milliseconds."""
    stages = {"features": seconds / 4, "inference": seconds / 2, "policy": seconds / 8}
    values: dict[str, Any] = {"outcome": ANSWERED, "error": None, "users": ["mug-lover"], "timeout": 0.05, **other}
    return FinishedRequest("recommend", f"request-{number}", 1.7e9 + number, 0.0, seconds, stages, **values)


def explained(path: Path, request_id: str) -> Diagnosis:
    return explain_request(find_request(path, request_id))


def test_only_what_is_out_of_line_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log" / "requests.jsonl"
    log = RequestLog(path, pseudonyms=Pseudonyms(KEY))
    for number in range(64):
        log.finished(request(number))
    log.flush()
    assert not path.exists()
    log.finished(request(64, 0.0039))  # below twice the p95
    slow = request(65, 0.041)
    slow.stages = {"features": 0.0395, "inference": 0.001, "policy": 0.0002}
    log.finished(slow)
    error = StoreUnavailable("event time of profile for user 'mug-lover' is corrupt in Redis")
    log.finished(request(66, error=error, outcome="StoreUnavailable"))
    missing = FeatureReport(True, 3, ("profile:country",), ("profile:purchases",))
    log.finished(request(67, level="retrieval", reason="Triton is away", features=[missing]))
    log.close()
    records = read_requests(path)
    assert [(record.request_id, record.why) for record in records] == [
        ("request-65", "slow"),
        ("request-66", "failed"),
        ("request-67", "degraded"),
    ]
    assert "mug-lover" not in path.read_text()
    assert records[0].users == [Pseudonyms(KEY).of("mug-lover")]
    assert records[0].usual_requests == 64
    assert records[0].usual["total"] == [2.0, 2.0, 2.0]
    assert path.stat().st_mode & 0o777 == 0o600

    found = explained(path, "request-65")
    assert {stage.stage: stage.stands_out for stage in found.stages} == {
        "features": True,
        "inference": False,
        "policy": False,
        "elsewhere": False,
        "total": True,
    }
    assert "Redis" in found.findings[0].why
    assert "39.5 ms" in found.findings[0].what
    assert "StoreUnavailable" in explained(path, "request-66").findings[0].what
    told = [finding.what for finding in explained(path, "request-67").findings]
    assert told[0] == "it fell back on retrieval"
    assert any("profile:purchases" in what for what in told)
    assert any("profile:country" in what for what in told)


def test_a_fixed_limit_counts_from_the_first_request(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "requests.jsonl", slow=0.01)
    log.finished(request(0, 0.02))
    log.finished(request(1, 0.005))
    log.close()
    (record,) = read_requests(tmp_path / "requests.jsonl")
    assert (record.request_id, record.why, record.users) == ("request-0", "slow", [])
    # Without anything usual to compare with, what took most of the time stands out.
    log.finished(request(2, 0.02))
    log.close()
    assert [
        stage.stage for stage in explained(tmp_path / "requests.jsonl", "request-2").stages if stage.stands_out
    ] == []


def test_the_file_stays_within_its_bounds_and_several_may_write(tmp_path: Path) -> None:
    path, most = tmp_path / "requests.jsonl", 64 * 1024

    def write(first: int) -> None:
        file = RequestFile(path, most)
        for number in range(first, first + 200):
            file.append([record(number).encode()])
        file.close()

    def record(number: int) -> RequestRecord:
        return RequestRecord(
            at=float(number), request_id=str(number), shelf="rank", why="slow", ms=1.0, stages={"features": 1.0}
        )

    threads = [threading.Thread(target=write, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = read_requests(path)
    longest = len(record(3199).encode())
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= most + 2 * longest
    # Nothing was torn, nothing is there twice, and of each writer the latest are kept.
    assert len({found.request_id for found in kept}) == len(kept) > 50
    with path.open("ab") as file:
        file.write(b'{"torn":')
    assert read_requests(path) == kept
    with pytest.raises(InvalidInput, match=r"neither slow nor degraded"):
        find_request(path, "no such request")
    with pytest.raises(InvalidInput, match=r"does not exist"):
        find_request(tmp_path / "another", "0")


def test_a_full_disk_keeps_nobody_from_answering(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = RequestLog("/dev/full", slow=0.001)
    for number in range(3):
        log.finished(request(number))
        log.flush()
    log.close()
    assert sum("request log /dev/full" in message for message in caplog.messages) == 1


def test_a_record_of_another_version_is_read(tmp_path: Path) -> None:
    line = json.dumps({"request_id": "a", "shelf": "rank", "why": "slow", "ms": 1, "at": 0, "stages": {}, "new": 1})
    assert RequestRecord.decode(line.encode()).request_id == "a"
    for broken in (b"", b"[]", b"{}", b"\xff", b'{"request_id":1,"shelf":"","why":"","ms":1,"at":0,"stages":{}}'):
        with pytest.raises(InvalidInput, match="request log"):
            RequestRecord.decode(broken)


@pytest.mark.parametrize("form", ["people", "json"])
def test_the_doctor_explains_a_degraded_page(tiny: TinyShop, tmp_path: Path, form: str) -> None:
    path = tmp_path / "requests.jsonl"
    environ = {
        "RECSYS_REDIS_URL": tiny.redis_url,
        "RECSYS_TRITON_URL": tiny.triton_url,
        "RECSYS_REQUEST_LOG": str(path),
        "RECSYS_PSEUDONYM_KEY": KEY,
        "RECSYS_AS_OF": "2023-11-14T22:13:20Z",
    }
    with Recommender.from_environment(environ, timeout=10) as recommender:
        well = recommender.recommend("mug-lover", 3)
        page = recommender.recommend("broken", 3)  # the model answers nonsense for this user
        with pytest.raises(RecsysError):
            recommender.recommend("broken", 3, strict=True)
    assert page.fallback.degraded
    command = ["doctor", page.request_id, "--request-log", str(path), *(["--json"] if form == "json" else [])]
    result = CliRunner().invoke(recsys, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    if form == "json":
        told = json.loads(result.stdout)
        assert told["request"]["level"] == page.fallback.level
        assert told["request"]["reason"] == page.fallback.reason
        assert told["request"]["version"] == 1
        assert [stage["stage"] for stage in told["stages"]] == ["features", "inference", "policy", "elsewhere", "total"]
        assert told["findings"][0]["what"] == f"it fell back on {page.fallback.level}"
        assert told["findings"][0]["mend"]
    else:
        assert f"level {page.fallback.level}" in result.stderr
        assert "inference" in result.stderr
    assert [record.why for record in read_requests(path)] == ["degraded", "failed"]
    missed = CliRunner().invoke(recsys, ["doctor", well.request_id, "--request-log", str(path)])
    assert missed.exit_code == 2
    assert "neither slow nor degraded" in missed.stderr
    nowhere = CliRunner().invoke(recsys, ["doctor", well.request_id], env={"RECSYS_REQUEST_LOG": ""})
    assert nowhere.exit_code == 2
    assert "RECSYS_REQUEST_LOG" in nowhere.stderr
