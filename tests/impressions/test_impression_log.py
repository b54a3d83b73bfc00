"""Pages in the log: the document reads back as it was written, the queue never blocks, samples are drawn alike."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_plugin.errors import InvalidInput
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.impressions import Impression, ImpressionLog, ImpressionWriter, ServedPage
from recsys_plugin.impressions.document import Candidates
from recsys_plugin.impressions.log import PAGE_FIELD, sampled

STREAM = EventKeys("recsys").impressions


def page(request_id: str = "r", *, scores: Any = (0.3, 0.2, 0.1), **options: Any) -> ServedPage:
    rows = np.arange(len(scores), dtype=np.int64)
    values = np.asarray(scores, dtype=np.float32)
    order = np.argsort(-values, kind="stable")[:2]
    features: dict[str, Any] = {
        "user_float": np.array([1.5, np.nan], np.float32),
        "user_int": np.array([7], np.int64),
        "user_string": np.array([b"DE"], object),
    }
    return ServedPage(
        request_id,
        "ann",
        1_700_000_000.25,
        "recommend",
        3,
        "abc",
        Candidates(rows, values, order, **options),
        lambda rows: [f"item-{row}" for row in rows],
        features,
    )


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_a_document_reads_back_exactly(request_id: str, scores: list[float], candidates: bool, features: bool) -> None:
    served = page(request_id, scores=scores)
    found = Impression.decode(served.encode(with_candidates=candidates, with_features=features))
    values = np.array(scores, np.float32)
    order = np.argsort(-values, kind="stable")[:2]
    assert found.request_id == request_id
    assert found.served_at == 1_700_000_000_250_000
    assert found.items == [f"item-{row}" for row in order]
    assert np.array_equal(np.array(found.scores, np.float32), values[order])
    assert found.propensities == [1.0, 1.0]
    if candidates:
        assert np.array_equal(np.array(found.candidate_scores, np.float32), values)
        assert found.candidates == [f"item-{row}" for row in range(len(scores))]
    else:
        assert found.candidates is None
        assert found.candidate_scores is None
    expected = {"user_float": [1.5, None], "user_int": [7], "user_string": ["DE"]}
    assert found.features == (expected if features else None)


def test_exploration_and_exclusions_are_in_the_document() -> None:
    served = page(policy="gumbel:0.3", propensities=np.array([0.25, 0.5]), propensity_kind="estimated", excluded={2})
    found = Impression.decode(served.encode(with_candidates=True, with_features=False))
    assert (found.policy, found.propensities, found.propensity_kind) == ("gumbel:0.3", [0.25, 0.5], "estimated")
    assert found.candidates == ["item-0", "item-1"]


GOOD = json.loads(page().encode(with_candidates=False, with_features=False))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"more": 1},
                {"served_at": "now"},
                {"scores": [1.0]},
                {"scores": [None, None]},
                {"items": [1, 2]},
                {"candidates": ["a"]},
            )
        ),
    ],
)
def test_what_is_no_page_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidInput, match="impression: "):
        Impression.decode(document)


def test_size() -> None:
    """The figure in the module's docstring: 20 items of eight characters."""
    rows = np.arange(500, dtype=np.int64)
    scores = np.random.default_rng(0).random(500, dtype=np.float32)
    chosen = Candidates(rows, scores, np.argsort(-scores)[:20])
    name = "0123456789abcdef" * 2
    served = ServedPage(name, "12345", 1.7e9, "recommend", 3, name * 2, chosen, lambda rows: [f"{r:08d}" for r in rows])
    assert 600 < len(served.encode(with_candidates=False, with_features=False)) < 900
    assert 10_000 < len(served.encode(with_candidates=True, with_features=False)) < 13_000


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_samples_have_their_size_and_are_independent(share: float) -> None:
    drawn = {draw: {n for n in range(20_000) if sampled(str(n), share, seed=7, draw=draw)} for draw in ("a", "b")}
    spread = 5 * (20_000 * share * (1 - share)) ** 0.5
    assert abs(len(drawn["a"]) - 20_000 * share) <= spread
    assert abs(len(drawn["a"] & drawn["b"]) - 20_000 * share**2) <= max(5 * (20_000 * share**2) ** 0.5, 0)
    assert drawn["a"] == {n for n in range(20_000) if sampled(str(n), share, seed=7, draw="a")}


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"sample 1\.5"):
        ImpressionLog(sample=1.5)
    with pytest.raises(InvalidInput, match="most_waiting"):
        ImpressionLog(most_waiting=0)


def test_pages_are_written_beside_the_requests_and_at_the_end(event_redis: Any) -> None:
    writer = ImpressionWriter(event_redis.url, ImpressionLog(candidates_sample=0.5, features_sample=0.5))
    writer.offer([page(str(n)) for n in range(300)])
    deadline = time.monotonic() + 10
    with event_redis.connect() as client:
        while client.xlen(STREAM) < 300:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        writer.offer([page(str(n)) for n in range(300, 900)])
        writer.close()
        found = [Impression.decode(fields[PAGE_FIELD]) for _, fields in client.xrange(STREAM)]
    assert [one.request_id for one in found] == [str(n) for n in range(900)]
    both = {(one.candidates is None, one.features is None) for one in found}
    assert len(both) == 4, "drawn independently"
    assert (writer.written, writer.dropped) == (900, 0)


def test_too_many_pages_are_dropped_and_counted_and_requests_never_wait(
    event_redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    event_redis.kill()
    writer = ImpressionWriter(event_redis.url, ImpressionLog(most_waiting=100))
    writer.offer([page(str(n)) for n in range(1_000)])
    assert 700 <= writer.dropped <= 900  # one batch may have been taken out of the queue meanwhile
    writer.close()
    assert writer.written == 0
    assert caplog.text.count("further ones are dropped") == 1
    assert "were not logged" in caplog.text


def test_redis_coming_back_ends_the_wait(event_redis: Any) -> None:
    event_redis.kill()
    writer = ImpressionWriter(event_redis.url, ImpressionLog())
    writer.offer([page("early")])
    event_redis.start()
    writer.close()
    with event_redis.connect() as client:
        assert client.xlen(STREAM) == 1
