"""Recording, written once: generators that yield what they need of Redis and the disk and are sent the answers.

:class:`~recsys_plugin.events.recorder.EventRecorder` and its awaiting twin drive the same flows.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from recsys_plugin.errors import DeadlineExceeded, InvalidInput, StoreUnavailable
from recsys_plugin.events.calls import Appended, AppendEvents, Entry, OnDisk
from recsys_plugin.events.event import Event, EventRefused
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.events.spool import Spool
from recsys_plugin.limits import MOST_EVENTS

__all__ = [
    "VISIBLE_TIMEOUT",
    "RecordFlow",
    "Recorded",
    "RecordingContext",
    "RecordingCounts",
    "record",
    "replay",
]

#: Seconds that ``record(visible=True)`` waits unless the caller says otherwise.
VISIBLE_TIMEOUT = 1.0

#: Yields calls, is sent their answers.
RecordFlow = Generator[AppendEvents | OnDisk, Any, "list[Recorded]"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event that was taken, and how far it came.

    ``recorded``: it is in the stream. ``visible``: the user's next page reflects it. ``duplicate``: an event of this id
    was there before, and this one does not count (told only to those who wait). ``spooled``: it is on the local disk
    and is sent as soon as Redis is back. ``dropped``: nothing of the user is kept, since he was forgotten or refuses to
    be tracked (told only to those who wait; of others' events the same becomes, and is counted).
    """

    event_id: str
    state: Literal["recorded", "visible", "duplicate", "spooled", "dropped"]


class RecordingCounts:
    """How many events became what, since the recorder was made; safe to share between threads."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("recorded", "spooled", "sent_from_spool", "refused", "failed"), 0)
        self._lock = threading.Lock()

    def add(self, outcome: str, count: int) -> None:
        """So many more."""
        with self._lock:
            self._counts[outcome] += count

    def so_far(self) -> dict[str, int]:
        """Outcome → events. Those ``spooled`` are later ``sent_from_spool``; ``failed`` are lost to this call only if
        its caller does not repeat it."""
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True, slots=True)
class RecordingContext:
    """What recording is given besides the events."""

    keys: EventKeys
    spool: Spool | None = None
    clock: Callable[[], float] = time.time
    """Unix seconds."""
    ids: Callable[[], str] = lambda: uuid.uuid4().hex
    """Names events that have no id, and waits."""
    counts: RecordingCounts = field(default_factory=lambda: RecordingCounts())

    def prepare(self, event: object) -> tuple[str, Entry]:
        """Fill in what an event lacks and check it; its id, and what is written.

        Raises:
            EventRefused: if it is no event, lies in the future, is too old or too large.
        """
        if not isinstance(event, Event):
            raise EventRefused("malformed", f"event: expected an Event, not {type(event).__name__} ({event!r:.60})")
        now = self.clock()
        recorded_at = int(now * 1_000_000)
        event_id = event.event_id
        if event.timestamp is None or event_id is None:
            event_id = event_id or self.ids()
            event = replace(event, timestamp=event.timestamp or datetime.fromtimestamp(now, UTC), event_id=event_id)
        event.check_age(recorded_at)
        stream = self.keys.events(self.keys.partition(event.user_id))
        return event_id, Entry(stream, event.encode(), recorded_at)


def record(context: RecordingContext, events: Iterable[object], *, visible: bool = False) -> RecordFlow:
    """Take events: into their streams, or into the spool while Redis is away or events are queued there.

    All are checked before any is written. ``visible`` waits for the worker's answer to the one event.

    Raises:
        EventRefused: if one is refused; the message says which, and none is recorded.
        InvalidInput: if there are more than :data:`MOST_EVENTS`.
        StoreUnavailable, DeadlineExceeded: without a spool, if Redis does not acknowledge them: some may be recorded,
            and recording them again with the same ids is safe. With a spool, if that is full (:class:`SpoolFull`).
        DeadlineExceeded: with ``visible``, if the event is recorded and no worker answered in time.
    """
    if isinstance(events, Mapping) or not isinstance(events, Iterable):
        raise InvalidInput(f"events: expected events, not {type(events).__name__} ({events!r:.60})")
    given = list(events)
    if len(given) > MOST_EVENTS:
        raise InvalidInput(f"events: {len(given)} events, at most {MOST_EVENTS} are allowed in one call")
    try:
        prepared = [_prepared(context, event, number, len(given)) for number, event in enumerate(given)]
    except EventRefused:
        context.counts.add("refused", len(given))
        raise
    entries = [entry for _, entry in prepared]
    if not entries:
        return []
    spool = context.spool
    if spool is not None and spool.pending:
        return (yield from _spooled(context, spool, prepared))
    token = context.ids() if visible else None
    try:
        appended: Appended = yield AppendEvents(entries, None if token is None else (token, context.keys.reply(token)))
    except (StoreUnavailable, DeadlineExceeded):
        if spool is None:
            context.counts.add("failed", len(entries))
            raise
        # A call that timed out may have been carried out: with the same id the event still counts once.
        return (yield from _spooled(context, spool, prepared))
    context.counts.add("recorded", len(entries))
    if token is None:
        return [Recorded(event_id, "recorded") for event_id, _ in prepared]
    return [_answered(prepared[0][0], appended)]


def replay(context: RecordingContext) -> Generator[AppendEvents | OnDisk, Any, int]:
    """Send what is spooled, in order; the number of events sent.

    Raises:
        StoreUnavailable, DeadlineExceeded: if Redis is still away; what was not sent stays queued.
    """
    spool, sent = context.spool, 0
    if spool is None:
        return 0
    while (spooled := (yield OnDisk(spool.read))) is not None:
        if spooled.entries:
            yield AppendEvents(spooled.entries)
        yield OnDisk(partial(spool.advance, spooled))
        sent += len(spooled.entries)
        context.counts.add("sent_from_spool", len(spooled.entries))
    return sent


def _spooled(context: RecordingContext, spool: Spool, prepared: Sequence[tuple[str, Entry]]) -> RecordFlow:
    """Queue events on the local disk."""
    try:
        yield OnDisk(partial(spool.append, [entry for _, entry in prepared]))
    except StoreUnavailable:
        context.counts.add("failed", len(prepared))
        raise
    context.counts.add("spooled", len(prepared))
    return [Recorded(event_id, "spooled") for event_id, _ in prepared]


def _prepared(context: RecordingContext, event: object, number: int, count: int) -> tuple[str, Entry]:
    try:
        return context.prepare(event)
    except EventRefused as error:
        if count == 1:
            raise
        raise EventRefused(error.reason, f"events[{number}]: {error}") from error


def _answered(event_id: str, appended: Appended) -> Recorded:
    reply = appended.reply
    if reply is None:
        why = appended.lost or "no worker made it visible in time; `recsys stream` must be running"
        raise DeadlineExceeded(f"event {event_id!r} is recorded, but it is not known to be visible: {why}")
    if reply == b"applied":
        return Recorded(event_id, "visible")
    if reply == b"duplicate":
        return Recorded(event_id, "duplicate")
    kind, _, rest = reply.decode(errors="replace").partition(":")
    if kind == "dropped":
        return Recorded(event_id, "dropped")
    if kind != "refused":
        raise StoreUnavailable(
            f"event {event_id!r} is recorded; the worker answered {reply!r:.100}, which means nothing"
        )
    reason, _, message = rest.partition(":")
    raise EventRefused(reason, message)
