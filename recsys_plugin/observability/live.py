"""How clients, workers, Redis and Triton do at this moment, from their metrics: what `recsys top` shows; needs the
extra ``metrics``.

Two readings of the same counters, some seconds apart, give rates and percentiles of the time between them.
"""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import NoPermissionError

from recsys_plugin.errors import InvalidInput, ServiceUnavailable
from recsys_plugin.events.status import EventStatus, event_status
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.limits import MOST_METRICS_BYTES

__all__ = ["ModelLoad", "Reading", "Scrape", "ShelfLoad", "View", "quantile", "read", "scrape", "view"]

_Labels = tuple[tuple[str, str], ...]
_PERCENTILES = (0.5, 0.95, 0.99)
#: Seconds that one address may take.
_TIMEOUT = 2.0
#: What a Redis user without the right to ask is told.
_REFUSED = "How events stand is left out. `recsys security acl --role monitor` prints a user that may ask"


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one address showed, or why it did not."""

    url: str
    at: float
    """A moment of ``time.monotonic``."""
    samples: Mapping[tuple[str, _Labels], float] = field(default_factory=dict)
    error: str = ""

    def of(self, name: str) -> list[tuple[dict[str, str], float]]:
        """The samples of a name, with their labels."""
        return [(dict(labels), value) for (found, labels), value in self.samples.items() if found == name]


@dataclass(frozen=True, slots=True)
class Reading:
    """All addresses at about one moment."""

    clients: tuple[Scrape, ...]
    triton: Scrape | None = None
    events: EventStatus | None = None
    """How the streams stand, as Redis says."""
    unanswered: Mapping[str, str] = field(default_factory=dict)
    """Other servers that were asked → why they did not answer."""


@dataclass(frozen=True, slots=True)
class ShelfLoad:
    """What a shelf does; milliseconds are ``None`` where nothing was asked."""

    shelf: str
    per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    levels: Mapping[str, float]
    """Level → share of the answered requests."""
    failed: float
    """Share of all requests."""
    stages: Mapping[str, float | None]
    """Stage → p50 in milliseconds."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """What Triton does with a model; milliseconds for each request."""

    model: str
    version: str
    per_second: float
    failed_per_second: float
    queue_ms: float | None
    compute_ms: float | None


@dataclass(frozen=True, slots=True)
class View:
    """What there is to see."""

    seconds: float
    """The time that rates and percentiles are of; since the processes began, if 0."""
    shelves: tuple[ShelfLoad, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)
    """Model version → clients that serve it."""
    refresh_seconds: float | None = None
    """Since a client last found out what is to serve, the longest of all."""
    missing: float | None = None
    """Share of feature values that were missing, and ``expired`` that were too old."""
    expired: float | None = None
    lag: int | None = None
    """Events that no worker has taken in; ``None`` if Redis does not tell."""
    workers: int | None = None
    dead_letters: int | None = None
    spooling: float = 0.0
    open_breakers: Sequence[str] = ()
    models: tuple[ModelLoad, ...] = ()
    unreachable: Mapping[str, str] = field(default_factory=dict)
    """Address → why it could not be read."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def scrape(url: str, *, timeout: float = _TIMEOUT, clock: Callable[[], float] = time.monotonic) -> Scrape:
    """Read the metrics that an address shows: ``http://host:port/metrics``, or ``host:port`` for short.

    Raises:
        InvalidInput: if it is no such address.
    """
    whole = url if "://" in url else f"http://{url}/metrics"
    if not whole.startswith(("http://", "https://")):
        raise InvalidInput(f"metrics address {url!r:.100}: expected host:port or http://host:port/metrics")
    try:
        with urllib.request.urlopen(whole, timeout=timeout) as answer:
            data = answer.read(MOST_METRICS_BYTES + 1)
        if len(data) > MOST_METRICS_BYTES:
            return Scrape(whole, clock(), error=f"more than {MOST_METRICS_BYTES} bytes of metrics")
        text = data.decode()
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return Scrape(whole, clock(), error=str(reason))
    return Scrape(whole, clock(), samples)


