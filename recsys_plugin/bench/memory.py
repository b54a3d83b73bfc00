"""``recsys bench memory``: what the serving client takes of a backend's memory, and whether that grows with calls."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from recsys_plugin.bench.generated_catalogue import NOW, CataloguePlan, ServedCatalogue, served_catalogue
from recsys_plugin.bench.machine import load_average
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import Tell
from recsys_plugin.errors import StepFailed
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

__all__ = ["Footprint", "add_footprints", "client_footprints", "growth_per_call", "measure_memory"]

_MIB = 1 << 20
#: The first calls fill caches and pools; growth counts from here on.
_SETTLED = 0.1
_MODULE = "recsys_plugin.bench.thin_client"

#: Calls made and resident bytes then; calls are -1 before the client was made and 0 once it has loaded the catalogue.
Footprint = tuple[int, int]


def measure_memory(
    settings: Settings,
    *,
    plan: CataloguePlan,
    calls: int,
    every: int,
    candidates: int,
    scratch: Path | None,
    tell: Tell,
) -> Report:
    """Serve a generated catalogue, and watch a fresh process with only the thin client make calls of all kinds.

    Args:
        settings: see :func:`~recsys_plugin.bench.generated_catalogue.served_catalogue`.
        plan: the catalogue. calls: how many calls. every: after how many of them memory is told.
        candidates: how many items are ranked.
        scratch: where the temporary home is made. tell: told what is under way.

    Raises:
        StepFailed: if the client's process ends before it has made its calls.
        RecsysError: as :func:`~recsys_plugin.bench.generated_catalogue.served_catalogue`.
    """
    with served_catalogue(settings, plan, scratch=scratch, tell=tell) as served:
        services = Services(served.settings)
        report = begin_report("Memory of the client", services.redis_url, services.triton_url)
        footprints: list[Footprint] = []
        for made, resident in client_footprints(served, calls=calls, every=every, candidates=candidates):
            footprints.append((made, resident))
            tell("making calls", max(0, made), calls)
    add_footprints(report, footprints, items=plan.items)
    return report


def add_footprints(report: Report, footprints: Sequence[Footprint], *, items: int) -> None:
    """Add what a client told of its memory to a report, with the slope and what must be known to read it.

    Args:
        report: takes the figures.
        footprints: everything told, in order: before loading, after it, and after every so many calls.
        items: how many the catalogue has.
    """
    by_calls = dict(footprints)
    report.add("memory.items", items)
    report.add("memory.calls_made", footprints[-1][0])
    report.add("memory.imported_mib", by_calls[-1] / _MIB)
    report.add("memory.loaded_mib", by_calls[0] / _MIB)
    report.add("memory.largest_mib", max(by_calls.values()) / _MIB)
    for made, resident in footprints[2:]:
        report.add(f"memory.after_{made}_calls_mib", resident / _MIB)
    report.add("memory.growth_bytes_per_call", growth_per_call(footprints))
    report.machine["load_average_after"] = load_average()
    report.notes += [
        f"a fresh process that imports recsys_plugin and nothing heavier, on a generated catalogue of {items:,} "
        "items; resident set sizes after a garbage collection; calls of recommend, rank, search and similar_items in "
        "turn, one at a time",
        "growth_bytes_per_call is the slope of a line fitted by least squares to what came after the first tenth of "
        "the calls",
    ]


def client_footprints(
    served: ServedCatalogue, *, calls: int, every: int, candidates: int, users: int = 64
) -> Iterator[Footprint]:
    """Start a process with a thin client; what it tells, as it tells it.

    Raises:
        StepFailed: if it ends before it has told everything.
    """
    services = Services(served.settings)
    plan = {
        "redis_url": services.redis_url,
        "triton_url": services.triton_url,
        "now": NOW,
        "users": [f"u{number:06d}" for number in range(min(users, served.plan.users))],
        "items": [f"i{number:09d}" for number in range(min(50, served.plan.items))],
        "query": "lamp number 7",
        "candidates": min(candidates, served.plan.items),
        "calls": calls,
        "every": every,
    }
    with subprocess.Popen(
        [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        heard_out = False
        try:
            process.stdin.write(json.dumps(plan))
            process.stdin.close()
            for line in process.stdout:
                told = json.loads(line)
                yield int(told["calls"]), int(told["resident_bytes"])
            heard_out = True
        finally:
            if not heard_out:
                process.terminate()
    if process.returncode != 0:
        raise StepFailed(f"the thin client ended with exit code {process.returncode}; what it printed above says why")


def growth_per_call(footprints: Sequence[Footprint]) -> float:
    """Bytes that each call adds, by least squares over what came after the first tenth of the calls.

    Raises:
        StepFailed: if memory was told fewer than twice there.
    """
    most = footprints[-1][0]
    settled = [(made, resident) for made, resident in footprints if made >= max(1.0, _SETTLED * most)]
    if len(settled) < 2:
        raise StepFailed(f"memory was told {len(settled)} times after the first calls; two are needed for a slope")
    made, resident = np.array(settled, dtype=np.float64).T
    slope: float = np.polyfit(made, resident, 1)[0]
    return float(slope)
