"""The one place where a client tells what it does: once for each request, when it is over, with all it knows of it.

Whoever wants to know is an :class:`Observer`. A client without one does nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from recsys_plugin.background import Warner
from recsys_plugin.errors import InvalidInput, RecsysError
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.observability.trace import Trace

__all__ = ["ANSWERED", "FULL", "ClientState", "FinishedRequest", "Observer", "Observers", "join"]

#: The outcome of a request that got its pages.
ANSWERED = "answered"
#: The level of a page that was made as intended.
FULL = "full"


@dataclass(slots=True)
class FinishedRequest:
    """A call to a client that is over. It is made for every request, so whoever wants more of it works that out."""

    shelf: str
    """What was asked for: ``recommend``, ``rank``, ``search``, ``similar``, …"""
    request_id: str
    """As on the page; empty if the request failed before it had one."""
    started_at: float
    """Unix seconds."""
    started: float
    """The same moment of the timer that segments of the trace count in."""
    seconds: float
    """From call to answer, as the caller saw it."""
    stages: Mapping[str, float]
    """Stage → seconds."""
    outcome: str
    """:data:`ANSWERED`, or the name of the error's class."""
    error: BaseException | None = None
    level: str = FULL
    """How good an answer it was: :data:`FULL`, or what was fallen back on."""
    reason: str = ""
    """Why it was not a full one."""
    fallback_age: float | None = None
    """Seconds since what was fallen back on was got from the servers; ``None`` where that does not matter."""
    version: int = 0
    """The model version; 0 if none was chosen yet."""
    catalogue_version: int = 0
    contract: str | None = None
    timeout: float = 0.0
    """Seconds that were allowed."""
    users: Sequence[str] = ()
    """Whose pages they are: raw ids, which belong in no log."""
    features: Sequence[FeatureReport] = ()
    """For each user whose features were read."""
    items: int = 0
    """How many items the pages hold."""
    candidates: int = 0
    """How many items were considered for each page; 0 where that was not told."""
    trace: Trace | None = None
    """If the request was sampled for tracing."""

    def told(self, name: Callable[[str], str]) -> tuple[str, str]:
        """The error's message and the reason, without the ids of the request's users, which appear quoted in them.

        What the caller got wrong is left out: the message would hold what he gave, and he has it.

        Args:
            name: user id → what to put in its place.
        """
        message = "" if self.error is None or isinstance(self.error, InvalidInput) else str(self.error)
        return self._without_users(message, name), self._without_users(self.reason, name)

    def _without_users(self, text: str, name: Callable[[str], str]) -> str:
        for user in self.users:
            text = text.replace(repr(user), name(user))
        return text


@dataclass(frozen=True, slots=True)
class ClientState:
    """How a client stands at a moment; asked for when metrics are read."""

    version: int
    """What it serves; 0 before it has loaded anything."""
    catalogue_version: int = 0
    catalogue_items: int = 0
    new_items: int = 0
    """Items that it ranks beside the catalogue."""
    release_seconds: float = 0.0
    """Since it took up what it serves."""
    refresh_seconds: float = 0.0
    """Since it last looked for another version, and found the servers answering."""
    events: Mapping[str, int] = field(default_factory=dict)
    """Events recorded so far, by what became of them."""
    spooling: bool = False
    """Whether events wait on the local disk."""
    impressions_written: int = 0
    impressions_dropped: int = 0
    impressions_waiting: int = 0
    query_vectors: int = 0
    """Queries whose vector is kept."""
    snapshot_seconds: float | None = None
    """The age of the file from which a client opens while no server answers; ``None`` if there is none."""
    without_models: bool = False
    """Whether it was opened from such a file, and waits for its servers."""
    remembered_bytes: int = 0
    """What it keeps of recent answers for when a server fails."""
    open_breakers: Mapping[str, int] = field(default_factory=dict)
    """Server → 1 if calls to it are refused at present, else 0."""
    candidate_share: float = 1.0
    """The share of the candidates asked for that it considers at present."""
    unobserved: Mapping[str, int] = field(default_factory=dict)
    """Observer → requests that it left out, as more waited for it than may; of all clients that share it."""


class Observer:
    """Told of requests; this one does nothing. Its methods are called from the threads that make requests, never wait,
    and must be quick."""

    def begin(self) -> Trace | None:
        """A request begins: whether it is traced."""
        return None

    def finished(self, request: FinishedRequest) -> None:
        """A request is over."""

    def follow(self, name: str, state: Callable[[], ClientState | None]) -> None:
        """A client begins to work.

        Args:
            name: of the client, unique.
            state: tells how it stands; ``None`` once it is gone.
        """

    def leave(self, name: str) -> None:
        """That client ended."""

    @property
    def left_out(self) -> int:
        """Requests that it left out, as more waited for it than may."""
        return 0

    def flush(self) -> None:
        """Deal with all requests so far, if that is done in another thread."""

    def close(self) -> None:
        """Write what waits, and let go of everything. Whoever made the observer calls it, after the clients ended."""


class Observers(Observer):
    """Several observers as one. What one of them raises is logged once and keeps nobody from answering."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        self._tracing = tuple(observer for observer in observers if type(observer).begin is not Observer.begin)
        self._warner = Warner("could not observe a request")

    def begin(self) -> Trace | None:
        """The trace of the first that traces it."""
        for observer in self._tracing:
            try:
                trace = observer.begin()
            except Exception as error:  # a page must not fail because somebody watches
                self._failed(observer, error)
            else:
                if trace is not None:
                    return trace
        return None

    def finished(self, request: FinishedRequest) -> None:
        """Tell each."""
        for observer in self._observers:
            try:
                observer.finished(request)
            except Exception as error:  # as above
                self._failed(observer, error)

    def _failed(self, observer: Observer, error: Exception) -> None:
        self._warner.failed(RecsysError(f"{type(observer).__name__}: {type(error).__name__}: {error}"))

    def follow(self, name: str, state: Callable[[], ClientState | None]) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.follow(name, state)

    def leave(self, name: str) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.leave(name)

    @property
    def left_out(self) -> int:
        """Of all of them together."""
        return sum(self.left_out_by.values())

    @property
    def left_out_by(self) -> Mapping[str, int]:
        """Kind of observer → requests that it left out."""
        counts: dict[str, int] = {}
        for observer in self._observers:
            kind = type(observer).__name__
            counts[kind] = counts.get(kind, 0) + observer.left_out
        return counts

    def flush(self) -> None:
        """Have each deal with all requests so far."""
        for observer in self._observers:
            observer.flush()

    def close(self) -> None:
        """Close each."""
        for observer in self._observers:
            observer.close()


def join(observers: Observer | Sequence[Observer]) -> Observers | None:
    """One or several observers as one that raises nothing; ``None`` for none."""
    if isinstance(observers, Observers):
        return observers
    several = [observers] if isinstance(observers, Observer) else observers
    return Observers(several) if several else None
