"""Work that takes the processor rather than a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Offload"]


@dataclass(frozen=True, slots=True)
class Offload:
    """Work of more than a few milliseconds; an event loop lets a thread do it. Answer: what it returns."""

    work: Callable[[], object]
