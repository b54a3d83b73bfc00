"""Spans are encoded as OpenTelemetry encodes them, sampled as it samples, and reach a collector, or are counted."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_server import serving
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as theirs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from waiting import wait_until

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.observability import FinishedRequest
from recsys_plugin.observability.background import BackgroundQueue
from recsys_plugin.observability.collector import CollectorExporter
from recsys_plugin.observability.metrics import Metrics
from recsys_plugin.observability.otlp import encode_spans
from recsys_plugin.observability.request import ANSWERED, ClientState, join
from recsys_plugin.observability.spans import SpanMaker
from recsys_plugin.observability.trace import Trace
from recsys_plugin.observability.tracing import Tracing, root_decision

RESOURCE = Resource({"service.name": "recsys", "shops": ("a", "b"), "cores": 2})
ids = st.integers(1, 2**64 - 1)
moments = st.integers(0, 2**63)
values = st.one_of(
    st.text(max_size=200),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(st.text(max_size=9), max_size=3).map(tuple),
)


@st.composite
def spans(draw: st.DrawFn) -> ReadableSpan:
    trace_id, sampled = draw(st.integers(1, 2**128 - 1)), TraceFlags(TraceFlags.SAMPLED)
    return ReadableSpan(
        draw(st.text(max_size=300)),
        SpanContext(trace_id, draw(ids), False, sampled),
        draw(st.one_of(st.none(), st.builds(SpanContext, st.just(trace_id), ids, st.booleans(), st.just(sampled)))),
        RESOURCE,
        draw(st.dictionaries(st.text(min_size=1, max_size=20), values, max_size=12)),
        kind=draw(st.sampled_from(SpanKind)),
        status=draw(
            st.one_of(
                st.sampled_from((Status(StatusCode.UNSET), Status(StatusCode.OK), Status(StatusCode.ERROR))),
                st.builds(Status, st.just(StatusCode.ERROR), st.text(max_size=40)),
            )
        ),
        start_time=draw(moments),
        end_time=draw(moments),
        instrumentation_scope=InstrumentationScope("recsys_plugin"),
    )


@given(st.lists(spans(), min_size=1, max_size=4))
def test_spans_are_encoded_as_opentelemetry_does(some: list[ReadableSpan]) -> None:
    assert ExportTraceServiceRequest.FromString(encode_spans(some)) == theirs(some)


class Every(TraceIdRatioBased):
    """Describes itself like the one that it derives from, and decides otherwise."""

    def should_sample(self, *arguments: Any, **options: Any) -> Any:
        return ALWAYS_ON.should_sample(*arguments, **options)


@pytest.mark.parametrize(
    "sampler",
    [
        ALWAYS_ON,
        ALWAYS_OFF,
        DEFAULT_ON,
        DEFAULT_OFF,
        TraceIdRatioBased(0.3),
        TraceIdRatioBased(1e-7),
        ParentBasedTraceIdRatio(0.5),
        ParentBased(Every(0.0)),
        Every(0.0),
    ],
    ids=lambda sampler: sampler.get_description()[:40],
)
@given(trace_id=st.integers(1, 2**128 - 1))
def test_a_trace_that_begins_is_sampled_as_the_sampler_says(sampler: Sampler, trace_id: int) -> None:
    expected = sampler.should_sample(None, trace_id, "recsys").decision is Decision.RECORD_AND_SAMPLE
    assert root_decision(sampler)(trace_id) == expected


def finished(number: int = 0, **other: Any) -> FinishedRequest:
    """A request of three stages that was traced."""
    trace = Trace(0xABC + number, 0xDEF)
    trace.end_of("features", 100.0, 100.001)
    header = trace.call("recommend")
    trace.end_of("inference", 100.001, 100.003)
    trace.end_of("policy", 100.003, 100.004)
    assert header == f"00-{0xABC + number:032x}-{trace.segments[1][3]:016x}-01"
    values: dict[str, Any] = {"outcome": ANSWERED, "trace": trace, "users": ["mug-lover"], **other}
    return FinishedRequest("recommend", f"request-{number}", 1.7e9, 100.0, 0.005, {}, **values)


def test_a_failed_request_has_the_spans_that_it_had_before() -> None:
    report = FeatureReport(True, 3, ("profile:country",), ())
    request = finished(error=RuntimeError("no"), outcome="RuntimeError", features=[report])
    whole, *stages = SpanMaker(RESOURCE).of(request)
    assert (whole.name, whole.kind) == ("recsys recommend", SpanKind.INTERNAL)
    assert whole.parent is not None
    assert whole.parent.span_id == 0xDEF
    assert whole.attributes is not None
    assert whole.attributes["recsys.features.missing"] == 1
    assert [stage.name for stage in stages] == ["recsys features", "recsys inference recommend", "recsys policy"]
    assert {stage.parent and stage.parent.span_id for stage in stages} == {whole.context.span_id}
    assert len({span.context.span_id for span in (whole, *stages)}) == 4
    assert [span.status.status_code for span in (whole, *stages)] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]
    assert [(stage.end_time or 0) - (stage.start_time or 0) for stage in stages] == pytest.approx([1e6, 2e6, 1e6], 0.01)
    assert SpanMaker(RESOURCE).of(finished(trace=None)) == []


@dataclass
class Collector:
    """Answers as it is told, and keeps what came."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """What to answer first; afterwards all is taken."""
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def names(self) -> list[str]:
        """The spans that were taken, gzip undone."""
        bodies = (gzip.decompress(body) if "content-encoding" in headers else body for headers, body in self.came)
        messages = map(ExportTraceServiceRequest.FromString, bodies)
        return [span.name for one in messages for span in one.resource_spans[0].scope_spans[0].spans]


@contextmanager
def collecting(*answers: tuple[int, dict[str, str]]) -> Iterator[Collector]:
    found = Collector(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = found.answers.pop(0) if found.answers else (200, {})
            if status == 200:
                found.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as url:
        found.url = f"{url}/v1/traces"
        yield found


def test_a_collector_gets_them_as_the_variables_say() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=one",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-token=two,x-shop=a%20b",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    with collecting((503, {"Retry-After": "0"}), (429, {"Retry-After": "0"})) as collector:
        exporter = CollectorExporter(collector.url.replace("//", "//shop:se%40cret@"), environ)
        assert exporter.export(SpanMaker(RESOURCE).of(finished())) is SpanExportResult.SUCCESS
        ((headers, _),) = collector.came
    assert collector.names()[0] == "recsys recommend"
    assert (headers["x-token"], headers["x-shop"]) == ("two", "a b")
    assert headers["authorization"] == "Basic c2hvcDpzZUBjcmV0"
    assert exporter.failed == 0


@pytest.mark.parametrize("status", [400, 301, 401])
def test_what_a_collector_does_not_take_is_counted_and_told_once(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with collecting() as other, collecting(*[(status, {"Location": other.url})] * 2) as collector:
        exporter = CollectorExporter(collector.url.replace("//", "//shop:secret@"), {})
        for _ in range(2):
            assert exporter.export(SpanMaker(RESOURCE).of(finished())) is SpanExportResult.FAILURE
        assert exporter.failed == 8
        assert not other.came  # neither spans nor headers go where it points
        assert exporter.export(SpanMaker(RESOURCE).of(finished())) is SpanExportResult.SUCCESS
    assert sum(f"answered {status}" in message for message in caplog.messages) == 1
    assert "secret" not in caplog.text


def test_closing_does_not_wait_for_a_collector_that_is_away(free_port: int) -> None:
    # With so much time, it would be asked again and again for longer than OpenTelemetry waits, which is 30 s.
    environ = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
    tracing = Tracing(CollectorExporter(f"http://127.0.0.1:{free_port}/v1/traces", environ), sampler=ALWAYS_ON)
    tracing.finished(finished())
    started = time.monotonic()
    tracing.close()
    assert time.monotonic() - started < 20.0


@pytest.mark.parametrize(
    ("endpoint", "name", "value"),
    [
        ("collector:4318", "", ""),
        ("ftp://collector", "", ""),
        ("http://collector:secret-port", "", ""),
        ("http://collector", "TIMEOUT", "soon"),
        ("http://collector", "HEADERS", "secret-port"),
        ("http://collector", "HEADERS", "a=b,x-token=secret-port%0a!"),
        ("http://collector", "TIMEOUT", "-1"),
        ("http://collector", "COMPRESSION", "brotli"),
        ("https://collector", "CERTIFICATE", "/no/such/file"),
    ],
)
def test_what_makes_no_sense_is_told(endpoint: str, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"OTEL_EXPORTER_OTLP_{name}") as told:
        CollectorExporter(endpoint, {f"OTEL_EXPORTER_OTLP_TRACES_{name}": value})
    assert "secret-port" not in str(told.value)


def test_no_span_is_lost_between_the_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, sampler=ALWAYS_ON)
    for number in range(200):
        tracing.finished(finished(number))
    tracing.close()
    assert len(exporter.get_finished_spans()) == 800


def test_what_falls_behind_is_bounded_and_counted() -> None:
    enter, leave = threading.Event(), threading.Event()

    def stuck(_: object) -> None:
        enter.set()
        assert leave.wait(20)

    metrics = Metrics()
    metrics._queue = BackgroundQueue("recsys-stuck", stuck, most=10, batch=1)
    observers = join([metrics])
    assert observers is not None
    metrics.finished(finished())
    assert enter.wait(20)
    for number in range(15):
        observers.finished(finished(number))
    assert observers.left_out_by == {"Metrics": 5}
    for name in ("one client", "another of the same process"):
        metrics.follow(name, lambda: ClientState(1, unobserved=observers.left_out_by))
    leave.set()
    wait_until(lambda: not metrics._queue._waiting)
    found = metrics.registry.get_sample_value("recsys_unobserved_requests_total", {"observer": "Metrics"})
    assert found == 5
    for name in ("one client", "another of the same process"):
        metrics.leave(name)
    found = metrics.registry.get_sample_value("recsys_unobserved_requests_total", {"observer": "Metrics"})
    assert found == 5
    metrics.close()
