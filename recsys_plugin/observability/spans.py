"""OpenTelemetry's spans of a request that is over, made at once from what was noted of it; needs the extra ``tracing``.

A tracer of the SDK makes a span in steps, locks and checks each, and takes fifteen times as long.
"""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from recsys_plugin.observability.request import FinishedRequest
from recsys_plugin.observability.trace import new_id

__all__ = ["SpanMaker"]

_SCOPE = InstrumentationScope("recsys_plugin")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_KINDS = {"features": SpanKind.CLIENT, "inference": SpanKind.CLIENT}
_SERVERS: dict[str, dict[str, AttributeValue]] = {
    "features": {"db.system.name": "redis"},
    "inference": {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer"},
}


class SpanMaker:
    """Makes spans.

    Args:
        resource: what the process is called.
    """

    def __init__(self, resource: Resource) -> None:
        self._resource = resource

    def of(self, request: FinishedRequest) -> list[ReadableSpan]:
        """A span of the request, which is a root or a child of its caller's, and one of each of its stages below it;
        none of a request that was not traced."""
        trace = request.trace
        if trace is None:
            return []
        failed = _UNSET if request.error is None else Status(StatusCode.ERROR, request.outcome)
        whole = SpanContext(trace.trace_id, new_id(64), False, _SAMPLED)
        parent = SpanContext(trace.trace_id, trace.parent_id, False, _SAMPLED) if trace.parent_id else None
        # From the timer to the wall clock.
        shift = request.started_at - request.started
        spans = [
            ReadableSpan(
                f"recsys {request.shelf or 'request'}",
                whole,
                parent,
                self._resource,
                _attributes(request),
                kind=SpanKind.INTERNAL,
                status=failed,
                start_time=int(request.started_at * 1e9),
                end_time=int((request.started_at + request.seconds) * 1e9),
                instrumentation_scope=_SCOPE,
            )
        ]
        last = len(trace.segments)
        for place, (stage, started, ended, called, model) in enumerate(trace.segments, 1):
            about = _SERVERS.get(stage)
            spans.append(
                ReadableSpan(
                    f"recsys {stage} {model}" if model else f"recsys {stage}",
                    SpanContext(trace.trace_id, called or new_id(64), False, _SAMPLED),
                    whole,
                    self._resource,
                    {**(about or {}), "recsys.model": model} if model else about,
                    kind=_KINDS.get(stage, SpanKind.INTERNAL),
                    # What failed was the last thing to happen.
                    status=failed if place == last else _UNSET,
                    start_time=int((shift + started) * 1e9),
                    end_time=int((shift + ended) * 1e9),
                    instrumentation_scope=_SCOPE,
                )
            )
        return spans


def _attributes(request: FinishedRequest) -> dict[str, AttributeValue]:
    return {
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
