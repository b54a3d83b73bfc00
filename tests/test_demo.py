"""``recsys demo`` on a shop where all is current: nothing is made again, and three users get their pages."""

from __future__ import annotations

import json
from typing import Any


def test_demo_reuses_what_is_current(shop: Any) -> None:
    before = (shop.command.settings.state / "export" / "manifest.json").stat().st_mtime_ns
    done = shop.command.run("demo", "--source", shop.source, "--json")
    answer = json.loads(done.stdout)
    assert (shop.command.settings.state / "export" / "manifest.json").stat().st_mtime_ns == before
    assert answer["dataset"]["name"] == shop.source
    assert len(answer["users"]) == 3
    for user in answer["users"]:
        assert 1 <= len(user["bought"]) <= 5
        assert len(user["page"]["items"]) == 10
        assert user["page"]["features"]["known"] is True
        assert user["page"]["served_by"]["version"] == 1
    for figures in answer["latency_ms"].values():
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]
        assert figures["calls"] == 100
    assert "recsys down" in done.stderr


def test_demo_prints_tables_and_how_to_call_it(shop: Any) -> None:
    done = shop.command.run("demo", "--source", shop.source)
    assert done.stdout.count("lately bought") == 3
    assert done.stdout.count("Recommended to") == 3
    assert "Latency of whole calls" in done.stdout
    assert "from recsys_plugin import Recommender" in done.stderr
