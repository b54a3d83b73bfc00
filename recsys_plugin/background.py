"""Work beside the requests: a thread that ends with its owner, and warnings that do not repeat themselves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from recsys_plugin.errors import RecsysError

__all__ = ["Warner", "Watcher"]

_log = logging.getLogger("recsys_plugin")


class Warner:
    """Logs that something beside the requests does not work: once for each reason, until it works again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said: type[RecsysError] | None = None

    def failed(self, error: RecsysError) -> None:
        """Say why, unless that was said last."""
        if self._said is not type(error):
            _log.warning("%s, goes on as before: %s", self._what, error)
        self._said = type(error)

    def worked(self) -> None:
        """From now on, the same reason is news again."""
        self._said = None


class Watcher:
    """A thread that runs until :meth:`close`, or until its client is gone.

    Args:
        name: of the thread.
        watch: what it does; it is given the event that ends it.
    """

    def __init__(self, name: str, watch: Callable[[threading.Event], None]) -> None:
        self._closed = threading.Event()
        self._thread = threading.Thread(target=watch, args=(self._closed,), name=name, daemon=True)
        self._thread.start()

    def close(self, patience: float | None = None) -> None:
        """End the thread; what it is doing is finished first, for which so many seconds are waited, or all it takes."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join(patience)
