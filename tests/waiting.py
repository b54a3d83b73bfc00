"""Waiting for what another process or thread brings about: looked at again and again, never slept through."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

__all__ = ["holds_within", "wait_until"]

_PAUSE = 0.005


def holds_within(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE)
    return True


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
