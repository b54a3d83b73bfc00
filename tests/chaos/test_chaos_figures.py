"""What is counted and concluded, on calls made up by hand and at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.chaos.driver_plan import DriverPlan
from recsys_plugin.chaos.experiment import Expectations, Played, failures
from recsys_plugin.chaos.figures import Window, levels_over_time, overshoot, seconds_until_full
from recsys_plugin.chaos.load import Observed
from recsys_plugin.chaos.scenarios import SCENARIOS, scenario
from recsys_plugin.chaos.seen import Calls, Footprint, joined
from recsys_plugin.errors import InvalidInput

OUTCOMES = ("error: StoreUnavailable", "full", "popularity")
PLAN = DriverPlan("redis://", "grpc://", None, ("u",), ("i",), "q", ("recommend",), 2, 0, 2, 100.0, 0.05)
WELL = Footprint(sockets=4, threads=5, resident_bytes=1 << 20)


def calls_of(rows: Sequence[tuple[float, float, str]]) -> Calls:
    """Calls that began when they were meant to; each with its beginning, its duration, and its outcome."""
    begins, takes = (np.array([row[place] for row in rows], np.float64) for place in (0, 1))
    return Calls(
        begins,
        begins,
        begins + takes,
        np.zeros(len(rows), np.int64),
        np.array([OUTCOMES.index(row[2]) for row in rows], np.int64),
        OUTCOMES,
        {"StoreUnavailable": "gone"} if any(row[2].startswith("error") for row in rows) else {},
    )


def steady(seconds: float, outcome: str = "full", begin: float = 0.0) -> list[tuple[float, float, str]]:
    return [(begin + number / 100, 0.002, outcome) for number in range(int(seconds * 100))]


def played(rows: Sequence[tuple[float, float, str]], end: Footprint = WELL, closed: Footprint = WELL) -> Played:
    window = Window("kill redis", ("redis",), 1.0, 2.0, 2.5, 6.0)
    return Played("kill", PLAN, 2, Observed(calls_of(rows), WELL, WELL, end, closed), (window,))


def test_service_is_full_again_from_the_last_degraded_answer_on() -> None:
    rows = [*steady(0.5, "popularity"), *steady(3.0, begin=0.5)]
    assert seconds_until_full(calls_of(rows), 0.0, 3.5) == pytest.approx(0.492)
    assert seconds_until_full(calls_of(steady(3.0)), 0.0, 3.0) == 0
    # A degraded answer that comes after a whole second of full ones is no part of the recovery.
    late = [*rows, (2.0, 0.002, "popularity")]
    assert seconds_until_full(calls_of(late), 0.0, 3.5) == pytest.approx(0.492)
    # What was begun before the recovery does not count, however late it comes.
    assert seconds_until_full(calls_of([(-0.1, 0.5, "popularity"), *steady(3.0)]), 0.0, 3.0) == 0
    assert seconds_until_full(calls_of(steady(3.0, "popularity")), 0.0, 3.0) == 3.0


@given(st.lists(st.sampled_from(OUTCOMES), max_size=300), st.floats(0, 2))
def test_recovery_is_between_nothing_and_all_the_time_there_is(outcomes: list[str], recovered: float) -> None:
    calls = calls_of([(number / 100, 0.002, outcome) for number, outcome in enumerate(outcomes)])
    until = 3.0 + recovered
    found = seconds_until_full(calls, recovered, until)
    assert 0 <= found <= until - recovered + 0.01
    if all(outcome == "full" for outcome in outcomes):
        assert found == 0


def test_a_call_is_late_by_its_own_time() -> None:
    calls = calls_of([(0.0, 0.04, "full"), (0.1, 0.05, "full"), (0.2, 0.06, "full")])
    assert overshoot(calls, 0.05) == pytest.approx([0, 0, 0.01])


@given(st.lists(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1), st.sampled_from(OUTCOMES))), min_size=1))
def test_calls_of_several_processes_are_those_of_one(parts: list[list[tuple[float, float, str]]]) -> None:
    together = joined([calls_of(part) for part in parts])
    assert list(together.intended) == sorted(row[0] for part in parts for row in part)
    rows = zip(together.intended, together.ended, together.outcome, strict=True)
    found = sorted((begin, end, together.outcomes[outcome]) for begin, end, outcome in rows)
    assert found == sorted((row[0], row[0] + row[1], row[2]) for part in parts for row in part)


def test_levels_over_time_count_every_call() -> None:
    edges, counted = levels_over_time(calls_of([*steady(1.0), *steady(0.25, "popularity", begin=1.0)]), width=0.5)
    assert list(edges[:3]) == [0.0, 0.5, 1.0]
    assert (sum(counted["full"]), sum(counted["popularity"]), sum(counted[OUTCOMES[0]])) == (100, 25, 0)
    assert counted["popularity"][2] == 25


def test_what_was_promised_and_does_not_hold_is_said() -> None:
    assert failures(played(steady(6.0))) == []
    (answered,) = failures(played([*steady(6.0), (3.0, 0.001, OUTCOMES[0])]), Expectations(full_within=None))
    assert "99.83% of 601 calls were answered" in answered
    assert answered.endswith("StoreUnavailable: gone")
    (late,) = failures(played([*steady(5.0), *((5 + number / 100, 0.08, "full") for number in range(90))]))
    assert "30.0 ms after the deadline" in late
    (slow,) = failures(played([*steady(2.5), *steady(2.2, "popularity", begin=2.5), *steady(1.3, begin=4.7)]))
    assert "kill redis: full service 2.2 s after recovery" in slow
    left = failures(played(steady(6.0), Footprint(4, 10, 80 << 20), Footprint(7, 5, 1 << 20)))
    assert [text.partition(":")[0] for text in left] == ["sockets", "threads", "memory"]
    off = Expectations(None, None, None, None, None, None)
    assert failures(played([(0.0, 9.0, OUTCOMES[0])], Footprint(99, 99, 1 << 40)), off) == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_takes_the_time_it_is_given(name: str) -> None:
    acts = scenario(name, 30.0).acts
    assert sum(act.before + act.during + act.after for act in acts) == pytest.approx(30.0)
    assert all(act.fault.name for act in acts)


def test_faults_are_of_servers_that_there_are() -> None:
    from recsys_plugin.chaos.faults import Kill

    with pytest.raises(InvalidInput, match="postgres"):
        Kill(("postgres",))
