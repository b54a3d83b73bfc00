"""Play a scenario on a target under load, and hold what callers saw against what they were promised."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from recsys_plugin.bench.report import Report
from recsys_plugin.bench.shop import Tell
from recsys_plugin.chaos.driver_plan import DriverPlan
from recsys_plugin.chaos.faults import Fault
from recsys_plugin.chaos.figures import GRACE, Window, add_figures, is_error, overshoot, seconds_until_full
from recsys_plugin.chaos.load import Observed, load
from recsys_plugin.chaos.scenarios import Scenario
from recsys_plugin.chaos.seen import ERROR
from recsys_plugin.chaos.target import Target
from recsys_plugin.errors import RecsysError

__all__ = ["NOTE", "Expectations", "Played", "add_played", "failures", "play", "told"]

NOTE = (
    "calls are begun at a fixed rate whatever becomes of those before them; from_intended counts from the moment that "
    "a call was meant to begin, call from when it did, generator_lateness is what lies between (of async clients that "
    "of the event loop that they share, so theirs as well as the machine's); late are calls that returned more than "
    "5 ms after their deadline; full_after_seconds counts from the moment that the servers answered again to the last "
    "answer before a whole second of full ones; undisturbed are calls without a fault, 2 s after recovery or later; "
    "held are the sockets, threads and memory of the asking processes before their clients were made, ready to begin, "
    "at the end of the load and with the clients closed"
)

#: How many sockets or threads more a client may hold once it has met a fault.
_SPARE = 2
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Expectations:
    """What must hold. ``None`` leaves one out.

    Attributes:
        answered: the least share of calls that are answered.
        late: seconds after the deadline within which 99.9 % of the calls return.
        full_within: seconds from recovery until service is full again.
        sockets, threads: how many more may be held in all processes with all clients closed than before they were
            made; at the end there may be two more for each client than when they were ready.
        memory_mib: by how much memory may have grown from ready to the end, in each process.
    """

    answered: float | None = 1.0
    late: float | None = GRACE
    full_within: float | None = 2.0
    sockets: int | None = 0
    threads: int | None = 0
    memory_mib: float | None = 32.0


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scenario."""

    scenario: str
    plan: DriverPlan
    processes: int
    observed: Observed
    windows: tuple[Window, ...]
    dead: tuple[str, ...] = ()
    """Servers that were found to have ended by themselves, though nobody killed them, and their last words."""


def play(target: Target, scenario: Scenario, plan: DriverPlan, *, processes: int, tell: Tell) -> Played:
    """Play it, the load going on throughout; whatever happens, all faults are ended.

    Raises:
        RecsysError: if a client cannot be made, or a server does not come back.
    """
    windows: list[tuple[Fault, float, float, float]] = []
    with load(plan, processes, target.clock_offset) as driven:
        begins = driven.begin()
        time.sleep(max(0.0, begins - time.monotonic()))
        for act in scenario.acts:
            _wait(act.before, f"{scenario.name}: all well", tell)
            windows.append((act.fault, *_inflict(target, act.fault, act.during, tell)))
            _wait(act.after, f"{scenario.name}: well again after {act.fault.name}", tell)
        over = time.monotonic()
        dead = target.dead()
        observed = driven.end()
    nexts = [*(window[1] for window in windows[1:]), over]
    return Played(
        scenario.name,
        plan,
        processes,
        observed,
        tuple(
            Window(fault.name, fault.servers, began, ended, recovered, until)
            for (fault, began, ended, recovered), until in zip(windows, nexts, strict=True)
        ),
        tuple(dead),
    )


def add_played(report: Report, played: Played) -> None:
    """Add the figures of a scenario to a report, named after it, and what must be known to read them."""
    plan, first = played.plan, played.observed.calls.intended.min(initial=np.inf)
    name = played.scenario.replace("-", "_")
    add_figures(report, name, played.observed, played.windows, timeout=plan.timeout)
    report.notes += [
        f"{name}: {plan.clients} {plan.kind} clients in {played.processes} processes, {plan.rate:g} calls a second "
        f"together, {plan.timeout * 1000:g} ms allowed for each; {', '.join(plan.asks)}",
        *(
            f"{name}.fault_{number}: {window.fault}, from {window.began - first:.1f} s, mended after "
            f"{window.recovered - first:.1f} s"
            for number, window in enumerate(played.windows, start=1)
        ),
        *(f"{name}, {kind}: {text}" for kind, text in sorted(played.observed.calls.messages.items())),
    ]


