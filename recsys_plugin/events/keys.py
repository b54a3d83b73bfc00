"""Where events and what is made of them lie in Redis.

==========================================  ==========================================================================
``recsys:{P}:events:N``                     stream of partition N: every event of the users that belong to it
``recsys:{P}:dead``                         stream of what could not be taken as an event, with the reason
``recsys:{P}:counts``                       hash: how many events had which outcome
``recsys:{P}:owner:N``                      which worker owns partition N, while its lease runs
``recsys:{P}:workers``                      sorted set of workers by the time of their last sign of life
``recsys:{P}:user:ID``                      sorted set of a user's latest acts, by time
``recsys:{P}:item_events:N``                stream of partition N of the items: what users did with them
``recsys:{P}:item:ID``                      hash of an item's counters
``recsys:{P}:impressions``                  stream of pages served
``recsys:{P}:reply:TOKEN``                  list that a caller waits on until his event is visible
==========================================  ==========================================================================

P is the Feast project; the braces keep all of it in one slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

__all__ = ["PARTITIONS", "EventKeys"]

#: Streams that users (and items) are spread over: at most so many workers share the work.
PARTITIONS = 8


@dataclass(frozen=True, slots=True)
class EventKeys:
    """The keys of one project."""

    project: str

    @property
    def prefix(self) -> str:
        """What all keys of the project begin with."""
        return f"recsys:{{{self.project}}}:"

    @staticmethod
    def partition(entity_id: str) -> int:
        """Which partition a user (or item) belongs to: the same on every machine and for ever."""
        return crc32(entity_id.encode()) % PARTITIONS

    def events(self, partition: int) -> str:
        """Stream of the events of one partition."""
        return f"{self.prefix}events:{partition}"

    def item_events(self, partition: int) -> str:
        """Stream of what users did with the items of one partition."""
        return f"{self.prefix}item_events:{partition}"

    def owner(self, partition: int) -> str:
        """Lease of one partition."""
        return f"{self.prefix}owner:{partition}"

    def user(self, user_id: str) -> str:
        """A user's latest acts."""
        return f"{self.prefix}user:{user_id}"

    def item(self, item_id: str) -> str:
        """An item's counters."""
        return f"{self.prefix}item:{item_id}"

    def reply(self, token: str) -> str:
        """Where a caller waits for his event."""
        return f"{self.prefix}reply:{token}"

    @property
    def dead(self) -> str:
        """Stream of dead letters."""
        return f"{self.prefix}dead"

    @property
    def counts(self) -> str:
        """Outcomes of events, counted."""
        return f"{self.prefix}counts"

    @property
    def workers(self) -> str:
        """Workers by their last sign of life."""
        return f"{self.prefix}workers"

    @property
    def impressions(self) -> str:
        """Stream of pages served."""
        return f"{self.prefix}impressions"
