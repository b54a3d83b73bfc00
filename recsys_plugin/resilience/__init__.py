"""How a client behaves when servers are slow, full or away, as small values that are passed in.

``Timeout``, ``Retry``, ``Backoff``, ``Limits`` and ``LatencyTarget`` are frozen values; ``CircuitBreaker``, the gates
and ``AdaptiveShare`` hold the state of one server or one client. None of them knows Redis or Triton.
"""

from __future__ import annotations

from recsys_plugin.resilience.adaptive import AdaptiveShare, LatencyTarget
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.hedging import Hedging
from recsys_plugin.resilience.values import Backoff, Limits, Retry, Timeout

__all__ = ["AdaptiveShare", "Backoff", "CircuitBreaker", "Hedging", "LatencyTarget", "Limits", "Retry", "Timeout"]
