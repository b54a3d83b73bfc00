"""``recsys bench freshness``: from an event to the features that a request reads, and what an event costs."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from recsys_plugin.aggregation.acts import ACT_TYPES
from recsys_plugin.bench.machine import describe_machine, load_average, package_versions, redis_version
from recsys_plugin.bench.report import Report
from recsys_plugin.bench.shop import Tell
from recsys_plugin.bench.timing import Samples, Subject, interleave, p50_ratio
from recsys_plugin.errors import CheckFailed, RecsysError
from recsys_plugin.events.event import Event
from recsys_plugin.events.recorder import EventRecorder
from recsys_plugin.features.codec import decode_value, hash_field
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.requests import schema_key
from recsys_plugin.pipeline.feast_repository import open_store
from recsys_plugin.pipeline.steps import PROJECT
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.supervisor import run_workers, stored_schema
from recsys_plugin.stream.worker import StreamWorker

__all__ = ["measure_freshness"]

_TIMEOUT = 30.0
#: One event in so many is watched until it is visible.
_WATCHED_EVERY = 20
#: Seconds between two looks at a watched event, and until it counts as lost.
_LOOK_SECONDS, _LOST_SECONDS = 0.001, 10.0
_BATCH = 500
_WARM_UP = 3
_ITEMS = hash_field("user_recent_items:item_ids")


def measure_freshness(
    settings: Settings,
    *,
    rate: int,
    seconds: float,
    visible_rate: int,
    backlog: int,
    users: int,
    pushes: int,
    seed: int,
    tell: Tell,
) -> Report:
    """Record events at a steady rate and watch some of them until a reader sees them; then time single events.

    Everything happens in a Redis of its own, with one worker process.

    Args:
        settings: names the home, whose Feast repository has been applied.
        rate: events a second, for so many ``seconds``.
        visible_rate: events a second that wait until they are visible, for as long.
        backlog: events that a worker finds waiting, for its peak rate; they also give each user a history.
        users: how many, in turn.
        pushes: single events through ``FeatureStore.push`` and through ``record``, in turn.
        seed: fixes events and order.
        tell: told what is under way.

    Raises:
        StepFailed: if the repository was not applied.
        CheckFailed: if an event never became visible, or two of one second did not both count.
        StoreUnavailable: if Redis fails.
    """
    machine = {**describe_machine(), "load_average_before": load_average()}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-")))
        url = stack.enter_context(Services(Settings(home=folder)).ensure_redis())
        address = RedisAddress.parse(url)
        report = Report(
            "From event to features", machine, {**package_versions("feast"), "redis-server": redis_version(url)}
        )
        client = stack.enter_context(address.connect(_TIMEOUT))
        tell("opening Feast", 0, 0)
        store = open_store(settings, url)
        client.set(schema_key(PROJECT), (settings.state / "feature_schema.json").read_text(encoding="utf-8"))
        recorder = stack.enter_context(EventRecorder(url, timeout=_TIMEOUT))
        events = _Events(users, seed)
        _peak(report, address, recorder, events, backlog, tell)
        with _one_worker(url):
            _both_count(client, recorder, address)
            _under_load(report, address, recorder, events, rate, seconds, tell)
            _visible(report, recorder, events, visible_rate, seconds, tell)
            _against_push(report, store, recorder, events, pushes, seed, tell)
    report.finish(
        f"seed {seed}; {users} users in turn, each with {backlog // users} earlier events; one worker process; a Redis "
        "of its own, its append-only file synchronised once a second",
        f"under_load.visible: from the call of record to the first reply in which user_recent_items holds the event; "
        f"one event in {_WATCHED_EVERY} is watched, one at a time, by asking Redis over and over",
        "visible.call: record(event, visible=True), which returns when the user's next page reflects the event",
        "worker.events_per_core_second: events of the backlog by the processor time of the worker that took them in",
        "event.push_to_record: FeatureStore.push of one row of user_recent_items against record of one event, which "
        "updates user_recent_items, user_session and user_activity; event.push_to_all adds the worker's processor time",
        "two events of one user in the same second both counted",
        frozen=False,
    )
    return report


class _Events:
    """Events without end: users in turn, each event with an item of its own."""

    def __init__(self, users: int, seed: int) -> None:
        self._users, self._generator, self.made = users, np.random.default_rng(seed), 0

    def next(self) -> Event:
        self.made += 1
        kind = ACT_TYPES[int(self._generator.integers(len(ACT_TYPES)))]
        return Event(user_id=f"user {self.made % self._users}", item_id=f"item {self.made}.", event_type=kind)


def _peak(
    report: Report, address: RedisAddress, recorder: EventRecorder, events: _Events, backlog: int, tell: Tell
) -> None:
    for done in range(0, backlog, _BATCH):
        recorder.record_many([events.next() for _ in range(min(_BATCH, backlog - done))])
        tell("recording a backlog", done, backlog)
    tell("taking it in", 0, 0)
    worker = StreamWorker(address, PROJECT, schema=stored_schema(address, PROJECT))
    began, processor = time.perf_counter(), time.process_time()
    worker.run(until_idle=True)
    taken, used = time.perf_counter() - began, time.process_time() - processor
    worker.close()
    report.add("worker.events", backlog)
    report.add("worker.events_per_second", backlog / taken)
    report.add("worker.events_per_core_second", backlog / used)
    report.add("worker.event_cpu_ms", 1000 * used / backlog)


@contextmanager
def _one_worker(url: str) -> Iterator[None]:
    stopping, failures = threading.Event(), list[RecsysError]()

    def work() -> None:
        try:
            run_workers(url, PROJECT, 1, stopping=stopping)
        except RecsysError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    if failures:
        raise failures[0]


def _both_count(client: Any, recorder: EventRecorder, address: RedisAddress) -> None:
    """Feast's own write drops the second of two rows with the same whole second."""
    moment = datetime.now(UTC).replace(microsecond=0)
    for item_id in ("one", "two"):
        event = Event(user_id="twice", item_id=item_id, event_type="click", timestamp=moment)
        recorder.record(event, visible=True, timeout=_TIMEOUT)
    found = _items(client, LiveRows(PROJECT).user_key("twice"))
    if sorted(found) != ["one", "two"]:
        raise CheckFailed(f"two events of one user in the same second made {found} of user_recent_items")


