"""Recording into a real cluster of one node, whose clients speak another way."""

from __future__ import annotations

import time
from typing import Any

import pytest

from recsys_plugin import AsyncEventRecorder, Event, EventRecorder
from recsys_plugin.errors import DeadlineExceeded
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress


async def test_recording_into_a_cluster(start_redis: Any, free_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_plugin.events.transport._MARGIN", 1.5)  # half the wait, lest being held up matters
    server = start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_tcp_port))
    url = f"redis-cluster://127.0.0.1:{server.port}"
    event = Event(user_id="a", item_id="b", event_type="click", event_id="e")
    with RedisAddress.parse(server.url).connect(5) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 60
        while b"cluster_state:ok" not in node.execute_command("CLUSTER", "INFO"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with EventRecorder(url, timeout=5) as recorder:
            assert recorder.record(event).state == "recorded"
            assert len(recorder.record_many([event] * 10)) == 10
            with pytest.raises(DeadlineExceeded, match="is recorded"):
                recorder.record(event, visible=True, timeout=3)
        async with AsyncEventRecorder(url, timeout=5) as awaiting:
            assert (await awaiting.record(event)).state == "recorded"
            assert len(await awaiting.record_many([event] * 10)) == 10
            with pytest.raises(DeadlineExceeded, match="is recorded"):
                await awaiting.record(event, visible=True, timeout=3)
        keys = EventKeys("recsys")
        assert node.xlen(keys.events(keys.partition("a"))) == 24
        # The longer it takes to be recorded, the shorter is the wait for a worker.
        monkeypatch.setattr("recsys_plugin.events.transport._MARGIN", 1.0)
        with EventRecorder(url, timeout=20) as recorder:
            recorder.record(event)
            node.client_pause(2_500, all=False)
            with pytest.raises(DeadlineExceeded, match="is recorded"):
                recorder.record(event, visible=True, timeout=6)
