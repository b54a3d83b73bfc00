"""What a soak concludes from its first and its last sixth, on calls made up."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_plugin.bench.report import Report
from recsys_plugin.bench.soak import compare, soak_failures
from recsys_plugin.bench.soak_control import Control, add_control, p99_ratio
from recsys_plugin.chaos.load import Observed
from recsys_plugin.chaos.seen import Calls, Footprint
from recsys_plugin.errors import StepFailed

HELD = Footprint(0, 0, 0)


def observed(growth: float, errors: int = 0, seconds: float = 60.0) -> Observed:
    """Calls of 10 ms and 100 MiB in each of two processes, both growing by so much over the whole time."""
    begins = np.arange(0, seconds, 0.1)
    wrong = np.zeros(len(begins), np.int64)
    wrong[:errors] = 1
    calls = Calls(
        begins,
        begins,
        begins + 0.01 * (1 + growth * begins / seconds),
        np.zeros(len(begins), np.int64),
        wrong,
        ("full", "error: StoreUnavailable"),
        {},
    )
    looks = tuple((moment, int((1 + growth * moment / seconds) * 100 * 2**20)) for moment in np.arange(0, seconds, 1.0))
    return Observed(calls, HELD, HELD, HELD, HELD, (looks, looks))


def report_of(seen: Observed, slower: float = 0.0) -> Report:
    report = Report("Soak", {}, {})
    work = [(moment, 1e-3 * (1 + slower * moment / 60)) for moment in np.arange(0, 60, 1.0)]
    compare(report, seen, {"redis": list(seen.memory[0])}, work)
    return report


def test_what_stays_as_it_was_passes() -> None:
    report = report_of(observed(0.0))
    assert soak_failures(report, 0.05) == []
    assert report.figures["first.calls"] == pytest.approx(100, abs=2)
    assert report.figures["first.p99_ms"] == pytest.approx(10)
    assert report.figures["memory.client.first_mib"] == pytest.approx(200)
    assert report.figures["memory.redis.last_mib"] == pytest.approx(100)


def test_what_grows_is_named() -> None:
    failed = soak_failures(report_of(observed(0.2, errors=3)), 0.05)
    assert [text.split(":")[0] for text in failed] == [
        "3 calls were not answered",
        "p99",
        "memory of client",
        "memory of redis",
    ]
    assert "+16." in failed[2]
    assert failed[1].endswith("expected 5% at most; the same work took +0.0% of processor time")
    assert "processor time" not in failed[2]
    assert soak_failures(report_of(observed(0.2)), 0.2) == []
    assert soak_failures(report_of(observed(-0.5)), 0.05) == []


def test_every_sixth_and_the_speed_of_the_machine_are_told() -> None:
    report = report_of(observed(0.2), slower=0.1)
    sixths = [report.figures[f"{name}.p50_ms"] for name in ("first", *(f"sixth_{n}" for n in range(2, 6)), "last")]
    assert sixths == sorted(sixths)
    assert sixths[2] == pytest.approx(10 * (1 + 0.2 * 2.5 / 6), rel=1e-2)
    assert report.figures["work.first_us"] == pytest.approx(1000, rel=0.02)
    assert report.figures["work.last_to_first"] == pytest.approx(1.1 / 1.0, rel=0.02)
    assert "the same work took +8" in soak_failures(report, 0.05)[0]


def turns(seconds: float, *, count: int = 40, seed: int = 0) -> list[np.ndarray]:
    """Of a machine that is twice as slow in some turns as in others, the same ones for all."""
    noise = np.random.default_rng(seed)
    slower = np.random.default_rng(7).choice([1.0, 2.0], size=count)
    return [noise.gamma(4.0, seconds * 250, size=400) * each for each in slower]


def test_the_control_tells_a_slow_machine_from_what_became_slow() -> None:
    same = p99_ratio(turns(0.01), turns(0.01, seed=1), seed=0)
    assert same.low < 1 < same.high
    assert same.high - same.low < 0.2
    grown = p99_ratio(turns(0.013), turns(0.01, seed=1), seed=0)
    assert 1.1 < grown.low < grown.value < grown.high < 1.5


def test_p99_is_judged_by_the_control() -> None:
    report = report_of(observed(0.2))
    add_control(report, Control(turns(0.01), turns(0.01), 0, servers=True), seed=0)
    assert report.figures["control.p99_soaked_to_fresh"] == 1.0
    assert [text.split(":")[0] for text in soak_failures(report, 0.05)] == ["memory of client", "memory of redis"]
    report = report_of(observed(0.0))
    add_control(report, Control(turns(0.02), turns(0.01), 2, servers=True), seed=0)
    failed = soak_failures(report, 0.05)
    assert failed[0] == "2 calls were not answered"
    assert failed[1].startswith("p99: +100.0% from fresh clients and servers to the soaked, in turn, expected 5%")


def test_too_short_a_soak_is_refused() -> None:
    seen = observed(0.0)
    with pytest.raises(StepFailed, match="memory of client"):
        report_of(Observed(seen.calls, HELD, HELD, HELD, HELD, ((), ())))
