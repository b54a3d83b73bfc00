"""A request on its way: how much time each of its calls has, and what its end says of the client's load."""

from __future__ import annotations

import time
from typing import Any

from recsys_plugin.client.limited import Limited
from recsys_plugin.errors import DeadlineExceeded
from recsys_plugin.features.plan import ReadFeatures
from recsys_plugin.inference.calls import Infer
from recsys_plugin.resilience.adaptive import AdaptiveShare
from recsys_plugin.resilience.values import Timeout

__all__ = ["Course"]

#: Models whose number of candidates adapts: their latency is what the number is judged by.
_ADAPTED = ("recommend", "search")


class Course:
    """The time of one flow, from now on.

    Args:
        allowed: how long it may take.
        adaptive: told how long it took, if it had a page of many candidates computed; ``None`` for nobody.
    """

    __slots__ = ("_adapted", "_adaptive", "_allowed", "_began", "_failed", "deadline", "inside")

    def __init__(self, allowed: Timeout, adaptive: AdaptiveShare | None = None) -> None:
        self._allowed, self._adaptive = allowed, adaptive
        self._began = time.monotonic()
        self.deadline = self._began + allowed.total
        """A moment of ``time.monotonic``."""
        self.inside = False
        """Whether it went through the client's gate."""
        self._adapted = self._failed = False

    def seconds_for(self, call: Any) -> float:
        """Seconds that a call may take: what is left, and of that no more than its part.

        Raises:
            DeadlineExceeded: if nothing is left; the message says how many were allowed.
        """
        now = time.monotonic()
        left = self.deadline - now
        if left <= 0:
            raise DeadlineExceeded(f"the {self._allowed.total * 1000:.0f} ms allowed for the call were used up")
        if isinstance(call, Limited):
            left = min(left, call.seconds)
            call = call.call
        if isinstance(call, ReadFeatures):
            return min(left, self._allowed.features_seconds)
        if isinstance(call, Infer) and call.model in _ADAPTED:
            self._adapted = True
        return left

    def failed(self, call: Any, error: BaseException) -> None:
        """A call failed. That models took too long is a sign of load; that a server is away is none."""
        asked = call.call if isinstance(call, Limited) else call
        late = isinstance(asked, Infer) and isinstance(error, DeadlineExceeded)
        if late and self._adaptive is not None and self._adapted and not self._failed:
            # More than was allowed, however little of that was left for the models.
            self._adaptive.observe(self._allowed.total, self._allowed.total)
        self._failed = True

    def took(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def ended(self) -> None:
        """It came to its end."""
        if self._adaptive is not None and self._adapted and not self._failed:
            self._adaptive.observe(self.took(), self._allowed.total)