def read(
    urls: Iterable[str],
    triton_url: str | None = None,
    redis: RedisAddress | None = None,
    *,
    project: str = "recsys",
    timeout: float = _TIMEOUT,
) -> Reading:
    """Read the metrics of clients and of Triton, and ask Redis for the streams; one after the other."""
    clients = tuple(scrape(url, timeout=timeout) for url in urls)
    triton = None if triton_url is None else scrape(triton_url, timeout=timeout)
    events, unanswered = None, {}
    if redis is not None:
        try:
            events = event_status(redis, project=project, timeout=timeout)
        except ServiceUnavailable as error:
            refused = isinstance(error.__cause__, NoPermissionError)
            unanswered["Redis"] = f"{error}. {_REFUSED}" if refused else str(error)
    return Reading(clients, triton, events, unanswered)


def view(now: Reading, before: Reading | None = None) -> View:
    """What two readings say of the time between them; one alone, of the time since the processes began.

    Raises:
        ServiceUnavailable: if nothing answered.
    """
    scrapes = (*now.clients, *(() if now.triton is None else (now.triton,)))
    unreachable = {one.url: one.error for one in scrapes if one.error}
    unreachable.update(now.unanswered)
    if now.events is None and all(one.error for one in scrapes):
        raise ServiceUnavailable(
            "no metrics: " + "; ".join(f"{url}: {error}" for url, error in unreachable.items()) + ". Clients show them "
            "with RECSYS_METRICS_PORT, workers with `recsys stream --metrics-port`, and Triton by itself"
        )
    events = now.events
    changes = _Changes(now.clients, () if before is None else before.clients)
    features = changes.by("recsys_feature_values_total", "state")
    all_features = sum(features.values())
    state = _Sum(now.clients)
    return View(
        seconds=changes.seconds or _between(now.triton, None if before is None else before.triton),
        shelves=tuple(_shelf(changes, shelf) for shelf in sorted(changes.by("recsys_requests_total", "shelf"))),
        versions={version: int(count) for version, count in state.by("recsys_clients", "version").items() if count},
        refresh_seconds=max(state.values("recsys_refresh_age_seconds"), default=None),
        missing=features.get("missing", 0.0) / all_features if all_features else None,
        expired=features.get("expired", 0.0) / all_features if all_features else None,
        lag=None if events is None else events.lag,
        workers=None if events is None else len(events.workers),
        dead_letters=None if events is None else events.dead_letters,
        spooling=sum(state.values("recsys_spooling")),
        open_breakers=sorted(server for server, value in state.by("recsys_breaker_open", "server").items() if value),
        models=_models(now.triton, None if before is None else before.triton),
        unreachable=unreachable,
    )


def quantile(share: float, ends: Sequence[float], cumulated: Sequence[float]) -> float | None:
    """A quantile of a histogram, as Prometheus' ``histogram_quantile`` has it: linear within a class.

    Args:
        ends: ``[n]`` upper ends of the classes, ascending, the last infinite. cumulated: ``[n]`` values up to each.

    Returns:
        ``None`` without values; the last finite end if it lies beyond it.
    """
    if not cumulated or cumulated[-1] <= 0:
        return None
    rank = share * cumulated[-1]
    place = next(number for number, count in enumerate(cumulated) if count >= rank)
    if math.isinf(ends[place]):
        return ends[place - 1] if place else None
    below, start = (cumulated[place - 1], ends[place - 1]) if place else (0.0, 0.0)
    within = cumulated[place] - below
    return ends[place] if within <= 0 else start + (ends[place] - start) * (rank - below) / within


def _between(now: Scrape | None, before: Scrape | None) -> float:
    """Seconds between two readings of an address; 0 if it did not answer both."""
    return 0.0 if now is None or before is None or now.error or before.error else now.at - before.at


