"""Work that takes the processor rather than a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

from recsys_plugin.errors import DeadlineExceeded

__all__ = ["Offload", "awaited", "offloaded"]


@dataclass(frozen=True, slots=True)
class Offload:
    """Work of more than a few milliseconds. A thread does it, and who asked waits no longer than he may.

    Answer: what it returns.
    """

    work: Callable[[], object]


def offloaded(call: Offload, *, seconds: float) -> object:
    """What the work comes to.

    Raises:
        DeadlineExceeded: if it takes longer than so many seconds; it is then finished for nobody.
    """
    answers: list[object] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call.work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="recsys-offload", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise _too_long(seconds)
    return answers[0]


async def awaited(call: Offload, *, seconds: float) -> object:
    """:func:`offloaded` for an event loop."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.to_thread(call.work)
    except TimeoutError as error:
        raise _too_long(seconds) from error


def _too_long(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"making a version ready takes longer than the {seconds * 1000:.0f} ms that are left")
