"""A request's trace while the request is under way: plain numbers, made into spans afterwards.

Source of the header: W3C Trace Context (Recommendation, 2021), version 00.
"""

from __future__ import annotations

import random

__all__ = ["Segment", "Trace", "new_id", "traceparent"]

_random_bits = random.getrandbits
#: A part of a request: its name, when it began and ended (moments of the request's timer), its span's id (0 if none was
#: given out), and the model that was called (empty if none was). A plain tuple: a traced request makes three.
Segment = tuple[str, float, float, int, str]


class Trace:
    """A request that is traced.

    Args:
        trace_id: 128 bits, not 0.
        parent_id: the span that the request belongs to, 64 bits; 0 for none.
    """

    __slots__ = ("_called", "_model", "parent_id", "segments", "trace_id")

    def __init__(self, trace_id: int, parent_id: int = 0) -> None:
        self.trace_id, self.parent_id = trace_id, parent_id
        self.segments: list[Segment] = []
        self._called, self._model = 0, ""

    def call(self, model: str) -> str:
        """A model is about to be called: the header by which the server's spans become the call's children."""
        self._called, self._model = new_id(64), model
        return traceparent(self.trace_id, self._called)

    def end_of(self, stage: str, started: float, ended: float) -> None:
        """A stage is over, and with it the call that was announced last."""
        self.segments.append((stage, started, ended, self._called, self._model))
        self._called, self._model = 0, ""


def new_id(bits: int) -> int:
    """A random id of so many bits, never 0."""
    return _random_bits(bits) or 1


def traceparent(trace_id: int, span_id: int) -> str:
    """The header of a span that is sampled."""
    return "00-%032x-%016x-01" % (trace_id, span_id)  # noqa: UP031, half of what an f-string of two formats takes
