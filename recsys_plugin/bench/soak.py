"""``recsys bench soak``: half of what the servers can do, for a long time, and whether time or memory creeps up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.bench.load import LoadSubject, measure_load
from recsys_plugin.bench.load_driver import DriverPlan as PeakPlan
from recsys_plugin.bench.machine import load_average
from recsys_plugin.bench.processes import SPAWN
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import Tell, open_shop
from recsys_plugin.bench.soak_control import LEAST_SECONDS, Taken, add_control, take_turns
from recsys_plugin.bench.thin_client import resident_bytes
from recsys_plugin.bench.timing import Samples
from recsys_plugin.chaos.driver_plan import DriverPlan
from recsys_plugin.chaos.figures import is_error
from recsys_plugin.chaos.load import Observed, load
from recsys_plugin.chaos.seen import between
from recsys_plugin.errors import InvalidInput, RecsysError, StepFailed
from recsys_plugin.runtime.processes import marked_processes
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["SOAK_NOTE", "SoakOptions", "compare", "measure_soak", "soak_failures"]

#: Parts of the whole time, of which the first and the last are compared: 5 of 30 minutes.
_PARTS = 6
#: Rounds of the work that tells how fast the machine is: about a tenth of a millisecond.
_WORK = 10_000
#: How peak is found: rounds of so many seconds of asking without pause, after one that warms up.
_PEAK_SECONDS, _PEAK_ROUNDS = 2.0, 3
_PROCESSES = 2
_MIB = 1 << 20

SOAK_NOTE = (
    "peak is how many pages a second the same callers get when each asks again as soon as it is answered; then calls "
    "are begun at a fixed share of that, whatever becomes of those before them, and time counts from the moment that a "
    "call was meant to begin; first and last are the first and the last sixth of the time; memory is the median of "
    "resident bytes, looked at once a second: the client's of all asking processes, a server's of all its processes; "
    "work is the median processor time of one and the same loop, run once a second: a machine that others use, too, "
    "does the same work slower at times"
)
_CONTROL_NOTE = (
    "control: when the soak is over, fresh clients of {servers} and the soaked ones of theirs ask in turn, 2 s each, "
    "at the same rate: what became slow differs from what is new, whatever else the machine does; the ratio of their "
    "p99 has a bootstrap interval of 95 %, turns drawn in pairs"
)


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """How long and how hard.

    Attributes:
        seconds: for how long. share: of peak. clients: how many ask, over two processes.
        timeout: seconds that each call may take.
        rate: calls per second, instead of a share of peak.
        seed: fixes which users are asked for.
        control: for how many seconds the soaked and the fresh ask in turn afterwards; none at 0, else at least
            :data:`~recsys_plugin.bench.soak_control.LEAST_SECONDS`.
    """

    seconds: float = 1800.0
    share: float = 0.5
    clients: int = 16
    timeout: float = 0.5
    rate: float | None = None
    seed: int = 0
    control: float = 600.0


def measure_soak(settings: Settings, options: SoakOptions, *, now: float, tell: Tell) -> Report:
    """Find peak, ask at a share of it, compare the last sixth of the time with the first, the soaked with the fresh.

    Args:
        settings: name the home, whose servers run. options: see there.
        now: the time of every request, unix seconds. tell: told what is under way.

    Raises:
        InvalidInput: if the control is too short.
        ServiceUnavailable: if a server does not answer.
        StepFailed: if it was over before anything could be compared.
    """
    if 0 < options.control < LEAST_SECONDS:
        raise InvalidInput(f"control: {options.control:g} s are too few, {LEAST_SECONDS:g} at least, or 0 for none")
    with open_shop(settings, now=now, users=200, seed=options.seed) as shop:
        report = begin_report("Soak", shop.redis_url, shop.triton_url)
        page = shop.recommender.recommend(shop.users[0], 20)
        plan = DriverPlan(
            redis_url=shop.redis_url,
            triton_url=shop.triton_url,
            now=now,
            users=shop.users,
            items=page.item_ids,
            query=next((item.title for item in page if item.title), "gift").lower(),
            asks=("recommend",),
            clients=options.clients,
            first=0,
            of=options.clients,
            rate=options.rate or 1.0,
            timeout=options.timeout,
            seconds=1.1 * options.seconds + options.control,
        )
    if options.rate is None:
        peak = _peak(settings, options, now, tell)
        report.add("peak.requests_per_second", peak)
        plan = replace(plan, rate=peak * options.share)
    report.add("rate", plan.rate)
    observed, servers, work, taken = _soak(settings, plan, options, tell)
    # Until the last look at the machine: what was asked in turns is no part of it.
    compare(report, replace(observed, calls=between(observed.calls, 0.0, work[-1][0])), servers, work)
    report.machine["load_average_after"] = load_average()
    report.notes += [
        f"{options.clients} clients in {_PROCESSES} processes for {options.seconds:g} s, {options.timeout * 1000:g} ms "
        f"allowed for each call, seed {options.seed}; {', '.join(plan.asks)}",
        *(f"{kind}: {text}" for kind, text in sorted(observed.calls.messages.items())),
        SOAK_NOTE,
    ]
    if isinstance(taken, RecsysError | OSError):
        report.notes.append(f"control: could not be made, so p99 is judged by the sixths: {taken}")
    elif taken is not None:
        control = taken.control(observed.calls)
        add_control(report, control, seed=options.seed)
        servers_of = (
            "fresh servers (of a copied home, same models, same data)" if control.servers else "the same servers"
        )
        report.notes.append(_CONTROL_NOTE.format(servers=servers_of))
    return report


def compare(
    report: Report,
    observed: Observed,
    servers: Mapping[str, Sequence[tuple[float, int]]],
    work: Sequence[tuple[float, float]],
) -> None:
    """Add the figures of each sixth, and the ratios of the last to the first.

    Args:
        report: takes them. observed: what the callers saw.
        servers: name → moments of ``time.monotonic`` and resident bytes then.
        work: such moments, and the seconds of processor time that the same work took then.

    Raises:
        StepFailed: if one of the parts has no call, or memory was not looked at in it.
    """
    calls = observed.calls
    if not len(calls.intended):
        raise StepFailed("nothing was asked: soak for longer")
    edges = np.linspace(calls.intended[0], calls.intended[-1], _PARTS + 1).tolist()
    names = ("first", *(f"sixth_{number}" for number in range(2, _PARTS)), "last")
    every = dict(zip(names, pairwise(edges), strict=True))
    parts = {name: every[name] for name in ("first", "last")}
    report.add("errors", int(is_error(calls).sum()))
    report.add("answered_share", float(np.mean(~is_error(calls))))
    took = (calls.ended - calls.intended) * 1000
    report.add_samples("all", Samples(took))
    for name, (after, before) in every.items():
        report.add_samples(name, Samples(took[(calls.intended >= after) & (calls.intended <= before)]))
    report.add("p99_last_to_first", report.figures["last.p99_ms"] / report.figures["first.p99_ms"])
    memory = {"client": _added(observed.memory), **{name: np.array(each) for name, each in servers.items()}}
    for name, looks in memory.items():
        medians = {part: _median(looks, *bounds, f"the memory of {name}") for part, bounds in parts.items()}
        for part, value in medians.items():
            report.add(f"memory.{name}.{part}_mib", value / _MIB)
        report.add(f"memory.{name}.last_to_first", medians["last"] / medians["first"])
    took_work = {part: _median(np.array(work), *bounds, "the machine") for part, bounds in parts.items()}
    for part, value in took_work.items():
        report.add(f"work.{part}_us", value * 1e6)
    report.add("work.last_to_first", took_work["last"] / took_work["first"])


def soak_failures(report: Report, tolerance: float) -> list[str]:
    """Which of p99 and memory grew by more than a share, and whether all calls were answered; a sentence each.

    With a control it judges p99: the soaked against the fresh. Without, the last sixth is held against the first, and
    how much slower the machine itself became is told, and not taken off.
    """
    figures = report.figures
    found = []
    if errors := figures["errors"] + figures.get("control.errors", 0):
        found.append(f"{errors:.0f} calls were not answered")
    over, work = "from the first sixth to the last", f"the same work took {figures['work.last_to_first'] - 1:+.1%} of"
    sixths, fresh = figures["p99_last_to_first"], figures.get("control.p99_soaked_to_fresh")
    if fresh is None:
        p99 = ("p99", sixths, over, f"; {work} processor time")
    else:
        told = f"; {over} {sixths - 1:+.1%}, while {work} processor time"
        p99 = ("p99", fresh, "from fresh clients and servers to the soaked, in turn", told)
    grown = [p99] + [
        (f"memory of {name.split('.')[1]}", value, over, "")
        for name, value in figures.items()
        if name.startswith("memory.") and name.endswith(".last_to_first")
    ]
    return found + [
        f"{name}: {value - 1:+.1%} {where}, expected {tolerance:.0%} at most{told}"
        for name, value, where, told in grown
        if value > 1 + tolerance
    ]


def _peak(settings: Settings, options: SoakOptions, now: float, tell: Tell) -> float:
    plan = PeakPlan(settings, now, 200, options.seed, 500, {}, 0)
    subject = LoadSubject("threads", options.clients, min(_PROCESSES, options.clients))
    samples = measure_load(plan, {}, [subject], seconds=_PEAK_SECONDS, rounds=_PEAK_ROUNDS, tell=tell)
    return samples[subject].per_second


def _soak(
    settings: Settings, plan: DriverPlan, options: SoakOptions, tell: Tell
) -> tuple[
    Observed, dict[str, list[tuple[float, int]]], list[tuple[float, float]], Taken | RecsysError | OSError | None
]:
    """Ask for so long, and look at the embedded servers' memory and at the machine once a second; then take turns.

    Why no turns could be taken is returned: half an hour of figures is not to be lost on it.
    """
    services, seconds = Services(settings), options.seconds
    marks = {
        name: process.mark
        for name, process, embedded in (
            ("redis", services.redis.process, services.redis_is_embedded),
            ("triton", services.triton.process, services.triton_is_embedded),
        )
        if embedded and process.running
    }
    looks: dict[str, list[tuple[float, int]]] = {name: [] for name in marks}
    work: list[tuple[float, float]] = []
    turn = SPAWN.Value("i", plan.place)
    with load(plan, _PROCESSES, SPAWN.Value("d", 0.0), turn) as driven:
        begin = driven.begin()
        while (left := begin + seconds - time.monotonic()) > 0:
            for name, mark in marks.items():
                looks[name].append((time.monotonic(), sum(map(resident_bytes, marked_processes(mark)))))
            work.append((time.monotonic(), _work()))
            tell("soaking", int(seconds - left), max(1, int(seconds)))
            time.sleep(min(1.0, left))
        taken: Taken | RecsysError | OSError | None = None
        if options.control:
            try:
                taken = take_turns(settings, plan, turn, seconds=options.control, processes=_PROCESSES, tell=tell)
            except (RecsysError, OSError) as error:  # no room for a copy, say
                taken = error
        return driven.end(), looks, work, taken


def _work() -> float:
    """Seconds of processor time that a loop takes."""
    began = time.thread_time()
    for _ in range(_WORK):
        pass
    return time.thread_time() - began


def _added(processes: Sequence[Sequence[tuple[float, int]]]) -> NDArray[np.float64]:
    """The memory of several processes, looked at in step, as that of one: ``[looks, 2]``."""
    count = min((len(each) for each in processes), default=0)
    if not count:
        return np.zeros((0, 2))
    looks = np.array([each[:count] for each in processes], np.float64)
    return np.column_stack([looks[:, :, 0].mean(axis=0), looks[:, :, 1].sum(axis=0)])


def _median(looks: NDArray[np.float64], after: float, before: float, name: str) -> float:
    within = looks[(looks[:, 0] >= after) & (looks[:, 0] <= before)] if len(looks) else looks
    if not len(within):
        raise StepFailed(f"{name} was not looked at in time: soak for longer than 6 s")
    return float(np.median(within[:, 1]))
