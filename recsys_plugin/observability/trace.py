"""A request's trace while the request is under way: plain numbers, made into spans afterwards.

Source of the header: W3C Trace Context (Recommendation, 2021), version 00.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Segment", "Trace", "new_id", "traceparent"]


@dataclass(slots=True)
class Segment:
    """A part of a request between two moments of the request's timer."""

    name: str
    started: float
    ended: float
    span_id: int
    model: str = ""
    """The model that was called, if one was."""


@dataclass(slots=True)
class Trace:
    """A request that is traced.

    Args:
        trace_id: 128 bits, not 0. span_id: the request's own, 64 bits, not 0.
        parent_id: the span that the request belongs to; 0 for none.
    """

    trace_id: int
    span_id: int
    parent_id: int = 0
    segments: list[Segment] = field(default_factory=list)
    _called: int = 0
    _model: str = ""

    def call(self, model: str) -> str:
        """A model is about to be called: the header by which the server's spans become the call's children."""
        self._called, self._model = new_id(64), model
        return traceparent(self.trace_id, self._called)

    def end_of(self, stage: str, started: float, ended: float) -> None:
        """A stage is over, and with it the call that was announced last."""
        self.segments.append(Segment(stage, started, ended, self._called or new_id(64), self._model))
        self._called, self._model = 0, ""


def new_id(bits: int) -> int:
    """A random id of so many bits, never 0."""
    return random.getrandbits(bits) or 1


def traceparent(trace_id: int, span_id: int) -> str:
    """The header of a span that is sampled."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"
