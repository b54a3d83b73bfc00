"""The calls that can be made to Triton, as values: who makes them, blocking or not, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recsys_plugin.inference.tensors import Array

__all__ = ["GetSettings", "GetVersions", "Infer", "ModelSettings", "OutputSpec"]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """A wanted output: Triton's datatype name and the shape that must come back, -1 for a length left open."""

    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Infer:
    """Call a model version. Answer: a dict of output name → array."""

    model: str
    version: int
    inputs: Mapping[str, Array]
    outputs: Mapping[str, OutputSpec]
    traceparent: str | None = None
    """The header of W3C Trace Context by which the server's spans belong to the caller's; none if not traced."""


@dataclass(frozen=True, slots=True)
class GetVersions:
    """Ask which versions of a model are ready. Answer: a tuple of numbers, ascending."""

    model: str


@dataclass(frozen=True, slots=True)
class GetSettings:
    """Ask for a model version's configuration. Answer: :class:`ModelSettings`."""

    model: str
    version: int


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the client needs of a model's configuration."""

    max_batch_size: int
    """The most users in one call; 0 when the model has no batch dimension."""
    parameters: Mapping[str, str]
    outputs: tuple[str, ...] = ()
    """The names of its outputs."""
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Its inputs and their dimensions, that of the batch left out; -1 is any."""

    @property
    def step_versions(self) -> tuple[str, ...]:
        """The outputs that say which version of each step answered."""
        return tuple(name for name in self.outputs if name.endswith("_version"))
