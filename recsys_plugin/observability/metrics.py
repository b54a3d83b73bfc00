"""Prometheus metrics of clients, in the text format that Prometheus scrapes; needs the extra ``metrics``.

=========================================  =====================================================================
``recsys_request_seconds``                 histogram by ``shelf``: whole requests, as their callers saw them
``recsys_stage_seconds``                   histogram by ``shelf``, ``stage`` (``features``, ``inference``, ``policy``)
``recsys_requests_total``                  by ``shelf``, ``outcome`` (``answered`` or the error's name), ``level``
``recsys_version_requests_total``          answered requests by model ``version``
``recsys_empty_pages_total``               answered requests without an item, by ``shelf``
``recsys_candidates``                      histogram by ``shelf``: items considered for a page
``recsys_fallback_age_seconds``            histogram by ``level``: how old was what was fallen back on
``recsys_users_total``                     users whose features were read, by ``known``
``recsys_feature_values_total``            by ``state``: ``present``, ``missing``, ``expired``
``recsys_feature_defaults_total``          by ``feature`` and ``state``: how often its default stood in
``recsys_clients``                         clients of this process, by the ``version`` that they serve
``recsys_model_version``                   the newest version that one of them serves
``recsys_catalogue_version``               of the catalogue that goes with it
``recsys_catalogue_items``                 items of that catalogue
``recsys_new_items``                       items ranked beside it
``recsys_release_age_seconds``             since that version was taken up
``recsys_refresh_age_seconds``             since a client last found out what is to serve
``recsys_events_total``                    by ``outcome``: ``recorded``, ``spooled``, ``sent_from_spool``, ``refused``,
                                           ``failed``
``recsys_spooling``                        clients with events on the local disk
``recsys_impressions_total``               pages logged, by ``outcome``: ``written``, ``dropped``
``recsys_impressions_waiting``             pages that wait to be written
``recsys_breaker_open``                    by ``server``: clients that do not ask it at present, as it was away
``recsys_candidate_share``                 share of the candidates asked for that is considered, less under load
``recsys_clients_without_models``          clients that were opened from a snapshot and wait for their servers
``recsys_remembered_bytes``                recent answers kept for when a server fails
``recsys_snapshot_age_seconds``            since the snapshot file was written
``recsys_query_vectors``                   search queries whose vector is kept
``recsys_unobserved_requests_total``       by ``observer`` (``Metrics``, ``RequestLog``, ``Tracing``): requests that it
                                           left out, as more waited for it than may
=========================================  =====================================================================

Times are in seconds. What is counted belongs to one process.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from recsys_plugin.observability.background import BackgroundQueue
from recsys_plugin.observability.exposition import MetricsServer
from recsys_plugin.observability.families import counter, gauge, histograms, keyed
from recsys_plugin.observability.request import ClientState, FinishedRequest, Observer
from recsys_plugin.observability.statistics import RequestStatistics, Totals

__all__ = ["Metrics"]

#: Requests that may wait to be counted: more than a process answers within seconds.
_MOST_WAITING = 50_000
_State = Callable[[], ClientState | None]


class Metrics(Observer):
    """Counts requests, and shows them and the state of clients to Prometheus.

    ::

        metrics = Metrics()
        with Recommender.from_environment(observe=metrics) as recommender, metrics.serve(9464):
            …

    Args:
        registry: what the metrics are registered with; one of its own by default.
        ports: where to serve from the moment that the first client works until :meth:`close`, first free port first;
            without any, call :meth:`serve`, or show ``registry`` in a way of your own.
        address: what to listen on then.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        ports: Iterable[int] = (),
        address: str = "127.0.0.1",
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._statistics = RequestStatistics()
        # Counting many requests in a row takes a fraction of what counting each within its request would.
        self._queue: BackgroundQueue[FinishedRequest] = BackgroundQueue(
            "recsys-metrics", self._count, most=_MOST_WAITING
        )
        self._clients: dict[str, _State] = {}
        self._gone = ClientState(0)
        self._lock = threading.Lock()
        self._ports, self._address = tuple(ports), address
        self.server: MetricsServer | None = None
        """What serves them, if ``ports`` were given."""
        self.registry.register(_Collector(self))

    def finished(self, request: FinishedRequest) -> None:
        """Count a request, soon: whoever reads the metrics has it counted."""
        self._queue.offer(request)

    def follow(self, name: str, state: _State) -> None:
        """Show how a client stands.

        Raises:
            ConfigurationError: if none of the ports is free.
        """
        with self._lock:
            if self._ports and self.server is None:
                self.server = self.serve(*self._ports, address=self._address)
            self._clients[name] = state

    def leave(self, name: str) -> None:
        """What the client counted stays counted."""
        with self._lock:
            state = self._clients.pop(name, _nobody)()
            if state is not None:
                self._gone = _with_counts(self._gone, state)

    @property
    def left_out(self) -> int:
        """Requests that are not counted: more waited than may."""
        return self._queue.dropped

    def close(self) -> None:
        """Count what waits, and end what serves the metrics."""
        self._queue.close()
        with self._lock:
            server, self.server = self.server, None
        if server is not None:
            server.close()

    def serve(self, *ports: int, address: str = "127.0.0.1") -> MetricsServer:
        """Serve the metrics over HTTP, from the first of the ports that is free; 0 is any.

        Args:
            address: what to listen on: this machine only, unless you say otherwise.

        Raises:
            ConfigurationError: if none is.
        """
        return MetricsServer(self.registry, ports, address=address)

    def states(self) -> tuple[ClientState, list[ClientState]]:
        """What clients that are gone had counted, and how the others stand."""
        with self._lock:
            found = [state() for state in self._clients.values()]
            return self._gone, [state for state in found if state is not None]

    def flush(self) -> None:
        """Count what waits."""
        self._queue.flush()

    def totals(self) -> Totals:
        """What was counted of requests."""
        self.flush()
        return self._statistics.totals()

    def _count(self, requests: Sequence[FinishedRequest]) -> None:
        for request in requests:
            self._statistics.add(request)


