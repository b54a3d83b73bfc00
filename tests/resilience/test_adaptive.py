"""The adaptive number of candidates: it holds a percentile, and does not swing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.resilience.adaptive import AdaptiveShare, LatencyTarget


class SimulatedServer:
    """A queue of one server whose calls take a fixed time and one for each candidate; its clock is arithmetic."""

    def __init__(self, seed: int, *, fixed: float, each: float) -> None:
        self.random = np.random.default_rng(seed)
        self.fixed, self.each = fixed, each
        self.now = self.free = 0.0

    def call(self, rate: float, candidates: int) -> float:
        """The latency of the next call, at so many a second."""
        self.now += self.random.exponential(1 / rate)
        begins = max(self.now, self.free)
        self.free = begins + (self.fixed + self.each * candidates) * self.random.gamma(20, 1 / 20)
        return self.free - self.now


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("percentile", [90.0, 95.0])
def test_it_holds_the_percentile_under_overload_and_comes_back(seed: int, percentile: float) -> None:
    target = LatencyTarget(share=0.8, percentile=percentile)
    adaptive, server = AdaptiveShare(target), SimulatedServer(seed, fixed=0.001, each=0.00002)

    def run(rate: float, calls: int) -> tuple[list[float], list[float]]:
        latencies, shares = [], []
        for _ in range(calls):
            seconds = min(0.05, server.call(rate, adaptive.of(500)))
            adaptive.observe(seconds, 0.05)
            latencies.append(seconds)
            shares.append(adaptive.share)
        return latencies, shares

    # At 30 calls a second there is time for all candidates (11 ms a call).
    _, shares = run(30, 5_000)
    assert np.mean(shares) > 0.9
    # At 150 there is not: 11 ms a call would take 1.6 seconds a second.
    run(150, 3_000)
    latencies, shares = run(150, 20_000)
    over = np.mean(np.array(latencies) > 0.04)
    assert over == pytest.approx(1 - percentile / 100, abs=0.02)
    assert target.lowest <= np.mean(shares) < 0.7
    # It does not swing between all and nothing.
    assert np.std(shares) < 0.2
    _, shares = run(30, 3_000)
    assert np.mean(shares[-1_000:]) > 0.9


@given(st.lists(st.floats(0, 1), max_size=200), st.floats(0.01, 1))
def test_it_stays_within_its_bounds(latencies: list[float], lowest: float) -> None:
    adaptive = AdaptiveShare(LatencyTarget(lowest=lowest))
    for seconds in latencies:
        adaptive.observe(seconds, 0.5)
        assert lowest <= adaptive.share <= 1
        assert 1 <= adaptive.of(1) <= adaptive.of(500) <= 500
    assert adaptive.of(500) >= int(500 * lowest)
