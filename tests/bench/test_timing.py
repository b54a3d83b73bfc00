"""Interleaved measuring with a clock of its own: every figure is known beforehand."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from recsys_plugin.bench.timing import Samples, Subject, interleave, p50_ratio
from recsys_plugin.errors import InvalidInput


class Clock:
    """Nanoseconds that pass only when a subject says so."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[tuple[str, int]] = []

    def __call__(self) -> int:
        return self.now

    def work(self, name: str, milliseconds: float) -> Callable[[int], int]:
        """A subject's call: takes longer by a microsecond with each number."""

        def call(number: int) -> int:
            self.log.append((name, number))
            self.now += int(milliseconds * 1e6) + number * 1000
            return number

        return call


def test_each_call_is_timed_and_nothing_else() -> None:
    clock = Clock()
    subjects = {"fast": Subject(clock.work("fast", 1), 5), "slow": Subject(clock.work("slow", 100), 5)}
    samples = interleave(subjects, warm_up=2, seed=0, clock=clock)
    assert samples["fast"].total.tolist() == pytest.approx([1.0, 1.001, 1.002, 1.003, 1.004])
    assert samples["slow"].total.tolist() == pytest.approx([100.0, 100.001, 100.002, 100.003, 100.004])
    assert p50_ratio(samples["slow"], samples["fast"], seed=0).value == pytest.approx(100.002 / 1.002)


def test_rounds_call_everyone_in_orders_that_the_seed_fixes() -> None:
    def order(seed: int) -> list[tuple[str, int]]:
        clock = Clock()
        interleave({n: Subject(clock.work(n, 1), 20) for n in "abc"}, warm_up=1, seed=seed, clock=clock)
        return clock.log

    log = order(1)
    assert log == order(1) != order(2)
    assert log[:3] == [("a", 0), ("b", 0), ("c", 0)], "the warm-up"
    rounds = [log[start : start + 3] for start in range(3, len(log), 3)]
    assert [{number for _, number in one} for one in rounds] == [{number} for number in range(20)]
    assert all(sorted(name for name, _ in one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(name for name, _ in one) for one in rounds}) == 6, "all orders come up"


@pytest.mark.parametrize("calls, rounds", [(1, 100), (7, 100), (10, 100), (99, 100), (100, 100), (1, 1), (3, 7)])
def test_a_slow_subject_is_called_less_often_and_evenly(calls: int, rounds: int) -> None:
    clock = Clock()
    subjects = {"often": Subject(clock.work("often", 1), rounds), "seldom": Subject(clock.work("seldom", 1), calls)}
    told: list[tuple[int, int]] = []
    samples = interleave(
        subjects, warm_up=0, seed=0, clock=clock, progress=lambda done, total: told.append((done, total))
    )
    assert len(samples["often"].total) == rounds
    assert len(samples["seldom"].total) == calls
    numbers = [number for name, number in clock.log if name == "seldom"]
    gaps = np.diff([-1, *numbers])
    assert gaps.max() - gaps.min() <= 1
    assert told[-1] == (rounds + calls, rounds + calls)


def test_warm_up_is_no_longer_than_the_measurement() -> None:
    clock = Clock()
    interleave({"a": Subject(clock.work("a", 1), 2)}, warm_up=50, seed=0, clock=clock)
    assert [number for _, number in clock.log] == [0, 1, 0, 1]


def test_stages_are_read_from_what_a_call_returns_and_not_timed() -> None:
    clock = Clock()

    def stages(number: int) -> dict[str, float]:
        clock.now += 10**9
        return {"read": number * 2.0, "decode": 1.0}

    (samples,) = interleave({"a": Subject(clock.work("a", 1), 3, stages)}, warm_up=1, seed=0, clock=clock).values()
    assert samples.total.tolist() == pytest.approx([1.0, 1.001, 1.002])
    assert {name: values.tolist() for name, values in samples.stages.items()} == {
        "read": [0.0, 2.0, 4.0],
        "decode": [1.0, 1.0, 1.0],
    }


def test_the_frozen_heap_thaws_even_after_an_error() -> None:
    before = gc.get_freeze_count()
    seen: list[int] = []

    def call(number: int) -> None:
        seen.append(gc.get_freeze_count())
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave({"a": Subject(call, 3)}, warm_up=0, seed=0, freeze=True)
    assert min(seen) > before
    assert gc.get_freeze_count() == before


def test_a_subject_without_calls_is_refused() -> None:
    with pytest.raises(InvalidInput, match="slow would not be called"):
        interleave({"slow": Subject(lambda number: None, 0)}, warm_up=0, seed=0)


def test_the_interval_holds_the_ratio_and_shrinks_with_the_noise() -> None:
    draw = np.random.default_rng(0)
    calm, noisy = (Samples(10 + spread * draw.random(200)) for spread in (0.1, 10.0))
    base = Samples(np.full(200, 2.0))
    narrow, wide = p50_ratio(calm, base, seed=0), p50_ratio(noisy, base, seed=0)
    for ratio in (narrow, wide):
        assert ratio.low <= ratio.value <= ratio.high
    assert narrow.high - narrow.low < wide.high - wide.low
    assert wide == p50_ratio(noisy, base, seed=0), "the seed fixes the interval"
    assert p50_ratio(base, base, seed=0).value == 1.0