class _Collector(Collector):
    """Makes Prometheus' families when it asks for them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Any]:
        """Nothing: names are only known to be unique."""
        return ()

    def collect(self) -> Iterator[Any]:
        """All families."""
        yield from _request_families(self._metrics.totals())
        yield from _client_families(*self._metrics.states())


def _request_families(totals: Totals) -> Iterator[Any]:
    yield histograms("recsys_request_seconds", "Whole requests.", ["shelf"], keyed(totals.seconds))
    yield histograms("recsys_stage_seconds", "Stages of requests.", ["shelf", "stage"], totals.stages.items())
    yield histograms("recsys_candidates", "Items considered for a page.", ["shelf"], keyed(totals.candidates))
    yield histograms("recsys_fallback_age_seconds", "Age of what was fallen back on.", ["level"], keyed(totals.ages))
    yield counter("recsys_requests", "Requests.", ["shelf", "outcome", "level"], totals.requests.items())
    yield counter("recsys_version_requests", "Answered requests by version.", ["version"], keyed(totals.versions))
    yield counter("recsys_empty_pages", "Answered requests without an item.", ["shelf"], keyed(totals.empty))
    users = {str(known).lower(): count for known, count in totals.users.items()}
    yield counter("recsys_users", "Users whose features were read.", ["known"], keyed(users))
    yield counter("recsys_feature_values", "Values that models were to see.", ["state"], keyed(totals.features))
    yield counter("recsys_feature_defaults", "Defaults that stood in.", ["feature", "state"], totals.defaults.items())


def _client_families(gone: ClientState, states: list[ClientState]) -> Iterator[Any]:
    serving = Counter(state.version for state in states)
    yield gauge("recsys_clients", "Clients by the version that they serve.", ["version"], keyed(serving))
    newest = max(states, key=lambda state: state.version, default=None)
    if newest is not None:
        for name, value, text in (
            ("recsys_model_version", newest.version, "Newest version that is served."),
            ("recsys_catalogue_version", newest.catalogue_version, "Version of its catalogue."),
            ("recsys_catalogue_items", newest.catalogue_items, "Items of its catalogue."),
            ("recsys_new_items", newest.new_items, "Items ranked beside the catalogue."),
            ("recsys_release_age_seconds", newest.release_seconds, "Since the version was taken up."),
            ("recsys_query_vectors", newest.query_vectors, "Queries whose vector is kept."),
        ):
            yield gauge(name, text, [], [((), value)])
        oldest = max(state.refresh_seconds for state in states)
        yield gauge("recsys_refresh_age_seconds", "Since it was looked what is to serve.", [], [((), oldest)])
    waiting_for_models = sum(state.without_models for state in states)
    yield gauge("recsys_clients_without_models", "Clients opened from a snapshot.", [], [((), waiting_for_models)])
    remembered = sum(state.remembered_bytes for state in states)
    yield gauge("recsys_remembered_bytes", "Recent answers kept for when a server fails.", [], [((), remembered)])
    servers: Counter[str] = Counter()
    for state in states:
        servers.update(state.open_breakers)
    yield gauge("recsys_breaker_open", "Clients that do not ask a server at present.", ["server"], keyed(servers))
    if states:
        share = min(state.candidate_share for state in states)
        yield gauge("recsys_candidate_share", "Share of the candidates that is considered.", [], [((), share)])
    snapshots = [state.snapshot_seconds for state in states if state.snapshot_seconds is not None]
    if snapshots:
        yield gauge("recsys_snapshot_age_seconds", "Since the snapshot was written.", [], [((), min(snapshots))])
    total = gone
    for state in states:
        total = _with_counts(total, state)
    left_out = keyed(total.unobserved)
    yield counter("recsys_unobserved_requests", "Requests that an observer left out.", ["observer"], left_out)
    yield counter("recsys_events", "Events by what became of them.", ["outcome"], keyed(total.events))
    spooling = sum(state.spooling for state in states)
    yield gauge("recsys_spooling", "Clients with events on the local disk.", [], [((), spooling)])
    pages = {"written": total.impressions_written, "dropped": total.impressions_dropped}
    yield counter("recsys_impressions", "Pages logged.", ["outcome"], keyed(pages))
    waiting = sum(state.impressions_waiting for state in states)
    yield gauge("recsys_impressions_waiting", "Pages that wait to be written.", [], [((), waiting)])


def _nobody() -> None:
    """The state of a client that nobody knows."""


def _with_counts(total: ClientState, state: ClientState) -> ClientState:
    """What only grows, added up."""
    return replace(
        total,
        events={
            outcome: total.events.get(outcome, 0) + state.events.get(outcome, 0)
            for outcome in {**total.events, **state.events}
        },
        impressions_written=total.impressions_written + state.impressions_written,
        impressions_dropped=total.impressions_dropped + state.impressions_dropped,
        # Each client tells the same of the observers that they share.
        unobserved={
            observer: max(total.unobserved.get(observer, 0), state.unobserved.get(observer, 0))
            for observer in {**total.unobserved, **state.unobserved}
        },
    )
