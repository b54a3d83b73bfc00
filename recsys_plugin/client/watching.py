"""What goes on beside the requests, so that none of them waits for it: taking up new versions and written items."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable

from recsys_plugin.background import Warner, Watcher
from recsys_plugin.errors import RecsysError
from recsys_plugin.features.item_changes import ItemChanges

__all__ = ["GATHERED", "LOOK", "Listening", "watch_items", "watch_releases"]

#: Seconds in which further written items are gathered, once one came: a catalogue is written in thousands.
GATHERED = 0.02
#: Seconds after which one that listens looks whether it is still wanted.
LOOK = 0.2
#: Seconds until listening is tried again after it failed, on average.
_PAUSE = 1.0
#: Seconds over which the clients that heard nothing for a while read all items again.
_SPREAD = 4.0


class Listening:
    """When a client listens again after it failed, and when it reads all items: not at the moment all others do.

    All clients of a server lose it at once. Were they to come back at once too, their reading would keep a server that
    just started, and their own processes, from the requests.

    Args:
        random: gives numbers evenly from 0 to 1. timer: seconds that only run forward.
    """

    def __init__(
        self, random: Callable[[], float] = random.random, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._random, self._timer = random, timer
        self._failed = False
        self._due: float | None = None

    def began(self, *, polls: bool) -> None:
        """It listens: all items are to be read, at once for the first time, and where only that tells of new ones."""
        at_once = not self._failed or polls
        self._due = self._timer() + (0.0 if at_once else _SPREAD * self._random())

    def is_due(self) -> bool:
        """Whether all items are to be read now; true once for each beginning."""
        due = self._due is not None and self._timer() >= self._due
        if due:
            self._due = None
        return due

    def failed(self) -> float:
        """It listens no more; seconds until the next attempt."""
        self._failed = True
        return _PAUSE * (0.5 + self._random())


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
    warner, listening = Warner("could not listen for written items"), Listening()

    def hear(closed: threading.Event) -> None:
        changes = listen()
        try:
            listening.began(polls=changes.polls)
            warner.worked()
            while not closed.is_set():
                if listening.is_due() and (call := first()) is not None:
                    call(changes.everything())
                call = None  # lest it keep its client while nothing is heard
                keys = changes.wait(LOOK)
                if (call := then()) is None:
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
                closed.wait(listening.failed())

    return Watcher("recsys-items", watch)
