"""Fewer candidates while a client is slow: a share that holds a percentile of the latency.

The rule is that of X's home mixer (published 2023 with "the-algorithm"): up by a step for each call under the target,
down by ``step * percentile / (100 - percentile)`` for each one over it. It rests where the two balance, which is where
the percentile is the target.
"""

from __future__ import annotations

from dataclasses import dataclass

from recsys_plugin.errors import InvalidInput

__all__ = ["AdaptiveShare", "LatencyTarget"]


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """Which latency to hold.

    Args:
        share: of the time allowed for a call, above 0 and below 1: what a call should take at most.
        percentile: of so many calls in a hundred, above 0 and below 100.
        step: by how much the share of candidates grows with each call that was quick enough, above 0 and at most 0.1.
        lowest: the least share of candidates, above 0 and at most 1.

    Raises:
        InvalidInput: if one of them makes no sense.
    """

    share: float = 0.8
    percentile: float = 95.0
    step: float = 0.002
    lowest: float = 0.1

    def __post_init__(self) -> None:
        _within(self.share, "share", 0.0, 1.0, "below 1", open_above=True)
        _within(self.percentile, "percentile", 0.0, 100.0, "below 100", open_above=True)
        _within(self.step, "step", 0.0, 0.1, "at most 0.1")
        _within(self.lowest, "lowest", 0.0, 1.0, "at most 1")


class AdaptiveShare:
    """The share of its candidates that a client considers at present, from ``lowest`` to 1; it starts at 1.

    Safe to share between threads: an observation that is lost when two come at once changes nothing that matters.
    """

    def __init__(self, target: LatencyTarget) -> None:
        self._target = target
        self._down = target.step * target.percentile / (100.0 - target.percentile)
        self._share = 1.0

    @property
    def share(self) -> float:
        """The share at present."""
        return self._share

    def of(self, candidates: int) -> int:
        """How many of so many candidates to consider; at least one."""
        share = self._share
        return candidates if share >= 1.0 else max(1, round(candidates * share))

    def observe(self, seconds: float, allowed: float) -> None:
        """A call took so many of the seconds that it was allowed."""
        if seconds <= allowed * self._target.share:
            if self._share < 1.0:
                self._share = min(1.0, self._share + self._target.step)
        else:
            self._share = max(self._target.lowest, self._share - self._down)


def _within(value: object, name: str, low: float, high: float, said: str, *, open_above: bool = False) -> None:
    fits = not isinstance(value, bool) and isinstance(value, int | float) and low < value <= high
    if not fits or (open_above and value == high):
        raise InvalidInput(f"latency target: {name} {value!r:.60} is not a number above 0 and {said}")
