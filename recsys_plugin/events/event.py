"""One thing that a shopper did, as the shop's backend states it and as it travels in a Redis Stream.

An entry of a stream has the fields ``event`` (the event in JSON), ``recorded_at`` (microseconds since the epoch by the
recorder's clock) and, if somebody waits until the event is visible, ``reply`` (a token, see
:meth:`~recsys_plugin.events.keys.EventKeys.reply`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from recsys_plugin.errors import InvalidInput
from recsys_plugin.identifiers import checked_id
from recsys_plugin.limits import MOST_EVENT_BYTES

__all__ = [
    "EVENT_FIELD",
    "EVENT_TYPES",
    "EVENT_TYPE_CODES",
    "LONGEST_QUERY",
    "MOST_AHEAD",
    "MOST_LATE",
    "RECORDED_FIELD",
    "REPLY_FIELD",
    "Event",
    "EventRefused",
    "microseconds_of",
]

#: What a shopper can do, with the codes that features hold. ``return`` is a purchase brought back; 0 pads.
EVENT_TYPE_CODES = {"impression": 1, "click": 2, "cart": 3, "purchase": 4, "return": 5}
EVENT_TYPES = tuple(EVENT_TYPE_CODES)

#: An event may lie so far ahead of the recorder's clock: clocks differ.
MOST_AHEAD = timedelta(minutes=5)
#: An event older than this when it is recorded is no live event; history comes through ``recsys data``.
MOST_LATE = timedelta(days=30)
#: Characters of the search text that led to an event.
LONGEST_QUERY = 10_000

EVENT_FIELD, RECORDED_FIELD, REPLY_FIELD = b"event", b"recorded_at", b"reply"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class EventRefused(InvalidInput):
    """Something is no event; ``reason`` is the word under which it is counted and dead-lettered."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        # It is sent on, with what it quotes: halves of characters, which JSON may hold, cannot be.
        super().__init__(message.encode(errors="backslashreplace").decode())


