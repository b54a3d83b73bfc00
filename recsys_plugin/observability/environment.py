"""What environment variables ask for: one set of observers for all clients of a process that are made from them.

=================================  ===============================================================================
``RECSYS_METRICS_PORT``            Prometheus metrics on loopback, see :mod:`recsys_plugin.observability.metrics`
``RECSYS_REQUEST_LOG``             slow and degraded requests, see :mod:`recsys_plugin.observability.request_log`
``OTEL_EXPORTER_OTLP_ENDPOINT``    traces, see :mod:`recsys_plugin.observability.tracing`; so do the other variables
                                   that OpenTelemetry defines, ``OTEL_SDK_DISABLED`` among them
=================================  ===============================================================================

Metrics and traces need the extras ``metrics`` and ``tracing``; without them it is logged that they are missing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence

from recsys_plugin.observability.request import ClientState, Observer, Observers
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings

__all__ = ["observer_from_settings"]

_log = logging.getLogger("recsys_plugin")

_Key = tuple[object, ...]
_shared: dict[_Key, _Shared] = {}
_lock = threading.Lock()


class _Shared(Observers):
    """Observers that end with the last client that they follow."""

    def __init__(self, key: _Key, observers: Sequence[Observer]) -> None:
        super().__init__(observers)
        self._key = key
        self._followed: set[str] = set()

    def follow(self, name: str, state: Callable[[], ClientState | None]) -> None:
        with _lock:
            self._followed.add(name)
        super().follow(name, state)

    def leave(self, name: str) -> None:
        super().leave(name)
        with _lock:
            self._followed.discard(name)
            last = not self._followed and _shared.get(self._key) is self
            if last:
                del _shared[self._key]
        if last:
            self.close()


def observer_from_settings(settings: Settings) -> Observer | None:
    """What the settings ask for, the same for every client of this process; it ends when the last of them is closed.

    Raises:
        ConfigurationError: if what they say cannot be done.
    """
    key: _Key = (settings.metrics_ports, settings.request_log, settings.traces_endpoint, settings.pseudonym_key)
    if not any(key[:3]):
        return None
    with _lock:
        found = _shared.get(key)
    if found is not None:
        return found
    pseudonyms = None if settings.pseudonym_key is None else Pseudonyms(settings.pseudonym_key)
    observers: list[Observer] = []
    if settings.request_log is not None:
        from recsys_plugin.observability.request_log import RequestLog  # seldom wanted, and every client imports this

        observers.append(RequestLog(settings.request_log, pseudonyms=pseudonyms))
    if settings.metrics_ports and (metrics := _metrics(settings.metrics_ports)) is not None:
        observers.append(metrics)
    if settings.traces_endpoint is not None and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
        tracing = _tracing(settings.traces_endpoint)
        if tracing is not None:
            observers.append(tracing)
    if not observers:
        return None
    with _lock:
        return _shared.setdefault(key, _Shared(key, observers))


def _metrics(ports: Sequence[int]) -> Observer | None:
    try:
        from recsys_plugin.observability.metrics import Metrics
    except ModuleNotFoundError as error:
        _log.warning("no metrics: RECSYS_METRICS_PORT needs %s: pip install 'recsys-plugin[metrics]'", error.name)
        return None
    return Metrics(ports=ports)


def _tracing(endpoint: str) -> Observer | None:
    try:
        from recsys_plugin.observability.tracing import tracing_to
    except ModuleNotFoundError as error:
        _log.warning("no traces to %s: they need %s: pip install 'recsys-plugin[tracing]'", endpoint, error.name)
        return None
    return tracing_to(endpoint)
