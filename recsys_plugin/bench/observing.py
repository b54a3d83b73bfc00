"""What being observed costs a request: the same client with and without observers, in turn."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import CALL_TIMEOUT, Tell
from recsys_plugin.bench.timing import Samples, Subject, interleave, p50_ratio
from recsys_plugin.client.recommender import Recommender
from recsys_plugin.client.results import Page
from recsys_plugin.errors import CheckFailed
from recsys_plugin.observability.metrics import Metrics
from recsys_plugin.observability.otlp import encode_spans
from recsys_plugin.observability.request import Observers, join
from recsys_plugin.observability.request_log import RequestLog
from recsys_plugin.observability.tracing import Tracing

__all__ = ["MOST", "SAMPLED", "measure_observing", "require_cheap"]

#: A request may take so many times as long when it is observed.
MOST = 1.03
#: The share of requests that are traced in ``observed``.
SAMPLED = 0.01
_WARM_UP = 100
#: Requests by which the background is timed, and the names of its threads: ours, and OpenTelemetry's.
_BACKGROUND_CALLS, _BACKGROUND = 500, ("recsys-metrics", "recsys-request-log", "recsys-tracing", "OtelBatch")


class _Encoded(SpanExporter):
    """Encodes spans as for a collector, and lets go of them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans)
        return SpanExportResult.SUCCESS


class _ObservedAtWill(Recommender):
    """A client whose observer is changed between requests, so that its connections are the same with each."""

    def observe(self, observer: Observers | None) -> None:
        """From now on, tell this one."""
        self._observer = observer


def measure_observing(
    redis_url: str,
    triton_url: str,
    users: Sequence[str],
    *,
    now: float,
    calls: int,
    k: int,
    seed: int,
    freeze: bool,
    tell: Tell,
) -> Report:
    """Time ``recommend`` with no observer, with each kind, and with all of them as a shop would have them.

    Args:
        redis_url, triton_url: the servers. users: take turns. now: the time of every request, unix seconds.
        calls: timed calls with each. k: items of a page.
        seed: fixes the orders. freeze: see :func:`~recsys_plugin.bench.timing.interleave`. tell: told of progress.
    """
    report = begin_report("Observing a request", redis_url, triton_url, "prometheus_client", "opentelemetry-sdk")
    with (
        tempfile.TemporaryDirectory() as folder,
        _ObservedAtWill(redis_url, triton_url, timeout=CALL_TIMEOUT, clock=lambda: now) as recommender,
    ):
        metrics, log = Metrics(), RequestLog(Path(folder) / "requests.jsonl")
        some = Tracing(_Encoded(), sampler=ParentBased(TraceIdRatioBased(SAMPLED)))
        every = Tracing(_Encoded(), sampler=ALWAYS_ON)
        ways: dict[str, Observers | None] = {
            "off": None,
            "metrics": join(metrics),
            "request_log": join(log),
            "tracing_sampled": join(some),
            "tracing_always": join(every),
            "observed": join([log, metrics, some]),
            "observed_traced": join([log, metrics, every]),
        }

        background: dict[str, float] = {}

        def ask(observer: Observers | None) -> Subject:
            def call(number: int) -> Page:
                page = recommender.recommend(users[number % len(users)], k)
                len(page.item_ids)
                return page

            def prepared(number: int) -> Page:
                recommender.observe(observer)
                return call(number)

            return Subject(prepared, calls)

        samples = interleave(
            {name: ask(observer) for name, observer in ways.items()},
            warm_up=_WARM_UP,
            seed=seed,
            freeze=freeze,
            progress=lambda done, total: tell("observed and not", done, total),
        )
        for name, joined in ways.items():
            if joined is not None:
                tell(f"the background of {name}", 0, 0)
                background[name] = _background(ask(joined), joined)
        recommender.observe(None)
        for each in (metrics, log, some, every):
            each.close()
    off = samples["off"]
    for name, found in samples.items():
        report.add_samples(f"recommend.{name}", found)
    for name in list(ways)[1:]:
        report.add_ratio(f"recommend.{name}_to_off", p50_ratio(samples[name], off, seed=seed))
        report.add(f"recommend.{name}_us", 1000 * _difference(samples[name], off))
        report.add(f"recommend.{name}_background_us", background[name])
    report.finish(
        f"{k} items a page, {len(users)} users in turn, one client and one caller; observed: request log, metrics and "
        f"traces of {SAMPLED:.0%} of requests, observed_traced: of all; spans are encoded and not sent; _us is the "
        "difference of the medians, _background_us the processor time of other threads for each request",
        frozen=freeze,
    )
    return report


def require_cheap(report: Report) -> None:
    """Check what all observers together cost.

    Raises:
        CheckFailed: if a request that is observed takes more than :data:`MOST` times as long, and chance does not
            explain it: the whole interval of the ratio lies above.
    """
    for way, what in (("observed", "an observed request"), ("observed_traced", "one that is always traced, too,")):
        low = report.figures[f"recommend.{way}_to_off.ratio_p50_low"]
        if low > MOST:
            raise CheckFailed(f"{what} takes at least {low:.3f} times as long; allowed is {MOST:g}")


def _background(subject: Subject, observer: Observers) -> float:
    """Microseconds of processor time that other threads spend on each request, until all of them are dealt with."""
    observer.flush()
    calls = min(subject.calls, _BACKGROUND_CALLS)
    before = _background_seconds()
    for number in range(calls):
        subject.call(number)
    own = time.thread_time()
    observer.flush()
    # What was left for this thread to deal with would have been dealt with by the others.
    return 1e6 * (_background_seconds() - before + time.thread_time() - own) / calls


def _background_seconds() -> float:
    """Processor time of the observers' threads so far."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.ident is not None and thread.name.startswith(_BACKGROUND)
    )


def _difference(observed: Samples, off: Samples) -> float:
    return float(np.median(observed.total) - np.median(off.total))
