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

import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from recsys_plugin.observability.background import BackgroundQueue
from recsys_plugin.observability.request import FinishedRequest, Observer
from recsys_plugin.observability.trace import Segment, Trace, new_id

__all__ = ["Tracing", "tracing_to"]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {"features": SpanKind.CLIENT, "inference": SpanKind.CLIENT}
_SERVERS = {
    "features": {"db.system.name": "redis"},
    "inference": {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer"},
}


class _Given(IdGenerator):
    """Gives a span the ids that the request was made with; each thread's spans are made one after the other."""

    def __init__(self) -> None:
        self._next = threading.local()

    def give(self, trace_id: int, span_id: int) -> None:
        """The ids of the next span of this thread."""
        self._next.ids = trace_id, span_id

    def generate_trace_id(self) -> int:
        trace_id: int = self._next.ids[0]
        return trace_id

    def generate_span_id(self) -> int:
        span_id: int = self._next.ids[1]
        return span_id


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
        self._sampler, self._ids = sampler, _Given()
        self._provider = TracerProvider(
            ALWAYS_ON, resource or _resource(), shutdown_on_exit=False, id_generator=self._ids
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("recsys_plugin")
        self._queue: BackgroundQueue[FinishedRequest] = BackgroundQueue("recsys-tracing", self._make)

    def begin(self) -> Trace | None:
        """Decide whether a request is traced."""
        parent = get_current_span().get_span_context()
        trace_id = parent.trace_id if parent.is_valid else new_id(128)
        if self._sampler.should_sample(None, trace_id, "recsys").decision is not Decision.RECORD_AND_SAMPLE:
            return None
        return Trace(trace_id, new_id(64), parent.span_id if parent.is_valid else 0)

    def finished(self, request: FinishedRequest) -> None:
        """Keep it, if it is traced, until spans are made of it."""
        if request.trace is not None:
            self._queue.offer(request)

    def flush(self) -> None:
        """Make and send the spans of all requests so far."""
        self._queue.flush()
        self._provider.force_flush()

    def close(self) -> None:
        """Send what waits, for as long as OpenTelemetry allows, and end."""
        self._queue.close()
        self._provider.shutdown()

    # What follows runs in another thread.

    def _make(self, requests: Sequence[FinishedRequest]) -> None:
        for request in requests:
            if request.trace is not None:
                self._make_spans(request, request.trace)

    def _make_spans(self, request: FinishedRequest, trace: Trace) -> None:
        ended = request.started + request.seconds
        failed = Status(StatusCode.ERROR, request.outcome) if request.error is not None else None
        attributes: dict[str, str | int | float | bool] = {
            "recsys.request_id": request.request_id,
            "recsys.shelf": request.shelf,
            "recsys.outcome": request.outcome,
            "recsys.fallback": request.level,
            "recsys.version": request.version,
            "recsys.items": request.items,
            "recsys.candidates": request.candidates,
            "recsys.users": len(request.users),
            "recsys.features.missing": sum(len(report.missing) for report in request.features),
            "recsys.features.expired": sum(len(report.expired) for report in request.features),
        }
        whole = Segment(request.shelf or "request", request.started, ended, trace.span_id)
        self._make_span(request, trace, whole, trace.parent_id, SpanKind.INTERNAL, attributes, failed)
        for segment in trace.segments:
            about: dict[str, str | int | float | bool] = dict(_SERVERS.get(segment.name, {}))
            if segment.model:
                about["recsys.model"] = segment.model
            kind = _KINDS.get(segment.name, SpanKind.INTERNAL)
            # What failed was the last thing to happen.
            broken = failed if segment is trace.segments[-1] else None
            self._make_span(request, trace, segment, trace.span_id, kind, about, broken)

    def _make_span(
        self,
        request: FinishedRequest,
        trace: Trace,
        segment: Segment,
        parent_id: int,
        kind: SpanKind,
        attributes: dict[str, str | int | float | bool],
        failed: Status | None,
    ) -> None:
        context = None
        if parent_id:
            parent = SpanContext(trace.trace_id, parent_id, is_remote=False, trace_flags=_SAMPLED)
            context = set_span_in_context(NonRecordingSpan(parent))
        self._ids.give(trace.trace_id, segment.span_id)
        name = f"recsys {segment.name} {segment.model}".rstrip()
        span = self._tracer.start_span(
            name, context, kind, attributes, start_time=_nanoseconds(request, segment.started)
        )
        if failed is not None:
            span.set_status(failed)
        span.end(_nanoseconds(request, segment.ended))


def tracing_to(endpoint: str) -> Tracing:
    """Traces sent to a collector over HTTP (OTLP), with further settings from OpenTelemetry's variables.

    Args:
        endpoint: the whole URL, such as ``http://localhost:4318/v1/traces``.
    """
    return Tracing(OTLPSpanExporter(endpoint))


def _resource() -> Resource:
    found = Resource.create()
    named = not str(found.attributes[SERVICE_NAME]).startswith("unknown_service")
    return found if named else found.merge(Resource({SERVICE_NAME: "recsys"}))


def _nanoseconds(request: FinishedRequest, moment: float) -> int:
    """A moment of the request's timer since the epoch."""
    return int((request.started_at + moment - request.started) * 1e9)
