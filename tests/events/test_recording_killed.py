"""kill -9 of the server and of recording processes: what was acknowledged is in the streams, each id once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from recsys_plugin import EventRecorder
from recsys_plugin.events import Event
from recsys_plugin.events.keys import PARTITIONS, EventKeys

KEYS = EventKeys("recsys")

RECORD = """
import sys
from recsys_plugin import Event, EventRecorder

recorder = EventRecorder(sys.argv[1], timeout=1, spool=sys.argv[2])
for number in range(1_000_000):
    event = Event(user_id=str(number % 5), item_id=str(number), event_type="click", event_id=f"{sys.argv[3]}-{number}")
    print(number, recorder.record(event).state, flush=True)
"""

REPLAY = """
import sys
from recsys_plugin import EventRecorder

recorder = EventRecorder(sys.argv[1], timeout=1, spool=sys.argv[2])
print("sent", recorder.flush(), flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def read_until(process: subprocess.Popen[str], state: str, count: int) -> list[int]:
    """The numbers that the process said were taken, until so many had the state."""
    assert process.stdout is not None
    numbers, seen = [], 0
    while seen < count:
        number, said = process.stdout.readline().split()
        numbers.append(int(number))
        seen += said == state
    return numbers


def end(process: subprocess.Popen[str]) -> list[int]:
    """Kill it, and read what it still had said."""
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    return [
        int(line.split()[0]) for line in rest.splitlines(keepends=True) if line.endswith("\n") and line[0].isdigit()
    ]


def events_of(client: Any) -> list[Event]:
    found = []
    for number in range(PARTITIONS):
        found += [Event.decode(fields[b"event"]) for _, fields in client.xrange(KEYS.events(number))]
    return found


def test_no_acknowledged_event_is_lost(event_redis: Any, tmp_path: Path) -> None:
    acknowledged: dict[str, list[int]] = {}
    processes = {name: start(RECORD, event_redis.url, str(tmp_path), name) for name in ("one", "two")}
    for name, process in processes.items():
        acknowledged[name] = read_until(process, "recorded", 300)
    event_redis.kill()
    for name, process in processes.items():
        acknowledged[name] += read_until(process, "spooled", 700)
    acknowledged["one"] += end(processes["one"])
    event_redis.start()
    # The other process lives: it sends what it has, and takes over what the dead one left.
    acknowledged["two"] += read_until(processes["two"], "recorded", 50)
    acknowledged["two"] += end(processes["two"])
    with EventRecorder(event_redis.url, timeout=5, spool=tmp_path) as recorder:
        recorder.flush()
        assert not recorder.spooling
    with event_redis.connect() as client:
        found = events_of(client)
    ids = list(dict.fromkeys(event.event_id for event in found))
    for name, numbers in acknowledged.items():
        assert numbers == list(range(len(numbers)))
        assert {f"{name}-{number}" for number in numbers} <= set(ids)
        for user in range(5):
            order = [
                int(event.item_id) for event in found if event.user_id == str(user) and name in str(event.event_id)
            ]
            assert list(dict.fromkeys(order)) == sorted(set(order)), "in the order of recording"


def test_a_replay_that_is_killed_sends_little_twice(event_redis: Any, tmp_path: Path) -> None:
    event_redis.kill()
    total = 3_000
    with EventRecorder(event_redis.url, timeout=1, spool=tmp_path) as recorder:
        for first in range(0, total, 1_000):
            numbers = range(first, first + 1_000)
            events = [Event(user_id="a", item_id=str(n), event_type="click", event_id=str(n)) for n in numbers]
            assert recorder.record_many(events)[0].state == "spooled"
    event_redis.start()
    key = KEYS.events(KEYS.partition("a"))
    with event_redis.connect() as client:
        for wanted in (1, 1_001, 2_001):
            process = start(REPLAY, event_redis.url, str(tmp_path))
            while client.xlen(key) < wanted and process.poll() is None:
                pass
            end(process)
        with EventRecorder(event_redis.url, timeout=5, spool=tmp_path) as recorder:
            recorder.flush()
        order = [int(event.item_id) for event in events_of(client)]
    assert list(dict.fromkeys(order)) == list(range(total))
    assert len(order) <= total + 3 * 500, "at most one batch for each kill"
    assert not list(tmp_path.iterdir())
