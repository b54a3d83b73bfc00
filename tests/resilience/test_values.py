"""Timeouts, pauses, limits and the circuit breaker: their promises, for any values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from recsys_plugin import Backoff, CircuitBreaker, InvalidInput, LatencyTarget, Limits, Retry, Timeout

SECONDS = st.floats(1e-3, 1e3)


@given(SECONDS, st.floats(0.01, 1), SECONDS)
def test_seconds_are_a_timeout_and_keep_what_they_leave_open(total: float, features: float, other: float) -> None:
    timeout = Timeout(total, features)
    assert Timeout.of(timeout) is timeout
    assert Timeout.of(other, timeout) == Timeout(other, features)
    assert Timeout.of(other) == Timeout(other)
    assert 0 < timeout.features_seconds <= timeout.total


@given(SECONDS, st.floats(1, 1e3), st.floats(1, 10), st.integers(0, 10_000), st.floats(0, 1))
def test_pauses_grow_to_their_limit(first: float, more: float, factor: float, attempt: int, chance: float) -> None:
    backoff = Backoff(first, first * more, factor)
    assert first <= backoff.limit(attempt) <= backoff.limit(attempt + 1) <= backoff.most
    assert backoff.limit(0) == pytest.approx(first)
    assert 0 <= backoff.pause(attempt, lambda: chance) <= backoff.limit(attempt)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Timeout(0), "timeout: 0 is not a number of seconds above 0"),
        (lambda: Timeout.of("1"), "timeout: '1'"),
        (lambda: Timeout(True), "timeout: True"),
        (lambda: Timeout(float("nan")), "timeout: nan"),
        (lambda: Timeout(1, features=0), "timeout: features: 0 is not a share"),
        (lambda: Timeout(1, connect=-1), "timeout: connect: -1"),
        (lambda: Backoff(2, 1), "most 1 is less than first 2"),
        (lambda: Backoff(factor=0.5), "factor 0.5"),
        (lambda: Backoff(factor=float("inf")), "factor: inf is not a number above 0"),
        (lambda: Retry(-1), "retry: attempts: -1"),
        (lambda: Limits(concurrency=0), "limits: concurrency: 0"),
        (lambda: Limits(connections=1), "2 connections ready at the start, 1 at most"),
        (lambda: CircuitBreaker(failures=0), "failures 0"),
        (lambda: LatencyTarget(share=1), "share 1 is not a number above 0 and below 1"),
        (lambda: LatencyTarget(percentile=100), "percentile 100"),
        (lambda: LatencyTarget(lowest=0), "lowest 0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


class Breaking(RuleBasedStateMachine):
    """A breaker against the rules of its states, as any order of calls meets them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.chance = 0.0
        self.breaker = CircuitBreaker(
            failures=3, backoff=Backoff(1.0, 4.0), clock=lambda: self.now, random=lambda: self.chance
        )
        self.in_a_row = 0
        self.probing = False

    @rule(seconds=st.floats(0, 3), chance=st.floats(0, 1))
    def time_goes_by(self, seconds: float, chance: float) -> None:
        self.now += seconds
        self.chance = chance

    @rule()
    def somebody_asks(self) -> None:
        before, due = self.breaker.state, self.breaker.retry_after() == 0
        allowed = self.breaker.allows()
        assert allowed == (before == "closed" or due)
        if allowed and before != "closed":
            assert self.breaker.state == "half_open"
            # One probe at a time: nobody else may call.
            assert not self.breaker.allows()
            self.probing = True

    @precondition(lambda self: self.breaker.state == "closed" or self.probing)
    @rule()
    def it_worked(self) -> None:
        closed = self.breaker.state == "closed"
        assert self.breaker.succeeded() is not closed
        assert self.breaker.state == "closed"
        self.in_a_row, self.probing = 0, False

    @rule(at_once=st.booleans())
    def it_failed(self, at_once: bool) -> None:
        before = self.breaker.state
        opened = self.breaker.failed(at_once=at_once)
        if before == "closed":
            self.in_a_row += 1
            assert opened == (at_once or self.in_a_row == 3)
            if opened:
                self.in_a_row = 0
        else:
            assert not opened
            assert self.breaker.state == "open"
        self.probing = False

    @invariant()
    def pauses_are_bounded(self) -> None:
        assert 0 <= self.breaker.retry_after() <= 5.001


TestBreaking = Breaking.TestCase
