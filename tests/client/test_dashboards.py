"""Every panel and alert is made of metrics that move when clients, workers and servers work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from killable_redis import KillableRedis
from test_observed_requests import scraped
from tiny_shop import NOW, TinyShop
from waiting import wait_until

from recsys_plugin import Event, EventRecorder, ImpressionLog, Recommender
from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import InvalidInput, ServiceUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.observability.exposition import MetricsServer
from recsys_plugin.observability.files import FILES, file_text
from recsys_plugin.observability.live import scrape
from recsys_plugin.observability.metrics import Metrics
from recsys_plugin.observability.stream_metrics import StreamMetrics
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.worker import StreamWorker

yaml: Any = pytest.importorskip("yaml")

#: What PromQL has beside names of metrics and labels.
FUNCTIONS = {"rate", "increase", "delta", "sum", "min", "max", "count", "topk", "histogram_quantile"}
WORDS = {"by", "ignoring", "group_left", "or", "and"}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression names; a failure if it is no expression of the kind that we write."""
    assert expression.count("(") == expression.count(")")
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", "", bare)
    bare = re.sub(r"\b(by|ignoring|group_left) \([^()]*\)", "", bare)
    names = set(_NAME.findall(bare))
    metrics = names - FUNCTIONS - WORDS
    assert metrics, expression
    assert all(name.startswith(("recsys_", "nv_inference_")) for name in metrics), metrics
    return metrics


def expressions() -> dict[str, str]:
    """Panel or alert → its expressions."""
    found: dict[str, str] = {}
    for name in FILES:
        if name.endswith(".json"):
            for panel in json.loads(file_text(name))["panels"]:
                for target in panel["targets"]:
                    found[f"{name}: {panel['title']} {target['refId']}"] = target["expr"]
        else:
            for group in yaml.safe_load(file_text(name))["groups"]:
                for rule in group["rules"]:
                    assert rule["annotations"]["summary"]
                    assert rule["annotations"]["description"]
                    found[f"{name}: {rule['alert']}"] = rule["expr"]
    return found


def labels_of(expression: str) -> set[tuple[str, str]]:
    """Metric and label of each selector."""
    return {
        (metric, label)
        for metric, selectors in re.findall(r"([a-z_]+)\{([^{}]*)\}", expression)
        for label in re.findall(r"([a-z_]+)\s*[=!]", selectors)
    }


def has_moved(name: str, seen: list[dict[Any, float]]) -> bool:
    """Whether a sample of this name came up, changed or went."""
    keys = {key for each in seen for key in each if key[0] == name}
    return any(len({each.get(key) for each in seen}) > 1 for key in keys)


def work(recommender: Recommender, tiny: TinyShop) -> None:
    """Requests that are answered, refused, empty and degraded."""
    tiny.write_user("turning", 1.0, ["mug"])
    for user in ("mug-lover", "nobody", "turning"):
        recommender.recommend(user, 3, candidates=5)
    recommender.recommend("mug-lover", 0)
    tiny.write_user("turning", -1.0, [])
    assert recommender.recommend("turning", 3, candidates=5).fallback.level == "retrieval"
    recommender.search(None, "cups", 2)
    with pytest.raises(InvalidInput):
        recommender.recommend("mug-lover", -1)
    with pytest.raises(ServiceUnavailable):
        recommender.recommend("broken", 3, strict=True)


def client_samples(tiny: TinyShop, dead_url: str, folder: Path) -> list[dict[Any, float]]:
    """What clients show before, while and after they work, with servers and without."""
    metrics, seen = Metrics(), list[dict[Any, float]]()
    options: dict[str, Any] = {
        "observe": metrics,
        "impressions": ImpressionLog(),
        "snapshot": folder / "snapshot",
        "refresh_every": 0.05,
        "clock": lambda: NOW,
    }
    with metrics.serve(0) as server:
        seen.append(scraped(server.url))
        with Recommender(tiny.redis_url, tiny.triton_url, timeout=10, **options) as ours:
            seen.append(scraped(server.url))
            work(ours, tiny)
            ours.record(Event(user_id="mug-lover", event_type="click", item_id="tea"))
            wait_until((folder / "snapshot").exists)
            seen.append(scraped(server.url))
        away = dead_url.replace("redis", "grpc")
        spool = folder / "spool"
        with Recommender(dead_url, away, timeout=0.2, spool=spool, **options) as cut_off:
            assert cut_off.recommend("mug-lover", 3).fallback.level == "popularity"
            cut_off.record(Event(user_id="mug-lover", event_type="click", item_id="tea"))
            seen.append(scraped(server.url))
        seen.append(scraped(server.url))
    return seen


