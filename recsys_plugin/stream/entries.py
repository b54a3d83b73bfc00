"""What workers read from the streams, and what they write in one transaction."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from recsys_plugin.events.keys import EventKeys

__all__ = ["GROUP", "Entry", "Transaction"]

#: The consumer group of the workers, on every stream that they read.
GROUP = "profiles"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream.

    Attributes:
        stream: key of the stream. partition: its number. id: of the entry. fields: as they are in Redis.
        deliveries: how often it was handed to a worker, this time included.
    """

    stream: str
    partition: int
    id: bytes
    fields: dict[bytes, bytes]
    deliveries: int = 1


class Transaction:
    """Commands that take effect together or not at all."""

    def __init__(self, keys: EventKeys) -> None:
        self._keys = keys
        self.commands: list[tuple[Any, ...]] = []
        self.outcomes: Counter[str] = Counter()
        #: How often people had been forgotten when these events were let in; what :attr:`checked` says was looked at.
        self.revision: bytes | None = None
        self.checked = False
        self._acknowledged: dict[str, list[bytes]] = {}

    def add(self, *command: Any) -> None:
        """Add one command."""
        self.commands.append(command)

    def acknowledge(self, entry: Entry, outcome: str) -> None:
        """Say that an entry is done with, and what became of it."""
        self._acknowledged.setdefault(entry.stream, []).append(entry.id)
        self.outcomes[outcome] += 1

    def drop(self, entry: Entry, reason: str) -> None:
        """Take an entry out of its stream, since nothing of it is to be kept; it is done with then."""
        self.add("XDEL", entry.stream, entry.id)
        self.acknowledge(entry, reason)

    def bury(self, entry: Entry, reason: str, message: str, content: dict[bytes, bytes], now: int) -> None:
        """Put an entry that cannot be used among the dead letters, with the reason; it is done with then.

        Args:
            content: fields to keep of it.
            now: microseconds since the epoch.
        """
        kept = [part for field in content.items() for part in field]
        told = ("reason", reason, "message", message, "source", entry.stream, "entry", entry.id, "at", now)
        self.add("XADD", self._keys.dead, "*", *told, *kept)
        self.acknowledge(entry, reason)

    def whole(self) -> list[tuple[Any, ...]]:
        """All commands, those that acknowledge and count among them."""
        acknowledging = [("XACK", stream, GROUP, *ids) for stream, ids in self._acknowledged.items()]
        counting = [("HINCRBY", self._keys.counts, outcome, count) for outcome, count in self.outcomes.items()]
        return [*self.commands, *acknowledging, *counting]