def failures(played: Played, expected: Expectations = Expectations()) -> list[str]:
    """What was expected and did not hold, a sentence each; none if all did."""
    calls = played.observed.calls
    checks: list[Callable[[], str | None]] = [
        lambda: _answered(played, expected),
        lambda: _late(played, expected),
        lambda: _held("sockets", played, expected.sockets),
        lambda: _held("threads", played, expected.threads),
        lambda: _memory(played, expected.memory_mib),
    ]
    found = [text for check in checks if (text := check()) is not None] + list(played.dead)
    if expected.full_within is not None:
        for window in played.windows:
            seconds = seconds_until_full(calls, window.recovered, window.until)
            if seconds > expected.full_within:
                found.append(
                    f"{window.fault}: full service {seconds:.1f} s after recovery, expected within "
                    f"{expected.full_within:g} s"
                )
    return found


def _answered(played: Played, expected: Expectations) -> str | None:
    calls = played.observed.calls
    wrong = is_error(calls)
    share = float(np.mean(~wrong)) if len(wrong) else 0.0
    if expected.answered is None or share >= expected.answered:
        return None
    kinds = [name.removeprefix(ERROR) for name in calls.outcomes if name.startswith(ERROR)]
    first = next((calls.messages[kind] for kind in kinds), "none was asked")
    said = f"{', '.join(kinds)}: {first}"
    return f"{share:.2%} of {len(wrong)} calls were answered, expected {expected.answered:.2%}; {said}"


def _late(played: Played, expected: Expectations) -> str | None:
    seconds = overshoot(played.observed.calls, played.plan.timeout)
    worst = float(np.percentile(seconds, 99.9)) if len(seconds) else 0.0
    if expected.late is None or worst <= expected.late:
        return None
    return (
        f"p99.9 of the calls returned {worst * 1000:.1f} ms after the deadline, expected {expected.late * 1000:g} ms "
        f"at most"
    )


def _held(what: str, played: Played, most: int | None) -> str | None:
    if most is None:
        return None
    # A client that has met a fault keeps a spare connection to each server, and a thread that makes them.
    spare = _SPARE * played.plan.clients
    for first, then, more in (("ready", "end", most + spare), ("before", "closed", most)):
        were, are = (getattr(getattr(played.observed, moment), what) for moment in (first, then))
        if are - were > more:
            return f"{what}: {are} held ({then}), {were} before ({first}), expected {more} more at most"
    return None


def _memory(played: Played, most: float | None) -> str | None:
    observed = played.observed
    grown = (observed.end.resident_bytes - observed.ready.resident_bytes) / _MIB / played.processes
    if most is None or grown <= most:
        return None
    return f"memory: {grown:.1f} MiB more in each process at the end, expected {most:g} MiB at most"


def _inflict(target: Target, fault: Fault, seconds: float, tell: Tell) -> tuple[float, float, float]:
    """Begin a fault, wait, and end it; the moments at which it began, was to be ended, and was."""
    began = time.monotonic()
    try:
        fault.begin(target)
        _wait(seconds, fault.name, tell)
    except BaseException:
        with suppress(RecsysError):
            fault.end(target)
        raise
    ended = time.monotonic()
    tell(f"mending: {fault.name}", 0, 0)
    fault.end(target)
    return began, ended, time.monotonic()


def _wait(seconds: float, what: str, tell: Tell) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        tell(what, int(seconds - left), max(1, int(seconds)))
        time.sleep(min(left, 0.25))


def told(failed: Sequence[str]) -> str:
    """Several failures as one message."""
    return "\n  ".join(("not as promised:", *failed))