def _under_load(
    report: Report,
    address: RedisAddress,
    recorder: EventRecorder,
    events: _Events,
    rate: int,
    seconds: float,
    tell: Tell,
) -> None:
    watch = _Watch(address)
    taken: list[float] = []
    began = time.perf_counter()
    count = int(rate * seconds)
    try:
        for number in range(count):
            due = began + number / rate
            if (early := due - time.perf_counter()) > 0:
                time.sleep(early)
            event, started = events.next(), time.perf_counter()
            if number % _WATCHED_EVERY == 0 and not watch.busy:
                watch.begin(event, started)
            recorder.record(event)
            taken.append((time.perf_counter() - started) * 1000)
            if number % rate == 0:
                tell(f"recording {rate} events a second", number, count)
        ended = time.perf_counter()
    finally:
        seen = watch.end()
    report.add("under_load.events", count)
    report.add("under_load.events_per_second", count / (ended - began))
    report.add_samples("under_load.record", Samples(np.array(taken)))
    report.add_samples("under_load.visible", Samples(np.array(seen)))


class _Watch:
    """Looks, in a thread of its own, until the events that it is told of are in the features."""

    def __init__(self, address: RedisAddress) -> None:
        self._address, self._rows = address, LiveRows(PROJECT)
        self._waiting: dict[str, tuple[bytes, float]] = {}
        self._seen: list[float] = []
        self._over, self._lost = threading.Event(), 0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether an event is being watched; looking for many at once would take the processor from the rest."""
        return bool(self._waiting)

    def begin(self, event: Event, started: float) -> None:
        self._waiting[event.item_id] = (self._rows.user_key(event.user_id), started)

    def end(self) -> list[float]:
        """Milliseconds until each was seen."""
        self._over.set()
        self._thread.join()
        if self._lost or not self._seen:
            raise CheckFailed(f"{self._lost} events did not become visible within {_LOST_SECONDS:g} s")
        return self._seen

    def _look(self) -> None:
        with self._address.connect(_TIMEOUT) as client:
            while self._waiting or not self._over.is_set():
                for item_id, (key, started) in list(self._waiting.items()):
                    found = item_id.encode() in (client.hget(key, _ITEMS) or b"")
                    now = time.perf_counter()
                    if found:
                        self._seen.append((now - started) * 1000)
                    elif now - started > _LOST_SECONDS:
                        self._lost += 1
                    else:
                        continue
                    del self._waiting[item_id]
                time.sleep(_LOOK_SECONDS)


def _items(client: Any, key: bytes) -> list[str]:
    stored = client.hget(key, _ITEMS)
    found = decode_value(stored)[1] if stored else []
    return [str(item_id) for item_id in found] if isinstance(found, list) else []


def _visible(report: Report, recorder: EventRecorder, events: _Events, rate: int, seconds: float, tell: Tell) -> None:
    taken: list[float] = []
    began = time.perf_counter()
    count = int(rate * seconds)
    for number in range(count):
        if (early := began + number / rate - time.perf_counter()) > 0:
            time.sleep(early)
        started = time.perf_counter()
        recorder.record(events.next(), visible=True, timeout=_TIMEOUT)
        taken.append((time.perf_counter() - started) * 1000)
        if number % rate == 0:
            tell(f"waiting for {rate} events a second", number, count)
    report.add_samples("visible.call", Samples(np.array(taken)))


def _against_push(
    report: Report, store: Any, recorder: EventRecorder, events: _Events, pushes: int, seed: int, tell: Tell
) -> None:
    import pandas as pd

    moment = datetime.now(UTC)

    def push(number: int) -> None:
        at = moment + timedelta(seconds=number)
        row = {
            "user_id": [f"pushed {number}"],
            "event_timestamp": [at],
            "item_ids": [[f"item {place}" for place in range(50)]],
            "event_type_codes": [[2] * 50],
            "timestamps": [[at] * 50],
        }
        store.push("user_recent_items_push", pd.DataFrame(row))

    samples = interleave(
        {
            "event.record": Subject(lambda number: recorder.record(events.next()), 10 * pushes),
            "event.push": Subject(push, pushes),
        },
        warm_up=_WARM_UP,
        seed=seed,
        progress=lambda done, total: tell("single events in turn", done, total),
    )
    for name, measured in samples.items():
        report.add_samples(name, measured)
    ours, theirs = samples["event.record"], samples["event.push"]
    report.add_ratio("event.push_to_record", p50_ratio(theirs, ours, seed=seed))
    everything = Samples(ours.total + report.figures["worker.event_cpu_ms"])
    report.add_ratio("event.push_to_all", p50_ratio(theirs, everything, seed=seed))
