"""`recsys top` shows what clients, Redis and Triton do, and says what it cannot see."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tiny_shop import NOW, TinyShop

from recsys_plugin import Recommender
from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import InvalidInput, ServiceUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.observability import live
from recsys_plugin.observability.live import Reading, Scrape, quantile, scrape, view
from recsys_plugin.observability.metrics import Metrics
from recsys_plugin.observability.statistics import SECOND_BUCKETS, Histogram

#: The same, with generous time for a busy machine.
read = partial(live.read, timeout=20)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the command as much."""
    monkeypatch.setattr(live, "read", read)


def test_two_readings_show_what_happened_between_them(tiny: TinyShop, free_port: int) -> None:
    metrics = Metrics()
    with (
        metrics.serve(0) as server,
        Recommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW, observe=metrics) as recommender,
    ):
        addresses = [f"127.0.0.1:{port}" for port in (server.port, free_port)]
        redis = RedisAddress.parse(tiny.admin_url)
        recommender.search(None, "cups", 2)
        before = read(addresses, tiny.triton.metrics_url, redis)
        for _ in range(3):
            recommender.recommend("mug-lover", 3)
        recommender.recommend("broken", 3)
        after = read(addresses, tiny.triton.metrics_url, redis)
    seen = view(after, before)
    shelves = {shelf.shelf: shelf for shelf in seen.shelves}
    assert seen.seconds > 0
    shelf = shelves["recommend"]
    assert shelf.per_second == pytest.approx(4 / seen.seconds)
    assert dict(shelf.levels)["full"] == 0.75
    assert shelf.failed == 0.0
    assert shelf.p50_ms is not None
    assert shelf.p99_ms is not None
    assert 0 < shelf.p50_ms <= shelf.p99_ms
    assert set(shelf.stages) == {"features", "inference", "policy"}
    assert shelves["search"].per_second == 0.0
    assert shelves["search"].p50_ms is None
    assert seen.versions == {"1": 1}
    assert (seen.missing, seen.expired) == (0.0, 0.0)
    assert seen.lag is not None  # other tests record events in this Redis, and no worker takes them in
    assert f"http://127.0.0.1:{free_port}/metrics" in seen.unreachable
    models = {model.model: model for model in seen.models}
    # Triton counts a request a moment after it has answered.
    assert before.triton is not None
    assert after.triton is not None
    assert models["recommend"].per_second == pytest.approx(4 / (after.triton.at - before.triton.at), rel=0.5)
    assert models["recommend"].queue_ms is not None
    json.dumps(seen.to_dict(), allow_nan=False)


def test_nothing_to_see_is_an_error(free_port: int) -> None:
    redis = RedisAddress.parse(f"redis://127.0.0.1:{free_port}")
    reading = read([f"127.0.0.1:{free_port}"], f"http://127.0.0.1:{free_port}/metrics", redis)
    with pytest.raises(ServiceUnavailable, match="RECSYS_METRICS_PORT"):
        view(reading)
    with pytest.raises(InvalidInput, match="host:port"):
        scrape("ftp://127.0.0.1/metrics")


def test_a_client_that_began_anew_counts_from_zero() -> None:
    key = ("recsys_requests_total", (("level", "full"), ("outcome", "answered"), ("shelf", "rank")))
    before = Reading((Scrape("a", 0.0, {key: 100.0}),))
    (shelf,) = view(Reading((Scrape("a", 2.0, {key: 10.0}),)), before).shelves
    assert shelf.per_second == 5.0


