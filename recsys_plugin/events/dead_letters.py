"""What could not be taken as an event: listed, corrected, sent again, deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys_plugin.digits import whole_number
from recsys_plugin.errors import InvalidInput
from recsys_plugin.events.calls import AppendEvents, Entry
from recsys_plugin.events.event import Event, EventRefused
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.events.transport import EventTransport
from recsys_plugin.features.connection import RedisAddress, named_errors

__all__ = ["DeadLetter", "DeadLetters", "Replayed", "corrections_of", "dead_letter"]

_TIMEOUT = 10.0
#: Letters read, or sent, in one round trip.
_BATCH = 500


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the dead-letter stream."""

    id: str
    reason: str
    """The word it is counted under: ``malformed``, ``future``, ``too_old``, ``oversized`` …"""
    message: str
    source: str
    """The stream or the file that it came from."""
    entry: str
    """Its entry there, or its row."""
    event: bytes
    """What was to be an event, as it came."""
    recorded_at: int | None
    """Microseconds since the epoch, if they are known."""
    at: int | None
    """When it was put here."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the event as an object where it is one, else as text."""
        shown: Any = self.event.decode(errors="replace")
        try:
            read = json.loads(self.event)
        except (ValueError, RecursionError):
            read = None
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "event": read if isinstance(read, dict) else shown}


@dataclass(slots=True)
class Replayed:
    """What became of letters that were sent again."""

    sent: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Id and reason of those that still are no events; they stay."""


def dead_letter(
    reason: str, message: str, *, source: str, entry: str, event: bytes, recorded_at: int | None, at: int
) -> dict[str, bytes | str]:
    """The fields of a dead letter."""
    return {
        "reason": reason,
        "message": message,
        "source": source,
        "entry": entry,
        "event": event,
        "recorded_at": "" if recorded_at is None else str(recorded_at),
        "at": str(at),
    }


class DeadLetters:
    """The dead-letter stream of a project.

    Raises, from every method: StoreUnavailable or DeadlineExceeded if Redis does not answer.
    """

    def __init__(
        self, address: RedisAddress, *, project: str = "recsys", clock: Callable[[], float] = time.time
    ) -> None:
        self._address, self._keys, self._clock = address, EventKeys(project), clock
        with named_errors(address, _TIMEOUT):
            self._client: Any = address.connect(_TIMEOUT)

    def __len__(self) -> int:
        """How many there are."""
        with named_errors(self._address, _TIMEOUT):
            return int(self._client.xlen(self._keys.dead))

    def list(self, *, reason: str | None = None) -> Iterator[DeadLetter]:
        """Letters, oldest first; those with a reason, if one is given."""
        start = "-"
        while True:
            with named_errors(self._address, _TIMEOUT):
                found = self._client.xrange(self._keys.dead, min=start, count=_BATCH)
            for entry, fields in found:
                letter = _letter(entry, fields)
                if reason is None or letter.reason == reason:
                    yield letter
            if len(found) < _BATCH:
                return
            start = f"({found[-1][0].decode()}"

    def delete(self, ids: Sequence[str]) -> int:
        """Take letters out for good; how many there were."""
        deleted = 0
        with named_errors(self._address, _TIMEOUT):
            for start in range(0, len(ids), _BATCH):
                deleted += int(self._client.xdel(self._keys.dead, *ids[start : start + _BATCH]))
        return deleted

    def replay(
        self,
        letters: Sequence[DeadLetter],
        *,
        corrected: Mapping[str, Mapping[str, Any]] | None = None,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> Replayed:
        """Send letters again as events recorded now; each is taken out once its event is in a stream.

        Killed in between, it leaves a letter whose event was sent: sent again, it counts once by its event id.

        Args:
            corrected: id of a letter → the event to send instead, as named values (:meth:`Event.of`).
        """
        corrected = corrected or {}
        done = Replayed()
        transport = EventTransport(self._address, timeout=_TIMEOUT)
        try:
            for start in range(0, len(letters), _BATCH):
                ids: list[str] = []
                entries: list[Entry] = []
                for letter in letters[start : start + _BATCH]:
                    try:
                        entries.append(self._entry(letter, corrected.get(letter.id)))
                        ids.append(letter.id)
                    except EventRefused as error:
                        done.refused.append((letter.id, f"{error.reason}: {error}"))
                if entries:
                    transport.append(AppendEvents(entries), timeout=_TIMEOUT)
                    self.delete(ids)
                    done.sent += len(ids)
                progress("dead letters", min(start + _BATCH, len(letters)), len(letters))
        finally:
            transport.close()
        return done

    def add(self, letters: Sequence[Mapping[str, bytes | str]]) -> None:
        """Put letters there, each made by :func:`dead_letter`."""
        with named_errors(self._address, _TIMEOUT):
            pipeline = self._client.pipeline(transaction=False)
            for fields in letters:
                pipeline.xadd(self._keys.dead, dict(fields))
            pipeline.execute()

    def count(self, outcome: str, number: int) -> None:
        """Add to the counts of outcomes."""
        with named_errors(self._address, _TIMEOUT):
            self._client.hincrby(self._keys.counts, outcome, number)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _entry(self, letter: DeadLetter, values: Mapping[str, Any] | None) -> Entry:
        event = Event.decode(letter.event) if values is None else Event.of(values)
        recorded_at = int(self._clock() * 1_000_000)
        event.check_age(recorded_at)
        return Entry(self._keys.events(self._keys.partition(event.user_id)), event.encode(), recorded_at)


def corrections_of(text: str) -> dict[str, dict[str, Any]]:
    """Read corrected letters: the JSON that lists them, their ``event`` mended.

    Raises:
        InvalidInput: if it is not a list of objects with ``id`` and ``event``.
    """
    try:
        document = json.loads(text)
        letters = document["letters"] if isinstance(document, dict) else document
        return {str(letter["id"]): dict(letter["event"]) for letter in letters}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidInput(
            f"no corrected dead letters ({error!r}): give what `recsys events dead-letter --json` printed, each event "
            "mended"
        ) from error


def _letter(entry: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    def text(name: bytes) -> str:
        return fields.get(name, b"").decode(errors="replace")

    def number(name: bytes) -> int | None:
        return whole_number(fields.get(name, b""))

    return DeadLetter(
        id=entry.decode(),
        reason=text(b"reason"),
        message=text(b"message"),
        source=text(b"source"),
        entry=text(b"entry"),
        event=fields.get(b"event", b""),
        recorded_at=number(b"recorded_at"),
        at=number(b"at"),
    )
