"""Campaigns in a real cluster of one node: scripts and reads of several slots go another way there."""

from __future__ import annotations

import time
from typing import Any

from ad_server import NOON, AdServer, campaign, load

from recsys_plugin.ads.operations import Campaigns
from recsys_plugin.features.connection import RedisAddress


def test_ads_in_a_cluster(start_redis: Any, free_tcp_port: int) -> None:
    server = start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_tcp_port))
    url = f"redis-cluster://127.0.0.1:{server.port}"
    with RedisAddress.parse(server.url).connect(5) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 60
        while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    load(url, campaign("tea", most_per_user_per_day=9), campaign("cup"))
    ads = AdServer(url, reads=(("HMGET", b"a user's features", "a", "b"),))
    first, _ = ads.ads("r1", 2)
    assert ads.click(first.impression_id).state == "charged"
    assert ads.click(first.impression_id).state == "duplicate"
    with Campaigns(url, clock=lambda: NOON) as campaigns:
        campaigns.set_paused("tea", True)
        assert ads.shown("r2", 2) == ["cup"]
        assert {each.campaign_id: each.shown_today for each in campaigns.status()} == {"tea": 1, "cup": 2}
    ads.close()
