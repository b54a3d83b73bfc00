"""What goes on beside the requests, so that none of them waits for it: taking up new versions and written items."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from recsys_plugin.background import Warner, Watcher
from recsys_plugin.errors import RecsysError
from recsys_plugin.features.item_changes import ItemChanges

__all__ = ["GATHERED", "PAUSE", "watch_items", "watch_releases"]

#: Seconds in which further written items are gathered, once one came: a catalogue is written in thousands.
GATHERED = 0.02
#: Seconds until listening is tried again after it failed.
PAUSE = 1.0
#: Seconds after which a listening thread looks whether it is still wanted.
_LOOK = 0.2


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
