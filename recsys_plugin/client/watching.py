"""What goes on beside the requests, so that none of them waits for it: taking up new versions and written items."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

from recsys_plugin.errors import RecsysError
from recsys_plugin.features.item_changes import ItemChanges

__all__ = ["GATHERED", "PAUSE", "Warner", "Watcher", "watch_items", "watch_releases"]

_log = logging.getLogger("recsys_plugin")

#: Seconds in which further written items are gathered, once one came: a catalogue is written in thousands.
GATHERED = 0.02
#: Seconds until listening is tried again after it failed.
PAUSE = 1.0
#: Seconds after which a listening thread looks whether it is still wanted.
_LOOK = 0.2


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

    def close(self) -> None:
        """End the thread; what it is doing is finished first."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


def watch_releases(refresh: Callable[[], object], every: float) -> Watcher:
    """Call ``refresh``, a method of the client, every so many seconds."""
    method, warner = weakref.WeakMethod(refresh), Warner("could not look for a newer model version")

    def watch(closed: threading.Event) -> None:
        while not closed.wait(every):
            call = method()
            if call is None:
                return
            try:
                call()
                warner.worked()
            except RecsysError as error:
                if not closed.is_set():
                    warner.failed(error)
            del call

    return Watcher("recsys-releases", watch)


def watch_items(
    listen: Callable[[], ItemChanges],
    arrived: Callable[[list[bytes]], object],
    written: Callable[[list[bytes]], object],
) -> Watcher:
    """Tell a client of items as they are written.

    Args:
        listen: opens the connection that hears of them.
        arrived: a method of the client, told of all that there are whenever listening begins.
        written: a method of the client, told of those that were written since.
    """
    first, then = weakref.WeakMethod(arrived), weakref.WeakMethod(written)
    warner = Warner("could not listen for written items")

    def hear(closed: threading.Event) -> None:
        changes = listen()
        try:
            call = first()
            if call is not None:
                call(changes.everything())
            warner.worked()
            while not closed.is_set():
                del call
                keys = changes.wait(_LOOK)
                call = then()
                if call is None:
                    return
                if keys:
                    call([*keys, *changes.wait(GATHERED)])
        finally:
            changes.close()

    def watch(closed: threading.Event) -> None:
        while not closed.is_set() and then() is not None:
            try:
                hear(closed)
            except RecsysError as error:
                if not closed.is_set():
                    warner.failed(error)
                closed.wait(PAUSE)

    return Watcher("recsys-items", watch)
