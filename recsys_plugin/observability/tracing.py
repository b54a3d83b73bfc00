"""OpenTelemetry traces: a span for each request, one for each of its stages, and Triton's own below them; needs the
extra ``tracing``.

A request that is not sampled costs the decision and no more. Of one that is, the client notes moments and numbers;
spans are made of them, and sent, by other threads. A call to Triton carries the header ``traceparent`` (W3C Trace
Context), so that a Triton with ``--trace-config mode=opentelemetry`` continues the trace; `recsys up` starts it so if
``OTEL_EXPORTER_OTLP_ENDPOINT`` is set. Redis traces nothing: of it there is the client's span.

A request belongs to the span that is current where it is made, such as that of a web framework, and follows its
sampling; otherwise it begins a trace. The sampler is OpenTelemetry's: by default, or as ``OTEL_TRACES_SAMPLER`` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from opentelemetry.context import get_current
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import INVALID_SPAN_CONTEXT, get_current_span

from recsys_plugin.observability.background import BackgroundQueue
from recsys_plugin.observability.collector import CollectorExporter
from recsys_plugin.observability.request import FinishedRequest, Observer
from recsys_plugin.observability.spans import SpanMaker
from recsys_plugin.observability.trace import Trace, new_id

__all__ = ["Tracing", "root_decision", "tracing_to"]

#: Spans of so many requests are made at a time.
_BATCH = 16


class Tracing(Observer):
    """Traces requests.

    Args:
        exporter: takes the spans.
        sampler: decides which requests are traced; OpenTelemetry's default, or what its variables say, if ``None``.
        resource: what the process is called; as OpenTelemetry's variables say, else ``recsys``, if ``None``.
    """

    def __init__(
        self, exporter: SpanExporter, *, sampler: Sampler | None = None, resource: Resource | None = None
    ) -> None:
        if sampler is None:
            sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._sampler, self._begins = sampler, root_decision(sampler)
        self._spans, self._exporter = SpanMaker(resource or _resource()), exporter
        self._processor: SpanProcessor = BatchSpanProcessor(exporter)
        self._room, self._handed = _room(), 0
        self._queue: BackgroundQueue[FinishedRequest] = BackgroundQueue("recsys-tracing", self._make, batch=_BATCH)

    def begin(self) -> Trace | None:
        """Decide whether a request is traced."""
        # Most often nothing is current, which is found out faster than which span is.
        parent = get_current_span().get_span_context() if get_current() else INVALID_SPAN_CONTEXT
        if not parent.is_valid:
            trace_id = new_id(128)
            return Trace(trace_id) if self._begins(trace_id) else None
        sampled = self._sampler.should_sample(None, parent.trace_id, "recsys").decision is Decision.RECORD_AND_SAMPLE
        return Trace(parent.trace_id, parent.span_id) if sampled else None

    def finished(self, request: FinishedRequest) -> None:
        """Keep it, if it is traced, until spans are made of it."""
        if request.trace is not None:
            self._queue.offer(request)

    def flush(self) -> None:
        """Make and send the spans of all requests so far."""
        self._queue.flush()
        self._processor.force_flush()

    def close(self) -> None:
        """Send what waits, for as long as OpenTelemetry allows, and end. A collector that is away is asked once."""
        if isinstance(self._exporter, CollectorExporter):
            self._exporter.hurry()
        self._queue.close()
        self._processor.shutdown()

    @property
    def left_out(self) -> int:
        """Requests without spans: more waited than may."""
        return self._queue.dropped

    def _make(self, requests: Sequence[FinishedRequest]) -> None:
        """Hand over the spans, in another thread."""
        for request in requests:
            spans = self._spans.of(request)
            if self._handed + len(spans) > self._room:
                # OpenTelemetry's queue might run over, which nobody would count. Now it is empty, or the collector is
                # slow: then requests wait before it, and are counted if there are too many.
                self._processor.force_flush()
                self._handed = 0
            for span in spans:
                self._processor.on_end(span)
            self._handed += len(spans)


def root_decision(sampler: Sampler) -> Callable[[int], bool]:
    """Whether a request that begins a trace is sampled, by the trace's id.

    OpenTelemetry's own samplers decide by the id alone, and so does this, in a tenth of the time that making up their
    answer takes; any other sampler is asked.
    """
    # The sampler of what has no parent has no public name; where it has another, the whole one is asked.
    root = getattr(sampler, "_root", sampler) if type(sampler) in (ParentBased, ParentBasedTraceIdRatio) else sampler

    def ask(trace_id: int) -> bool:
        return sampler.should_sample(None, trace_id, "recsys").decision is Decision.RECORD_AND_SAMPLE

    if type(root) is StaticSampler:
        always = ask(new_id(128))
        return lambda trace_id: always
    if type(root) is TraceIdRatioBased:
        bound, bits = root.bound, root.TRACE_ID_LIMIT
        return lambda trace_id: trace_id & bits < bound
    return ask


def tracing_to(endpoint: str) -> Tracing:
    """Traces sent to a collector over HTTP, with further settings from OpenTelemetry's variables: see
    :mod:`recsys_plugin.observability.collector`.

    Args:
        endpoint: the whole URL, such as ``http://localhost:4318/v1/traces``.
    """
    return Tracing(CollectorExporter(endpoint, os.environ))


def _resource() -> Resource:
    found = Resource.create()
    named = not str(found.attributes[SERVICE_NAME]).startswith("unknown_service")
    return found if named else found.merge(Resource({SERVICE_NAME: "recsys"}))


def _room() -> int:
    """How many spans OpenTelemetry's queue holds."""
    try:
        return int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", ""))
    except ValueError:
        return 2_048
