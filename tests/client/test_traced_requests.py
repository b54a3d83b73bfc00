"""A traced request is one trace, from its caller over client, Redis and Triton, in a collector of the test's own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loopback_server import serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from tiny_shop import NOW, TinyShop
from waiting import wait_until

from recsys_plugin import AsyncRecommender, ImpressionLog, Recommender
from recsys_plugin.errors import RecsysError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.impressions import Impression
from recsys_plugin.observability.environment import observer_from_settings
from recsys_plugin.observability.tracing import Tracing, tracing_to
from recsys_plugin.settings import Settings


@dataclass(frozen=True)
class Span:
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    attributes: dict[str, str]
    started: int
    ended: int


@dataclass
class Collector:
    """What came by OTLP over HTTP, in its binary and its JSON form."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)

    def take(self, kind: str, body: bytes) -> None:
        if kind == "application/json":
            message = json.loads(body)
            for resource in message["resourceSpans"]:
                told = {a["key"]: a["value"].get("stringValue", "") for a in resource["resource"]["attributes"]}
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        values = {a["key"]: str(next(iter(a["value"].values()))) for a in span.get("attributes", ())}
                        ids = (span["traceId"].lower(), span["spanId"].lower(), span.get("parentSpanId", "").lower())
                        moments = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
                        self.spans.append(Span(span["name"], *ids, told["service.name"], values, *moments))
            return
        binary = ExportTraceServiceRequest.FromString(body)
        for group in binary.resource_spans:
            named = {a.key: a.value.string_value for a in group.resource.attributes}
            for part in group.scope_spans:
                for one in part.spans:
                    values = {a.key: a.value.string_value or str(a.value.int_value) for a in one.attributes}
                    ids = (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex())
                    moments = one.start_time_unix_nano, one.end_time_unix_nano
                    self.spans.append(Span(one.name, *ids, named["service.name"], values, *moments))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.take(self.headers["Content-Type"], body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as url:
        found.url = f"{url}/v1/traces"
        yield found


@pytest.fixture(scope="module")
def traced_shop(
    collector: Collector, traced_shop_of: Callable[[str], AbstractContextManager[TinyShop]]
) -> Iterator[TinyShop]:
    """The tiny shop on a Triton that sends its spans to the collector."""
    with traced_shop_of(collector.url) as shop:
        yield shop


def test_a_request_is_one_trace_from_caller_to_triton(traced_shop: TinyShop, collector: Collector) -> None:
    caller = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    tracing = tracing_to(collector.url)
    options: dict[str, Any] = {"timeout": 10, "clock": lambda: NOW, "observe": tracing, "impressions": ImpressionLog()}
    with Recommender(traced_shop.redis_url, traced_shop.triton_url, **options) as recommender:
        with use_span(NonRecordingSpan(caller)):
            page = recommender.recommend("mug-lover", 3)
        tracing.flush()
    assert page.fallback.level == "full", page.fallback
    tracing.close()
    (whole,) = [
        span for span in collector.spans if span.name == "recsys recommend" and span.trace_id == f"{0xABC:032x}"
    ]
    calls = {span.span_id for span in collector.spans if span.parent_id == whole.span_id}
    # Triton sends some spans of a trace after the others, that of its whole call among the last.
    wait_until(lambda: any(span.service == "triton" and span.parent_id in calls for span in collector.spans))
    mine = [span for span in collector.spans if span.trace_id == f"{0xABC:032x}"]
    assert whole.parent_id == f"{0xDEF:016x}"
    assert whole.attributes["recsys.request_id"] == page.request_id
    assert "mug-lover" not in str(mine)
    stages = [span for span in mine if span.parent_id == whole.span_id]
    assert [span.name for span in stages] == ["recsys features", "recsys inference recommend", "recsys policy"]
    assert stages[0].attributes["db.system.name"] == "redis"
    assert all(whole.started <= span.started <= span.ended <= whole.ended + 1000 for span in stages)
    triton = [span for span in mine if span.service == "triton"]
    assert {span.parent_id for span in triton} & {stages[1].span_id}
    # What Triton says of itself begins within the call: both clocks are this machine's.
    assert all(stages[1].started <= span.started <= stages[1].ended for span in triton)
    with RedisAddress.parse(traced_shop.admin_url).connect(5) as redis:
        _, fields = redis.xrange(EventKeys("recsys").impressions)[-1]
    assert Impression.decode(fields[b"page"]).trace_id == f"{0xABC:032x}"


def test_triton_traces_nothing_that_its_caller_does_not(traced_shop: TinyShop, collector: Collector) -> None:
    exporter = InMemorySpanExporter()
    off, on = Tracing(InMemorySpanExporter(), sampler=ALWAYS_OFF), Tracing(exporter, sampler=ALWAYS_ON)
    options: dict[str, Any] = {"timeout": 10, "clock": lambda: NOW}
    before = {span.trace_id for span in collector.spans}
    with Recommender(traced_shop.redis_url, traced_shop.triton_url, observe=off, **options) as recommender:
        for _ in range(5):
            recommender.recommend("mug-lover", 3)
    with Recommender(traced_shop.redis_url, traced_shop.triton_url, observe=on, **options) as recommender:
        recommender.recommend("mug-lover", 3)
    off.close()
    on.close()
    (trace_id,) = {span.context.trace_id for span in exporter.get_finished_spans()}
    wait_until(lambda: f"{trace_id:032x}" in {span.trace_id for span in collector.spans})
    assert {span.trace_id for span in collector.spans} - before == {f"{trace_id:032x}"}


async def test_sampling_follows_the_caller_and_awaited_requests_do_not_mix(tiny: TinyShop) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, sampler=ParentBased(ALWAYS_ON))
    unsampled = SpanContext(0x123, 0x456, is_remote=True, trace_flags=TraceFlags(0))
    options: dict[str, Any] = {"timeout": 10, "clock": lambda: NOW, "observe": tracing}
    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, **options) as recommender:
        with use_span(NonRecordingSpan(unsampled)):
            await recommender.recommend("mug-lover", 3)
        await recommender.search(None, "cups", 2)
        with pytest.raises(RecsysError):
            await recommender.recommend("broken", strict=True)
    tracing.close()
    spans = exporter.get_finished_spans()
    searched = [span for span in spans if span.name.startswith("recsys search")]
    assert len({span.context.trace_id for span in spans}) == 2
    assert len(searched) == 1
    (whole,) = searched
    called = [span for span in spans if span.parent is not None and span.parent.span_id == whole.context.span_id]
    models = [(span.attributes or {}).get("recsys.model") for span in called]
    assert [model for model in models if model] == ["search"]
    failed = [span for span in spans if span.status.description == "InferenceUnavailable"]
    assert {span.name for span in failed} == {"recsys recommend", "recsys inference recommend"}


def test_a_client_from_the_environment_traces(tiny: TinyShop, collector: Collector) -> None:
    environ = {
        "RECSYS_REDIS_URL": tiny.redis_url,
        "RECSYS_TRITON_URL": tiny.triton_url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url.removesuffix("/v1/traces"),
    }
    before = len(collector.spans)
    with Recommender.from_environment(environ, timeout=10) as recommender:
        page = recommender.recommend("mug-lover", 3)
    told = [span.attributes.get("recsys.request_id") for span in collector.spans[before:]]
    assert page.request_id in told  # closing the client sent what waited
    settings = Settings.from_environment(environ)
    assert observer_from_settings(settings) is observer_from_settings(settings)
    last = observer_from_settings(settings)
    assert last is not None
    last.leave("nobody")
