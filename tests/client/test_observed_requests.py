"""Observers are told of each request, once, what it was; and metrics show it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tiny_shop import NOW, TinyShop

from recsys_plugin import AsyncRecommender, Event, ImpressionLog, InvalidInput, Recommender
from recsys_plugin.bench.observing import measure_observing, require_cheap
from recsys_plugin.errors import CheckFailed, ConfigurationError, RecsysError
from recsys_plugin.observability import FinishedRequest, Observer
from recsys_plugin.observability.environment import observer_from_settings
from recsys_plugin.observability.logs import JsonFormatter, LogRequests, RateLimit
from recsys_plugin.observability.metrics import Metrics
from recsys_plugin.observability.request import ANSWERED
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings

KEY = "a key that is long enough"


class Remembering(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: list[FinishedRequest] = []

    def finished(self, request: FinishedRequest) -> None:
        self.requests.append(request)


class Breaking(Observer):
    def finished(self, request: FinishedRequest) -> None:
        raise ZeroDivisionError("an observer of its own kind")


def scraped(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Sample → value."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Mapping[Any, float], name: str, **labels: str) -> float:
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_an_observer_is_told_each_request_once(tiny: TinyShop) -> None:
    seen = Remembering()
    options: dict[str, Any] = {"timeout": 10, "clock": lambda: NOW, "observe": [Breaking(), seen]}
    with Recommender(tiny.redis_url, tiny.triton_url, **options) as recommender:
        page = recommender.recommend("mug-lover", 3, candidates=5)
        recommender.rank("nobody", ["cup", "pot"])
        recommender.search(None, "cups", 2)
        recommender.similar_items("mug", 2)
        recommender.recommend("mug-lover", 0)
        with pytest.raises(InvalidInput):
            recommender.recommend("mug-lover", -1)
        with pytest.raises(RecsysError):
            recommender.recommend("broken", strict=True)
        fallen = recommender.recommend("broken", 2)
    first, rank, search, similar, empty, refused, failed, degraded = seen.requests
    assert (first.shelf, first.outcome, first.request_id) == ("recommend", ANSWERED, page.request_id)
    assert (first.users, first.items, first.candidates, first.version) == (["mug-lover"], 3, 5, 1)
    assert first.timeout == 10
    assert 0 < sum(first.stages.values()) <= first.seconds
    assert first.features[0].known
    assert not first.features[0].missing
    assert (rank.shelf, search.shelf, similar.shelf) == ("rank", "search", "similar")
    assert not rank.features[0].known
    assert set(rank.features[0].missing) == {"profile:purchases", "recent:item_ids", "profile:country"}
    assert search.users == []
    assert empty.items == 0
    assert (refused.outcome, refused.shelf) == ("InvalidInput", "recommend")
    assert failed.outcome == "InferenceUnavailable"
    assert failed.request_id
    assert failed.users == ["broken"]
    assert failed.stages["inference"] > 0  # the call that failed took its time
    assert (degraded.outcome, degraded.level, degraded.reason) == (
        ANSWERED,
        fallen.fallback.level,
        fallen.fallback.reason,
    )
    assert degraded.level not in ("full", "cached_features")


async def test_the_awaiting_client_tells_too(tiny: TinyShop) -> None:
    seen = Remembering()
    async with AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=10, observe=seen) as recommender:
        pages = await asyncio.gather(*(recommender.recommend(user, 2) for user in ("mug-lover", "nobody")))
        await recommender.similar_items("mug", 2)
    assert {request.request_id for request in seen.requests[:2]} == {page.request_id for page in pages}
    assert seen.requests[2].shelf == "similar"


def test_metrics_move_and_are_served_on_loopback(tiny: TinyShop, tmp_path: Path) -> None:
    metrics = Metrics(ports=[0])
    options: dict[str, Any] = {"timeout": 10, "observe": metrics, "impressions": ImpressionLog()}
    with Recommender(tiny.redis_url, tiny.triton_url, **options) as recommender:
        assert metrics.server is not None
        assert metrics.server.address == "127.0.0.1"
        for user in ("mug-lover", "nobody", "nobody"):
            recommender.recommend(user, 3, candidates=5)
        recommender.record(Event(user_id="mug-lover", event_type="click", item_id="tea"))
        found = scraped(metrics.server.url)
    answered = {"shelf": "recommend", "outcome": "answered", "level": "full"}
    assert value(found, "recsys_requests_total", **answered) == 3
    assert value(found, "recsys_request_seconds_count", shelf="recommend") == 3
    assert value(found, "recsys_request_seconds_bucket", shelf="recommend", le="+Inf") == 3
    for stage in ("features", "inference", "policy"):
        assert value(found, "recsys_stage_seconds_sum", shelf="recommend", stage=stage) > 0
    assert value(found, "recsys_candidates_bucket", shelf="recommend", le="10.0") == 3
    assert value(found, "recsys_version_requests_total", version="1") == 3
    assert value(found, "recsys_clients", version="1") == 1
    assert value(found, "recsys_model_version") == 1
    assert value(found, "recsys_catalogue_items") == 6
    assert value(found, "recsys_users_total", known="false") == 2
    # Of the one who is known, what was written long ago is too old by the real clock.
    assert value(found, "recsys_feature_values_total", state="expired") == 1
    assert value(found, "recsys_feature_values_total", state="missing") == 6
    assert value(found, "recsys_feature_defaults_total", feature="profile:country", state="missing") == 2
    assert value(found, "recsys_events_total", outcome="recorded") == 1
    # The client closed: what it counted stays.
    metrics.close()
    with metrics.serve(0) as server:
        after = scraped(server.url)
    assert value(after, "recsys_impressions_total", outcome="written") == 3
    assert value(after, "recsys_events_total", outcome="recorded") == 1
    assert value(after, "recsys_clients", version="1") == 0


def test_a_port_that_is_taken_is_told() -> None:
    with Metrics().serve(0) as first:
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1, port {first.port}"):
            Metrics().serve(first.port)
        with Metrics().serve(first.port, 0) as second:
            assert second.port != first.port


def test_requests_are_logged_as_json(tiny: TinyShop, caplog: pytest.LogCaptureFixture) -> None:
    observe = LogRequests(pseudonyms=Pseudonyms(KEY))
    options: dict[str, Any] = {"timeout": 10, "clock": lambda: NOW, "observe": observe}
    with (
        caplog.at_level(logging.INFO, "recsys_plugin.requests"),
        Recommender(tiny.redis_url, tiny.triton_url, **options) as recommender,
    ):
        page = recommender.recommend("mug-lover", 3)
        with pytest.raises(RecsysError):
            recommender.recommend("broken", strict=True)
        recommender.recommend("broken")
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if "requests" in record.name]
    well, failed, degraded = lines
    assert (well["request_id"], well["level"], well["shelf"]) == (page.request_id, "info", "recommend")
    assert well["ms"] > well["inference_ms"] > 0
    assert well["users"] == [Pseudonyms(KEY).of("mug-lover")]
    assert (failed["level"], failed["outcome"]) == ("warning", "InferenceUnavailable")
    assert (degraded["level"], degraded["outcome"]) == ("warning", "answered")
    assert degraded["fallback"] != "full"
    assert degraded["reason"]
    assert not any("mug-lover" in json.dumps(line) or "'broken'" in json.dumps(line) for line in lines)


def test_a_line_of_json_stays_one_line() -> None:
    record = logging.makeLogRecord({"msg": "two\nlines %s", "args": ("“here”",), "levelno": 30, "levelname": "WARNING"})
    try:
        raise ValueError("why\nnot")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "two\nlines “here”"
    assert "why\nnot" in json.loads(line)["exception"]


def test_warnings_are_limited_by_kind() -> None:
    now = 0.0
    limit = RateLimit(1.0, burst=2, clock=lambda: now)

    def passes(message: str) -> logging.LogRecord | None:
        record = logging.makeLogRecord({"msg": message, "args": (now,)})
        return record if limit.filter(record) else None

    assert [passes("slow %s") is not None for _ in range(4)] == [True, True, False, False]
    assert passes("another %s") is not None
    now = 1.5
    again = passes("slow %s")
    assert again is not None
    assert vars(again)["suppressed"] == 2
    assert passes("slow %s") is None
    with pytest.raises(InvalidInput):
        RateLimit(0.0)


def test_the_bench_measures_each_way(tiny: TinyShop) -> None:
    # So many that what the threads in the background do while a server is held up for a moment is little of each.
    options: dict[str, Any] = {"now": NOW, "calls": 200, "k": 3, "seed": 0, "freeze": False}
    report = measure_observing(tiny.admin_url, tiny.triton_url, ["mug-lover"], tell=lambda *_: None, **options)
    ways = ("metrics", "request_log", "tracing_sampled", "tracing_always", "observed", "observed_traced")
    assert all(report.figures[f"recommend.{way}_to_off.ratio_p50"] > 0 for way in ways)
    # Spans of each request are more work than counting it.
    background = {way: report.figures[f"recommend.{way}_background_us"] for way in ways}
    assert 0 < background["metrics"] < background["observed_traced"]
    report.figures["recommend.observed_to_off.ratio_p50_low"] = 1.02
    report.figures["recommend.observed_traced_to_off.ratio_p50_low"] = 1.031
    with pytest.raises(CheckFailed, match="always traced"):
        require_cheap(report)
    report.figures["recommend.observed_traced_to_off.ratio_p50_low"] = 1.02
    require_cheap(report)
    report.figures["recommend.observed_to_off.ratio_p50_low"] = 1.031
    with pytest.raises(CheckFailed, match=r"1\.03"):
        require_cheap(report)


def test_without_the_extras_the_environment_asks_in_vain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("metrics", "exposition", "families", "tracing"):
        monkeypatch.delitem(sys.modules, f"recsys_plugin.observability.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    environ = {"RECSYS_METRICS_PORT": "9464-9479", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318/"}
    settings = Settings.from_environment(environ)
    assert settings.metrics_ports == tuple(range(9464, 9480))
    assert settings.traces_endpoint == "http://127.0.0.1:4318/v1/traces"
    assert observer_from_settings(settings) is None
    assert [extra for message in caplog.messages for extra in re.findall(r"recsys-plugin\[(\w+)\]", message)] == [
        "metrics",
        "tracing",
    ]
    assert observer_from_settings(Settings.from_environment({})) is None
    for wrong in ("http", "9464-", "9479-9464", "70000"):
        with pytest.raises(ConfigurationError, match="RECSYS_METRICS_PORT"):
            Settings.from_environment({"RECSYS_METRICS_PORT": wrong})
