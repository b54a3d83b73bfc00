"""A keyed hash of a person is personal data too: it goes from logs and reports, and what stays is told."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import made_home
import pytest
from click.testing import CliRunner
from made_home import KEY, KEYS, NAMES, OTHER, PERSON

from recsys_plugin.cli._group import recsys
from recsys_plugin.observability.request_log import RequestFile, RequestRecord, read_requests
from recsys_plugin.privacy.files import FileTraces, forget_in_files, search_files
from recsys_plugin.privacy.forget import forget, search
from recsys_plugin.privacy.held import everything_held
from recsys_plugin.privacy.person import people_of
from recsys_plugin.privacy.request_logs import forget_in_request_log
from recsys_plugin.pseudonyms import halves_of, opted_out_key
from recsys_plugin.settings import Settings
from recsys_plugin.user_names import named_user

NAME, SHORT = NAMES.of(PERSON), named_user(PERSON, NAMES)
PEOPLE = people_of([PERSON], "recsys", NAMES)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """Everything that names people by pseudonym."""
    settings = made_home.settings_of(tmp_path)
    for folder in ("logs", "checks"):
        (settings.state / folder).mkdir(parents=True)
    (settings.state / "logs" / "stream.log").write_text(f"{SHORT} has a damaged value\n{NAMES.of(OTHER)} too\n{NAME}\n")
    (settings.state / "checks" / "skew.json").write_text(json.dumps({"differences": [f"{SHORT} at noon"]}))
    made_home.write_requests(settings)
    return settings


def request_lines(settings: Settings) -> list[RequestRecord]:
    assert settings.request_log is not None
    return read_requests(settings.request_log)


def found(settings: Settings) -> FileTraces:
    return search_files(settings, PEOPLE, lambda *_: None)


def clean(settings: Settings) -> dict[str, int]:
    return forget_in_files(settings, PEOPLE, NAMES.of, lambda *_: None)


def test_logs_reports_and_both_files_of_requests_lose_them(home: Settings) -> None:
    before = request_lines(home)
    assert len(found(home).found) == 4, found(home)
    removed = clean(home)
    assert (found(home).found, found(home).kept) == ((), ())
    kept = request_lines(home)
    assert kept == [record for record in before if NAME not in record.users]
    assert kept
    assert all(record.users == [NAMES.of(OTHER)] for record in kept)
    assert removed["requests/requests.jsonl.1"] + removed["requests/requests.jsonl"] == len(before) - len(kept)
    masked = (home.state / "logs" / "stream.log").read_text()
    assert masked == f"{'*' * len(SHORT)} has a damaged value\n{NAMES.of(OTHER)} too\n{'*' * 32}\n"
    assert not (home.state / "checks" / "skew.json").exists()
    assert clean(home) == {}


def test_a_client_that_writes_meanwhile_loses_no_line(tmp_path: Path) -> None:
    """Several clients append while people are taken out again and again."""
    path, writers, each = tmp_path / "requests.jsonl", 2, 400
    start, enough, wrote = threading.Barrier(writers + 1), threading.Event(), [0] * writers

    def write(writer: int) -> None:
        file = RequestFile(path, 1 << 30)
        start.wait()
        while wrote[writer] < each or not enough.is_set():
            number = wrote[writer]
            user = NAME if number % 4 == 0 else NAMES.of(OTHER)
            file.append([json.dumps({"n": [writer, number], "users": [user]}).encode() + b"\n"])
            wrote[writer] += 1
        file.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    start.wait()
    try:
        for _ in range(5):
            forget_in_request_log(path, PEOPLE)
    finally:
        enough.set()
    while any(thread.is_alive() for thread in threads):
        forget_in_request_log(path, PEOPLE)
    for thread in threads:
        thread.join()
    forget_in_request_log(path, PEOPLE)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert sorted(line["n"] for line in lines) == [
        [writer, number] for writer in range(writers) for number in range(wrote[writer]) if number % 4
    ]
    assert [name for name in tmp_path.iterdir() if name.name.startswith(".")] == []


def test_lines_go_from_files_that_fill_up_meanwhile(tmp_path: Path) -> None:
    """What a full file held is dropped by the log itself; of what is left, nothing is his."""
    path = tmp_path / "requests.jsonl"
    stop, filled = threading.Event(), threading.Event()

    def write() -> None:
        file, number = RequestFile(path, 4_000), 0
        while not stop.is_set():
            user = NAME if number % 4 == 0 else NAMES.of(OTHER)
            file.append([json.dumps({"n": number, "users": [user]}).encode() + b"\n"])
            number += 1
            if number == 200:
                filled.set()
        file.close()

    writer = threading.Thread(target=write)
    writer.start()
    while not filled.is_set():
        forget_in_request_log(path, PEOPLE)
    stop.set()
    writer.join()
    forget_in_request_log(path, PEOPLE)
    files = sorted(tmp_path.iterdir())
    numbers = [json.loads(line)["n"] for file in reversed(files) for line in file.read_bytes().splitlines()]
    assert {file.name for file in files} <= {"requests.jsonl", "requests.jsonl.1"}
    assert not any(number % 4 == 0 for number in numbers)
    # No line of others is missing between the first and the last that are kept.
    assert numbers == [number for number in range(numbers[0], numbers[-1] + 1) if number % 4]


def test_what_a_killed_run_left_beside_the_log_goes(home: Settings) -> None:
    assert home.request_log is not None
    draft = home.request_log.with_name(f".requests.jsonl.{'0' * 32}")
    draft.write_text(NAME)
    assert any(draft.name in place for place in found(home).found)
    clean(home)
    assert not draft.exists()


def test_without_a_log_none_is_made(tmp_path: Path) -> None:
    assert forget_in_request_log(tmp_path / "none" / "requests.jsonl", PEOPLE) == {}
    assert list(tmp_path.iterdir()) == []


def test_models_and_lists_keep_them_and_that_is_told(home: Settings, event_redis: Any) -> None:
    graph = home.model_repository / "communities" / "1" / "model.onnx"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"graph" + b"".join(half.to_bytes(8, "little", signed=True) for half in halves_of(NAME)))
    done = forget(home, event_redis.url, [PERSON])
    assert done.found == ()
    assert sorted(done.kept) == [
        ".recsys/privacy/forgotten.json: who was forgotten",
        "Redis key recsys:opted_out:recsys",
        "Redis key recsys:{recsys}:forgotten",
        "model_repository/communities/1/model.onnx: a model, until the next export",
    ]
    held = everything_held(home, event_redis.url, PERSON)["files"]
    assert held == {"model_repository/communities/1/model.onnx": {"pseudonym": "a model, until the next export"}}
    with event_redis.connect() as client:
        # Anywhere else they are found, and what has entries or their name in its own is cleaned.
        client.set("notes", f"call {NAME}")
        client.xadd(KEYS.dead, {"reason": f"{SHORT} again"})
        client.set(f"cache:{NAME}", "page")
        store, _ = search(home, event_redis.url, [PERSON])
        assert sorted(store.found) == [
            "Redis key cache:<user>",
            "a pseudonym in Redis key notes",
            "a pseudonym in Redis key recsys:{recsys}:dead",
        ]
        assert forget(home, event_redis.url, [PERSON]).found == ("a pseudonym in Redis key notes",)
        client.delete("notes")
        assert client.scard(opted_out_key("recsys")) == 1
    assert forget(home, event_redis.url, [PERSON]).found == ()


def test_an_export_tells_requests_and_nothing_of_others(home: Settings, event_redis: Any) -> None:
    held = everything_held(home, event_redis.url, PERSON)
    files = held["files"]
    assert held["pseudonym"] == NAME
    assert files[".recsys/logs/stream.log"] == {"lines": 2}
    requests = [*files["requests/requests.jsonl.1"], *files["requests/requests.jsonl"]]
    assert [one["request_id"] for one in requests] == [
        record.request_id for record in request_lines(home) if NAME in record.users
    ]
    assert {tuple(one["users"]) for one in requests} == {(NAME,)}
    text = json.dumps(held)
    assert NAMES.of(OTHER)[:12] not in text
    assert OTHER not in text


def test_without_the_key_it_is_said_that_they_were_not_looked_for(
    home: Settings, event_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"HOME": home.home, "REDIS_URL": event_redis.url, "REQUEST_LOG": home.request_log}
    for name, value in variables.items():
        monkeypatch.setenv(f"RECSYS_{name}", str(value))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(recsys, ["privacy", *arguments])

    monkeypatch.delenv("RECSYS_PSEUDONYM_KEY", raising=False)
    without = run("search", PERSON, "--json")
    assert without.exit_code == 0
    assert json.loads(without.stdout)["pseudonyms_searched"] is False
    assert "could not be looked for" in without.stderr.replace("\n", " ")
    assert "could not be looked for" in run("export", PERSON).stderr.replace("\n", " ")
    assert run("forget", PERSON).exit_code == 2
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", KEY)
    with_key = run("search", PERSON, "--json")
    assert with_key.exit_code == 3
    assert json.loads(with_key.stdout)["pseudonyms_searched"] is True
    assert "requests.jsonl" in with_key.stderr
    done = run("forget", PERSON)
    assert done.exit_code == 0, done.stderr
    assert "keeps a pseudonym: .recsys/privacy/forgotten.json" in done.stderr
