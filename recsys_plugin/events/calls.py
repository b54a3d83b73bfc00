"""What recording asks of the outside: plain values that a blocking or an awaiting driver performs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recsys_plugin.events.event import EVENT_FIELD, RECORDED_FIELD, REPLY_FIELD

__all__ = ["AppendEvents", "Appended", "Entry", "OnDisk"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event on its way into a stream."""

    stream: str
    event: bytes
    """As :meth:`Event.encode` gives it."""
    recorded_at: int
    """Microseconds since the epoch, by the recorder's clock."""

    def command(self, token: str | None = None) -> tuple[bytes, ...]:
        """The words of the XADD; ``token`` names the list that waits for the worker's answer."""
        words = (b"XADD", self.stream.encode(), b"*", EVENT_FIELD, self.event, RECORDED_FIELD, b"%d" % self.recorded_at)
        return words if token is None else (*words, REPLY_FIELD, token.encode())


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Append entries to their streams in one round trip; answered by :class:`Appended`."""

    entries: Sequence[Entry]
    reply: tuple[str, str] | None = None
    """Token and key of the list on which the worker answers, for one entry that is waited for."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Every entry is in its stream.

    ``reply`` is what the worker said; ``None`` if nobody waits for it, or if it did not come: then ``lost`` says why,
    where that is another reason than time.
    """

    reply: bytes | None = None
    lost: str = ""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Something that waits for the disk; answered by what it returns."""

    action: Callable[[], Any]