@given(st.lists(st.floats(0.0001, 0.9), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_class_of_the_value(values: list[float], share: float) -> None:
    histogram = Histogram(SECOND_BUCKETS)
    for value in values:
        histogram.add(value)
    ends = [*SECOND_BUCKETS, math.inf]
    cumulated = [float(sum(histogram.counts[: place + 1])) for place in range(len(ends))]
    found = quantile(share, ends, cumulated)
    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    place = next(number for number, end in enumerate(ends) if exact <= end)
    assert found is not None
    assert (ends[place - 1] if place else 0.0) <= found <= ends[place]
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_quantiles_at_the_ends() -> None:
    assert quantile(0.5, [1.0, math.inf], [0.0, 0.0]) is None
    assert quantile(0.5, [1.0, math.inf], [0.0, 4.0]) == 1.0
    assert quantile(0.5, [math.inf], [4.0]) is None


def shown_once(tiny: TinyShop, home: Path, redis_url: str, port: int, *options: str, columns: int = 80) -> Result:
    """What ``recsys top --once`` shows of the metrics at a port, to whom a Redis URL belongs."""
    environ = {"RECSYS_HOME": str(home), "RECSYS_REDIS_URL": redis_url, "RECSYS_TRITON_URL": tiny.triton_url}
    command = ["top", "--once", "--every", "0.1", "--scrape", f"127.0.0.1:{port}"]
    command += ["--triton-metrics", tiny.triton.metrics_url, *options]
    return CliRunner().invoke(recsys, command, env=environ | {"COLUMNS": str(columns)})


@pytest.mark.parametrize("form", ["people", "json"])
def test_the_command_shows_it_once(tiny: TinyShop, tmp_path: Path, form: str) -> None:
    metrics = Metrics()
    with (
        metrics.serve(0) as server,
        Recommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW, observe=metrics) as recommender,
    ):
        recommender.recommend("mug-lover", 3)
        options = ["--json"] if form == "json" else []
        result = shown_once(tiny, tmp_path, tiny.admin_url, server.port, *options, columns=200)
    assert result.exit_code == 0, result.output
    if form == "json":
        told = json.loads(result.stdout)
        assert told["versions"] == {"1": 1}
        assert [shelf["shelf"] for shelf in told["shelves"]] == ["recommend"]
    else:
        assert "versions 1 (1)" in result.stderr
        assert "recommend" in result.stderr


def test_what_redis_refuses_is_named_and_the_rest_shown(tiny: TinyShop, tmp_path: Path) -> None:
    metrics = Metrics()
    with (
        metrics.serve(0) as server,
        Recommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW, observe=metrics) as recommender,
    ):
        recommender.recommend("mug-lover", 3)
        # The user of a shop's backend may not ask how events stand.
        result = shown_once(tiny, tmp_path, tiny.redis_url, server.port)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stderr.split())
    assert "refuses GET recsys:{recsys}:owner:0" in told
    assert "recsys security acl --role monitor" in told
    assert "stream lag" not in told
    assert "versions 1 (1)" in told
    assert "recommend" in told
    assert "models was asked" in told or "others were not asked" in told
    assert max(map(len, result.stderr.splitlines())) <= 80
    assert "…" not in result.stderr


def test_a_right_that_is_missing_further_on_is_not_taken_for_an_empty_stream(tiny: TinyShop) -> None:
    address = RedisAddress.parse(tiny.admin_url)
    user = "no-groups"
    with address.connect(5) as admin:
        admin.execute_command(
            "ACL", "SETUSER", user, "on", ">secret", "-@all", "+client|setinfo", "+get", "+xlen", "~*"
        )
        try:
            host = tiny.admin_url.rpartition("@")[2].removeprefix("redis://")
            reading = read([], None, RedisAddress.parse(f"redis://{user}:secret@{host}"))
        finally:
            admin.execute_command("ACL", "DELUSER", user)
    assert reading.events is None
    assert re.search(r"refuses XINFO GROUPS recsys:\{recsys\}:events:0: .*monitor", reading.unanswered["Redis"])
    assert "secret" not in reading.unanswered["Redis"]


def test_a_redis_that_hangs_keeps_nobody_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis = RedisAddress.parse(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        reading = read([], None, redis, timeout=0.2)
        assert time.monotonic() - started < 5
    assert "did not answer within 200 ms" in reading.unanswered["Redis"]


def test_nobody_who_shows_metrics_is_told(tiny: TinyShop, tmp_path: Path) -> None:
    environ = {"RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": tiny.admin_url, "RECSYS_TRITON_URL": tiny.triton_url}
    command = ["top", "--once", "--every", "0.1", "--triton-metrics", tiny.triton.metrics_url]
    result = CliRunner().invoke(recsys, command, env=environ)
    assert result.exit_code == 0, result.output
    assert "RECSYS_METRICS_PORT" in result.stderr
    assert "no worker" in result.stderr


def test_ctrl_c_ends_it_in_good_order(tiny: TinyShop, tmp_path: Path) -> None:
    environ = {**os.environ, "RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": tiny.admin_url}
    environ["RECSYS_TRITON_URL"] = tiny.triton_url
    command = [sys.executable, "-c", "from recsys_plugin.cli import main; main()", "top", "--json", "--every", "60"]
    with subprocess.Popen(
        [*command, "--triton-metrics", tiny.triton.metrics_url], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["models"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
