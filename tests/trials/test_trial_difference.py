"""Differences of outcomes: valid however often one looks, found where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_trials import run_trials

from recsys_plugin.trial_report.difference import Pages, follow_difference
from recsys_plugin.trials.sequential import always_valid_p, mixture_interval, tuned_scale

ALPHA = 0.05


def test_without_a_difference_peeking_rejects_less_often_than_alpha() -> None:
    found, naive = run_trials(
        runs=2000, pages=3000, users=1500, share=0.5, rate=0.2, lift=0.0, alpha=ALPHA, every=5, seed=1
    )
    rejected = float((found.p_value[-1] < ALPHA).mean())
    # Above 0, or the test would show nothing; the plain test, looking as often, is wrong in a third of the trials.
    assert 0.0 < rejected < ALPHA
    assert naive.mean() > 0.25
    wrong = ((found.lower > 0) | (found.upper < 0)).any(axis=0)
    assert float(wrong.mean()) == rejected


def test_a_difference_is_found() -> None:
    found, _ = run_trials(
        runs=300, pages=4000, users=1500, share=0.5, rate=0.2, lift=0.1, alpha=ALPHA, every=20, seed=2
    )
    assert float((found.p_value[-1] < ALPHA).mean()) > 0.95
    assert float(((found.lower > 0.1) | (found.upper < 0.1)).any(axis=0).mean()) < ALPHA
    assert np.nanmean(found.estimate[-1]) == pytest.approx(0.1, abs=0.005)


def pages(count: int, lift: float, *, seed: int, raised_at: int | None = None) -> Pages:
    """Half of 1,000 users are the candidate's, or a tenth until the share is raised; rates fall during the trial."""
    generator = np.random.default_rng(seed)
    user = generator.integers(0, 1000, count)
    place = generator.random(1000)
    phase = (np.arange(count) >= (raised_at or count)).astype(np.int64)
    candidate = place[user] < np.where((phase == 1) | (raised_at is None), 0.5, 0.1)
    rate = np.where(np.arange(count) < count // 2, 0.4, 0.1) + lift * candidate
    return Pages(np.arange(count, dtype=float), user, candidate, phase, generator.random(count) < rate)


def test_follow_difference_sees_what_was_served_by_then() -> None:
    one = pages(20_000, 0.05, seed=4)
    looks = np.array([10.0, 5000.0, 19_999.0])
    found = follow_difference(one, looks, alpha=ALPHA)
    assert np.isnan(found.estimate[0])
    assert np.isnan(found.lower[0])
    by_hand = one.outcome[one.candidate].mean() - one.outcome[~one.candidate].mean()
    assert found.estimate[-1] == pytest.approx(by_hand, rel=1e-9)
    early = Pages(*(getattr(one, name)[:5001] for name in ("served_at", "user", "candidate", "phase", "outcome")))
    again = follow_difference(early, looks[:2], alpha=ALPHA)
    np.testing.assert_array_equal(again.estimate, found.estimate[:2])
    assert found.lower[-1] < 0.05 < found.upper[-1]
    assert found.p_value[-1] < 0.01


def test_a_raised_share_is_no_difference() -> None:
    """The share was raised when rates had fallen: more of the candidate's pages are from the worse time."""
    one = pages(20_000, 0.0, seed=6, raised_at=10_000)
    found = follow_difference(one, np.array([19_999.0]), alpha=ALPHA)
    plain = one.outcome[one.candidate].mean() - one.outcome[~one.candidate].mean()
    assert plain < -0.05
    assert abs(found.estimate[0]) < 0.02
    assert found.lower[0] < 0 < found.upper[0]


def test_nothing_is_claimed_without_pages() -> None:
    nothing = np.zeros(0)
    none = Pages(nothing, nothing.astype(int), nothing.astype(bool), nothing.astype(int), nothing.astype(bool))
    found = follow_difference(none, np.array([1.0, 2.0]), alpha=ALPHA)
    assert np.isnan(found.estimate).all()
    assert np.isnan(found.p_value).all()


def test_p_value_and_interval_agree() -> None:
    scale = tuned_scale(0.0004, ALPHA)
    for estimate in np.linspace(0.0, 0.2, 41):
        low, _ = mixture_interval(float(estimate), 0.0004, scale, ALPHA)
        assert (low > 0) == (always_valid_p(float(estimate), 0.0004, scale) < ALPHA)
    # Tuned for this variance: no other scale gives a narrower interval there.
    width = [float(np.diff(mixture_interval(0.0, 0.0004, scale * factor, ALPHA))[0]) for factor in (0.7, 1.0, 1.4)]
    assert width[1] == min(width)
