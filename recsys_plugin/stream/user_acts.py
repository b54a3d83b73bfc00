"""A user's latest acts, as a worker holds them and as Redis keeps them."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from recsys_plugin.aggregation.acts import LOOKBACK
from recsys_plugin.aggregation.live import AFFINITY_WINDOW_DAYS, RECENT_LENGTH
from recsys_plugin.events.event import EVENT_TYPE_CODES, Event, EventRefused, microseconds_of

__all__ = ["Act", "UserActs", "act_of", "encode_act"]

#: An act that :meth:`UserActs.add` takes: time in microseconds, event id, item id, code of its type, query.
Act = tuple[int, str, str, int, str | None]


def encode_act(act: Act) -> bytes:
    """An act as a member of a user's sorted set, whose score is its time."""
    return json.dumps(act[1:], ensure_ascii=False, separators=(",", ":")).encode()


def act_of(event: Event) -> Act:
    """The act that an event is."""
    if event.timestamp is None or event.event_id is None:
        raise EventRefused("malformed", "event: it has no timestamp or no event_id")
    code = EVENT_TYPE_CODES[event.event_type]
    return (microseconds_of(event.timestamp), event.event_id, event.item_id, code, event.query)


class UserActs:
    """The acts of a user that live features depend on, by time and event id.

    These are the latest :data:`~recsys_plugin.aggregation.live.RECENT_LENGTH`, and of the
    :data:`~recsys_plugin.aggregation.acts.LOOKBACK` latest those within
    :data:`~recsys_plugin.aggregation.live.AFFINITY_WINDOW_DAYS` days of the last. What is kept depends on the acts that
    were added and not on their order, and an id counts once, whether its act is still kept or not.
    """

    __slots__ = ("_ids", "acts", "seen")

    def __init__(self, acts: Iterable[Act] = (), seen: Iterable[str] = ()) -> None:
        self.acts: list[Act] = []
        #: Ids of acts that were added and are not kept; empty but for the few users who act very much.
        self.seen: set[str] = set(seen)
        self._ids: set[str] = set()
        for act in acts:
            self.add(act)

    @classmethod
    def decode(cls, members: Iterable[tuple[bytes, float]], seen: Iterable[bytes]) -> UserActs:
        """Read members and scores of a sorted set, and the ids of another."""
        return cls(((int(score), *json.loads(member)) for member, score in members), (one.decode() for one in seen))

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids or event_id in self.seen

    def add(self, act: Act) -> list[Act]:
        """Add an act whose id is not there yet; of one that is there, the first stays.

        Returns:
            Acts that are no longer kept; the new one may be among them.
        """
        if act[1] in self:
            return []
        if not self.acts or act[:2] > self.acts[-1][:2]:
            self.acts.append(act)
        else:
            self.acts.insert(bisect_left(self.acts, act[:2], key=_order), act)
        self._ids.add(act[1])
        gone: list[Act] = []
        over = self.acts[-1][0] - AFFINITY_WINDOW_DAYS * 86_400_000_000
        while len(self.acts) > LOOKBACK or (len(self.acts) > RECENT_LENGTH and self.acts[0][0] <= over):
            gone.append(self.acts.pop(0))
            self._ids.discard(gone[-1][1])
            self.seen.add(gone[-1][1])
        return gone


def _order(act: Act) -> Any:
    return act[:2]
