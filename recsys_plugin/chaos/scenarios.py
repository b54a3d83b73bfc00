"""What is played: faults one after the other, with time to be well before, between and after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recsys_plugin.chaos.faults import (
    Bandwidth,
    ClockStep,
    CorruptModel,
    Fault,
    FullDisk,
    HalfOpen,
    Kill,
    Latency,
    MaxMemory,
    RegistryChange,
    Reset,
    Restart,
    Stop,
    Truncate,
    UnloadModel,
)
from recsys_plugin.chaos.target import REDIS, TRITON

__all__ = ["SCENARIOS", "Act", "Scenario", "scenario"]

#: Of each fault's share of the time, the parts before it and with it; the rest is for being well again.
_BEFORE, _DURING = 0.15, 0.4
_PLACES = ((REDIS,), (TRITON,), (REDIS, TRITON))


@dataclass(frozen=True, slots=True)
class Act:
    """One fault, and for how many seconds all is well before it, it lasts, and all is well after it."""

    fault: Fault
    before: float
    during: float
    after: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Some acts under one name."""

    name: str
    acts: tuple[Act, ...]


def _everywhere(make: Callable[[tuple[str, ...]], Fault]) -> tuple[Fault, ...]:
    """The same fault of Redis, of Triton, and of both."""
    return tuple(make(on) for on in _PLACES)


#: Name → its faults, in order.
SCENARIOS: Mapping[str, tuple[Fault, ...]] = {
    "kill": _everywhere(Kill),
    "stop": _everywhere(Stop),
    "latency": _everywhere(lambda on: Latency(on, 0.5)),
    "half-open": _everywhere(HalfOpen),
    "reset": _everywhere(Reset),
    "truncate": _everywhere(Truncate),
    "bandwidth": _everywhere(Bandwidth),
    "restart": _everywhere(Restart),
    "memory": (MaxMemory(),),
    "disk": (FullDisk(),),
    "unload": (UnloadModel(),),
    "corrupt": (CorruptModel(),),
    "registry": (RegistryChange(),),
    "clock": (ClockStep(3600.0), ClockStep(-3600.0)),
}


def scenario(name: str, seconds: float) -> Scenario:
    """One of :data:`SCENARIOS`, so that it lasts so many seconds; what servers take to start comes on top."""
    faults = SCENARIOS[name]
    each = seconds / len(faults)
    acts = (Act(fault, each * _BEFORE, each * _DURING, each * (1 - _BEFORE - _DURING)) for fault in faults)
    return Scenario(name, tuple(acts))
