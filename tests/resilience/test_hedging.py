"""Second requests: after the usual time, and no more of them than the budget has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import InvalidInput
from recsys_plugin.resilience.hedging import Hedges, Hedging


@given(st.lists(st.floats(0, 1), min_size=1, max_size=500), st.floats(0, 0.2), st.integers(0, 20))
def test_second_requests_stay_within_their_budget(latencies: list[float], share: float, burst: int) -> None:
    hedges = Hedges(Hedging(share=share, burst=burst))
    for seconds in latencies:
        hedges.allows()
        hedges.observe(seconds)
    assert hedges.made <= burst + share * len(latencies) + 1e-9


def test_they_wait_for_the_usual_time_and_never_for_too_long() -> None:
    hedges = Hedges(Hedging(percentile=90, time=0.4))
    assert hedges.delay(0.05) == pytest.approx(0.02)  # nothing is known yet
    for number in range(100):
        hedges.observe(0.001 * (number % 10 + 1))
    assert hedges.delay(0.05) == pytest.approx(0.009)
    assert hedges.delay(0.01) == pytest.approx(0.004)
    for _ in range(300):
        hedges.observe(0.0001)
    assert hedges.delay(0.05) == pytest.approx(0.002)


@pytest.mark.parametrize("wrong", [{"percentile": 100}, {"share": 2}, {"burst": -1}, {"least": 0}, {"time": 1}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Hedging(**wrong)  # type: ignore[arg-type]
