"""Folding events into the live views of users."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from recsys_plugin.aggregation.acts import ACT_TYPES, Acts
from recsys_plugin.aggregation.live import Categories
from recsys_plugin.consent.refusals import Refusals
from recsys_plugin.digits import whole_number
from recsys_plugin.events.event import EVENT_FIELD, MOST_LATE, RECORDED_FIELD, REPLY_FIELD, Event, EventRefused
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.codec import MalformedValueError, decode_value, hash_field
from recsys_plugin.stream.categories import ItemCategories
from recsys_plugin.stream.entries import Entry, Transaction
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.user_acts import Act, UserActs, act_of, encode_act

__all__ = ["UserFold"]

#: Bytes of what a caller waits under; the recorder's has 32.
_LONGEST_TOKEN = 128
#: Users whose acts a worker keeps at hand.
_MOST_USERS = 50_000
#: Seconds that an answer waits for whoever asked for it.
_REPLY_SECONDS = 60
#: Seconds after his last act until a user's acts are forgotten: as long as the longest live view lives.
_USER_SECONDS = 365 * 86_400
#: Microseconds for which an event may come again: as late as an event may be at all, and a day more.
_AGAIN = (MOST_LATE + timedelta(days=1)) // timedelta(microseconds=1)
_STORED = tuple(hash_field(f"user_recent_items:{name}") for name in ("item_ids", "event_type_codes", "timestamps"))


class UserFold:
    """Turns entries of the event streams into commands: acts, features, dead letters, answers.

    Args:
        ask: performs commands, many at a time, and returns their answers.
        keys, rows, categories: where everything lies.
        refusals: tells of whom nothing is to be kept.
        clock: microseconds since the epoch, for dead letters.
    """

    def __init__(
        self,
        ask: Callable[[list[tuple[Any, ...]]], list[Any]],
        keys: EventKeys,
        rows: LiveRows,
        categories: ItemCategories,
        refusals: Refusals,
        clock: Callable[[], int],
    ) -> None:
        self._refusals = refusals
        self._revision: bytes | None = None
        self._ask, self._keys, self._rows, self._categories, self._clock = ask, keys, rows, categories, clock
        self._users: OrderedDict[str, UserActs] = OrderedDict()

    def stream(self, partition: int) -> str:
        """The stream that it reads."""
        return self._keys.events(partition)

    def forget(self, partitions: Iterable[int] | None = None) -> None:
        """Drop what is at hand of the users of some partitions, or of all; Redis has it."""
        if partitions is None:
            self._users.clear()
            return
        gone = set(partitions)
        for user_id in [user_id for user_id in self._users if self._keys.partition(user_id) in gone]:
            del self._users[user_id]

    def fold(self, entries: Sequence[Entry], transaction: Transaction) -> None:
        """Add the commands that the entries call for, in order."""
        events = self._let_in(entries, transaction)
        self._load({event.user_id for _, event in events}, transaction)
        changed: dict[str, None] = {}
        done: list[tuple[str, int, int]] = []
        for entry, event in events:
            if event.event_type not in ACT_TYPES:
                self._answer(entry, transaction, "applied", b"applied")
                continue
            acts, act = self._users[event.user_id], act_of(event)
            if act[1] in acts:
                self._answer(entry, transaction, "duplicate", b"duplicate")
                continue
            key = self._keys.user(event.user_id)
            gone = acts.add(act)
            if act not in gone:
                transaction.add("ZADD", key, act[0], encode_act(act))
                changed[event.user_id] = None
            if removed := [encode_act(other) for other in gone if other != act]:
                transaction.add("ZREM", key, *removed)
            if gone:
                self._remember(event.user_id, gone, transaction)
            done.append((act[2], act[0], act[3]))
            self._answer(entry, transaction, "applied", b"applied")
        self._write(list(changed), transaction)
        self._tell_items(done, transaction)

    def _remember(self, user_id: str, gone: list[Act], transaction: Transaction) -> None:
        """Keep the ids of acts that are not kept, for as long as one of them may come again."""
        key = self._keys.seen(user_id)
        transaction.add("ZADD", key, *(part for act in gone for part in (act[0], act[1])))
        transaction.add("ZREMRANGEBYSCORE", key, "-inf", self._users[user_id].acts[-1][0] - _AGAIN)
        transaction.add("EXPIRE", key, _AGAIN // 1_000_000)

    def _let_in(self, entries: Sequence[Entry], transaction: Transaction) -> list[tuple[Entry, Event]]:
        """The events in entries; of people who were forgotten, or refuse to be tracked, entry and event are dropped."""
        read: list[tuple[Entry, Event | EventRefused]] = []
        for entry in entries:
            try:
                read.append((entry, Event.decode(entry.fields.get(EVENT_FIELD, b""))))
            except EventRefused as error:
                read.append((entry, error))
        refused = self._refusals.of(event.user_id for _, event in read if isinstance(event, Event))
        transaction.revision, transaction.checked = refused.revision, True
        if refused.revision != self._revision:
            # Acts at hand may be of somebody who was forgotten.
            self._users.clear()
            self._revision = refused.revision
        events = []
        for entry, event in read:
            if isinstance(event, Event) and (reason := refused.reasons.get(event.user_id)) is not None:
                transaction.drop(entry, reason)
                self._reply(entry, transaction, f"dropped:{reason}".encode())
            elif (sound := self._sound(entry, event, transaction)) is not None:
                events.append((entry, sound))
        return events

    def _sound(self, entry: Entry, event: Event | EventRefused, transaction: Transaction) -> Event | None:
        """The event of an entry; what is none, or cannot be right, is buried."""
        try:
            if isinstance(event, EventRefused):
                raise event
            recorded_at = entry.fields.get(RECORDED_FIELD, b"")
            moment = whole_number(recorded_at)
            if moment is None:
                raise EventRefused("malformed", f"entry: recorded_at {recorded_at!r:.60} is no number of microseconds")
            event.check_age(moment)
        except EventRefused as refused:
            content = {field: value for field, value in entry.fields.items() if field != REPLY_FIELD}
            transaction.bury(entry, refused.reason, str(refused), content, self._clock())
            self._reply(entry, transaction, f"refused:{refused.reason}:{refused}".encode())
            return None
        return event

    def _answer(self, entry: Entry, transaction: Transaction, outcome: str, reply: bytes) -> None:
        transaction.acknowledge(entry, outcome)
        self._reply(entry, transaction, reply)

    def _reply(self, entry: Entry, transaction: Transaction, reply: bytes) -> None:
        token = entry.fields.get(REPLY_FIELD)
        if token is not None and len(token) <= _LONGEST_TOKEN:
            key = self._keys.reply(token.decode(errors="replace"))
            transaction.add("RPUSH", key, reply)
            transaction.add("EXPIRE", key, _REPLY_SECONDS)

    def _load(self, user_ids: set[str], transaction: Transaction) -> None:
        """Have the acts of these users at hand, and of not too many others."""
        for user_id in user_ids & self._users.keys():
            self._users.move_to_end(user_id)
        unknown = sorted(user_ids - self._users.keys())
        asked: list[tuple[Any, ...]] = []
        for user_id in unknown:
            asked.append(("ZRANGE", self._keys.user(user_id), 0, -1, "WITHSCORES"))
            asked.append(("ZRANGE", self._keys.seen(user_id), 0, -1))
            asked.append(("HMGET", self._rows.user_key(user_id), *_STORED))
        answers = iter(self._ask(asked) if asked else ())
        for user_id, members, seen, stored in zip(unknown, answers, answers, answers, strict=True):
            flat = iter(members)
            acts = UserActs.decode(((member, float(score)) for member, score in zip(flat, flat, strict=True)), seen)
            if not acts.acts:
                acts = self._stored(user_id, stored, transaction)
                if not acts.acts:
                    transaction.outcomes["unknown_users"] += 1
            self._users[user_id] = acts
        while len(self._users) > max(_MOST_USERS, len(user_ids)):
            self._users.popitem(last=False)

    def _stored(self, user_id: str, stored: Sequence[bytes | None], transaction: Transaction) -> UserActs:
        """The acts in a row that was materialised before the stream knew the user, to the second."""
        acts = UserActs()
        try:
            lists = [decode_value(value)[1] if value else [] for value in stored]
        except MalformedValueError:
            lists = [[], [], []]  # the row is about to be written anew
        items, codes, times = ([str(part) for part in value] if isinstance(value, list) else [] for value in lists)
        if not len(items) == len(codes) == len(times):
            return acts
        for place, (item_id, code, second) in enumerate(zip(items, codes, times, strict=True)):
            act = (int(second) * 1_000_000, f"stored:{len(items) - place:04d}", item_id, int(code), None)
            acts.add(act)
            transaction.add("ZADD", self._keys.user(user_id), act[0], encode_act(act))
        return acts

    def _write(self, user_ids: list[str], transaction: Transaction) -> None:
        if not user_ids:
            return
        everyone = [self._users[user_id].acts for user_id in user_ids]
        flat = [act for acts in everyone for act in acts]
        items = {item_id: at for at, item_id in enumerate(dict.fromkeys(act[2] for act in flat))}
        item_ids = _texts(list(items))
        acts = Acts.of_arrays(
            _texts(user_ids),
            np.repeat(np.arange(len(user_ids)), [len(acts) for acts in everyone]),
            np.array([act[0] for act in flat], np.int64),
            np.array([act[3] for act in flat], np.int64),
            item_ids,
            np.array([items[act[2]] for act in flat], np.int64),
            _texts([act[4] for act in flat]),
        )
        categories = Categories.of(item_ids, self._categories.of(items))
        for user_id, row in zip(user_ids, self._rows.of_users(acts, categories), strict=True):
            transaction.add("HSET", self._rows.user_key(user_id), *row)
            transaction.add("EXPIRE", self._keys.user(user_id), _USER_SECONDS)

    def _tell_items(self, done: list[tuple[str, int, int]], transaction: Transaction) -> None:
        by_partition: dict[int, list[tuple[str, int, int]]] = {}
        for act in done:
            by_partition.setdefault(self._keys.partition(act[0]), []).append(act)
        for partition, acts in by_partition.items():
            told = json.dumps(acts, ensure_ascii=False, separators=(",", ":"))
            transaction.add("XADD", self._keys.item_events(partition), "*", "acts", told)


def _texts(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Texts as object [n]; numpy would make a fixed width of them."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
