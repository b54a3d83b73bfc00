"""What a shop can see of its recommender: metrics, traces, logs, and why a page was slow or degraded.

A client is given observers (``Recommender(…, observe=[…])``) and tells them of each request once it is over:

- :class:`~recsys_plugin.observability.metrics.Metrics`: Prometheus (extra ``metrics``)
- :class:`~recsys_plugin.observability.tracing.Tracing`: OpenTelemetry (extra ``tracing``)
- :class:`~recsys_plugin.observability.request_log.RequestLog`: slow and degraded requests, for `recsys doctor`
- :class:`~recsys_plugin.observability.logs.LogRequests`: structured logs

or one of your own, which derives from :class:`Observer`.
"""

from __future__ import annotations

from recsys_plugin.observability.request import ClientState, FinishedRequest, Observer

__all__ = ["ClientState", "FinishedRequest", "Observer"]
