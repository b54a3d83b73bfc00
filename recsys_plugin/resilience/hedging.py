"""When to ask a second server the same, because the first takes unusually long.

After Dean and Barroso, "The Tail at Scale" (Communications of the ACM, 2013): a second request once the first has taken
longer than the 95th percentile of expected latencies shortens the tail a lot for some per cent of further load.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

from recsys_plugin.errors import InvalidInput

__all__ = ["Hedges", "Hedging"]

#: Latencies that the percentile is taken of, how many there must be, and after how many it is worked out anew.
_KEPT, _ENOUGH, _EVERY = 256, 32, 16


@dataclass(frozen=True, slots=True)
class Hedging:
    """How second requests are made.

    Args:
        percentile: of recent latencies; a request that takes longer is made once more, of another server.
        share: of requests that may be made once more, in the long run.
        burst: how many may be so at once, saved up while none was.
        least: seconds that any request may take before it is made once more.
        time: the share of the time left after which it is done at the latest, and while little is known of latencies.

    Raises:
        InvalidInput: if one of them makes no sense.
    """

    percentile: float = 95.0
    share: float = 0.05
    burst: int = 10
    least: float = 0.002
    time: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.percentile < 100:
            raise InvalidInput(f"hedging: percentile {self.percentile!r} is not between 0 and 100")
        if not 0 <= self.share <= 1:
            raise InvalidInput(f"hedging: share {self.share!r} is not from 0 to 1")
        if isinstance(self.burst, bool) or not isinstance(self.burst, int) or self.burst < 0:
            raise InvalidInput(f"hedging: burst {self.burst!r} is not a whole number of 0 or more")
        if not 0 < self.least < math.inf:
            raise InvalidInput(f"hedging: least {self.least!r} is not a number of seconds above 0")
        if not 0 < self.time < 1:
            raise InvalidInput(f"hedging: time {self.time!r} is not between 0 and 1")


class Hedges:
    """The latencies and the budget of one client; safe to share between threads."""

    def __init__(self, hedging: Hedging) -> None:
        self._hedging = hedging
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=_KEPT)
        self._observed = 0
        self._usual = math.inf
        self._saved = float(hedging.burst)
        self.made = 0
        """How many second requests there were."""

    def delay(self, left: float) -> float:
        """Seconds after which a request that may take so many more is made once more."""
        return min(max(self._usual, self._hedging.least), left * self._hedging.time)

    @property
    def left(self) -> bool:
        """Whether the budget has one left."""
        return self._saved >= 1.0

    def allows(self) -> bool:
        """Whether one may be made now; it then is taken from the budget."""
        with self._lock:
            if self._saved < 1.0:
                return False
            self._saved -= 1.0
            self.made += 1
            return True

    def observe(self, seconds: float) -> None:
        """A request was answered after so many seconds."""
        with self._lock:
            self._saved = min(float(self._hedging.burst), self._saved + self._hedging.share)
            self._latencies.append(seconds)
            self._observed += 1
            if self._observed % _EVERY == 0 and self._observed >= _ENOUGH:
                ordered = sorted(self._latencies)
                place = math.ceil(len(ordered) * self._hedging.percentile / 100.0) - 1
                self._usual = ordered[place]
