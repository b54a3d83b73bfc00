"""What spend and clicks feed back, as functions of numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.ads.calibration import draw_spread, shrunk_factor
from recsys_plugin.ads.pacing import TrafficForecast, pass_rate, planned_share

#: The machine may be busy.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
DAY = 86_400.0
EVEN = TrafficForecast((1.0,) * 24)
traffics = (
    st.lists(st.floats(0.0, 100.0), min_size=24, max_size=24)
    .filter(lambda each: sum(each) > 1)
    .map(lambda each: TrafficForecast(tuple(each)))
)


@patient
@given(traffics, st.floats(-10, DAY + 10), st.floats(-10, DAY + 10))
def test_traffic_rises_from_nothing_to_all(traffic: TrafficForecast, one: float, other: float) -> None:
    assert traffic.before(0.0) == 0.0
    assert traffic.before(DAY) == pytest.approx(1.0)
    low, high = sorted((one, other))
    assert traffic.before(low) <= traffic.before(high) + 1e-12


@patient
@given(traffics, st.floats(0, DAY), st.integers(0, 2000), st.integers(1, 1000), st.floats(1, 7200))
def test_pass_rates_fall_with_spend(
    traffic: TrafficForecast, second: float, spent: int, bid: int, ahead: float
) -> None:
    def rate(already: int) -> float:
        return pass_rate(second, (0.0, DAY), traffic, spent=already, budget=1000, bid=bid, ahead=ahead)

    assert 0.0 <= rate(spent + 1) <= rate(spent) <= 1.0
    if spent >= 1000:
        assert rate(spent) == 0.0
    assert rate(0) > 0.0 or traffic.before(min(DAY, second + ahead)) == 0.0


def test_pass_rates_by_hand() -> None:
    def rate(spent: int, *, second: float = DAY / 2, bid: int = 1) -> float:
        return pass_rate(second, (0.0, DAY), EVEN, spent=spent, budget=86_400, bid=bid, ahead=100.0)

    assert rate(43_200) == 1.0  # where it is planned to be
    assert rate(40_000) == 1.0
    assert rate(43_250) == pytest.approx(0.5)
    assert rate(43_300) == 0.0
    assert rate(43_250, bid=1000) == pytest.approx(0.05)
    assert rate(86_399, second=DAY - 1) == 1.0  # at the end nothing is held back


def test_windows_and_empty_traffic() -> None:
    assert planned_share(DAY / 2, (DAY / 2, DAY), EVEN) == 0.0
    assert planned_share(0.75 * DAY, (DAY / 2, DAY), EVEN) == pytest.approx(0.5)
    night = TrafficForecast((0.0,) * 12 + (1.0,) * 12)
    assert planned_share(100.0, (0.0, DAY / 2), night) == 1.0
    assert pass_rate(100.0, (0.0, DAY / 2), night, spent=1, budget=10, bid=1, ahead=60.0) == 1.0


@patient
@given(st.floats(0.01, 10), st.floats(0.5, 50), st.integers(0, 500), st.floats(0, 500))
def test_factors_lie_between_the_prior_and_what_was_counted(
    prior: float, strength: float, clicks: int, expected: float
) -> None:
    factor = shrunk_factor(prior, strength, clicks, expected)
    assert factor > 0.0
    if expected > 0:
        low, high = sorted((prior, clicks / expected))
        assert low - 1e-9 <= factor <= high + 1e-9
    assert shrunk_factor(prior, strength, 0, 0.0) == pytest.approx(prior)


def test_factors_converge_and_their_spread_falls() -> None:
    assert shrunk_factor(1.0, 4.0, 30_000, 10_000.0) == pytest.approx(3.0, rel=1e-3)
    spreads = draw_spread(4.0, np.array([0.0, 10.0, 1000.0]))
    assert spreads.tolist() == sorted(spreads.tolist(), reverse=True)
    # The log-normal draw has the Gamma posterior's relative variance, 1 / shape.
    assert np.expm1(spreads**2) == pytest.approx([1 / 4, 1 / 14, 1 / 1004])
