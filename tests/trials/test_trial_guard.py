"""What the guard makes of counts: bounds that hold at all looks, and words for what crossed them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.trials.guard import (
    checks_of,
    latency_ratio_bounds,
    new_bins,
    population_stability_index,
    psi_lower_bound,
    verdict,
)
from recsys_plugin.trials.sequential import quantile_ranks, rate_bounds
from recsys_plugin.trials.shadow import kendall_tau, overlap
from recsys_plugin.trials.sketch import RELATIVE_ERROR, Sketch, bucket_middle, bucket_of
from recsys_plugin.trials.tally import ArmCounts, Moments
from recsys_plugin.trials.trial import CANDIDATE, CONTROL, Phase, Thresholds, Trial

TRIAL = Trial("a-trial", 1, 2, "salt", (Phase(0.0, 0.2),))


def sketch(values: np.ndarray) -> Sketch:
    found = Sketch()
    for value in values.tolist():
        found.add(value)
    return found


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_sketch_is_right_within_its_error(values: list[float]) -> None:
    found, ordered = sketch(np.array(values)), sorted(values)
    for value in values:
        assert bucket_middle(bucket_of(value)) == pytest.approx(value, rel=RELATIVE_ERROR * 1.001, abs=2e-9)
    assert [bucket_of(value) for value in ordered] == sorted(bucket_of(value) for value in values)
    median = ordered[math.ceil(len(ordered) / 2) - 1]
    assert found.quantile(0.5) == pytest.approx(median, rel=RELATIVE_ERROR * 1.001, abs=2e-9)
    edges = found.deciles()
    bins = found.binned(edges)
    assert sum(bins) == found.total == len(values)
    # Nothing lies outside the range that the bins were made from, and there is room for what will.
    assert bins[0] == bins[-1] == 0


@given(st.integers(0, 200), st.integers(0, 200), st.sampled_from([0.1, 0.01, 1e-4]))
def test_rate_bounds(successes: int, failures: int, alpha: float) -> None:
    total = successes + failures
    low, high = rate_bounds(successes, total, alpha)
    assert 0.0 <= low <= high <= 1.0
    if total:
        assert low <= successes / total <= high
        wider = rate_bounds(successes, total, alpha / 10)
        assert wider[0] <= low
        assert wider[1] >= high
    # By symmetry.
    other = rate_bounds(failures, total, alpha)
    assert low == pytest.approx(1 - other[1], abs=1e-9)


def test_rate_bounds_hold_at_all_looks() -> None:
    """2,000 sequences of 500 trials, looked at after each: ever wrong in at most alpha of them, and not never."""
    generator, alpha, wrong = np.random.default_rng(5), 0.1, 0
    for probability in (0.02, 0.3):
        # What excludes a probability depends on the counts alone, so each pair of counts is looked at once.
        excluded = np.zeros((501, 501), dtype=bool)
        for total in range(1, 501):
            least, most = quantile_ranks(probability, total, alpha)
            excluded[total, :least] = excluded[total, most + 1 : total + 1] = True
        counts = (generator.random((2000, 500)) < probability).cumsum(axis=1)
        wrong = int(excluded[np.arange(1, 501), counts].any(axis=1).sum())
        assert 20 < wrong < 2000 * alpha
        plain = np.abs(counts / np.arange(1, 501) - probability) > 1.645 * np.sqrt(
            probability * (1 - probability) / np.arange(1, 501)
        )
        # A plain 90 % interval is wrong at some look after the 50th in more than twice as many as it promises.
        assert plain[:, 50:].any(axis=1).mean() > 2 * alpha


def test_quantile_ranks_agree_with_rate_bounds() -> None:
    for total in (0, 1, 10, 500):
        least, most = quantile_ranks(0.95, total, 0.05)
        for count in range(total + 1):
            low, high = rate_bounds(count, total, 0.05)
            assert (least <= count <= most) == (low <= 0.95 <= high)


def test_latency_bounds_enclose_the_ratio() -> None:
    generator = np.random.default_rng(3)
    control, candidate = (sketch(scale * generator.lognormal(0.0, 0.5, 3000)) for scale in (10.0, 15.0))
    low, high = latency_ratio_bounds(control, candidate, 0.01)
    assert 1.2 < low < 1.5 < high < 1.9
    assert latency_ratio_bounds(Sketch(), candidate, 0.01) == (0.0, math.inf)
    assert latency_ratio_bounds(control, Sketch(), 0.01)[0] == 0.0


def test_psi_and_its_bound() -> None:
    assert population_stability_index((50, 50), (500, 500)) == pytest.approx(0.0, abs=1e-4)
    # (0.8 - 0.2) ln 4, twice.
    assert population_stability_index((80_000, 20_000), (20_000, 80_000)) == pytest.approx(1.2 * math.log(4), rel=1e-3)
    bound = psi_lower_bound((800, 200), (200, 800), 0.01)
    assert 0.8 < bound < 1.2 * math.log(4)
    assert psi_lower_bound((0, 0), (500, 500), 0.01) == 0.0


def counts(requests: int, errors: int = 0, empty: int = 0, latency: float = 5.0, score: float = 1.0) -> ArmCounts:
    generator = np.random.default_rng(requests)
    scores = generator.normal(score, 0.2, requests)
    return ArmCounts(
        requests,
        requests,
        errors,
        empty,
        sketch(generator.lognormal(math.log(latency), 0.3, requests)),
        {"recommend": sketch(scores)},
        {"recommend": Moments(requests, float(scores.sum()), float((scores**2).sum()))},
    )


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (counts(500), None),
        (counts(500, errors=1), None),
        (counts(30, errors=15), "error rate: 15 of 30 requests failed on the candidate, 2 of 2,000 on the control"),
        (counts(500, empty=60), "empty pages: 60 of 500"),
        (counts(500, latency=30.0), "latency: the 95th percentile is"),
        (counts(500, latency=6.0), None),
        (counts(500, score=2.0), "score drift: the scores of recommend pages"),
        (counts(3, errors=3, score=9.0), None),
    ],
)
def test_verdict(candidate: ArmCounts, said: str | None) -> None:
    control = counts(2000, errors=2)
    early = counts(250)
    trial = TRIAL.with_bins(new_bins(TRIAL, {CONTROL: early, CANDIDATE: candidate}))
    reason = verdict(trial, {CONTROL: control, CANDIDATE: candidate})
    assert (reason is None) == (said is None), reason
    assert said is None or said in str(reason)
    ignoring = replace(trial, thresholds=Thresholds(None, None, None))
    assert checks_of(ignoring, {CONTROL: control, CANDIDATE: candidate}) == []


def test_a_good_candidate_is_seldom_taken_back() -> None:
    """200 trials of equal arms at a level of 5 %, looked at 30 times each: at most a few end."""
    generator, ended = np.random.default_rng(9), 0
    trial = replace(TRIAL, thresholds=Thresholds(0.0, None, None, 0.05))
    for _ in range(200):
        errors = {arm: generator.random(3000) < 0.05 for arm in (CONTROL, CANDIDATE)}
        for look in range(100, 3001, 100):
            now = {arm: ArmCounts(1, look, int(found[:look].sum())) for arm, found in errors.items()}
            if verdict(trial, now) is not None:
                ended += 1
                break
    assert ended <= 10


def test_pages_are_compared() -> None:
    assert overlap(("a", "b", "c", "d"), ("d", "x", "a", "y")) == 0.5
    assert overlap((), ()) == 1.0
    assert kendall_tau(("a", "b", "c"), ("a", "b", "c")) == 1.0
    assert kendall_tau(("a", "b", "c"), ("c", "x", "b", "a")) == -1.0
    assert kendall_tau(("a", "b", "c"), ("a", "c", "b")) == pytest.approx(1 / 3)
    assert kendall_tau(("a", "b"), ("a", "x")) is None