def microseconds_of(moment: datetime) -> int:
    """An aware moment as whole microseconds since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that a shopper did with an item.

    Args:
        user_id, item_id: a string or a whole number; kept as text.
        event_type: one of :data:`EVENT_TYPES`.
        timestamp: aware; when it is recorded if it is left out.
        event_id: names the event, so that a repeat counts once. Made up if it is left out; then a repeat counts twice.
        quantity: units, above 0. price: unit price paid, 0 or more.
        basket_id: the order or invoice. query: the search text that led here.
        request_id: of the page that the item stood on (:attr:`Page.request_id`); joins the event to its impression.

    Raises:
        EventRefused: if a value is not of its kind; the message names the field. ``reason`` is ``malformed``.
    """

    user_id: str
    item_id: str
    event_type: str
    timestamp: datetime | None = None
    event_id: str | None = None
    quantity: float = 1.0
    price: float | None = None
    basket_id: str | None = None
    query: str | None = None
    request_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("user_id", "item_id", "event_id", "basket_id", "request_id"):
            value = getattr(self, name)
            if value is not None or name in ("user_id", "item_id"):
                try:
                    object.__setattr__(self, name, checked_id(value, name))
                except InvalidInput as error:
                    raise EventRefused("malformed", f"event: {error}") from error
        if not isinstance(self.event_type, str) or self.event_type not in EVENT_TYPE_CODES:
            raise EventRefused(
                "malformed", f"event: event_type {self.event_type!r:.60} is none of {', '.join(EVENT_TYPES)}"
            )
        if self.timestamp is not None and (not isinstance(self.timestamp, datetime) or self.timestamp.tzinfo is None):
            raise EventRefused("malformed", f"event: timestamp {self.timestamp!r:.60} is no datetime with a time zone")
        object.__setattr__(self, "quantity", _number("quantity", self.quantity, above=True))
        if self.price is not None:
            object.__setattr__(self, "price", _number("price", self.price, above=False))
        if self.query is not None:
            _check_query(self.query)

    def encode(self) -> bytes:
        """The event in JSON; times in microseconds since the epoch, what is not known left out.

        Raises:
            EventRefused: if it has no timestamp or id yet (``malformed``), or takes more than
                :data:`MOST_EVENT_BYTES` (``oversized``).
        """
        if self.timestamp is None or self.event_id is None:
            raise EventRefused("malformed", "event: it needs a timestamp and an event_id before it can travel")
        values: dict[str, Any] = {name: value for name in _NAMES if (value := getattr(self, name)) is not None}
        values["timestamp"] = microseconds_of(self.timestamp)
        encoded = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        if len(encoded) > MOST_EVENT_BYTES:
            raise EventRefused("oversized", f"event: {len(encoded)} bytes, at most {MOST_EVENT_BYTES} are allowed")
        return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> Event:
        """Read what :meth:`encode` wrote, or what anyone else put there.

        Raises:
            EventRefused: ``oversized`` or ``malformed``.
        """
        if len(encoded) > MOST_EVENT_BYTES:
            raise EventRefused("oversized", f"event: {len(encoded)} bytes, at most {MOST_EVENT_BYTES} are allowed")
        try:
            values = json.loads(encoded)
        except (ValueError, RecursionError) as error:
            raise EventRefused("malformed", f"event: no JSON: {error}") from error
        if not isinstance(values, dict):
            raise EventRefused("malformed", f"event: JSON {type(values).__name__}, expected an object")
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Event:
        """An event of named values, its timestamp in whole microseconds since the epoch.

        Raises:
            EventRefused: ``malformed``.
        """
        if unknown := sorted(str(name) for name in values.keys() - set(_NAMES)):
            raise EventRefused("malformed", f"event: unknown fields {', '.join(unknown)[:200]}")
        if missing := [name for name in (*_REQUIRED, "timestamp", "event_id") if values.get(name) is None]:
            raise EventRefused("malformed", f"event: no {', '.join(missing)}")
        moment = values["timestamp"]
        if type(moment) is not int:
            raise EventRefused("malformed", f"event: timestamp {moment!r:.60} is no whole number of microseconds")
        try:
            timestamp = _EPOCH + timedelta(microseconds=moment)
        except OverflowError as error:
            raise EventRefused("malformed", f"event: timestamp {moment} is out of range") from error
        return cls(**{**values, "timestamp": timestamp})

    def check_age(self, recorded_at: int) -> None:
        """Refuse an event whose time cannot be right, or that is no live event any more.

        Args:
            recorded_at: when it was recorded, microseconds since the epoch.

        Raises:
            EventRefused: ``future`` or ``too_old``.
        """
        if self.timestamp is None:
            return
        ahead = timedelta(microseconds=microseconds_of(self.timestamp) - recorded_at)
        if ahead > MOST_AHEAD:
            raise EventRefused("future", f"event: its timestamp is {ahead} ahead; at most {MOST_AHEAD} is allowed")
        if -ahead > MOST_LATE:
            raise EventRefused(
                "too_old", f"event: it is {-ahead} old; live events are at most {MOST_LATE}. Import history as a table"
            )


_NAMES = tuple(field.name for field in fields(Event))
_REQUIRED = ("user_id", "item_id", "event_type")


def _number(name: str, value: object, *, above: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise EventRefused("malformed", f"event: {name} {value!r:.60} is no finite number")
    if value < 0 or (above and value == 0):
        raise EventRefused("malformed", f"event: {name} {value!r:.60} is not {'above 0' if above else '0 or more'}")
    return float(value)


def _check_query(query: object) -> None:
    if not isinstance(query, str):
        raise EventRefused("malformed", f"event: query is {type(query).__name__}, not text")
    if len(query) > LONGEST_QUERY:
        raise EventRefused("oversized", f"event: query of {len(query)} characters; at most {LONGEST_QUERY} are allowed")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise EventRefused("malformed", f"event: query is not valid Unicode: {error.reason}") from error
