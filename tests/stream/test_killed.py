"""kill -9 of workers, Redis and the client in the middle of it: every event counts once, as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

from killed_run import KEYS, disturbed_run
from test_worker import assert_equals_history

EVENTS, KILLS = 100_000, 3


def test_killed_and_undisturbed_runs_end_alike(tmp_path: Path) -> None:
    events, address, server = disturbed_run(tmp_path, EVENTS, kills=KILLS)
    try:
        with address.connect(5.0) as client:
            assert_equals_history(client, events)
            assert int(client.hget(KEYS.counts, "applied")) == EVENTS
            assert not client.exists(KEYS.dead)
    finally:
        server.stop()
