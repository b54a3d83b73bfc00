"""The trial's document, and who belongs to which arm."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin import InvalidInput
from recsys_plugin.trials.assignment import arm_of, is_shadowed, place_of
from recsys_plugin.trials.trial import (
    CANDIDATE,
    CONTROL,
    SHADOW,
    DriftBins,
    MalformedTrial,
    Phase,
    Thresholds,
    Trial,
)

TRIAL = Trial("a-trial", 1, 2, "salt", (Phase(1000.0, 0.2),))

ids = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())
shares = st.floats(0, 1)


@given(ids, shares, shares)
def test_a_larger_share_only_adds_users(user: str, first: float, second: float) -> None:
    small, large = sorted((first, second))
    assert 0.0 <= place_of(user, TRIAL.salt) < 1.0
    if arm_of(TRIAL.with_share(small, now=1.0), user) == CANDIDATE:
        assert arm_of(TRIAL.with_share(large, now=1.0), user) == CANDIDATE
    assert arm_of(TRIAL.with_share(0.0, now=1.0), user) == CONTROL
    assert arm_of(TRIAL.with_share(1.0, now=1.0), user) == CANDIDATE


@given(st.text(min_size=1, max_size=100))
def test_users_are_spread_evenly(salt: str) -> None:
    places = np.array([place_of(f"user-{number}", salt) for number in range(2000)])
    counts = np.histogram(places, 20, (0, 1))[0]
    # Chi-square with 19 degrees of freedom: above 75 with a probability of 1e-8, for any salt that comes up.
    assert ((counts - 100) ** 2 / 100).sum() < 75


def test_salts_are_independent_and_places_stay() -> None:
    first = np.array([place_of(f"user-{number}", "one") for number in range(5000)])
    second = np.array([place_of(f"user-{number}", "another") for number in range(5000)])
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    # The same on every machine and in every version to come: users must not change sides in an upgrade.
    assert place_of("user-1", "salt") == 0.2973818055366273


def test_a_shadow_trial_serves_nobody_from_the_candidate() -> None:
    trial = replace(TRIAL, mode=SHADOW, phases=(Phase(0.0, 0.5),))
    assert {arm_of(trial, f"user-{number}") for number in range(100)} == {CONTROL}
    drawn = sum(is_shadowed(trial, f"request-{number}") for number in range(1000))
    assert 430 < drawn < 570
    assert not any(is_shadowed(TRIAL, f"request-{number}") for number in range(100))


def test_document_comes_back() -> None:
    trial = TRIAL.with_share(0.5, now=2000.0).with_bins({"recommend": DriftBins((-3, 0, 7), (1, 2, 3, 4))})
    trial = trial.ended("rolled back", "errors: 7 of 9 – all “bad”", now=3000.0)
    assert Trial.from_json(trial.to_json()) == trial
    assert (trial.revision, trial.share, trial.phase, trial.running) == (4, 0.5, 1, False)
    # What lies before a new phase is not compared in it, so nothing need be set aside there.
    binned = TRIAL.with_bins({"rank": DriftBins((1,), (5, 6))}).with_share(0.3, now=1.0)
    assert binned.drift_bins["rank"].set_aside == (0, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control": 2}, "candidate: version 2 is the control"),
        ({"candidate": "2"}, "candidate: '2' is not a whole number"),
        ({"candidate": True}, "candidate: True"),
        ({"mode": "blue-green"}, "mode: 'blue-green' is not one of canary, shadow"),
        ({"status": "over"}, "status: 'over'"),
        ({"salt": ""}, "salt: ''"),
        ({"phases": []}, "phases: there is none"),
        ({"phases": [{"since": 0.0, "share": 1.5}]}, "share: 1.5 is not a number from 0 to 1"),
        ({"phases": [{"since": 0.0, "share": float("nan")}]}, "share: nan"),
        ({"thresholds": {"alpha": 0}}, "alpha: 0 is not between 0 and 1"),
        ({"thresholds": {"latency_ratio": 0.5}}, "latency_ratio: 0.5"),
        ({"drift_bins": {"rank": {"edges": [2, 1], "set_aside": [0, 0, 0]}}}, "are not ascending"),
        ({"drift_bins": {"rank": {"edges": [1], "set_aside": [0]}}}, "is not a count for each bin"),
        ({"format": 2}, "not a document of format 1"),
        ({"colour": "red"}, "colour"),
        ({"salt": ...}, "salt"),
    ],
)
def test_a_malformed_document_is_named(changes: dict[str, Any], said: str) -> None:
    document = TRIAL.to_dict() | changes
    document = {name: value for name, value in document.items() if value is not ...}
    with pytest.raises(MalformedTrial, match=said) as found:
        Trial.from_json(json.dumps(document))
    assert "recsys trial stop --force" in str(found.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7"])
def test_what_is_no_document(text: str) -> None:
    with pytest.raises(MalformedTrial):
        Trial.from_json(text)


def test_wrong_values_are_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="share"):
        TRIAL.with_share(-0.1, now=0.0)
    with pytest.raises(InvalidInput, match=r"thresholds\.psi"):
        Thresholds(psi=-1.0)
