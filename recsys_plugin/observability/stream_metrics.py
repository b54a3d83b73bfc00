"""Prometheus metrics of the event streams, the workers and the ads, asked of Redis when they are read; needs the extra
``metrics``. `recsys stream --metrics-port` shows them.

=========================================  =====================================================================
``recsys_store_up``                        1 if Redis answered
``recsys_stream_lag_entries``              by ``partition``: events that no worker has taken in
``recsys_stream_entries``                  by ``partition``: events in the stream
``recsys_stream_unarchived_entries``       by ``partition``: events that `recsys events archive` has not taken
``recsys_stream_owned_partitions``         partitions that a worker owns, of 8
``recsys_stream_workers``                  workers that gave a sign of life
``recsys_stream_worker_deaths_total``      workers of this command that died and were started again
``recsys_stream_events_total``             by ``outcome``, since the project began: ``applied``, ``duplicate``, …
``recsys_stream_dead_letters``             what could not be taken as an event
``recsys_impression_entries``              pages in the log's stream
``recsys_impression_unarchived_entries``   of them, what `recsys events archive` has not taken
``recsys_ads_spent_micros_total``          by ``campaign``: what it spent, in millionths of the currency
=========================================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from recsys_plugin.background import Warner
from recsys_plugin.errors import ServiceUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.events.status import EventStatus, event_status
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.observability.families import counter, gauge, keyed

__all__ = ["StreamMetrics"]

_TIMEOUT = 5.0


class StreamMetrics(Collector):
    """Asks Redis whenever the metrics are read.

    Args:
        address: where Redis is. project: the Feast project.

    Attributes:
        registry: what shows them.
    """

    def __init__(self, address: RedisAddress, project: str = "recsys") -> None:
        self._address, self._project = address, project
        self._deaths = 0
        self._warner = Warner("could not read the state of the event streams")
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def worker_died(self) -> None:
        """A worker of this command died."""
        self._deaths += 1

    def describe(self) -> Iterable[Any]:
        """Nothing: names are only known to be unique."""
        return ()

    def collect(self) -> Iterator[Any]:
        """All families; without Redis only those that do not need it."""
        yield counter("recsys_stream_worker_deaths", "Workers that died.", [], [((), self._deaths)])
        try:
            status, spent = event_status(self._address, project=self._project), self._spent()
        except ServiceUnavailable as error:
            self._warner.failed(error)
            yield gauge("recsys_store_up", "Whether Redis answered.", [], [((), 0)])
            return
        self._warner.worked()
        yield gauge("recsys_store_up", "Whether Redis answered.", [], [((), 1)])
        yield from _families(status)
        yield counter("recsys_ads_spent_micros", "Spent by campaigns.", ["campaign"], keyed(spent))

    def _spent(self) -> dict[str, int]:
        with named_errors(self._address, _TIMEOUT), self._address.connect(_TIMEOUT) as client:
            found: Any = client.hgetall(EventKeys(self._project).ads_spent)
        return {campaign.decode(errors="replace"): int(micros) for campaign, micros in found.items()}


def _families(status: EventStatus) -> Iterator[Any]:
    parts = status.partitions
    for name, text, values in (
        ("lag", "Events not taken in.", {part.partition: part.lag for part in parts}),
        ("", "Events in the stream.", {part.partition: part.length for part in parts}),
        ("unarchived", "Events not archived.", {part.partition: part.not_archived for part in parts}),
    ):
        full = "_".join(filter(None, ("recsys_stream", name, "entries")))
        yield gauge(full, text, ["partition"], keyed(values))
    for name, text, value in (
        ("recsys_stream_owned_partitions", "Owned partitions.", sum(part.owner is not None for part in parts)),
        ("recsys_stream_workers", "Workers.", len(status.workers)),
        ("recsys_stream_dead_letters", "What is no event.", status.dead_letters),
        ("recsys_impression_entries", "Pages in the stream.", status.impressions),
        ("recsys_impression_unarchived_entries", "Pages not archived.", status.impressions_not_archived),
    ):
        yield gauge(name, text, [], [((), value)])
    yield counter("recsys_stream_events", "Events by outcome.", ["outcome"], keyed(status.counts))