def stream_samples(event_redis: KillableRedis) -> list[dict[Any, float]]:
    """What streams show before, while and after a worker works, and once Redis is gone."""
    address, keys = RedisAddress.parse(event_redis.url), EventKeys("recsys")
    streams = StreamMetrics(address)
    rows = LiveRows("recsys")
    schema = {
        f"{layout.view}:{name}": dtype
        for layout in (*rows.user_views.values(), rows.item_view)
        for name, dtype in layout.features.items()
    }
    seen: list[dict[Any, float]] = []
    with MetricsServer(streams.registry, [0]) as server, event_redis.connect() as redis:
        seen.append(scraped(server.url))
        with EventRecorder(event_redis.url, timeout=5) as recorder:
            recorder.record(Event(user_id="mug-lover", event_type="click", item_id="tea"))
        redis.xadd(keys.impressions, {"page": b"{}"})
        redis.hset(keys.ads_spent, mapping={"campaign": 5})
        redis.xadd(keys.dead, {"reason": "a test"})
        streams.worker_died()
        seen.append(scraped(server.url))
        worker = StreamWorker(address, "recsys", schema=schema)
        worker.run(until_idle=True, after=lambda _: seen.append(scraped(server.url)))
        worker.close()
        event_redis.stop()
        seen.append(scraped(server.url))
    return seen


def test_every_panel_and_alert_is_of_a_metric_that_moves(
    tiny: TinyShop, event_redis: KillableRedis, free_port: int, tmp_path: Path
) -> None:
    before = scrape(tiny.triton.metrics_url, timeout=20)
    clients = client_samples(tiny, f"redis://127.0.0.1:{free_port}", tmp_path)
    after = scrape(tiny.triton.metrics_url, timeout=20)
    # The parser adds a suffix to Triton's counters, which Prometheus does not.
    triton = [
        {(key[0].removesuffix("_total"), key[1]): value for key, value in one.samples.items()}
        for one in (before, after)
    ]
    seen = [*clients, *stream_samples(event_redis), *triton]
    names = {key[0] for each in seen for key in each}
    moved = {name for name in names if has_moved(name, seen)}
    labels = {(key[0], label) for each in seen for key in each for label, _ in key[1]}
    named = {metric: place for place, text in expressions().items() for metric in metrics_of(text)}
    assert {metric: place for metric, place in named.items() if metric not in moved} == {}
    wrong = {pair: place for place, text in expressions().items() for pair in labels_of(text) if pair not in labels}
    assert wrong == {}
    # And what can be seen is shown: each of our metrics has a panel.
    shown = {metric for place, text in expressions().items() if ".json" in place for metric in metrics_of(text)}
    ours = {name for name in names if name.startswith("recsys_") and not name.endswith(("_count", "_sum", "_created"))}
    assert ours <= shown
    # The last state is that of servers that are away.
    levels = {dict(key[1])["level"] for key in clients[-1] if key[0] == "recsys_requests_total"}
    assert {"full", "retrieval", "popularity"} <= levels


def test_files_are_written_and_never_overwritten_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "grafana"
    command = ["observability", "dashboards", "--to", str(folder)]
    made = CliRunner().invoke(recsys, [*command, "--json"])
    assert made.exit_code == 0, made.output
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert CliRunner().invoke(recsys, command).exit_code == 0
    (folder / "alerts.yml").write_text("groups: []")
    refused = CliRunner().invoke(recsys, command)
    assert refused.exit_code == 2
    assert "alerts.yml" in refused.stderr
    assert (folder / "alerts.yml").read_text() == "groups: []"
    assert CliRunner().invoke(recsys, [*command, "--force"]).exit_code == 0
    assert (folder / "alerts.yml").read_text() == file_text("alerts.yml")


def test_dashboards_are_whole() -> None:
    for name in ("requests.json", "streams.json"):
        board = json.loads(file_text(name))
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)
        assert all(panel["title"] and panel["description"] for panel in board["panels"])
        assert board["uid"] == f"recsys-{name.removesuffix('.json')}"
