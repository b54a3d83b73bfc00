"""Whatever is taken for a page or an event can be archived: one that could not would hold up all after it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import fuzz_targets
import pyarrow as pa
from fuzz_values import mutated_json
from hypothesis import example, given, settings

from recsys_plugin.errors import InvalidInput
from recsys_plugin.events import Event
from recsys_plugin.events.event import EventRefused, microseconds_of
from recsys_plugin.impressions.document import Impression
from recsys_plugin.impressions.parquet import EVENTS, IMPRESSIONS, day_of

_PAGE = {
    "request_id": "r", "user_id": "u", "served_at": 1, "model": "recommend", "version": 1, "contract": "c",
    "policy": "none", "propensity_kind": "exact", "items": ["a", "b"], "scores": [0.5, 1], "propensities": [1, 0.5],
    "candidates": ["a"], "candidate_scores": [1], "features": {"user_float": [1.0, None, "x"]}, "trace_id": "0" * 32,
}  # fmt: skip


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="surrogatepass")


@settings(max_examples=500)
@given(mutated_json(_PAGE))
@example(json.dumps(_PAGE | {"scores": [9007199254740993, 1]}))
def test_a_page_that_is_taken_can_be_archived(text: str | bytes) -> None:
    try:
        page = Impression.decode(_encoded(text))
    except InvalidInput as error:
        str(error).encode()
        return
    row: dict[str, Any] = asdict(page) | {"entry": "1-1", "features": None}
    pa.Table.from_pylist([row], schema=IMPRESSIONS)
    day_of(page.served_at)


@settings(max_examples=500)
@given(mutated_json(fuzz_targets._ENCODED_EVENT))
def test_an_event_that_is_taken_can_be_archived(text: str | bytes) -> None:
    try:
        event = Event.decode(_encoded(text))
    except EventRefused as error:
        str(error).encode()
        return
    assert event.timestamp is not None
    row = {name: getattr(event, name, None) for name in EVENTS.names} | {"entry": "1-1", "recorded_at": 1}
    moment = microseconds_of(event.timestamp)
    pa.Table.from_pylist([row | {"timestamp": moment}], schema=EVENTS)
    day_of(moment)
