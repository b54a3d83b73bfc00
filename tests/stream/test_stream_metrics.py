"""`recsys stream --metrics-port` shows the streams and the workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from killable_redis import KillableRedis
from waiting import wait_until

from recsys_plugin.features.requests import schema_key
from recsys_plugin.observability.live import Scrape, scrape
from recsys_plugin.stream.live_rows import LiveRows


def test_the_command_shows_metrics_until_it_is_told_to_end(event_redis: KillableRedis, tmp_path: Path) -> None:
    rows = LiveRows("recsys")
    schema = {
        f"{layout.view}:{name}": dtype
        for layout in (*rows.user_views.values(), rows.item_view)
        for name, dtype in layout.features.items()
    }
    with event_redis.connect() as redis:
        redis.set(schema_key("recsys"), json.dumps(schema))
    environ = {**os.environ, "RECSYS_HOME": str(tmp_path), "RECSYS_REDIS_URL": event_redis.url, "COLUMNS": "200"}
    command = [sys.executable, "-c", "from recsys_plugin.cli import main; main()", "stream", "--metrics-port", "0"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/metrics", told)
        assert found is not None, told

        def shown(name: str) -> float:
            seen: Scrape = scrape(found[0], timeout=20)
            return sum(value for _, value in seen.of(name))

        wait_until(lambda: shown("recsys_stream_owned_partitions") == 8, process=process, seconds=120)
        assert shown("recsys_stream_workers") == 1
        assert shown("recsys_store_up") == 1
        assert shown("recsys_stream_worker_deaths_total") == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
