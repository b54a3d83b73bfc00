"""Waiting for what another process or thread brings about: looked at again and again, never slept through."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["comes_true_within", "holds_within", "standstills", "wait_until"]

_PAUSE = 0.005
#: Seconds by which a pause may be longer than it should be without the machine having stood still.
_LATE = 0.02


class _Pause:
    """A pause that begins now."""

    def __init__(self) -> None:
        self._began, self._worked = time.monotonic(), time.process_time()

    def stood_still(self) -> float:
        """Seconds that it was too long, unless this process worked meanwhile: others had the machine, or nobody."""
        late = time.monotonic() - self._began - _PAUSE - (time.process_time() - self._worked)
        return late if late > _LATE else 0.0


def holds_within(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it comes true in time, in which what the machine stood still does not count."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return bool(condition())  # the process may have been held since the last look
        pause = _Pause()
        time.sleep(_PAUSE)
        deadline += pause.stood_still()
    return True


async def comes_true_within(condition: Callable[[], Awaitable[object]], seconds: float) -> bool:
    """:func:`holds_within` for what is awaited."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() >= deadline:
            return bool(await condition())
        pause = _Pause()
        await asyncio.sleep(_PAUSE)
        deadline += pause.stood_still()
    return True


@contextmanager
def standstills() -> Iterator[Callable[[float, float], float]]:
    """To be asked after the block: how many seconds between two moments of it the machine stood still."""
    found: list[tuple[float, float]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            began, pause = time.monotonic(), _Pause()
            time.sleep(_PAUSE)
            if pause.stood_still():
                found.append((began, time.monotonic()))

    watching = threading.Thread(target=look, name="standstills")
    watching.start()
    try:
        yield lambda first, last: sum(max(0.0, min(end, last) - max(began, first)) for began, end in found)
    finally:
        over.set()
        watching.join()


def wait_until(
    condition: Callable[[], object], *, seconds: float = 20.0, process: subprocess.Popen[Any] | None = None
) -> None:
    """Wait until it is true; a failure if that takes too long, or if ``process``, which is to bring it about, ends."""

    def over() -> bool:
        ended = process is not None and process.poll() is not None  # looked at first: it may bring it about and end
        held = bool(condition())
        assert held or not ended, "the process ended too early"
        return held

    assert holds_within(over, seconds), f"it did not come about within {seconds:g} s"
