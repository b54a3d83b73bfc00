"""A queue that requests fill and a thread empties: nobody waits for what is done with its contents."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from recsys_plugin.background import Warner, Watcher
from recsys_plugin.errors import RecsysError

__all__ = ["BackgroundQueue"]

_log = logging.getLogger("recsys_plugin")

_Item = TypeVar("_Item")

#: Seconds between two looks at the queue: requests need not wake anyone.
_PAUSE = 0.1
#: Seconds between two batches. A thread that wants the interpreter's lock is woken too late to get it if this one only
#: lets go of it for a moment, and would have it after five milliseconds (``sys.getswitchinterval``).
_BREATH = 0.0001


class BackgroundQueue(Generic[_Item]):
    """Takes things from requests and hands them to ``work``, some at a time, in another thread.

    Args:
        name: of the thread.
        work: may raise :class:`RecsysError`; what it was given is then lost, and it is logged why, once.
        most: things that may wait; further ones are dropped, counted, and logged once.
        batch: things handed over at a time; work on them should not take longer than a request may be held up.

    Attributes:
        dropped: how many were dropped.
    """

    def __init__(
        self, name: str, work: Callable[[Sequence[_Item]], None], *, most: int = 2_000, batch: int = 50
    ) -> None:
        self._name, self._work, self._most, self._batch = name, work, most, batch
        self._waiting: deque[_Item] = deque()
        self._working, self._starting = threading.Lock(), threading.Lock()
        self._watcher: Watcher | None = None
        self._warner = Warner(f"{name} could not be written")
        self.dropped = 0

    def offer(self, item: _Item) -> None:
        """Take something; never waits."""
        if self._watcher is None:
            with self._starting:
                self._watcher = self._watcher or _watch(self._name, self)
        if len(self._waiting) >= self._most:
            if self.dropped == 0:
                _log.warning("%s: more than %d requests wait: further ones are left out", self._name, self._most)
            self.dropped += 1
        else:
            self._waiting.append(item)

    def flush(self) -> None:
        """Hand over everything that waits."""
        with self._working:
            while self._waiting:
                items = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
                try:
                    self._work(items)
                    self._warner.worked()
                except RecsysError as error:
                    self._warner.failed(error)
                time.sleep(_BREATH)

    def close(self) -> None:
        """Hand over what waits, and end the thread; a later :meth:`offer` starts another."""
        with self._starting:
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        self.flush()


def _watch(name: str, queue: BackgroundQueue[_Item]) -> Watcher:
    reference = weakref.ref(queue)

    def watch(closed: threading.Event) -> None:
        while not closed.wait(_PAUSE):
            alive = reference()
            if alive is None:
                return
            alive.flush()
            del alive

    return Watcher(name, watch)
