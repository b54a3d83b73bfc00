"""What is held of a person is told, all of it, and nothing of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_home
from made_home import KEYS, OTHER, PERSON

from recsys_plugin.privacy.forget import forget
from recsys_plugin.privacy.held import everything_held


def test_everything_is_told_and_nothing_of_others(event_redis: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    made_home.write_source(source)
    settings = made_home.make_home(tmp_path / "home", source, event_redis.url)
    with event_redis.connect() as client:
        client.set("recsys:schema:recsys", json.dumps({"user_profile:country": "STRING"}))
    held = json.loads(json.dumps(everything_held(settings, event_redis.url, PERSON), allow_nan=False))
    store, files = held["store"], held["files"]
    assert store["features"]["user_profile:country"] == "DE"
    assert store["features"]["time of user_profile"] == "2026-03-01T12:00:00+00:00"
    assert store["acts"][0]["act"] == [f"{PERSON}/1", "item-001", 2, None]
    assert store["consent"] == {"personalised": False, "tracking": True}
    assert store["ads_shown"] == {"20000": {"tea-week": 3}}
    assert len(store["entries"][KEYS.impressions]) == 60
    assert {row["user_id"] for row in files[".recsys/tables/events.parquet"]} == {PERSON}
    assert [row["country"] for row in files[".recsys/tables/users.parquet"]]
    for place in ("live_events", "impressions", "outcomes", "feature_repo", "training", "spool"):
        assert any(place in name for name in files), place
    assert OTHER not in json.dumps(held)
    forget(settings, event_redis.url, [PERSON])
    nothing = everything_held(settings, event_redis.url, PERSON)
    assert nothing["files"] == {}
    assert nothing["store"]["features"] == {}
    assert nothing["store"]["entries"] == {}
    assert nothing["forgotten_before"]
