"""What is too old is taken out everywhere, counted the same by a dry run; what is not named is kept."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import made_home
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_home import KEYS, NOW, OTHER

from recsys_plugin.data.store import load_dataset
from recsys_plugin.errors import InvalidInput
from recsys_plugin.privacy.retention import SCHEMA, Retention, apply_retention


def test_old_things_go_and_others_stay(event_redis: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    made_home.write_source(source)
    settings = made_home.make_home(tmp_path / "home", source, event_redis.url)
    before = load_dataset(settings)
    # Events of the streams are of every minute of two hours; the tables end ten months earlier.
    kept = Retention({"click": timedelta(hours=1), "pages": timedelta(hours=1)})
    with event_redis.connect() as client:
        client.zadd(KEYS.user(OTHER), {json.dumps(["new", "item-002", 2, None]): int(NOW.timestamp() * 1e6)})
        counted = apply_retention(settings, event_redis.url, kept, now=NOW + timedelta(minutes=30), dry_run=True)
        assert load_dataset(settings) == before
        done = apply_retention(settings, event_redis.url, kept, now=NOW + timedelta(minutes=30))
        assert done.removed == counted.removed
        # Of each person those at 31 … 59 minutes were archived; all that came after them are in the streams still.
        assert done.removed["live_events"] == {"click": 58}
        assert (
            sum(
                done.removed[KEYS.events(number)]["click"] for number in range(8) if KEYS.events(number) in done.removed
            )
            >= 120
        )
        assert done.removed["table events"] == {"click": before.event_types["click"]}
        assert done.removed["live acts"] == {"click": 2}
        assert json.loads(client.zrange(KEYS.user(OTHER), 0, -1)[0])[0] == "new"
    after = load_dataset(settings)
    assert "click" not in after.event_types
    assert after.event_types["purchase"] == before.event_types["purchase"]
    assert after.damaged() is None
    live = ds.dataset(settings.state / "live_events", format="parquet", partitioning="hive").to_table()
    assert live.num_rows == 62
    again = apply_retention(settings, event_redis.url, kept, now=NOW + timedelta(minutes=30))
    assert again.total == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "no JSON"),
        ("[]", "expected an object"),
        ('{"clicks": "1d"}', "'clicks' is none of"),
        ('{"click": "1 year"}', "no time such as"),
        ('{"click": 180}', "no time such as"),
        ('{"click": "0d"}', "no time such as"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Retention.from_json(text)


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA["properties"])), st.integers(1, 99_999)))
def test_a_document_is_read_as_it_was_written(hours: dict[str, int]) -> None:
    kept = Retention({name: timedelta(hours=count) for name, count in hours.items()})
    assert Retention.from_json(json.dumps(kept.to_dict())) == kept
