"""``AsyncRecommender``s in one event loop for each process, while servers are stopped, killed and started again."""

from __future__ import annotations

import numpy as np
import pytest
from shown import act, assert_full_soon, outcomes, played

from recsys_plugin.chaos.experiment import Expectations, Played, failures
from recsys_plugin.chaos.faults import Kill, Stop
from recsys_plugin.chaos.figures import FULL, overshoot
from recsys_plugin.chaos.target import TRITON, Target

#: As in the tests of blocking clients: the machine runs other tests beside these.
BUSY, MOST = 0.05, 95


@pytest.fixture(scope="module")
def everything(target: Target) -> Played:
    """Triton stopped, then both servers killed."""
    return played(target, [act(Stop((TRITON,)), after=1.5), act(Kill(), after=2.5)], kind="async", clients=8, of=8)


def test_every_call_is_answered_in_time_and_nothing_is_left_behind(everything: Played) -> None:
    calls = everything.observed.calls
    assert len(calls.intended) > 400
    assert failures(everything, Expectations(late=None, full_within=None)) == []
    assert np.percentile(overshoot(calls, everything.plan.timeout), MOST) <= BUSY


def test_pages_fall_back_meanwhile_and_are_full_again_soon(everything: Played) -> None:
    stopped, killed = everything.windows
    for asked, levels in outcomes(everything, killed).items():
        assert sum(count for level, count in levels.items() if level != FULL) > 0, asked
    for window in (stopped, killed):
        assert_full_soon(everything, window)
