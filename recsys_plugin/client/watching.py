"""Taking up new versions between requests, so that no request waits for one to load."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from recsys_plugin.errors import RecsysError

__all__ = ["ReleaseWatcher", "Warner"]

_log = logging.getLogger("recsys_plugin")


class Warner:
    """Logs that new versions cannot be looked for: once for each reason, until it works again."""

    def __init__(self) -> None:
        self._said: type[RecsysError] | None = None

    def failed(self, error: RecsysError) -> None:
        """Say why, unless that was said last."""
        if self._said is not type(error):
            _log.warning("could not look for a newer model version, goes on with the present one: %s", error)
        self._said = type(error)

    def worked(self) -> None:
        """From now on, the same reason is news again."""
        self._said = None


class ReleaseWatcher:
    """A thread that calls ``refresh`` every so many seconds; it ends with :meth:`close`, or with its client.

    Args:
        refresh: a method of the client, which is not kept alive by it.
        every: seconds between two calls.
    """

    def __init__(self, refresh: Callable[[], object], every: float) -> None:
        self._refresh = weakref.WeakMethod(refresh)
        self._every = every
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="recsys-release-watcher", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        warner = Warner()
        while not self._closed.wait(self._every):
            refresh = self._refresh()
            if refresh is None:
                return
            try:
                refresh()
                warner.worked()
            except RecsysError as error:
                if not self._closed.is_set():
                    warner.failed(error)
            del refresh

    def close(self) -> None:
        """End the thread; what it is doing is finished first."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
