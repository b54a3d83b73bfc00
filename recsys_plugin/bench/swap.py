"""``recsys bench swap``: changing versions while many clients ask, and what they saw of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from recsys_plugin.bench.machine import load_average
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import Tell, open_shop
from recsys_plugin.bench.timing import Samples
from recsys_plugin.client.recommender import Recommender
from recsys_plugin.errors import CheckFailed, ConfigurationError, RecsysError
from recsys_plugin.pipeline.steps import PROJECT
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.versions import ModelVersions
from recsys_plugin.settings import Settings

__all__ = ["measure_swap"]

#: Seconds that a request may take here: what is looked for are failures, not the time they take.
_TIMEOUT = 10.0


@dataclass(slots=True)
class _Seen:
    """What one client saw."""

    taken: list[float] = field(default_factory=list)
    versions: Counter[int] = field(default_factory=Counter)
    failures: list[RecsysError] = field(default_factory=list)
    mixed: int = 0


def measure_swap(settings: Settings, *, now: float, clients: int, seconds: float, seed: int, tell: Tell) -> Report:
    """Let clients ask without pause while the served version changes three times.

    First what was exported last is loaded beside the version that serves, and promoted; then the version before is
    rolled back to; then the newest is promoted again. Before, between and after them a quarter of the time goes by.

    Args:
        settings: names the home, whose servers run; its repository holds two versions.
        now: the time of every request, unix seconds.
        clients: how many ask at once, each with connections of its own.
        seconds: for how long, the changes themselves not counted. seed: fixes which users are asked for.
        tell: told what is under way.

    Raises:
        ConfigurationError: if there are no two versions to change between.
        CheckFailed: if a request failed or a page mixed two versions.
    """
    versions = ModelVersions(Services(settings), PROJECT)
    if len([version for version in versions.list() if version.on_disk]) < 2:
        raise ConfigurationError("a change needs two versions; run `recsys export --force`, but not `recsys up`")
    with open_shop(settings, now=now, users=100, seed=seed) as shop:
        report = begin_report("Changing versions", shop.redis_url, shop.triton_url)
        seen, over = [_Seen() for _ in range(clients)], threading.Event()
        threads = [
            threading.Thread(target=_ask, args=(shop.redis_url, shop.triton_url, now, list(shop.users), mine, over))
            for mine in seen
        ]
        for thread in threads:
            thread.start()
        try:
            changes = _change(versions, seconds, tell)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    failures = [error for mine in seen for error in mine.failures]
    total = sum((mine.versions for mine in seen), Counter[int]())
    mixed = sum(mine.mixed for mine in seen)
    report.add_samples("request", Samples(np.array([took for mine in seen for took in mine.taken])))
    report.add("requests", total.total())
    report.add("requests.failed", len(failures))
    report.add("requests.mixed", mixed)
    for version, count in sorted(total.items()):
        report.add(f"requests.of_version_{version}", count)
    report.machine["load_average_after"] = load_average()
    report.notes += [
        f"{clients} clients for {seconds:g} s, seed {seed}; {'; '.join(changes)}",
        "a page is mixed if its catalogue is of another version than its models",
    ]
    if failures or mixed:
        first = f": {failures[0]}" if failures else ""
        raise CheckFailed(f"{len(failures)} of {total.total()} requests failed and {mixed} pages were mixed{first}")
    return report


def _change(versions: ModelVersions, seconds: float, tell: Tell) -> list[str]:
    """Change the version three times, with the same time before, between and after; what was done when."""
    began = time.monotonic()
    steps: list[tuple[str, Callable[[], object]]] = [
        ("loaded and promoted", lambda: (versions.load(), versions.promote())),
        ("rolled back", versions.rollback),
        ("promoted again", versions.promote),
    ]
    told = []
    for name, step in steps:
        _wait(seconds / 4, began, seconds, tell)
        started = time.monotonic()
        step()
        told.append(f"{name} at {started - began:.0f} s, which took {time.monotonic() - started:.1f} s")
    _wait(seconds / 4, began, seconds, tell)
    return told


def _wait(pause: float, began: float, seconds: float, tell: Tell) -> None:
    """Let a version serve for a while; changing takes its time on top."""
    moment = time.monotonic() + pause
    while (left := moment - time.monotonic()) > 0:
        tell("asking while versions change", int(time.monotonic() - began), int(seconds))
        time.sleep(min(left, 0.5))


def _ask(redis_url: str, triton_url: str, now: float, users: list[str], seen: _Seen, over: threading.Event) -> None:
    with Recommender(redis_url, triton_url, timeout=_TIMEOUT, clock=lambda: now, strict=True) as client:
        number = 0
        while not over.is_set():
            number += 1
            started = time.perf_counter()
            try:
                page = client.recommend(users[number % len(users)])
            except RecsysError as error:
                seen.failures.append(error)
                continue
            seen.taken.append((time.perf_counter() - started) * 1000)
            seen.versions[page.served_by.version] += 1
            seen.mixed += page.served_by.catalogue_version != page.served_by.version
