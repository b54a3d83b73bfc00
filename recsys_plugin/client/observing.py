"""From a request to what an observer is told of it, once it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import GeneratorType, MappingProxyType, TracebackType
from typing import Self, TypeVar, get_args

from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.fallback import Level
from recsys_plugin.client.results import Page
from recsys_plugin.observability.request import ANSWERED, FULL, FinishedRequest, Observer

__all__ = ["Watch"]

_Flow = TypeVar("_Flow")
_Ask = Callable[[RequestContext, Iterable[object]], _Flow]

#: The shelf of a request that failed before it was begun, such as one that had to wait for its turn in vain.
_UNKNOWN = "unknown"
#: Of a request that failed before it was begun.
_NO_STAGES: Mapping[str, float] = MappingProxyType({})
#: The best first.
_LEVELS = get_args(Level)
#: Flow → the shelf that its pages belong to, where that is called otherwise.
_SHELVES = {"similar_items": "similar"}


class Watch:
    """One request that is observed, as a context manager; give it the pages before it ends.

    Args:
        observer: told when the request is over.
        timeout: seconds that the request was allowed.
    """

    __slots__ = (
        "_context",
        "_flow",
        "_observer",
        "_over",
        "_started",
        "_started_at",
        "_timeout",
        "_trace",
        "_users",
        "pages",
    )

    def __init__(self, observer: Observer, timeout: float) -> None:
        self._observer, self._timeout = observer, timeout
        self._context: RequestContext | None = None
        self._flow: object = None
        self._over = False
        self._users: Iterable[object] = ()
        self._trace = observer.begin()
        self.pages: Sequence[Page] = ()
        self._started_at, self._started = time.time(), time.perf_counter()

    def over(self, ask: _Ask[_Flow]) -> _Ask[_Flow]:
        """The same request, whose contexts are known here."""

        def watched(context: RequestContext, users: Iterable[object]) -> _Flow:
            if self._over:  # a shadow's request, which nobody waits for
                return ask(context, users)
            self._context, context.trace, self._users = context, self._trace, users
            self._flow = flow = ask(context, users)
            return flow

        return watched

    def __enter__(self) -> Self:
        """The watch itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The request is over."""
        seconds = time.perf_counter() - self._started
        context, pages, self._over = self._context, self.pages, True
        outcome = ANSWERED if error is None else type(error).__name__
        finished = FinishedRequest(_UNKNOWN, "", self._started_at, self._started, seconds, _NO_STAGES, outcome, error)
        finished.timeout, finished.trace = self._timeout, self._trace
        if context is not None:
            finished.request_id, finished.stages = context.request_id, context.stages
            if context.considered is not None:
                finished.candidates = context.considered
            if not pages:  # they say it themselves
                finished.version = context.release.version
                finished.catalogue_version = context.release.catalogue.version
        if pages:
            _tell_pages(finished, pages)
        else:
            if isinstance(self._flow, GeneratorType):
                finished.shelf = _SHELVES.get(self._flow.__name__, self._flow.__name__)
            if error is not None and isinstance(self._users, list | tuple):
                finished.users = [str(user) for user in self._users]
        self._observer.finished(finished)


def _tell_pages(finished: FinishedRequest, pages: Sequence[Page]) -> None:
    """What the pages say of their request."""
    page = pages[0]
    served, fallback = page.served_by, page.fallback
    finished.shelf, finished.request_id, finished.contract = served.model, page.request_id, served.contract
    finished.version, finished.catalogue_version = served.version, served.catalogue_version
    if len(pages) == 1:  # as most requests have it
        finished.items = len(page.items)
        finished.users = [] if page.user_id is None else [page.user_id]
        finished.features = [] if page.features is None else [page.features]
    else:
        finished.items = sum(map(len, pages))
        finished.users = [page.user_id for page in pages if page.user_id is not None]
        finished.features = [page.features for page in pages if page.features is not None]
        # Of several pages the worst tells how the request went.
        fallback = max((page.fallback for page in pages), key=lambda fallback: _LEVELS.index(fallback.level))
    if fallback.level != FULL:
        finished.level, finished.reason, finished.fallback_age = fallback.level, fallback.reason, fallback.age
