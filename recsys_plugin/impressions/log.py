"""Logging pages beside the requests: a request appends to a queue, a thread writes what is in it."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from recsys_plugin.background import Warner, Watcher
from recsys_plugin.errors import InvalidInput, RecsysError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.impressions.document import ServedPage

__all__ = ["PAGE_FIELD", "ImpressionLog", "ImpressionWriter", "sampled"]

_log = logging.getLogger("recsys_plugin")

#: Field of a stream entry that holds the document.
PAGE_FIELD = b"page"

#: Seconds between two looks at the queue: requests need not wake anyone.
_PAUSE = 0.05
#: Pages written in one round trip; few, because requests wait for the interpreter's lock meanwhile.
_BATCH = 50
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class ImpressionLog:
    """How pages are logged.

    Args:
        sample: share of pages that are logged.
        candidates_sample: share of logged pages with everything they were chosen from, scores included.
        features_sample: share of logged pages with the user's features as served.
        seed: of the draws. A draw depends on seed and request id only, so the pages of a request are drawn together.
        most_waiting: pages that may wait to be written; further ones are dropped and counted.
        most_kept: pages that the stream keeps, about, if nobody archives them; the oldest go first.

    Raises:
        InvalidInput: if a share is not from 0 to 1, or a number is not above 0.
    """

    sample: float = 1.0
    candidates_sample: float = 0.01
    features_sample: float = 0.01
    seed: int = 0
    most_waiting: int = 2_000
    most_kept: int = 200_000

    def __post_init__(self) -> None:
        for name in ("sample", "candidates_sample", "features_sample"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInput(f"impressions: {name} {getattr(self, name)} is not a share from 0 to 1")
        for name in ("most_waiting", "most_kept"):
            if getattr(self, name) <= 0:
                raise InvalidInput(f"impressions: {name} {getattr(self, name)} is not above 0")


def sampled(request_id: str, share: float, *, seed: int, draw: str) -> bool:
    """Whether a request is in a sample: the same on every machine; ``draw`` keeps samples independent."""
    if share >= 1.0:
        return True
    digest = blake2b(f"{seed}:{draw}:{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


class ImpressionWriter:
    """Takes pages from requests and writes them to the stream; safe to share between threads.

    Args:
        redis_url: see :mod:`recsys_plugin.features.connection`.
        log: what is logged.
        project: the Feast project.

    Attributes:
        dropped: pages that were not logged because too many waited.
        written: pages that Redis acknowledged.
    """

    def __init__(self, redis_url: str, log: ImpressionLog, *, project: str = "recsys") -> None:
        self._address = RedisAddress.parse(redis_url)
        self._settings, self._stream = log, EventKeys(project).impressions
        self._waiting: deque[ServedPage] = deque()
        self._unsent: list[bytes] = []
        self._client: Any = None
        self._writing = threading.Lock()
        self._warner = Warner("could not write impressions")
        self.dropped = self.written = 0
        self._watcher: Watcher | None = None
        self._starting = threading.Lock()

    def offer(self, pages: Sequence[ServedPage]) -> None:
        """Take pages that were served; never waits."""
        settings = self._settings
        if self._watcher is None:
            with self._starting:
                self._watcher = self._watcher or _watch(self)
        for page in pages:
            if settings.sample < 1.0 and not sampled(page.request_id, settings.sample, seed=settings.seed, draw="page"):
                continue
            if len(self._waiting) >= settings.most_waiting:
                if self.dropped == 0:
                    _log.warning("more than %d pages wait to be logged: further ones are dropped", len(self._waiting))
                self.dropped += 1
            else:
                self._waiting.append(page)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            StoreUnavailable, DeadlineExceeded: if Redis does not take it; it goes on waiting.
        """
        with self._writing, named_errors(self._address, _TIMEOUT):
            while self._waiting or self._unsent:
                if not self._unsent:
                    pages = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                    self._unsent = []
                    for page in pages:
                        self._unsent.append(self._encoded(page))
                        # Let go of the interpreter's lock, which requests would get after five milliseconds otherwise.
                        time.sleep(0)
                if self._client is None:
                    self._client = self._address.connect(_TIMEOUT)
                pipeline = self._client.pipeline(transaction=False)
                for document in self._unsent:
                    pipeline.xadd(self._stream, {PAGE_FIELD: document}, maxlen=self._settings.most_kept)
                pipeline.execute()
                # A call that failed may have been carried out: then pages are there twice, and the join takes one.
                self.written += len(self._unsent)
                self._unsent = []

    @property
    def waiting(self) -> int:
        """Pages that wait to be written."""
        return len(self._waiting) + len(self._unsent)

    def close(self) -> None:
        """Write what waits and end; what Redis does not take is lost, and said."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        try:
            self.flush()
        except RecsysError as error:
            lost = len(self._waiting) + len(self._unsent)
            _log.warning("%d pages were not logged: %s", lost, error)
        if self._client is not None:
            self._client.close()
            self._client = None

    def attempt(self) -> None:
        """:meth:`flush`, a failure logged once."""
        try:
            self.flush()
            self._warner.worked()
        except RecsysError as error:
            self._warner.failed(error)

    def _encoded(self, page: ServedPage) -> bytes:
        settings = self._settings

        def drawn(share: float, draw: str) -> bool:
            return sampled(page.request_id, share, seed=settings.seed, draw=draw)

        return page.encode(
            with_candidates=drawn(settings.candidates_sample, "candidates"),
            with_features=drawn(settings.features_sample, "features"),
        )


def _watch(writer: ImpressionWriter) -> Watcher:
    reference = weakref.ref(writer)

    def watch(closed: threading.Event) -> None:
        while not closed.wait(_PAUSE):
            alive = reference()
            if alive is None:
                return
            alive.attempt()
            del alive

    return Watcher("recsys-impressions", watch)
