"""How a client stands, for its observers: asked when metrics are read, never within a request."""

from __future__ import annotations

import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from recsys_plugin.client.fallback import Remembered
from recsys_plugin.client.observing import Watch
from recsys_plugin.client.release import Release
from recsys_plugin.client.snapshots import Snapshots
from recsys_plugin.impressions.log import ImpressionWriter
from recsys_plugin.observability.request import ClientState, Observers
from recsys_plugin.query.recent import Recent
from recsys_plugin.resilience.adaptive import AdaptiveShare
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.values import Timeout

__all__ = ["Observed"]


class Observed(ABC):
    """A part of a client: what it shows of itself."""

    _observer: Observers | None
    _allowed: Timeout
    """What a request may take, unless it says otherwise."""
    _name: str
    _release: Release | None
    _is_open = False
    """Whether it got ready, so that it can be asked how it stands."""
    _refreshed: float
    """When it last found out what is to serve, a moment of ``time.monotonic``."""
    _impressions: ImpressionWriter | None
    _query_vectors: Recent[Any, Any]
    _snapshots: Snapshots
    _memory: Remembered
    _adaptive: AdaptiveShare | None

    @property
    @abstractmethod
    def _recorded(self) -> tuple[Mapping[str, int], bool]:
        """How many events were recorded, by what became of them, and whether any wait on the local disk."""

    @property
    @abstractmethod
    def _breakers(self) -> Mapping[str, CircuitBreaker]:
        """Server → what says whether it is asked at present."""

    def _state(self) -> ClientState:
        """How the client stands, for its observer."""
        release, now = self._release, time.monotonic()
        events, spooling = self._recorded
        log = self._impressions
        return ClientState(
            version=0 if release is None else release.version,
            catalogue_version=0 if release is None else release.catalogue.version,
            catalogue_items=0 if release is None else len(release.catalogue),
            new_items=0 if release is None else len(release.new_items),
            release_seconds=0.0 if release is None else now - release.taken_up,
            refresh_seconds=now - self._refreshed,
            events=events,
            spooling=spooling,
            impressions_written=0 if log is None else log.written,
            impressions_dropped=0 if log is None else log.dropped,
            impressions_waiting=0 if log is None else log.waiting,
            query_vectors=len(self._query_vectors),
            snapshot_seconds=self._snapshots.age,
            without_models=release is not None and release.is_snapshot,
            remembered_bytes=self._memory.bytes,
            open_breakers={server: int(breaker.state != "closed") for server, breaker in self._breakers.items()},
            candidate_share=1.0 if self._adaptive is None else self._adaptive.share,
            unobserved={} if self._observer is None else self._observer.left_out_by,
        )

    def _watched(self, observer: Observers, timeout: float | Timeout | None) -> Watch:
        """Watches a request that may take so long."""
        allowed = self._allowed if timeout is None else Timeout.of(timeout, self._allowed)
        return Watch(observer, allowed.total)

    def _follow(self) -> None:
        """Tell the observer that there are requests from now on."""
        if self._observer is not None:
            self._observer.follow(self._name, _weakly(self))

    def _leave(self) -> None:
        """Tell the observer that there are no more requests."""
        if self._observer is not None:
            self._observer.leave(self._name)


def _weakly(client: Observed) -> Callable[[], ClientState | None]:
    """How a client stands, for as long as there is one."""
    reference = weakref.ref(client)

    def state() -> ClientState | None:
        alive = reference()
        return alive._state() if alive is not None and alive._is_open else None

    return state