class _Sum:
    """Gauges of several addresses."""

    def __init__(self, scrapes: Sequence[Scrape]) -> None:
        self._scrapes = scrapes

    def values(self, name: str) -> list[float]:
        """What each address tells."""
        return [value for one in self._scrapes for _, value in one.of(name)]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Value of a label → sum over the addresses."""
        found: dict[str, float] = {}
        for one in self._scrapes:
            for labels, value in one.of(name):
                found[labels.get(label, "")] = found.get(labels.get(label, ""), 0.0) + value
        return found


class _Changes:
    """By how much counters grew between two readings, over all addresses; one that began anew counts from 0."""

    def __init__(self, now: Sequence[Scrape], before: Sequence[Scrape]) -> None:
        earlier = {one.url: one for one in before if not one.error}
        self._grown: list[tuple[str, dict[str, str], float]] = []
        spans = []
        for one in now:
            if one.error:
                continue
            old = earlier.get(one.url)
            if old is not None:
                spans.append(one.at - old.at)
            for (name, labels), value in one.samples.items():
                base = 0.0 if old is None else old.samples.get((name, labels), 0.0)
                self._grown.append((name, dict(labels), value - base if value >= base else value))
        self.seconds = max(spans, default=0.0)

    def of(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """The growth of a name's samples that have these labels."""
        return [
            (found, value)
            for each, found, value in self._grown
            if each == name and all(found.get(key) == wanted for key, wanted in labels.items())
        ]

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Value of a label → growth."""
        grown: dict[str, float] = {}
        for found, value in self.of(name, **labels):
            grown[found.get(label, "")] = grown.get(found.get(label, ""), 0.0) + value
        return grown

    def quantiles(self, name: str, **labels: str) -> list[float | None]:
        """Milliseconds at the percentiles 50, 95 and 99."""
        classes = sorted((float(end), value) for end, value in self.by(f"{name}_bucket", "le", **labels).items())
        ends, counts = [end for end, _ in classes], [value for _, value in classes]
        found = [quantile(share, ends, counts) for share in _PERCENTILES]
        return [None if value is None else 1e3 * value for value in found]


def _shelf(changes: _Changes, shelf: str) -> ShelfLoad:
    outcomes = changes.by("recsys_requests_total", "outcome", shelf=shelf)
    levels = changes.by("recsys_requests_total", "level", shelf=shelf, outcome="answered")
    total, answered = sum(outcomes.values()), outcomes.get("answered", 0.0)
    p50, p95, p99 = changes.quantiles("recsys_request_seconds", shelf=shelf)
    stages = changes.by("recsys_stage_seconds_count", "stage", shelf=shelf)
    return ShelfLoad(
        shelf,
        total / changes.seconds if changes.seconds else 0.0,
        p50,
        p95,
        p99,
        {level: count / answered for level, count in levels.items() if count},
        (total - answered) / total if total else 0.0,
        {stage: changes.quantiles("recsys_stage_seconds", shelf=shelf, stage=stage)[0] for stage in stages},
    )


def _models(now: Scrape | None, before: Scrape | None) -> tuple[ModelLoad, ...]:
    """What Triton's own metrics say."""
    if now is None or now.error:
        return ()
    changes = _Changes([now], [] if before is None else [before])
    loads = []
    for labels, good in changes.of(_triton("request_success")):
        model, version = labels.get("model", ""), labels.get("version", "")
        which = {"model": model, "version": version}
        bad = sum(value for _, value in changes.of(_triton("request_failure"), **which))
        queued = sum(value for _, value in changes.of(_triton("queue_duration_us"), **which))
        computed = sum(value for _, value in changes.of(_triton("compute_infer_duration_us"), **which))
        rate = 1.0 / changes.seconds if changes.seconds else 0.0
        loads.append(
            ModelLoad(
                model,
                version,
                good * rate,
                bad * rate,
                queued / good / 1e3 if good else None,
                computed / good / 1e3 if good else None,
            )
        )
    return tuple(sorted(loads, key=lambda load: (-load.per_second, load.model, load.version)))


def _triton(name: str) -> str:
    """What the parser calls one of Triton's counters: it adds what OpenMetrics wants, and Triton's text lacks."""
    return f"nv_inference_{name}_total"
